"""Steps that are recorded once and replayed are the steps one by one, bit for bit.

Without a CUDA device, a stand-in records: it notes every operation of PyTorch and its tensors, and a replay does these
operations again on the very same tensors, as a CUDA graph does. Whatever was a number when it was recorded stays as it
was, and a look at a value while recording is an error.
"""

import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from stn_cli.datasets.loader import Batch, TrainingStream
from stn_cli.errors import NumericsError
from stn_cli.randomness import derive_seed
from stn_cli.training import course, data, loop
from stn_cli.training.captured import CapturedSteps, Work
from stn_cli.training.checkpoint import read_newest
from stn_cli.training.engine import EagerSteps
from stn_cli.training.events import Event, Finished, Interrupted, Started
from stn_cli.training.loop import train
from stn_cli.training.runtime import Runtime, choose_runtime
from stn_cli.training.step import TrainStep

AT_ONCE = 5
# Twenty steps an epoch, so that the last launch crosses its border; and what is looked at falls between launches.
SETTINGS = ("train.batch_size=60", "train.iterations=23", "log.every=9", "log.evaluations=3")
COMBINATIONS = {
    "cnn": ["model.name=cnn", "distortion.kind=none"],
    "fcn TC": [
        *("model.name=fcn", "distortion.kind=TC", "model.parameters=60000"),
        *("train.momentum=0", "train.nesterov=false"),
    ],
    "st-cnn affine R bf16": ["model.name=st-cnn", "runtime.precision=bf16"],
    "st-cnn tps E": ["model.name=st-cnn", "model.transform=tps", "distortion.kind=E", "train.recipe=paper"],
    "st-fcn addition": ["model.name=st-fcn", "distortion.kind=addition", "model.parameters=200000"],
}
every_combination = pytest.mark.parametrize("settings", COMBINATIONS.values(), ids=COMBINATIONS)


