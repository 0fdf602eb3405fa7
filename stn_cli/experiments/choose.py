"""Which runner suits a machine, and why."""

import sys
from pathlib import Path

from stn_cli.config import RuntimeConfig
from stn_cli.datasets.download import Progress
from stn_cli.experiments.in_turn import InTurn
from stn_cli.experiments.packed import Packed, usable_cores
from stn_cli.experiments.runner import Runner

# On Linux: what the drivers of NVIDIA's and AMD's GPUs make, and Windows' for a Linux in it; and what a card says that
# no driver has looked at yet.
GPU_FILES = ("dev/nvidia*", "dev/nvmap", "dev/kfd", "dev/dxg")
VENDOR_FILES, NVIDIA = "sys/bus/pci/devices/*/vendor", "0x10de"


def choose_runner(
    config: RuntimeConfig,
    workers: int | None = None,
    *,
    kind: str = "auto",
    address: str | None = None,
    overwrite: bool = False,
    download: Progress | None = None,
) -> tuple[Runner, str]:
    """Return a runner for runs that compute as `config` says, and the reason for it.

    `workers`: the most runs at once. `kind`: auto, what suits the device; in-turn, packed, ray. `address`: of a Ray
    cluster, one on this machine if it is None.

    Raises:
        ResourceError: the device asked for does not exist here, or Ray is not installed.
    """
    if kind == "ray":
        from stn_cli.experiments.ray_runner import OnRay

        where = f"at {address}" if address else "on this machine"
        return OnRay(
            address=address, workers=workers, overwrite=overwrite, download=download
        ), f"on the Ray cluster {where}"
    device = _device(config)
    if kind == "in-turn":
        return InTurn(overwrite, download), "one after another, as asked"
    if device == "cuda":
        from stn_cli.experiments.threaded import AT_ONCE, MOST, Threaded

        at_once = min(workers or AT_ONCE, MOST)
        return Threaded(at_once, overwrite, download), f"up to {at_once} at once on the GPU, a stream each"
    if device != "cpu":
        return InTurn(overwrite, download), f"one after another, each with the whole of the {device} device"
    at_once = min(workers or usable_cores(), usable_cores())
    return Packed(at_once, overwrite, download), f"up to {at_once} at once, one CPU core each"


def _device(config: RuntimeConfig) -> str:
    """Return the kind of device; torch, which takes two seconds to import, is asked only where it may be a GPU."""
    if config.device == "cpu" or (config.device == "auto" and not may_have_gpu()):
        return "cpu"
    from stn_cli.training.runtime import choose_runtime

    return choose_runtime(config).device.type


def may_have_gpu(root: Path = Path("/")) -> bool:
    """Return False where there is surely no GPU that torch could use."""
    if sys.platform != "linux":
        return True
    try:
        files = [file for pattern in GPU_FILES for file in root.glob(pattern)]
        return bool(files) or any(file.read_text().strip() == NVIDIA for file in root.glob(VENDOR_FILES))
    except OSError:  # what cannot be read may be one
        return True
