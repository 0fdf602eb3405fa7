"""Where and in which precision a run computes, and why."""

import ctypes
import logging
import sys
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cache

import torch

from stn_cli.compiled.compiler import why_not
from stn_cli.config import RuntimeConfig
from stn_cli.errors import ResourceError, UsageError
from stn_cli.models.convolution import choose_convolutions
from stn_cli.models.network import Network

RECORDED = {"cuda": "; steps as CUDA graphs", "cpu": "; steps recorded"}  # said of devices where they can be


@dataclass(frozen=True)
class Runtime:
    """The device and the precision of the networks. Geometry is float32 whatever the precision."""

    device: torch.device
    precision: str
    reason: str
    convolutions: str = "library"  # as `choose_convolutions` takes it
    captured: bool = False  # whether training steps are recorded once and replayed

    @property
    def memory_format(self) -> torch.memory_format:
        """Channels-last for bf16, where the convolutions of CPUs and tensor cores want it; else contiguous."""
        return torch.channels_last if self.precision == "bf16" else torch.contiguous_format

    def place(self, network: Network) -> Network:
        """Return a network where and how it is to compute."""
        choose_convolutions(network, self.convolutions)
        return network.to(self.device).to(memory_format=self.memory_format)

    def stepwise(self, why: str) -> "Runtime":
        """Return this with training steps made one by one, and why; as it is where they are so anyway."""
        reason = f"{self.reason.replace(RECORDED.get(self.device.type, ''), '')}; steps one by one {why}"
        return replace(self, captured=False, reason=reason) if self.captured else self

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context in which networks run."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")


def choose_runtime(config: RuntimeConfig) -> Runtime:
    """Return the device and precision that a configuration asks for, `auto` resolved by what the machine has.

    Raises:
        ResourceError: the device asked for does not exist here.
        UsageError: steps are to be recorded on a device where they cannot be.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    device, why_device = _choose_device(config.device)
    if config.precision == "float32":
        torch.backends.cudnn.allow_tf32 = False  # cuDNN's default would round the inputs of convolutions to 10 bits
    ways, why_ways = _choose_ways(config.convolutions, device)
    if config.steps == "captured" and device.type not in RECORDED:
        raise UsageError(f"steps can be captured on cuda and cpu, not on {device.type}", "Set runtime.steps=auto.")
    captured = device.type in RECORDED and config.steps != "eager"
    precision, why = _choose_precision(config.precision, device)
    return Runtime(
        device, precision, f"{why_device}; {why}{why_ways}{RECORDED[device.type] if captured else ''}", ways, captured
    )


def _choose_ways(name: str, device: torch.device) -> tuple[str, str]:
    """Return the convolutions, and what is to be said of them."""
    if name == "auto":
        return "library", ""
    if "compiled" not in name:
        return name, ""
    missing = f"{device.type} has none" if device.type != "cpu" else why_not()
    if missing is None:
        return name, ""
    # A run trained where there are kernels is looked at, or goes on, where there are none: equal within rounding.
    instead = "banded" if device.type == "cpu" else "library"
    why = f"{instead} convolutions for compiled ones, since {missing}"
    if device.type == "cpu":
        _warn_once(why)
    return name.replace("compiled", instead), f"; {why}"


@cache
def _warn_once(what: str) -> None:
    """Warn of it, however many runs this process opens."""
    logging.getLogger("stn").warning("warning: %s", what)


def _choose_precision(name: str, device: torch.device) -> tuple[str, str]:
    if name != "auto":
        return name, f"{name} as asked"
    if has_fast_bf16(device):
        return "bf16", f"bf16 because {_processor(device)} multiplies it natively"
    return "float32", f"float32 because {_processor(device)} has no fast bf16"


def keep_freed_memory() -> bool:
    """Tell glibc to keep freed memory instead of handing it back; return whether that could be said.

    Batches are allocated and freed every step; memory fresh from the kernel is page-faulted in and zeroed each time.
    At batch 128 on two cores it saves 7 % of the ST-CNN's step and nothing beyond noise of the CNN's
    (benchmarks/memory.py). Process-wide, so only the command line and the processes that it starts call this.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is None:
        return False
    m_trim_threshold, m_top_pad, m_mmap_max = -1, -2, -4
    return all((mallopt(m_mmap_max, 0), mallopt(m_trim_threshold, 2**30), mallopt(m_top_pad, 2**26)))


def _choose_device(name: str) -> tuple[torch.device, str]:
    there = {"cuda": torch.cuda.is_available(), "mps": _has_usable_mps(), "cpu": True}
    if name != "auto":
        if not there[name]:
            have = ", ".join(device for device, present in there.items() if present)
            raise ResourceError(f"there is no {name} device here", f"Choose from {have}, or auto.")
        return torch.device(name), f"{name} as asked"
    chosen = next(device for device, present in there.items() if present)
    return torch.device(chosen), f"{chosen} because it is the fastest device here"


def _has_usable_mps() -> bool:
    """Older releases of PyTorch cannot differentiate the sampler on MPS; training would stop at its first step."""
    kernel = "aten::grid_sampler_2d_backward"
    return torch.backends.mps.is_available() and torch._C._dispatch_has_kernel_for_dispatch_key(kernel, "MPS")


def has_fast_bf16(device: torch.device) -> bool:
    """Return whether a device multiplies bf16 natively."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return False


def _processor(device: torch.device) -> str:
    return torch.cuda.get_device_name() if device.type == "cuda" else f"the {device.type.upper()}"
