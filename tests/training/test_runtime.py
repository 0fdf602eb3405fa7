import sys

import pytest
import torch

from stn_cli.config import RuntimeConfig
from stn_cli.errors import ResourceError
from stn_cli.training import runtime
from stn_cli.training.runtime import Runtime, choose_runtime, keep_freed_memory


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch):
    """Pretend to be a machine with some devices, and bf16 or not."""

    def pretend(*devices: str, bf16: bool = False) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: "cuda" in devices)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bf16)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "the GPU")
        monkeypatch.setattr(runtime, "_has_usable_mps", lambda: "mps" in devices)
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bf16)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)

    return pretend


def test_auto_takes_the_fastest_device(machine) -> None:
    for devices, expected in ((("cuda", "mps"), "cuda"), (("mps",), "mps"), ((), "cpu")):
        machine(*devices)
        chosen = choose_runtime(RuntimeConfig())
        assert chosen.device == torch.device(expected)
        assert f"{expected} because it is the fastest" in chosen.reason


@pytest.mark.parametrize(("bf16", "precision"), [(True, "bf16"), (False, "float32")])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_auto_takes_bf16_where_it_is_fast_and_says_why(machine, bf16: bool, precision: str, device: str) -> None:
    machine("cuda", bf16=bf16)
    chosen = choose_runtime(RuntimeConfig(device=device))
    assert chosen.precision == precision
    assert f"{device} as asked; {precision} because the" in chosen.reason


def test_what_is_asked_for_is_taken(machine) -> None:
    machine("cuda", bf16=True)
    chosen = choose_runtime(RuntimeConfig(device="cpu", precision="float32"))
    assert chosen == Runtime(
        torch.device("cpu"), "float32", "cpu as asked; float32 as asked; steps recorded", captured=True
    )


@pytest.mark.parametrize(
    ("device", "missing", "ways", "why", "warnings"),
    [
        ("cpu", None, "compiled,library", "", 0),
        ("cpu", "of this", "banded,library", "; banded convolutions for compiled ones, since of this", 1),
        ("cuda", None, "library,library", "; library convolutions for compiled ones, since cuda has none", 0),
    ],
)
def test_where_there_are_no_compiled_kernels_others_convolve_and_it_is_said_once(
    machine, device: str, missing: str | None, ways: str, why: str, warnings: int, monkeypatch, caplog
) -> None:
    machine("cuda")
    monkeypatch.setattr(runtime, "why_not", lambda: missing)
    runtime._warn_once.cache_clear()
    for _ in range(2):
        chosen = choose_runtime(RuntimeConfig(device=device, convolutions="compiled,library"))
        assert chosen.convolutions == ways
        assert why in chosen.reason
    assert caplog.text.count("since") == warnings


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_a_device_that_is_not_there_is_refused_with_those_that_are(machine, device: str) -> None:
    machine()
    with pytest.raises(ResourceError, match=f"no {device} device here. Choose from cpu, or auto"):
        choose_runtime(RuntimeConfig(device=device))


@pytest.mark.parametrize(("available", "kernel"), [(True, True), (True, False), (False, True)])
def test_mps_is_taken_only_where_the_sampler_has_a_gradient_there(
    monkeypatch: pytest.MonkeyPatch, available: bool, kernel: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: available)
    monkeypatch.setattr(torch._C, "_dispatch_has_kernel_for_dispatch_key", lambda *_: kernel)
    expected = "mps" if available and kernel else "cpu"
    assert choose_runtime(RuntimeConfig(precision="bf16")).device.type == expected


def test_float32_as_asked_is_float32_in_convolutions_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    choose_runtime(RuntimeConfig(device="cpu", precision="bf16"))
    assert torch.backends.cudnn.allow_tf32
    choose_runtime(RuntimeConfig(device="cpu", precision="float32"))
    assert not torch.backends.cudnn.allow_tf32


def test_threads_are_set_only_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    choose_runtime(RuntimeConfig())
    choose_runtime(RuntimeConfig(threads=3))
    assert asked == [3]


@pytest.mark.parametrize(
    ("precision", "dtype", "layout"),
    [("float32", torch.float32, torch.contiguous_format), ("bf16", torch.bfloat16, torch.channels_last)],
)
def test_autocast_and_memory_follow_the_precision(precision: str, dtype: torch.dtype, layout) -> None:
    chosen = Runtime(torch.device("cpu"), precision, "")
    with chosen.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype
    assert chosen.memory_format == layout


def test_glibc_is_told_to_keep_memory_and_nothing_else_is_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[int, int] = {}

    class Glibc:
        answer = 1

        def mallopt(self, parameter: int, value: int) -> int:
            asked[parameter] = value
            return self.answer

    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(runtime.ctypes, "CDLL", lambda _: Glibc())
    assert keep_freed_memory() is True
    assert asked == {-4: 0, -1: 2**30, -2: 2**26}  # M_MMAP_MAX, M_TRIM_THRESHOLD, M_TOP_PAD of malloc.h
    monkeypatch.setattr(Glibc, "answer", 0)
    assert keep_freed_memory() is False
    monkeypatch.setattr(runtime.ctypes, "CDLL", lambda _: object())  # musl
    assert keep_freed_memory() is False
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(runtime.ctypes, "CDLL", None)
    assert keep_freed_memory() is False
