"""What breaks a run leaves it with sound checkpoints, from which it reaches the result it would have had."""

import errno
import math
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from stn_cli.datasets.loader import Batch, TrainingStream
from stn_cli.errors import NumericsError, ResourceError
from stn_cli.training import course
from stn_cli.training.checkpoint import read_checkpoint
from stn_cli.training.events import Event, Finished, Started
from stn_cli.training.run_folder import RunFolder
from stn_cli.training.step import TrainStep


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch) -> Callable[[int | None], None]:
    """Let one step's images hold a NaN."""
    batch = TrainingStream.batch

    def arrange(step: int | None) -> None:
        def poisoned(self: TrainingStream, index: int) -> Batch:
            found = batch(self, index)
            if index == step:
                found.images[0, 0, 14, 14] = math.nan
            return found

        monkeypatch.setattr(TrainingStream, "batch", poisoned)

    return arrange


@pytest.mark.parametrize(("every", "save_every"), [(1, 60.0), (50, 60.0), (50, 0.0)])
@pytest.mark.parametrize("step", [0, 3, 5])
def test_nan_ends_the_run_and_every_checkpoint_is_from_before_it(
    runs,
    poison: Callable[[int | None], None],
    monkeypatch: pytest.MonkeyPatch,
    step: int,
    every: int,
    save_every: float,
) -> None:
    monkeypatch.setattr(course, "SAVE_EVERY", save_every)
    settings = ["model.name=st-cnn", f"log.every={every}"]
    poison(step)
    stream = runs.train(*settings)
    run = runs.begun(stream)
    with pytest.raises(NumericsError, match=r"loss or gradient was not finite in 1 of steps \d to \d") as caught:
        list(stream)
    assert caught.value.exit_code == 5
    for file in run.checkpoints.iterdir():
        checkpoint = read_checkpoint(file)
        assert all(bool(tensor.isfinite().all()) for tensor in checkpoint.tensors.values())
        assert checkpoint.state["step"] <= step
    assert "NaN" not in run.metrics.read_text()
    assert run.read_summary() is None
    poison(None)
    runs.go_on(run)
    assert runs.result(run) == runs.result(runs.finished(*settings))


def test_an_evaluation_that_is_not_finite_ends_the_run_too(runs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights can be finite and so large that the logits are not."""
    step = TrainStep.__call__

    def exploding(self: TrainStep, batch: Batch, index: int) -> None:
        step(self, batch, index)
        if index == 5:
            for parameter in self._parameters:
                parameter.data.fill_(1e30)

    monkeypatch.setattr(TrainStep, "__call__", exploding)
    stream = runs.train()
    run = runs.begun(stream)
    with pytest.raises(NumericsError, match="the loss on 65 images is"):
        list(stream)
    assert all(read_checkpoint(file).state["step"] <= 3 for file in run.checkpoints.iterdir())
    assert run.read_summary() is None


@pytest.mark.parametrize(("owner", "name"), [(os, "fsync"), (Path, "replace")])
def test_a_write_that_fails_costs_what_came_after_the_last_save_and_no_more(
    runs, monkeypatch: pytest.MonkeyPatch, owner: object, name: str
) -> None:
    """The Nth fsync or rename of a run fails, for every N there is."""
    whole, sound, faults = runs.result(runs.finished()), getattr(owner, name), 0
    while True:
        left = faults + 1

        def fail(*given: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return sound(*given)

        events: list[Event] = []
        with monkeypatch.context() as disk, suppress(ResourceError):
            disk.setattr(owner, name, fail)
            for event in runs.train():
                events.append(event)
        if left > 0:
            break
        faults += 1
        if events:  # else the disk was full before the run began
            assert isinstance(events[0], Started)
            run = RunFolder(events[0].run)
            runs.go_on(run)
            assert runs.result(run) == whole
            assert not list(run.path.rglob(".*.tmp"))
    assert isinstance(events[-1], Finished)
    assert faults >= 8


def test_without_a_board_the_result_is_the_same(runs, caplog: pytest.LogCaptureFixture) -> None:
    whole, stream = runs.result(runs.finished("log.images=4")), runs.train("log.images=4")
    run = runs.begun(stream)
    stream.close()
    shutil.rmtree(run.tensorboard)
    run.tensorboard.write_text("a file where the folder should be")
    runs.go_on(run)
    assert runs.result(run) == whole
    assert "TensorBoard events cannot be written" in caplog.text


def test_metrics_that_cannot_be_written_stop_the_run_with_what_was_saved(runs) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    whole, stream = runs.result(runs.finished()), runs.train()
    run = runs.begun(stream)
    stream.close()
    run.metrics.unlink()
    run.metrics.symlink_to("/dev/full")
    with pytest.raises(ResourceError, match=r"metrics\.jsonl: No space left"):
        runs.go_on(run)
    run.metrics.unlink()
    runs.go_on(run)
    assert runs.result(run) == whole
