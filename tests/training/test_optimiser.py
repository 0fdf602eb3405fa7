import pytest
import torch

from stn_cli.config import ModelConfig, TrainConfig
from stn_cli.errors import CheckpointError
from stn_cli.models.build import InputSpec, build_model
from stn_cli.models.network import Network
from stn_cli.training.optimiser import Optimiser, learning_rate

SPEC = InputSpec(channels=1, height=28, width=28, classes=10, mean=(0.1,), std=(0.3,))


def recipe(name: str, **settings) -> TrainConfig:
    return TrainConfig.model_validate({"recipe": name, **settings})


def network(name: str) -> Network:
    return build_model(ModelConfig(name=name, parameters=30_000), SPEC, 0)


def test_the_papers_rate_is_divided_by_ten_every_50k_of_150k_iterations() -> None:
    config = recipe("paper")
    assert config.iterations == 150_000
    for steps, rate in (((0, 1, 49_999), 0.01), ((50_000, 99_999), 0.001), ((100_000, 149_999), 0.0001)):
        for step in steps:
            assert learning_rate(config, step, 150_000) == pytest.approx(rate, rel=1e-12)


@pytest.mark.parametrize("total", [1, 2, 3, 4, 7, 100])
def test_steps_are_thirds_of_any_run(total: int) -> None:
    rates = [learning_rate(recipe("paper"), step, total) for step in range(total)]
    expected = [0.01 if 3 * step < total else 0.001 if 3 * step < 2 * total else 0.0001 for step in range(total)]
    assert rates == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("total", [5, 6, 50, 1000])
def test_one_cycle_rises_to_one_peak_and_falls_to_nearly_nothing(total: int) -> None:
    config = recipe("quick", learning_rate=0.3)
    rates = [learning_rate(config, step, total) for step in range(total)]
    peak = rates.index(max(rates))
    assert rates[0] == pytest.approx(0.03)
    assert rates[peak] == 0.3
    assert rates.count(0.3) == 1
    assert peak == round(total / 2)
    assert rates[: peak + 1] == sorted(set(rates[: peak + 1]))
    assert rates[peak:] == sorted(set(rates[peak:]), reverse=True)
    assert 0 < rates[-1] <= 0.3 * (3.5 / total) ** 2  # the cosine ends like a parabola: (π / 2 / 0.5 / total)²


@pytest.mark.parametrize("schedule", ["one-cycle", "step"])
def test_the_shortest_runs_have_rates_too(schedule: str) -> None:
    for total in (1, 2, 3):
        rates = [learning_rate(recipe("quick", schedule=schedule), step, total) for step in range(total)]
        assert all(0 < rate <= 0.1 for rate in rates)


@pytest.mark.parametrize("method", ["sgd", "adam"])
@pytest.mark.parametrize("name", ["fcn", "st-fcn", "st-cnn"])
def test_every_weight_is_in_one_group_and_localisation_networks_have_their_own_rate(name: str, method: str) -> None:
    made = network(name)
    optimiser = Optimiser(made, recipe("quick", localisation_rate=0.01, localisation_optimiser=method))
    grouped = [p for group in optimiser.groups for p in group.parameters]
    assert {id(p) for p in grouped} == {id(p) for p in made.parameters()}
    assert len(grouped) == len(list(made.parameters()))
    optimiser.set_rates(optimiser.rates(0.5))
    transformers = [t for place in made.by_place.values() for t in place.transformers]
    localisation = [p for transformer in transformers for p in transformer.localisation.parameters()]
    for group in optimiser.groups:
        special = [any(p is q for q in localisation) for p in group.parameters]
        assert all(special) or not any(special)
        assert group.now == pytest.approx(0.005 if special[0] else 0.5)


def test_every_transformer_has_its_own_rate_or_the_runs() -> None:
    transformers = [{"rate": 0.25}, [{}, {"rate": 0.25, "transform": "tps"}], {"at": "conv2", "rate": 0}]
    config = ModelConfig.model_validate({"transformers": transformers, "parameters": 120_000})
    made = build_model(config, SPEC, 0)
    optimiser = Optimiser(made, recipe("quick", localisation_rate=0.125))
    factor = {id(p): group.rate for group in optimiser.groups for p in group.parameters}
    assert len(factor) == len(list(made.parameters()))
    expected = {"input.members.0": 0.25, "input.members.1": 0.125, "input.members.2": 0.25, "conv2.members.0": 0.0}
    for name, parameter in made.named_parameters():
        rates = [rate for place, rate in expected.items() if name.startswith(f"places.{place}.localisation.")]
        assert factor[id(parameter)] == (rates[0] if rates else 1.0), name


def stepped(method: str, steps: int) -> tuple[Network, Optimiser]:
    made = network("st-cnn")
    optimiser = Optimiser(made, recipe("quick", localisation_optimiser=method))
    for _ in range(steps):
        optimiser.zero_grad()
        made(torch.rand(2, 1, 28, 28)).logits.square().sum().backward()
        optimiser.step()
    return made, optimiser


@pytest.mark.parametrize("method", ["sgd", "adam"])
def test_the_state_goes_by_the_names_of_weights_and_stays_where_it_lies(method: str) -> None:
    made, optimiser = stepped(method, 2)
    saved = {name: value.clone() for name, value in optimiser.tensors().items()}
    special = {name for name, _ in made.named_parameters() if ".localisation." in name}
    plain = {name for name, _ in made.named_parameters()} - special
    kinds = {"sgd": ["momentum"], "adam": ["mean", "square", "steps"]}[method]
    assert saved.keys() == {f"momentum.{name}" for name in plain} | {f"{k}.{name}" for name in special for k in kinds}
    assert all(value.any() for name, value in saved.items() if name.startswith("steps."))
    _, fresh = stepped(method, 0)
    before = fresh.tensors()
    fresh.load(saved)
    assert all(torch.equal(value, saved[name]) for name, value in fresh.tensors().items())
    assert all(value is before[name] for name, value in fresh.tensors().items())


def test_the_state_of_another_method_is_refused() -> None:
    for saved, other in (("sgd", "adam"), ("adam", "sgd")):
        with pytest.raises(CheckpointError, match=r"holds no .*another optimiser.*train.localisation_optimiser"):
            stepped(other, 0)[1].load(stepped(saved, 1)[1].tensors())


def test_without_a_transformer_there_is_nothing_for_adam() -> None:
    assert len(Optimiser(network("cnn"), recipe("quick")).by_method) == 1
