"""A CPU's steps recorded and replayed are the steps one by one, bit for bit; what cannot be recorded is refused."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from stn_cli.compiled.compiler import why_not
from stn_cli.errors import ResourceError
from stn_cli.training import recorded
from stn_cli.training.arena import ALIGNMENT, share_memory
from stn_cli.training.captured import CapturedSteps
from stn_cli.training.events import Finished, Started
from stn_cli.training.recorded import record_operations

needs_kernels = pytest.mark.skipif(why_not() is not None, reason=f"no compiled kernels: {why_not()}")
COMBINATIONS = {
    "cnn by the library": ["model.name=cnn", "distortion.kind=none"],
    "st-cnn by the library, bf16": ["model.name=st-cnn", "runtime.precision=bf16"],
    "cnn in bands, bf16": ["model.name=cnn", "runtime.convolutions=banded", "runtime.precision=bf16"],
    "fcn, TC, paper": ["model.name=fcn", "distortion.kind=TC", "model.parameters=60000", "train.recipe=paper"],
    "st-cnn affine, RTS, bands, bf16": [
        *("model.name=st-cnn", "distortion.kind=RTS"),
        *("runtime.convolutions=banded", "runtime.precision=bf16"),
    ],
    "st-cnn affine, R, compiled": ["model.name=st-cnn", "runtime.convolutions=compiled", "runtime.precision=float32"],
    "cnn, RTS, compiled and in bands, bf16": [
        *("model.name=cnn", "distortion.kind=RTS"),
        *("runtime.convolutions=compiled,banded", "runtime.precision=bf16"),
    ],
    "st-cnn tps, E": ["model.name=st-cnn", "model.transform=tps", "distortion.kind=E"],
    "st-cnn projective, P, penalty": [
        *("model.name=st-cnn", "model.transform=projective"),
        *("distortion.kind=P", "train.bounds_penalty=1"),
    ],
    "two in parallel, addition": [
        *("model.name=fcn", "model.transformers=[[{transform: attention}, {transform: similarity}]]"),
        *("distortion.kind=addition", "model.parameters=300000"),
    ],
    "before a convolution, feeding, chain": [
        "model.name=cnn",
        "model.transformers="
        "[{at: conv2, localisation: {kind: fcn}, feed_theta: true, out_size: [8, 8], antialias: true}]",
        "distortion={kind: chain, stages: [{kind: E}, {kind: R}]}",
    ],
}
# An epoch of forty steps, so that its border is crossed; recorded anew after the reading of a checkpoint.
SETTINGS = ("train.batch_size=30", "train.iterations=47", "log.every=10", "log.evaluations=2")
GENERATOR = torch.Generator()


def recorded_once(work: Callable[[], Any]) -> Callable[[], None]:
    return record_operations([work], GENERATOR)[0]


@pytest.fixture
def soiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before each replay let the memory hold whatever: nothing is read that was not written in the same replay."""
    original, replaying = share_memory, recorded._replaying
    arenas = list[Tensor]()

    def sharing(*given: Any) -> None:
        arenas.append(torch.empty(0, dtype=torch.uint8).set_(original(*given)))

    def soiling(operations: Any) -> Callable[[], None]:
        replay = replaying(operations)

        def work() -> None:
            for arena in arenas:
                arena.random_(0, 256)
            replay()

        return work

    monkeypatch.setattr(recorded, "share_memory", sharing)
    monkeypatch.setattr(recorded, "_replaying", soiling)


@pytest.mark.usefixtures("soiled")
@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(settings, id=name, marks=needs_kernels if "compiled" in name else ())
        for name, settings in COMBINATIONS.items()
    ],
)
def test_replayed_steps_are_the_steps_one_by_one(runs: Any, settings: list[str]) -> None:
    """Weights, the optimiser's state, counts, and every reading."""
    expected = runs.result(runs.finished(*SETTINGS, *settings, "runtime.steps=eager", "name=eager"))
    found = runs.result(runs.finished(*SETTINGS, *settings, "runtime.steps=captured", "name=captured"))
    assert found == expected


def test_a_run_goes_on_with_replayed_steps(runs: Any, stop_after: Callable[..., None]) -> None:
    expected = runs.result(runs.finished(*SETTINGS, "name=whole"))
    stop_after(13)
    stream = runs.train(*SETTINGS, "runtime.steps=captured")
    run = runs.begun(stream)
    list(stream)
    assert isinstance(runs.go_on(run)[-1], Finished)
    assert runs.result(run) == expected


