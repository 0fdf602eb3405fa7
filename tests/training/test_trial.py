import copy

import pytest
import torch

from stn_cli.config import RuntimeConfig
from stn_cli.config_files import load_config
from stn_cli.datasets.loader import Batch
from stn_cli.models.build import InputSpec, build_model
from stn_cli.models.convolution import stages_of
from stn_cli.models.network import Network
from stn_cli.training import trial
from stn_cli.training.runtime import choose_runtime
from stn_cli.training.trial import try_out

SPEC = InputSpec(1, 28, 28, 10, (0.1,), (0.3,))


def network(model: str = "st-cnn") -> Network:
    return build_model(load_config(None, [f"model={model}", "model.parameters=30000"]).model, SPEC, 0)


def batch() -> Batch:
    return Batch(torch.rand(8, 1, 28, 28, generator=torch.Generator().manual_seed(0)), torch.arange(8))


def settings(**given: object) -> RuntimeConfig:
    return RuntimeConfig.model_validate({"device": "cpu"} | given)


@pytest.mark.parametrize(("model", "stages"), [("st-cnn", 4), ("cnn", 2), ("st-fcn", 0)])
def test_what_was_left_open_is_chosen_and_named(model: str, stages: int) -> None:
    asked = settings()
    found = try_out(asked, choose_runtime(asked), network(model), batch())
    assert found.precision in ("bf16", "float32")
    ways = found.convolutions.split(",")
    assert set(ways) <= {"library", "banded", "compiled"}
    assert len(ways) == max(1, stages)
    assert f"{found.precision}, convolutions {found.convolutions}, since a step of 8 images takes" in found.reason
    found.place(network(model))  # the choice fits the network


def test_the_fastest_way_and_the_faster_precision_win(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times are prepared, for each stage of library, banded and compiled; float32 against bf16 as wide machines do."""
    monkeypatch.setattr(trial, "has_fast_bf16", lambda _: True)
    monkeypatch.setattr(trial, "why_not", lambda: None)
    stage_times = [2.0, 1.0, 3.0, 1.0, 2.0, 3.0, 3.0, 2.0, 1.0, 2.0, 1.0, 2.0]
    for slow, precision in ((5.0, "bf16"), (0.5, "float32")):
        times = iter([*stage_times, 3.0, *stage_times, slow])
        monkeypatch.setattr(trial, "_milliseconds", lambda ways, times=times: [next(times) for _ in ways])
        asked = settings()
        found = try_out(asked, choose_runtime(asked), network(), batch())
        assert (found.precision, found.convolutions) == (precision, "banded,library,compiled,banded")


def test_what_cannot_be_compiled_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "why_not", lambda: "of this")
    asked = settings()
    found = try_out(asked, choose_runtime(asked), network(), batch())
    assert "compiled" not in found.convolutions
    assert "; no compiled convolutions, since of this" in found.reason


def test_what_was_asked_for_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "_step", None)
    asked = settings(precision="float32", convolutions="banded")
    runtime = choose_runtime(asked)
    assert try_out(asked, runtime, network(), batch()) is runtime
    assert (runtime.precision, runtime.convolutions) == ("float32", "banded")


def test_a_trial_leaves_no_trace() -> None:
    asked, tried = settings(), network()
    before = copy.deepcopy(tried.state_dict())
    state = torch.get_rng_state()
    try_out(asked, choose_runtime(asked), tried, batch())
    assert all(torch.equal(value, before[name]) for name, value in tried.state_dict().items())
    assert all(parameter.grad is None for parameter in tried.parameters())
    assert [stage.convolutions for stage in stages_of(tried)] == ["library"] * 4
    assert torch.equal(torch.get_rng_state(), state)
