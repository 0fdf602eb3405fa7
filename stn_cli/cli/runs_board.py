"""What several runs do at once, shown on stderr: a bar for each that is going on, and a line when it ends."""

import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from stn_cli.errors import StnError

if TYPE_CHECKING:
    from rich.progress import Progress

    from stn_cli.experiments.runner import RunEvent

SAY_EVERY = 30.0  # seconds between two lines of progress of a run where there is no terminal for bars


class RunsBoard:
    """Shows what runs do, and remembers how they ended.

    `labels`: a name for each, in the order of the runner's places. `summaries` and `failures` are by place.
    """

    def __init__(self, labels: Sequence[str], bar: "Progress") -> None:
        self.summaries: dict[int, dict[str, Any]] = {}
        self.failures: dict[int, Exception] = {}
        self.stopped_by: int | None = None
        self._labels = labels
        self._width = max(10, *map(len, labels))
        self._bar = bar
        self._tasks: dict[int, Any] = {}
        self._runs: dict[int, Path] = {}
        self._said: dict[int, float] = {}

    def show(self, events: "Iterable[RunEvent]") -> None:
        """Show what happens until all have ended."""
        from stn_cli.experiments.runner import Failed, Said, Skipped
        from stn_cli.training.events import Collapsed, Finished, Interrupted, Started, Trained, Validated

        for happened in events:
            place, event = happened.place, happened.event
            match event:
                case Started():
                    self._begin(place, event)
                case Trained():
                    self._progress(place, event)
                case Validated():
                    pass  # a dozen per run; metrics.jsonl has them
                case Collapsed():
                    self._say(place, f"warning: step {event.step:,}: {'; '.join(event.faults)}")
                case Said():
                    self._say(place, event.line)
                case Finished():
                    self.summaries[place] = event.summary
                    self._end(place, f"test error {event.summary['test_error_percent']:.2f} %")
                case Interrupted():
                    self.stopped_by = event.signal
                    resume = f"stn train --resume {quote(str(event.run))}"
                    self._end(place, f"saved at step {event.step:,}. Go on with: {resume}")
                case Skipped():
                    self.stopped_by = event.signal
                    self._end(place, "not begun")
                case Failed():
                    self._fail(place, event.error)

    def _say(self, place: int, text: str) -> None:
        self._bar.console.print(f"{self._labels[place]:<{self._width}}  {text}")

    def _begin(self, place: int, event: Any) -> None:
        if not self._runs:
            widths = "-".join(map(str, event.widths))
            self._bar.console.print(f"parameters  {event.parameters:,} (classifier {widths})")
            self._bar.console.print(f"runtime     {event.runtime}")
        self._runs[place], self._said[place] = event.run, time.monotonic()
        label = self._labels[place]
        if place in self._tasks:  # it begins again, elsewhere
            self._bar.remove_task(self._tasks.pop(place))
        self._tasks[place] = self._bar.add_task(label, total=event.total, completed=event.step, state="")
        self._say(place, str(event.run))

    def _progress(self, place: int, event: Any) -> None:
        state = f"loss {event.loss:.3f}  error {event.error_percent:.2f} %  {event.images_per_second:,.0f} images/s"
        self._bar.update(self._tasks[place], completed=event.step, state=state)
        if self._bar.disable and time.monotonic() - self._said[place] > SAY_EVERY:
            self._say(place, f"step {event.step:>7,}  {state}")
            self._said[place] = time.monotonic()

    def _end(self, place: int, text: str) -> None:
        if place in self._tasks:
            self._bar.remove_task(self._tasks.pop(place))
        self._say(place, text)

    def _fail(self, place: int, error: Exception) -> None:
        from stn_cli.cli.faults import write_crash_log

        self.failures[place] = error
        what = str(error) if isinstance(error, StnError) else f"{type(error).__name__}: {error}"
        self._end(place, f"failed: {' '.join(what.split())}")
        if place in self._runs:
            with suppress(OSError):  # on a full disk the error itself says more than the loss of its traceback
                write_crash_log(self._runs[place], error)
