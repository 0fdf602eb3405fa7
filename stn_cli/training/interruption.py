"""SIGINT and SIGTERM: the step is finished and the state saved before the run stops."""

import signal
import threading
from types import FrameType
from typing import Self

from stn_cli.errors import LostRankError


class Interruption:
    """Notes the first SIGINT or SIGTERM; a second one acts at once, as if this were not here.

    Use as a context. Outside the main thread, where Python delivers no signals, nothing is noted.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._previous: dict[int, object] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, kind: type[BaseException] | None = None, *_: object) -> None:
        if kind is LostRankError and self._previous:
            self._previous[signal.SIGTERM] = signal.SIG_IGN  # torchrun sends it to those that are ending already
        self._restore()

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.signal = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # pyright: ignore[reportArgumentType] - what signal.signal returned
        self._previous = {}
