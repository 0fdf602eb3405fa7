"""The time that training takes."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class StepClock:
    """Counts the seconds spent in steps, over all processes of a run, from `go` on and not while `stopped`."""

    def __init__(self, device: torch.device) -> None:
        self.seconds = 0.0
        self._device = device
        self._began = time.perf_counter()

    def go(self) -> None:
        """Count from now on."""
        self._began = time.perf_counter()

    def read(self) -> float:
        """Return the seconds until now."""
        if self._device.type == "cuda":
            # Or steps still in the queue would count as something else. Of this stream alone: others may train beside.
            torch.cuda.current_stream(self._device).synchronize()
        now = time.perf_counter()
        self.seconds += now - self._began
        self._began = now
        return self.seconds

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Count nothing of what is done inside."""
        self.read()
        yield
        self.go()
