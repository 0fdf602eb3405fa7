"""What is measured is what training does, and it is counted right."""

import copy
import time
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from stn_cli.compiled.compiler import why_not
from stn_cli.compiled.operators import lanes, multiply_adds, pairs
from stn_cli.config import RunConfig
from stn_cli.datasets.build import build_source
from stn_cli.models.build import build_model
from stn_cli.models.convolution import choose_convolutions
from stn_cli.training import speed
from stn_cli.training.data import prepare_data
from stn_cli.training.speed import count_operations, measure_peak, measure_speed, repeated_stream, spread_of, time_steps

CPU = torch.device("cpu")
Small = Callable[..., RunConfig]
COMPILED = pytest.param(
    "compiled", marks=pytest.mark.skipif(why_not() is not None, reason=f"no compiled kernels: {why_not()}")
)


class Clock:
    """A clock that goes on only when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    stopped = Clock()
    monkeypatch.setattr(speed, "time", stopped)
    return stopped


@pytest.mark.parametrize("kind", ["R", "TC"])
def test_the_batches_are_those_of_a_run(small: Small, kind: str):
    config = small(f"distortion.kind={kind}", "seed=3", "data.validation=0.1")
    stream, spec = repeated_stream(config, build_source(config.data), CPU)
    data = prepare_data(config, CPU)
    assert spec == data.spec
    assert stream.steps_per_epoch == data.stream.steps_per_epoch
    for step in (0, 1, stream.steps_per_epoch):
        ours, theirs = stream.batch(step), data.stream.batch(step)
        assert torch.equal(ours.images, theirs.images)
        assert torch.equal(ours.targets, theirs.targets)


@pytest.mark.parametrize("held_out", [0, 0.05, 0.5])
@pytest.mark.parametrize("kind", ["none", "TC"])
def test_a_source_smaller_than_a_batch_is_repeated(small: Small, kind: str, held_out: float):
    config = small(f"distortion.kind={kind}", "train.batch_size=100", f"data.validation={held_out}")
    source = build_source(config.data)
    few = replace(source, train=source.train.at(torch.arange(7)))
    batch = repeated_stream(config, few, CPU)[0].batch(0)
    assert len(batch.images) == len(batch.targets) == 100
    assert set(batch.targets.tolist()) <= set(few.train.targets.tolist())
    if kind == "none":
        known = {image.numpy().tobytes() for image in few.train.images.float() / 255}
        assert {image.numpy().tobytes() for image in batch.images} <= known


@pytest.mark.parametrize("convolutions", ["library", "banded", COMPILED])
@pytest.mark.parametrize(
    ("model", "transform"), [("fcn", None), ("cnn", None), ("st-fcn", "projective"), ("st-cnn", "affine")]
)
def test_operations_are_those_that_pytorch_counts(small: Small, model: str, transform: str | None, convolutions: str):
    settings = [f"model.name={model}", *([f"model.transform={transform}"] if transform else [])]
    config = small(*settings, "model.parameters=60000")
    network = build_model(config.model, prepare_data(config, CPU).spec, 0)
    images, targets = torch.rand(5, 1, 28, 28), torch.zeros(5, dtype=torch.int64)
    with FlopCounterMode(display=False, depth=9) as counter:
        cross_entropy(network(images).logits, targets).backward()
    by_module = {name: sum(counts.values()) for name, counts in counter.get_flop_counts().items()}
    parts = [name for name in by_module if name.startswith("Network.classifier.") or name.endswith(".localisation")]
    choose_convolutions(network, convolutions)  # pyright: ignore[reportArgumentType]
    assert count_operations(network, images) == sum(by_module[part] for part in parts)


def test_counting_leaves_the_network_as_it_was(small: Small):
    config = small("model.name=st-cnn", "model.parameters=60000")
    network = build_model(config.model, prepare_data(config, CPU).spec, 0)
    before = copy.deepcopy(network.state_dict())
    first = count_operations(network, torch.rand(1, 1, 28, 28))
    assert count_operations(network, torch.rand(3, 1, 28, 28)) == 3 * first
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not any(module._forward_hooks for module in network.modules())


class Clockwork:
    """Steps that take as long as is said of each; `launches` notes how many were made together."""

    def __init__(self, clock: Clock, seconds: Callable[[int], float], together: int = 1) -> None:
        self.launches: list[int] = []
        self._clock, self._seconds, self._together = clock, seconds, together

    def advance(self, done: int, most: int) -> int:
        assert done == sum(self.launches)
        self.launches.append(min(most, self._together))
        self._clock.now += sum(self._seconds(done + i) for i in range(self.launches[-1]))
        return self.launches[-1]


def test_steps_are_timed_in_blocks_after_a_warm_up(clock: Clock):
    slow_at_first = Clockwork(clock, lambda number: 2.0 if number < 2 else 0.125)
    assert time_steps(slow_at_first, CPU, 8.0) == [0.125] * 5
    assert slow_at_first.launches == [1] * (2 + 5 * 13)  # as many as fill a fifth of the time


def test_a_step_longer_than_a_block_is_done_once_in_each(clock: Clock):
    slow = Clockwork(clock, lambda _: 60.0)
    assert time_steps(slow, CPU, 1.0) == [60.0] * 5
    assert len(slow.launches) == 7


def test_a_device_is_waited_for_once_in_a_block(clock: Clock, monkeypatch: pytest.MonkeyPatch):
    """However many steps a launch makes."""
    waits: list[int] = []
    monkeypatch.setattr(speed, "synchronise", lambda _: waits.append(len(waits)))
    together = Clockwork(clock, lambda _: 0.125, together=10)
    assert time_steps(together, torch.device("cuda"), 20.0) == [0.125] * 5
    assert together.launches == [1] * 41 + [10, 10, 10, 2] * 5
    assert len(waits) == 41 + 5


def test_the_speed_of_a_configuration_hangs_together(small: Small):
    config = small("model.name=cnn")
    began = time.perf_counter()
    found = measure_speed(config, build_source(config.data), 0.1)
    took = time.perf_counter() - began
    assert len(found.seconds) == 5
    assert 0 < sum(found.seconds) < took
    low, median, high = sorted(found.seconds)[::2]
    assert found.step_seconds == (median, low, high)
    assert found.images_per_second == pytest.approx((16 / median, 16 / high, 16 / low))
    assert found.operations_per_second == pytest.approx(found.operations / median)
    assert abs(found.parameters - 30_000) < 600
    assert (found.batch_size, found.runtime.precision) == (16, "float32")
    assert found.operations % found.batch_size == 0
    assert found.peak_bytes is None or found.peak_bytes > 3 * 4 * found.parameters


def test_spread_is_median_and_range():
    assert spread_of([3.0, 1.0, 9.0]) == (3.0, 1.0, 9.0)


def test_the_peak_is_the_best_of_the_products(clock: Clock, monkeypatch: pytest.MonkeyPatch):
    multiply, seconds = torch.mm, {8: 0.1, 16: 0.1, 32: 1.6, 64: 1.0}
    sides: list[int] = []

    def timed(left: torch.Tensor, right: torch.Tensor, **options: torch.Tensor) -> torch.Tensor:
        sides.append(len(left))
        clock.now += seconds[len(left)]
        return multiply(left, right, **options)

    monkeypatch.setattr(speed, "why_not", lambda: "of this")
    monkeypatch.setattr(speed, "SIDES", (8, 16, 32))
    monkeypatch.setattr(torch, "mm", timed)
    assert measure_peak(CPU, "bf16") == pytest.approx(2 * 16**3 / 0.1)
    monkeypatch.setattr(speed, "SIDES", (8, 64))
    sides.clear()
    assert measure_peak(CPU, "float32") == pytest.approx(2 * 8**3 / 0.1)
    assert set(sides) == {8}  # the larger one would take minutes on a machine this slow


def test_the_peak_is_that_of_the_registers_where_it_is_higher(clock: Clock, monkeypatch: pytest.MonkeyPatch):
    asked: list[tuple[int, bool]] = []

    def in_registers(rounds: int, *, paired: bool) -> int:
        asked.append((rounds, paired))
        clock.now += 0.1
        return 10**9

    def timed(left: torch.Tensor, right: torch.Tensor, *, out: torch.Tensor) -> None:
        clock.now += 0.1

    monkeypatch.setattr(speed, "why_not", lambda: None)
    monkeypatch.setattr(speed, "pairs", lambda: False)
    monkeypatch.setattr(speed, "multiply_adds", in_registers)
    monkeypatch.setattr(speed, "SIDES", (8,))
    monkeypatch.setattr(torch, "mm", timed)
    assert measure_peak(CPU, "float32") == pytest.approx(1e10)
    assert set(asked) == {(speed.ROUNDS, False)}
    assert measure_peak(CPU, "bf16") == pytest.approx(2 * 8**3 / 0.1)  # of which these kernels know nothing


@pytest.mark.skipif(why_not() is not None, reason="no compiled kernels")
def test_operations_in_registers_are_as_many_as_asked_for():
    for paired in (False, True) if pairs() else (False,):
        one, many = (multiply_adds(rounds, paired=paired) for rounds in (1, 10))
        assert many == 10 * one
        assert one % (2 * lanes() * torch.get_num_threads() * (1 + paired)) == 0