class Recording(TorchDispatchMode):
    """Notes what is done inside, to do it again."""

    def __init__(self) -> None:
        super().__init__()
        self._done: list[tuple[Any, Any, Any, list[Tensor]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func is not torch.ops.aten._local_scalar_dense.default, "a look at a value"
        given, named = tree_map_only(Tensor, Tensor.detach, (args, kwargs or {}))
        made = func(*args, **(kwargs or {}))
        results = [part for part in tree_leaves(made) if isinstance(part, Tensor)]
        is_new = not any(value.alias_info for value in func._schema.returns)
        self._done.append((func, given, named, [part.detach() for part in results if is_new]))
        return made

    def replay(self) -> None:
        with torch.no_grad():
            for func, given, named, results in self._done:
                made = [part for part in tree_leaves(func(*given, **named)) if isinstance(part, Tensor)]
                for result, value in zip(results, made, strict=False):
                    result.copy_(value)


class InTurn(TrainingStream):
    """Draws for the steps of a launch with a generator each: one of a CPU cannot be put where the next step begins."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.generators = [torch.Generator() for _ in range(AT_ONCE)]
        self.turn = 0

    def seek(self, step: int) -> None:
        for i, generator in enumerate(self.generators):
            generator.manual_seed(derive_seed(self._seed, "distortion", step + i))
        self.turn = 0

    def make(self, index: Tensor) -> Batch:
        self.generator = self.generators[self.turn]
        self.turn += 1
        return super().make(index)


class Engine(CapturedSteps):
    """Records as the stand-in does; counts its launches."""

    def __init__(self, step: TrainStep, stream: InTurn) -> None:
        self.launched: list[int] = []

        def record(works: Sequence[Work], _: torch.Generator) -> list[Work]:
            replays: list[Work] = []
            for work in works:
                stream.turn = 0
                work()
                stream.turn = 0
                with Recording() as recording:
                    work()
                replays.append(recording.replay)
            return replays

        super().__init__(step, stream, record, AT_ONCE)

    def advance(self, done: int, most: int) -> int:
        self.launched.append(super().advance(done, most))
        return self.launched[-1]


@pytest.fixture
def replay(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[Engine]]:
    """Let runs from here on be made of recorded steps; their engines are listed as they are made."""

    def arrange() -> list[Engine]:
        made: list[Engine] = []

        def choose(step: TrainStep, stream: InTurn, runtime: Runtime) -> Engine | EagerSteps:
            if not runtime.captured:
                return EagerSteps(step, stream)
            made.append(Engine(step, stream))
            return made[-1]

        monkeypatch.setattr(course, "WORTH_RECORDING", 0)
        monkeypatch.setattr(data, "TrainingStream", InTurn)
        monkeypatch.setattr(loop, "choose_runtime", lambda config: replace(choose_runtime(config), captured=True))
        monkeypatch.setattr(course, "choose_engine", choose)
        return made

    return arrange


Replay = Callable[[], list[Engine]]


@every_combination
def test_replayed_steps_are_the_steps_one_by_one(runs: Any, replay: Replay, settings: list[str]):
    """Weights, momentum, counts and every reading, over epochs' borders and a changing learning rate."""
    expected, engines = runs.result(runs.finished(*SETTINGS, *settings)), replay()
    assert runs.result(runs.finished(*SETTINGS, *settings)) == expected
    # Looked at after 8, 15 and 23 steps for an evaluation, after 9 and 18 for a reading.
    assert engines[0].launched == [5, 1, 1, 1, 1, 5, 1, 1, 1, 1, 5]


@pytest.mark.parametrize("cut", [1, 4, 8, 11, 14, 17, 22])
def test_a_run_goes_on_with_replayed_steps_from_wherever_it_was_stopped(
    runs: Any, replay: Replay, stop_after: Callable[..., None], cut: int
):
    """Where its first steps were made one by one, too."""
    expected = runs.result(runs.finished(*SETTINGS))
    stop_after(cut)
    stream = runs.train(*SETTINGS)
    run = runs.begun(stream)
    assert list(stream)[-1] == Interrupted(run.path, signal.SIGTERM, cut)
    engines = replay()
    assert isinstance(runs.go_on(run)[-1], Finished)
    assert sum(engines[0].launched) == 23 - cut
    assert runs.result(run) == expected


def test_a_signal_stops_after_the_launch_it_came_in(runs: Any, replay: Replay, monkeypatch: pytest.MonkeyPatch):
    expected, engines, left = runs.result(runs.finished(*SETTINGS)), replay(), [5, 1, 5]
    advance = Engine.advance

    def stopping(self: Engine, done: int, most: int) -> int:
        count = advance(self, done, most)
        if left and count == left[0]:
            left.pop(0)
            signal.raise_signal(signal.SIGTERM)
        return count

    monkeypatch.setattr(Engine, "advance", stopping)
    stream = runs.train(*SETTINGS)
    run = runs.begun(stream)
    events: list[Event] = list(stream)
    for step in (5, 6, 14):
        assert events[-1] == Interrupted(run.path, signal.SIGTERM, step)
        assert read_newest(run.checkpoints)[0].state["step"] == step
        events = runs.go_on(run)
    assert len(engines) == 4
    assert runs.result(run) == expected


def test_recording_changes_nothing(runs: Any, replay: Replay):
    engines = replay()
    stream = runs.train(*SETTINGS, "model.name=st-cnn")
    first = read_newest(runs.begun(stream).checkpoints)[0]  # written before anything was recorded
    step = engines[0]._step
    assert step.counts.tolist() == [0] * 5
    found = {f"network.{name}": value for name, value in step._network.state_dict().items()}
    found |= step._optimiser.tensors() | {"counts": step.counts}
    assert first.tensors.keys() == found.keys()
    assert all(torch.equal(value, found[name]) for name, value in first.tensors.items())
    stream.close()


def test_nothing_is_recorded_where_nothing_is_left_to_do(runs: Any, replay: Replay):
    run, engines = runs.finished(), replay()
    assert isinstance(runs.go_on(run)[-1], Finished)
    assert engines == []


def test_a_run_that_is_to_be_looked_at_step_by_step_is_not_recorded(runs: Any, replay: Replay):
    engines = replay()
    first, *_ = train(runs.config(*SETTINGS), stepwise=True)
    assert engines == []
    assert isinstance(first, Started)
    assert first.runtime.endswith("; steps one by one to be looked at")


def test_a_step_that_is_not_finite_is_skipped_in_a_replay_too(runs: Any, replay: Replay):
    engines = replay()
    stream = runs.train(*SETTINGS)
    runs.begun(stream)
    weights = list(engines[0]._step._network.parameters())
    with torch.no_grad():
        weights[0].fill_(3e38)
    before = [weight.clone() for weight in weights]
    with pytest.raises(NumericsError, match="not finite in 8 of steps 1 to 8"):
        list(stream)
    assert engines[0].launched == [5, 1, 1, 1]
    assert all(torch.equal(weight, value) for weight, value in zip(weights, before, strict=True))
