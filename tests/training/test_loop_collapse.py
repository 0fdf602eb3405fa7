"""Transformers that run away in the middle of a run: the watch says so, the penalty pulls, a roll-back saves."""

import re

import pytest
import torch

from stn_cli.geometry.grids import affine_grid, regular_grid, square_beyond
from stn_cli.models.build import build_model
from stn_cli.models.localisation import ThetaLayer
from stn_cli.training.checkpoint import read_checkpoint, read_newest
from stn_cli.training.data import prepare_data
from stn_cli.training.events import Collapsed, Finished
from stn_cli.training.logger import read_metrics
from stn_cli.training.optimiser import Optimiser
from stn_cli.training.run_folder import RunFolder
from stn_cli.training.runtime import choose_runtime
from stn_cli.training.step import TrainStep

MODEL = ("model.name=st-fcn", "train.iterations=12", "log.evaluations=4", "log.every=3")


@pytest.fixture
def thrown_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """After step 5 throw every transformer out of its image, once; there it stays unless its weights are taken back."""
    do = TrainStep.__call__

    def step(self: TrainStep, batch: object, number: int) -> None:
        do(self, batch, number)  # pyright: ignore[reportArgumentType]
        if number == 4:
            for layer in self._network.modules():
                if isinstance(layer, ThetaLayer):
                    with torch.no_grad():
                        layer.bias += 5.0

    monkeypatch.setattr(TrainStep, "__call__", step)


@pytest.mark.parametrize("validation", [0, 0.05])
@pytest.mark.usefixtures("thrown_out")
def test_the_watch_says_who_has_run_away(runs, validation: float) -> None:
    events = list(runs.train(*MODEL, f"data.validation={validation}"))
    told = [event for event in events if isinstance(event, Collapsed)]
    assert [(event.step, event.back_to) for event in told] == [(6, None), (9, None), (12, None)]
    (fault,) = told[0].faults
    assert re.fullmatch(r"transformer input has collapsed: \d+ % of its samples lie outside the image", fault)
    finished = events[-1]
    assert isinstance(finished, Finished)
    assert len(finished.summary["collapsed"]) == 1
    records = [r for r in read_metrics(RunFolder(events[0].run).metrics) if r["split"] == "warp input"]
    assert [record["outside_percent"] > 75 for record in records] == [False, True, True, True]
    assert records[0]["scale"] == pytest.approx(1, abs=0.1)


def test_a_sound_run_says_nothing(runs) -> None:
    events = list(runs.train(*MODEL))
    assert not any(isinstance(event, Collapsed) for event in events)
    assert events[-1].summary["collapsed"] == []


@pytest.mark.usefixtures("thrown_out")
def test_a_roll_back_goes_on_from_the_last_sound_weights_at_a_tenth_of_the_rate(runs) -> None:
    events = list(runs.train(*MODEL, "train.roll_back=true"))
    told = [event for event in events if isinstance(event, Collapsed)]
    assert [(event.step, event.back_to) for event in told] == [(6, 3)]
    run = RunFolder(events[0].run)
    last = read_newest(run.checkpoints)[0]
    assert (last.state["step"], last.state["rolled_back"]) == (12, 1)
    assert read_checkpoint(run.sound).state["step"] == 12
    assert events[-1].summary["collapsed"] == []


@pytest.mark.usefixtures("thrown_out")
@pytest.mark.parametrize("cut", [4, 6, 7, 10])
def test_a_rolled_back_run_goes_on_as_if_it_had_not_been_cut(runs, stop_after, cut: int) -> None:
    settings = (*MODEL, "train.roll_back=true")
    whole = runs.result(runs.finished(*settings, "name=whole"))
    assert whole["last.rolled_back"] == 1
    stop_after(cut)
    run = runs.finished(*settings, "name=cut")
    assert read_newest(run.checkpoints)[0].state["step"] == cut
    runs.go_on(run)
    assert runs.result(run) == whole


def test_the_penalty_is_the_square_of_how_far_samples_lie_beyond_the_image(runs) -> None:
    losses: list[float] = []
    for weight in (0.0, 3.0):
        config = runs.config("model.name=st-cnn", f"train.bounds_penalty={weight}")
        runtime = choose_runtime(config.runtime)
        data = prepare_data(config, runtime.device)
        network = build_model(config.model, data.spec, config.seed)
        (transformer,) = network.by_place["input"].transformers
        with torch.no_grad():
            next(m for m in transformer.modules() if isinstance(m, ThetaLayer)).bias.mul_(2)  # twice as wide a view
        step = TrainStep(network, Optimiser(network, config.train), config.train, 6, runtime)
        step(data.stream.batch(0), 0)
        losses.append(step.read().loss)
    points = 2 * regular_grid((28, 28))
    expected = ((points.abs() - 1).clamp(min=0) ** 2).sum(dim=-1).mean().item()
    assert losses[1] - losses[0] == pytest.approx(3 * expected, rel=1e-4)


def test_the_penalty_pulls_a_wide_view_back() -> None:
    theta = torch.tensor([[[1.6, 0.1, 0.3], [0.0, 1.4, -0.2]]], requires_grad=True)
    optimiser = torch.optim.SGD([theta], lr=0.5)
    for _ in range(200):
        optimiser.zero_grad()
        square_beyond(affine_grid(theta, (8, 8))).sum().backward()
        optimiser.step()
    assert affine_grid(theta, (8, 8)).abs().max() < 1.01
    assert theta[0, 0, 0] > 0.8  # and no further


def test_inside_there_is_no_penalty() -> None:
    assert square_beyond(regular_grid((5, 7))[None]).item() == 0
    assert square_beyond(regular_grid((5, 7))[None] + torch.tensor([2.0, 0.0])).item() > 1
