"""The peak is that of the time since it was asked for, whatever took more before."""

import torch

from stn_cli.training.peak_memory import PeakMemory
from stn_cli.training.runtime import keep_freed_memory

CPU = torch.device("cpu")
LARGE = 200_000_000  # bytes


def test_the_peak_rises_with_what_is_taken_and_is_forgotten_by_the_next_one():
    keep_freed_memory()  # as every command does: what is freed stays with the process until it is trimmed
    first = PeakMemory(CPU)
    before = first.bytes()
    if before is None:  # the system does not tell
        return
    taken = torch.ones(LARGE, dtype=torch.uint8)
    assert first.bytes() > before + 0.9 * LARGE  # pyright: ignore[reportOptionalOperand]
    del taken
    peak, anew = first.bytes(), PeakMemory(CPU).bytes()
    assert peak is not None
    assert anew is not None
    assert peak > before + 0.9 * LARGE
    assert anew < peak - 0.9 * LARGE


def test_it_is_unknown_where_nobody_tells():
    assert PeakMemory(torch.device("mps")).bytes() is None
