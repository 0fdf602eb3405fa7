"""The most memory that something took."""

import ctypes
import re
import sys
from contextlib import suppress
from pathlib import Path

import torch


class PeakMemory:
    """The most memory in use since this was made: of tensors on a CUDA device, else of the whole process."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._is_known = _forget(device)

    def bytes(self) -> int | None:
        """Return the peak until now; None where the system does not tell, which only Linux and CUDA do."""
        if not self._is_known:
            return None
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        kibibytes = re.search(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
        return None if kibibytes is None else 1024 * int(kibibytes[1])


def _forget(device: torch.device) -> bool:
    """Let the peak begin anew, at what is in use now; return whether that was possible."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return True
    if device.type != "cpu" or not sys.platform.startswith("linux"):
        return False
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc
    if trim is not None:
        trim(0)  # what was freed before, and kept, is not in use
    with suppress(OSError):  # of containers that forbid it
        Path("/proc/self/clear_refs").write_text("5")  # see proc(5): resets the peak resident set size
        return True
    return False
