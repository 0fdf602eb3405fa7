"""Runs one after another in this process, each with the whole machine."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from stn_cli.datasets.download import Progress
from stn_cli.experiments.runner import Failed, Job, RunEvent, Skipped
from stn_cli.training.events import Interrupted


@dataclass(frozen=True)
class InTurn:
    """A Runner. `overwrite` replaces runs of the same name; `download` is told of downloads."""

    overwrite: bool = False
    download: Progress | None = None

    def run(self, jobs: Sequence[Job]) -> Iterator[RunEvent]:
        stopped_by = None
        for place, job in enumerate(jobs):
            if stopped_by is not None:
                yield RunEvent(place, Skipped(stopped_by))
                continue
            try:
                for event in job.start(overwrite=self.overwrite, download=self.download):
                    yield RunEvent(place, event)
                    if isinstance(event, Interrupted):
                        stopped_by = event.signal
            except Exception as error:  # whatever stops one run is told, and the others go on
                yield RunEvent(place, Failed(error))