@pytest.mark.parametrize(
    ("steps", "iterations", "said"),
    [
        ("auto", 100, "; steps recorded"),
        ("auto", 99, "; steps one by one since 99 are few"),
        ("captured", 99, "; steps recorded"),
        ("eager", 100, "float32 as asked"),
    ],
)
def test_what_is_done_is_said(runs: Any, steps: str, iterations: int, said: str) -> None:
    stream = runs.train(f"train.iterations={iterations}", f"runtime.steps={steps}")
    first = next(stream)
    assert isinstance(first, Started)
    assert first.runtime.endswith(said)
    stream.close()


def test_only_what_changes_is_done_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Views, constants, what nobody reads and memory that nothing is in yet are left out; but whatever draws is not.

    A constant that is written to is not one.
    """
    source, result = torch.zeros(3), torch.zeros(3)
    again = list[str]()
    monkeypatch.setattr(recorded, "done_again", lambda one: again.append(one.name) or (lambda: None))

    def work() -> None:
        total = torch.zeros(3)  # written to
        table = torch.arange(3) * 2
        room = torch.empty(3).copy_(table)
        total.add_(source.view(3, 1).flatten()).mul_(room)
        torch.ones_like(source).add_(source).exp()
        torch.rand(2, generator=GENERATOR)
        total += torch.full_like(source, 2)
        result.copy_(total + torch.rand(3, generator=GENERATOR))

    recorded_once(work)
    assert again == ["zeros", "copy_", "add_", "mul_", "rand", "add_", "rand", "add", "copy_"]


def test_it_reads_and_writes_what_it_read_and_wrote_and_draws_where_the_generator_stands() -> None:
    source, result, generator = torch.zeros(4), torch.zeros(4), torch.Generator()

    def work() -> None:
        drawn = torch.rand(4, generator=generator)
        result.copy_((source * 2 + drawn).sort(descending=True).values)

    replay = recorded_once(work)
    for seed in range(3):
        source.fill_(seed)
        generator.manual_seed(seed)
        work()
        expected = result.clone()
        result.zero_()
        generator.manual_seed(seed)
        replay()
        assert torch.equal(result, expected)


def test_what_is_not_needed_together_lies_at_one_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """A chain of a hundred results fits in the memory of three; what is needed at the end is not overwritten."""
    source, result = torch.rand(1000), torch.zeros(1000)

    def work() -> None:
        kept = chained = source + 1
        for i in range(100):
            chained = chained * 1.01 + i
        result.copy_(chained - kept)

    arenas = list[Any]()
    monkeypatch.setattr(recorded, "share_memory", lambda *given: arenas.append(share_memory(*given)))
    replay = recorded_once(work)
    assert arenas[0].nbytes() <= 4 * (4000 + ALIGNMENT)
    for _ in range(2):
        source.uniform_()
        replay()
        expected = result.clone()
        work()
        assert torch.equal(result, expected)


@pytest.mark.parametrize(
    "work",
    [
        lambda x: x.sum().item(),
        lambda x: x[x > 0],
        torch.nonzero,
        torch.Tensor.t_,
    ],
    ids=["a number", "a mask", "as many as there are", "another shape in place"],
)
def test_what_depends_on_values_is_refused(work: Callable[[Tensor], Any]) -> None:
    with pytest.raises(ResourceError, match=r"cannot be recorded \(aten.*depends on values\). Set runtime.steps=eager"):
        recorded_once(lambda: work(torch.ones(2, 2)))


def test_picking_by_numbers_is_recorded() -> None:
    source, which, result = torch.arange(5.0), torch.tensor([0, 0]), torch.zeros(2)
    replay = recorded_once(lambda: result.copy_(source[which]))
    which.copy_(torch.tensor([4, 2]))
    replay()
    assert result.tolist() == [4.0, 2.0]


def test_recording_changes_nothing_of_a_run(runs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    states = list[dict[str, Tensor]]()
    original = CapturedSteps.__init__

    def looking(self: CapturedSteps, step: Any, *given: Any, **named: Any) -> None:
        parts = {**step._network.state_dict(), **step._optimiser.tensors(), "counts": step.counts}
        states.append({name: part.clone() for name, part in parts.items()})
        original(self, step, *given, **named)
        states.append({name: part.clone() for name, part in parts.items()})

    monkeypatch.setattr(CapturedSteps, "__init__", looking)
    runs.begun(stream := runs.train("runtime.steps=captured"))
    stream.close()
    before, after = states
    assert all(torch.equal(part, after[name]) for name, part in before.items())
