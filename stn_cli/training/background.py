"""One thread that works beside the training: whatever need not be waited for, in its order."""

from collections.abc import Callable
from queue import Queue
from threading import Event, Thread

MOST_WAITING = 256  # pieces of work; who brings more waits for the thread

Work = Callable[[], None]


class Background:
    """Does what it is given, in order, in a thread of its own.

    After the first exception it does nothing more: `on_fault` is told of it once, in that thread.
    """

    def __init__(self, on_fault: Callable[[Exception], None]) -> None:
        self._on_fault = on_fault
        self._queue: Queue[Work | Event | None] = Queue(MOST_WAITING)
        self._mark = Event()  # reached when all is done that was given before the latest `settle`
        self._mark.set()
        self._thread = Thread(target=self._run, name="stn-board", daemon=True)  # it must not outlive its process
        self._thread.start()

    def do(self, work: Work) -> None:
        """Let work be done after all that was given before."""
        self._queue.put(work)

    def settle(self) -> None:
        """Wait until all is done that was given before the last call of this.

        So work goes on while the training does, and what waits is never more than came between two calls.
        """
        self._mark.wait()
        self._mark = Event()
        self._queue.put(self._mark)

    def close(self) -> None:
        """Wait until all is done, and end the thread."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        broken = False
        while (item := self._queue.get()) is not None:
            if isinstance(item, Event):
                item.set()
            elif not broken:
                try:
                    item()
                except Exception as error:  # whatever it is, training goes on, and the log has it
                    broken = True
                    self._on_fault(error)
