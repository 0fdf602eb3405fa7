"""How the steps of a run are made: one by one, or recorded once and replayed. Chosen once, before the first."""

from typing import Protocol

from stn_cli.datasets.loader import TrainingStream
from stn_cli.training.captured import CapturedSteps
from stn_cli.training.recorded import record_operations
from stn_cli.training.runtime import Runtime
from stn_cli.training.step import TrainStep


class Engine(Protocol):
    """Makes steps of one training stream."""

    def advance(self, done: int, most: int) -> int:
        """Do up to `most` steps, at least one, after `done` ones and return how many."""
        ...


class EagerSteps:
    """Steps one by one, operation by operation."""

    def __init__(self, step: TrainStep, stream: TrainingStream) -> None:
        self._step = step
        self._stream = stream

    def advance(self, done: int, most: int) -> int:
        """Do the step after `done` ones."""
        self._step(self._stream.batch(done), done)
        return 1


def choose_engine(step: TrainStep, stream: TrainingStream, runtime: Runtime) -> Engine:
    """Return what makes the steps, as the runtime says.

    Raises:
        ResourceError: they cannot be recorded.
    """
    if not runtime.captured:
        return EagerSteps(step, stream)
    if runtime.device.type == "cpu":  # where a launch costs nothing, and a seek is for one step
        return CapturedSteps(step, stream, record_operations, at_once=1)
    return CapturedSteps(step, stream)
