"""What trains several runs, and what it tells whoever watches."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from stn_cli.config import RunConfig
from stn_cli.training.events import Event


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
    """Something happened to one of the runs, that of the configuration at `place` in the list."""

    place: int
    event: Event | Failed | Skipped | Said


class Runner(Protocol):
    """Trains runs, somehow: packed on the cores of this machine, in turn, or elsewhere."""

    def run(self, configs: Sequence[RunConfig]) -> Iterator[RunEvent]:
        """Train a network per configuration, each in a run folder of its own, and yield what happens as it happens.

        Each run ends with exactly one Finished, Interrupted, Failed or Skipped, and the others go on when one fails.
        The first SIGINT or SIGTERM stops all of them, saved. Closing the stream stops them too.

        Raises:
            UsageError: a configuration asks for what this runner cannot give; nothing has begun.
        """
        ...
