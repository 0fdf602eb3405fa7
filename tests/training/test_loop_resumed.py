"""However often and wherever a run is stopped, its result is that of the run that was never stopped."""

import signal

import pytest
import torch

from stn_cli.compiled.compiler import why_not
from stn_cli.errors import CheckpointError
from stn_cli.training import course, runtime
from stn_cli.training.checkpoint import read_newest
from stn_cli.training.events import Event, Finished, Interrupted, Started, Trained, Validated
from stn_cli.training.logger import read_metrics
from stn_cli.training.loop import train
from stn_cli.training.restore import open_to_resume
from stn_cli.training.run_folder import RunFolder

COMBINATIONS = {
    "cnn": ["model.name=cnn", "distortion.kind=none"],
    "fcn P": ["model.name=fcn", "distortion.kind=P", "train.momentum=0", "train.nesterov=false"],
    "st-fcn tps E": ["model.name=st-fcn", "model.transform=tps", "distortion.kind=E", "log.images=4"],
    "st-cnn affine R": ["model.name=st-cnn", "distortion.kind=R", "train.recipe=paper", "data.validation=0"],
    "st-cnn projective RTS": ["model.name=st-cnn", "model.transform=projective", "distortion.kind=RTS"],
    "st-cnn similarity R bf16": ["model.name=st-cnn", "model.transform=similarity", "runtime.precision=bf16"],
    "st-cnn affine R compiled, bf16": [
        *("model.name=st-cnn", "distortion.kind=R"),
        *("runtime.convolutions=compiled", "runtime.precision=bf16"),
    ],
    "fcn with several, addition": [
        "model.parameters=150000",
        "distortion.kind=addition",
        "model.transformers=[[{localisation: {widths: [8]}}, {transform: tps, localisation: {widths: [4]}}], "
        "{rate: 0.5, out_size: [20, 20], feed_theta: true, localisation: {widths: [4]}}]",
    ],
    "cnn with one inside": [
        "model.name=cnn",
        "model.transformers=[{at: conv2, out_size: [9, 8], antialias: true, localisation: {widths: [8]}}]",
    ],
}
every_combination = pytest.mark.parametrize("settings", COMBINATIONS.values(), ids=COMBINATIONS)


@every_combination
def test_the_same_configuration_gives_the_same_bits_and_another_seed_others(runs, settings: list[str]) -> None:
    first, second = runs.finished(*settings), runs.finished(*settings)
    assert first != second
    assert runs.result(first) == runs.result(second)
    before, other = (read_newest(run.checkpoints)[0] for run in (first, runs.finished(*settings, "seed=1")))
    drawn = [name for name in before.tensors if name.startswith("network.classifier") and name.endswith("weight")]
    assert drawn
    assert not any(torch.equal(other.tensors[name], before.tensors[name]) for name in drawn)


@every_combination
def test_stopped_and_resumed_equals_uninterrupted(runs, stop_after, settings: list[str]) -> None:
    """Cut between readings, at an evaluation, several times, and in the last step."""
    whole = runs.result(runs.finished(*settings))
    for cuts in ((1,), (3,), (2, 4, 5), (6,)):
        stop_after(*cuts)
        stream = runs.train(*settings)
        run = runs.begun(stream)
        events = list(stream)
        for cut in cuts:
            assert events[-1] == Interrupted(run.path, signal.SIGTERM, cut)
            assert run.read_summary() is None
            assert read_newest(run.checkpoints)[0].state["step"] == cut
            events = runs.go_on(run)
        assert isinstance(events[-1], Finished)
        assert runs.result(run) == whole


@pytest.mark.parametrize("save_every", [0.0, 60.0])
def test_abandoned_anywhere_and_resumed_equals_uninterrupted(
    runs, monkeypatch: pytest.MonkeyPatch, save_every: float
) -> None:
    """What a killed process leaves: the last checkpoint, and metrics beyond it."""
    monkeypatch.setattr(course, "SAVE_EVERY", save_every)
    events = list(runs.train("log.every=1"))
    whole = runs.result(runs.finished("log.every=1"))
    for more in range(0, len(events) - 1, 2):
        stream = runs.train("log.every=1")
        run = runs.begun(stream)
        for _ in range(more):
            next(stream)
        stream.close()
        runs.go_on(run)
        assert runs.result(run) == whole, f"after {events[more]}"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", [Started, Trained, Validated])
