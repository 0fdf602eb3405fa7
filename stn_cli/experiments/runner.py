"""What trains several runs, and what it tells whoever watches."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from stn_cli.config import RunConfig
from stn_cli.datasets.download import Progress
from stn_cli.errors import CheckpointError
from stn_cli.training.events import Event
from stn_cli.training.interruption import Interruption


@dataclass(frozen=True)
class Job:
    """A run to be trained. `resume`: go on with the run of that name, which has begun already."""

    config: RunConfig
    resume: bool = False

    def with_runtime(self, **settings: Any) -> "Job":
        """Return the job with other settings of where and how it computes."""
        runtime = self.config.runtime.model_copy(update=settings)
        return replace(self, config=self.config.model_copy(update={"runtime": runtime}))

    def start(
        self, *, overwrite: bool = False, download: Progress | None = None, signals: Interruption | None = None
    ) -> Iterator[Event]:
        """Return the events of the run as it is trained.

        A run whose checkpoints are all damaged begins anew. `overwrite`: so does any other of that name. `signals`: as
        `train` takes it.

        Raises:
            StnError: as `train`.
        """
        # Here, so that whoever hands jobs to other processes need not wait for torch.
        from stn_cli.training.loop import train
        from stn_cli.training.restore import open_to_resume
        from stn_cli.training.run_folder import RunFolder

        if not self.resume:
            return train(self.config, overwrite=overwrite, download=download, signals=signals)
        run = RunFolder(Path(self.config.runs_dir) / str(self.config.name))
        try:
            config, checkpoint, passed = open_to_resume(run, [])
        except CheckpointError as error:
            logging.getLogger("stn").warning("%s; %s begins anew", error.what, run.path)
            return train(self.config, overwrite=True, download=download, signals=signals)
        for line in passed:
            logging.getLogger("stn").warning("%s; going on from an older checkpoint", line)
        return train(config, resume=(run, checkpoint), download=download, signals=signals)


@dataclass(frozen=True)
class Failed:
    """The end of a run that could not go on. A note of the error holds the traceback where it happened."""

    error: Exception


@dataclass(frozen=True)
class Skipped:
    """The end of a run that had not begun when a signal stopped the runner."""

    signal: int


@dataclass(frozen=True)
class Said:
    """A line that the process of a run wrote to its stderr: a warning, or its last words."""

    line: str


@dataclass(frozen=True)
class RunEvent:
    """Something happened to one of the runs, that of the job at `place` in the list."""

    place: int
    event: Event | Failed | Skipped | Said


class Runner(Protocol):
    """Trains runs, somehow: packed on the cores of this machine, in turn, or elsewhere."""

    def run(self, jobs: Sequence[Job]) -> Iterator[RunEvent]:
        """Train a network per job, each in a run folder of its own, and yield what happens as it happens.

        Each run ends with exactly one Finished, Interrupted, Failed or Skipped, and the others go on when one fails.
        The first SIGINT or SIGTERM stops all of them, saved. Closing the stream stops them too.

        Raises:
            UsageError: a configuration asks for what this runner cannot give; nothing has begun.
        """
        ...
