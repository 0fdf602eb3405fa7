"""Runs small enough for a test: six steps on the embedded digits, in float32, whose bits one machine repeats."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from stn_cli.config import RunConfig
from stn_cli.config_files import load_config
from stn_cli.training.checkpoint import read_checkpoint, read_newest
from stn_cli.training.events import Event, Started
from stn_cli.training.loop import train
from stn_cli.training.restore import open_to_resume
from stn_cli.training.run_folder import RunFolder
from stn_cli.training.step import TrainStep

SMALL = (
    "data.dataset=digits",
    "model.name=fcn",
    "model.parameters=30000",
    "train.iterations=6",
    "train.batch_size=16",
    "log.evaluations=2",
    "log.every=2",
    "log.images=0",
    "runtime.device=cpu",
    "runtime.precision=float32",
    "runtime.convolutions=library",
)


class Runs:
    """Makes small runs in a folder of their own, stops them and goes on with them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def config(self, *overrides: str) -> RunConfig:
        return load_config(None, [*SMALL, f"runs_dir={self._folder}", *overrides])

    def train(self, *overrides: str) -> Iterator[Event]:
        return train(self.config(*overrides))

    def begun(self, stream: Iterator[Event]) -> RunFolder:
        """Return the run whose first event comes next."""
        first = next(stream)
        assert isinstance(first, Started)
        return RunFolder(first.run)

    def finished(self, *overrides: str) -> RunFolder:
        stream = self.train(*overrides)
        run = self.begun(stream)
        list(stream)
        return run

    def go_on(self, run: RunFolder, *overrides: str) -> list[Event]:
        config, checkpoint, passed = open_to_resume(run, list(overrides))
        assert passed == []
        return list(train(config, resume=(run, checkpoint)))

    def result(self, run: RunFolder) -> dict[str, Any]:
        """Return all that must not depend on how often a run was stopped: weights, momentum, counts, metrics."""
        found: dict[str, Any] = {"metrics": run.metrics.read_bytes()}
        for name, checkpoint in (("last", read_newest(run.checkpoints)[0]), ("best", read_checkpoint(run.best))):
            found |= {f"{name}.{key}": value.flatten().tolist() for key, value in checkpoint.tensors.items()}
            found |= {f"{name}.{key}": value for key, value in checkpoint.state.items() if key != "seconds"}
        return found


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Two threads on a busy core wait for each other longer than they compute."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path / "runs")


@pytest.fixture
def small(runs: Runs) -> Callable[..., RunConfig]:
    """Make the configuration of a small run, with overrides."""
    return runs.config


@pytest.fixture
def stop_after(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let signals come while a step is computed."""
    step = TrainStep.__call__

    def arrange(*done: int, number: int = signal.SIGTERM, times: int = 1) -> None:
        def stopping(self: TrainStep, batch: object, index: int) -> None:
            step(self, batch, index)  # pyright: ignore[reportArgumentType]
            for _ in range(times if index + 1 in done else 0):
                signal.raise_signal(number)

        monkeypatch.setattr(TrainStep, "__call__", stopping)

    return arrange
