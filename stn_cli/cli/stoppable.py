"""What SIGINT and SIGTERM do to a command that begins anew when it is run again."""

import os
import signal
import sys
from types import FrameType, TracebackType
from typing import Self

import typer


class _Stopped(BaseException):
    """A signal came. No Exception, so that nothing takes it for a fault and goes on."""


class Stoppable:
    """Ends a block at the first SIGINT or SIGTERM, with `advice` on stderr instead of an error.

    Use as a context. `cleans_up`: whether the block has something to remove; until it is set, the process ends at once,
    since exceptions may get lost while modules are imported. So it does at a second signal.

    Raises:
        typer.Exit: a signal came; the code is 128 + its number.
    """

    def __init__(self, advice: str) -> None:
        self.cleans_up = False
        self._advice = advice
        self._signal: int | None = None

    def __enter__(self) -> Self:
        self._previous = {number: signal.signal(number, self._stop) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._signal is not None:  # the handlers stay to the end of the process
            print(self._advice, file=sys.stderr, flush=True)
            raise typer.Exit(128 + self._signal) from None
        for number, handler in self._previous.items():
            signal.signal(number, handler or signal.SIG_DFL)

    def _stop(self, number: int, _frame: FrameType | None) -> None:
        if self._signal is None and self.cleans_up:
            self._signal = number
            raise _Stopped
        if self._signal is None:
            os.write(2, f"{self._advice}\n".encode())
        os._exit(128 + number)
