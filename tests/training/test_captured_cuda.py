"""On a CUDA device: steps that are recorded and replayed are the steps one by one, alone and beside others.

Kernels that add in any order are kept away, and the rest is compared within rounding errors: libraries may choose
another kernel for the same product while a graph is recorded.
"""

import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stn_cli.experiments.runner import Failed, Job
from stn_cli.experiments.threaded import Threaded
from stn_cli.training import captured
from stn_cli.training.captured import AT_ONCE
from stn_cli.training.checkpoint import read_newest
from stn_cli.training.data import prepare_data
from stn_cli.training.events import Interrupted, Started, Trained
from stn_cli.training.loop import train

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")

GPU = torch.device("cuda")
ON_GPU = ("runtime.device=cuda", "train.batch_size=100", "log.evaluations=2", "log.every=20", "train.iterations=43")
CHAIN = "distortion.stages=[{kind: E}, {kind: P}, {kind: RTS}]"
KINDS = {kind: [f"distortion.kind={kind}"] for kind in ("none", "R", "RTS", "P", "E", "T", "TC", "addition")}
KINDS["chain"] = ["distortion.kind=chain", CHAIN]
WIDE = "model.parameters=600000"  # for the larger canvases


@pytest.fixture(autouse=True)
def _one_order_of_addition(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def tensors(run: Path) -> dict[str, Tensor]:
    """Return weights, momentum and counts of a run's last checkpoint."""
    return read_newest(run / "checkpoints")[0].tensors


def assert_same(found: Path, expected: Path) -> None:
    others = tensors(expected)
    assert tensors(found).keys() == others.keys()
    for name, value in tensors(found).items():
        torch.testing.assert_close(value, others[name], atol=1e-4, rtol=1e-3, msg=lambda text, name=name: name + text)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_replayed_steps_are_the_steps_one_by_one(runs: Any, kind: list[str]):
    """Launches of many steps and of single ones, over epochs' borders."""
    settings = (*ON_GPU, *kind, "model.name=st-cnn", WIDE)
    eager = runs.finished(*settings, "runtime.steps=eager")
    assert_same(runs.finished(*settings, "runtime.steps=captured").path, eager.path)


@pytest.mark.parametrize("settings", [["model.name=cnn"], ["model.name=st-fcn", "model.transform=tps"]])
def test_in_bf16_too(runs: Any, settings: list[str]):
    """The means of the readings, since bf16 rounds the weights' paths apart."""
    settings = [*ON_GPU, *settings, "runtime.precision=bf16", WIDE]
    losses = []
    for steps in ("eager", "captured"):
        told = list(runs.train(*settings, f"runtime.steps={steps}"))
        losses.append([event.loss for event in told if isinstance(event, Trained)])
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


def test_a_batch_follows_from_seed_and_step_alone(runs: Any):
    streams = [prepare_data(runs.config(*ON_GPU, "distortion.kind=TC"), GPU).stream for _ in range(2)]
    in_order = [streams[0].batch(step) for step in range(12)]
    for step in (11, 3, 4, 3, 0):
        batch = streams[1].batch(step)
        assert torch.equal(batch.images, in_order[step].images)
        assert torch.equal(batch.targets, in_order[step].targets)
    assert not torch.equal(in_order[0].images, in_order[1].images)


def test_a_step_leaves_the_generator_where_the_next_begins(runs: Any):
    """Or the steps of a launch would not be drawn as single ones are."""
    for kind in KINDS.values():
        stream = prepare_data(runs.config(*ON_GPU, *kind), GPU).stream
        stream.batch(5)
        after = stream.generator.get_offset()
        stream.seek(6)
        assert stream.generator.get_offset() == after


def test_recording_changes_nothing(runs: Any):
    stream = runs.train(*ON_GPU, "runtime.steps=captured", "train.iterations=1")
    run = runs.begun(stream)
    first = tensors(run.path)
    list(stream)
    other = runs.train(*ON_GPU, "runtime.steps=eager", "train.iterations=1")
    eager = runs.begun(other)
    assert all(torch.equal(value, tensors(eager.path)[name]) for name, value in first.items())
    list(other)
    assert_same(run.path, eager.path)


def test_stopped_and_resumed_equals_uninterrupted(runs: Any):
    whole = runs.finished(*ON_GPU, "runtime.steps=captured")
    stream = runs.train(*ON_GPU, "runtime.steps=captured")
    run = runs.begun(stream)
    assert isinstance(next(stream), Trained)
    signal.raise_signal(signal.SIGTERM)
    assert isinstance(list(stream)[-1], Interrupted)
    runs.go_on(run)
    assert_same(run.path, whole.path)


def test_runs_beside_others_equal_the_same_runs_alone(runs: Any, tmp_path: Path):
    """More of them than go on at once, of several kinds."""
    settings = [
        ["model.name=st-cnn", "distortion.kind=R"],
        ["model.name=st-fcn", "model.transform=tps", "distortion.kind=E"],
        ["model.name=cnn", "distortion.kind=P", "seed=1"],
        ["model.name=fcn", "distortion.kind=RTS", WIDE],
        ["model.name=st-cnn", "distortion.kind=R", "seed=2"],
    ]
    given = [(*ON_GPU, "runtime.steps=captured", *some, f"name={i}") for i, some in enumerate(settings)]
    told = list(Threaded(3).run([Job(runs.config(*some, f"runs_dir={tmp_path / 'beside'}")) for some in given]))
    assert not [event for event in told if isinstance(event.event, Failed)]
    for i, some in enumerate(given):
        list(train(runs.config(*some, f"runs_dir={tmp_path / 'alone'}")))
        assert_same(tmp_path / "beside" / str(i), tmp_path / "alone" / str(i))


def test_a_run_says_how_its_steps_are_made(runs: Any):
    for steps, said in (("auto", "steps as CUDA graphs"), ("eager", "as asked")):
        (started,) = [e for e in runs.train(*ON_GPU, f"runtime.steps={steps}") if isinstance(e, Started)]
        assert started.runtime.endswith(said)


def test_a_launch_makes_many_steps(runs: Any, monkeypatch: pytest.MonkeyPatch):
    launched: list[int] = []
    advance = captured.CapturedSteps.advance

    def counted(self: captured.CapturedSteps, done: int, most: int) -> int:
        launched.append(advance(self, done, most))
        return launched[-1]

    monkeypatch.setattr(captured.CapturedSteps, "advance", counted)
    run = runs.finished(*ON_GPU)
    assert sum(launched) == read_newest(run.checkpoints)[0].state["step"] == 43
    assert launched.count(AT_ONCE) == 3