def test_a_signal_between_steps_leaves_a_run_to_go_on_with(runs, number: int, moment: type[Event]) -> None:
    """Also before the first step, and during an evaluation."""
    whole, events = runs.result(runs.finished()), []
    for event in runs.train():
        if isinstance(event, moment) and not any(isinstance(before, moment) for before in events):
            signal.raise_signal(number)
        events.append(event)
    run, last = RunFolder(events[0].run), events[-1]
    assert isinstance(last, Interrupted)
    assert last.signal == number
    assert read_newest(run.checkpoints)[0].state["step"] == last.step
    runs.go_on(run)
    assert runs.result(run) == whole


def test_a_second_signal_stops_at_once_and_the_run_can_go_on(runs, stop_after) -> None:
    whole = runs.result(runs.finished())
    stop_after(4, number=signal.SIGINT, times=2)
    stream = runs.train()
    run = runs.begun(stream)
    with pytest.raises(KeyboardInterrupt):
        list(stream)
    assert read_newest(run.checkpoints)[0].state["step"] == 3
    stop_after()
    runs.go_on(run)
    assert runs.result(run) == whole


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("model.name=cnn", "model.name fcn → cnn"),
        ("model.parameters=40000", "model.parameters 30000 → 40000"),
        ("train.batch_size=8", "train.batch_size 16 → 8"),
        ("distortion.kind=E", "distortion.kind R → E"),
        ("seed=1", "seed 0 → 1"),
    ],
)
def test_other_settings_are_refused_by_name_and_nothing_is_touched(runs, override: str, named: str) -> None:
    run = runs.finished()
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    with pytest.raises(CheckpointError, match="cannot go on with other settings") as caught:
        runs.go_on(run, override)
    assert caught.value.exit_code == 4
    assert named in caught.value.what
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before


def test_a_finished_run_is_only_evaluated_again(runs) -> None:
    run = runs.finished()
    before, summary = runs.result(run), run.read_summary()
    assert [type(event) for event in runs.go_on(run)] == [Started, Finished]
    assert runs.result(run) == before
    assert run.read_summary() == summary


def test_more_iterations_extend_a_run_and_can_be_interrupted_themselves(runs, stop_after) -> None:
    run = runs.finished()
    stop_after(8)
    assert runs.go_on(run, "train.iterations=12")[-1] == Interrupted(run.path, signal.SIGTERM, 8)
    assert run.read_config().train.iterations == 12
    assert run.read_summary() is None  # the old result is none of the longer run
    last = runs.go_on(run)[-1]
    assert isinstance(last, Finished)
    assert last.summary["steps"] == 12


def test_extending_goes_on_with_the_same_bits(runs, stop_after) -> None:
    """The paper's rate is constant in the first third of a run, so 5 steps of 18 are those of 24."""
    settings = ["train.schedule=step", "log.every=1", "model.name=st-fcn"]
    whole = runs.finished(*settings, "train.iterations=24")
    stop_after(5)
    run = runs.finished(*settings, "train.iterations=18")
    runs.go_on(run, "train.iterations=24")
    found, expected = (read_newest(each.checkpoints)[0].tensors for each in (run, whole))
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    found, expected = ([r for r in read_metrics(each.metrics) if r["split"] == "train"] for each in (run, whole))
    assert found == expected


def test_fewer_iterations_than_are_done_are_refused(runs) -> None:
    run = runs.finished()
    with pytest.raises(CheckpointError, match="has done 6 steps, more than the 4 asked for"):
        runs.go_on(run, "train.iterations=4")
    assert run.read_config().train.iterations == 6
    assert run.read_summary() is not None


def test_a_damaged_newest_checkpoint_costs_one_save(runs) -> None:
    run = runs.finished()
    whole, newest = runs.result(run), sorted(run.checkpoints.glob("step-*"))[-1]
    newest.write_bytes(newest.read_bytes()[:-1])
    config, checkpoint, passed = open_to_resume(run, [])
    assert checkpoint.state["step"] == 3
    assert len(passed) == 1
    assert str(newest) in passed[0]
    list(train(config, resume=(run, checkpoint)))
    assert runs.result(run) == whole


@pytest.mark.skipif(why_not() is not None, reason="no compiled kernels")
def test_a_machine_without_kernels_goes_on_and_leaves_the_settings(runs, stop_after, monkeypatch) -> None:
    stop_after(3)
    stream = runs.train("model.name=cnn", "runtime.convolutions=compiled")
    run = runs.begun(stream)
    list(stream)
    before = run.read_config().runtime.convolutions
    monkeypatch.setattr(runtime, "why_not", lambda: "of this")
    assert isinstance(runs.go_on(run)[-1], Finished)
    assert before == run.read_config().runtime.convolutions == "compiled"
