from dataclasses import replace

import pytest
import torch
from torch import nn

from stn_cli.config import ModelConfig
from stn_cli.errors import UsageError
from stn_cli.models.budget import count_parameters
from stn_cli.models.build import InputSpec, build_model
from stn_cli.models.network import Network
from stn_cli.names import MODELS, TRANSFORMS

DIGITS = InputSpec(channels=1, height=28, width=28, classes=10, mean=(0.1307,), std=(0.3081,))
RTS = replace(DIGITS, height=42, width=42)
PAIRS = [(name, transform) for name in MODELS for transform in (TRANSFORMS if name.startswith("st-") else (None,))]


def build(name: str, transform: str | None = None, spec: InputSpec = DIGITS, seed: int = 0, **settings) -> Network:
    return build_model(ModelConfig(name=name, transform=transform, **settings), spec, seed)


def same_weights(a: Network, b: Network) -> bool:
    first, second = a.state_dict(), b.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("spec", [DIGITS, RTS], ids=["28", "42"])
def test_all_models_of_an_experiment_have_the_same_number_of_parameters(spec: InputSpec) -> None:
    counts = {pair: count_parameters(build(*pair, spec=spec)) for pair in PAIRS}
    assert all(abs(count - 400_000) <= 0.02 * 400_000 for count in counts.values()), counts
    assert max(counts.values()) <= 1.02 * min(counts.values())


@pytest.mark.parametrize(("name", "transform"), PAIRS)
def test_one_score_per_class_for_every_image(name: str, transform: str | None) -> None:
    spec = InputSpec(channels=3, height=28, width=33, classes=7, mean=(0.1, 0.2, 0.3), std=(0.3, 0.3, 0.3))
    network = build(name, transform, spec, parameters=110_000)
    images = torch.rand(2, 3, 28, 33, generator=torch.Generator().manual_seed(0))
    logits, warps = network(images)
    assert logits.shape == (2, 7)
    assert logits.isfinite().all()
    assert len(warps) == (transform is not None)
    assert all(warp.output.shape == images.shape for warp in warps)


@pytest.mark.parametrize(("name", "transform"), PAIRS)
def test_same_seed_same_weights_other_seed_other(name: str, transform: str | None) -> None:
    first = build(name, transform, parameters=40_000)
    torch.rand(3)  # whatever the global generator does in between
    assert same_weights(build(name, transform, parameters=40_000), first)
    other = build(name, transform, parameters=40_000, seed=1)
    drawn = [name for name, value in first.state_dict().items() if name.endswith("weight") and value.any()]
    assert drawn
    assert not any(torch.equal(first.state_dict()[name], other.state_dict()[name]) for name in drawn)


def test_the_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    build("st-cnn", "tps")
    assert torch.equal(torch.get_rng_state(), before)


def test_warps_are_pooled_by_two_from_40_pixels_on_and_inputs_of_plain_classifiers_never() -> None:
    for spec, sizes in ((DIGITS, (28, 28)), (replace(DIGITS, height=39, width=60), (39, 60)), (RTS, (21, 21))):
        network = build("st-cnn", "affine", spec)
        shapes: list[torch.Size] = []
        first = next(m for m in network.classifier.modules() if isinstance(m, nn.Conv2d))
        first.register_forward_pre_hook(lambda _, given, shapes=shapes: shapes.append(given[0].shape))
        network(torch.zeros(1, 1, *spec.size))
        assert shapes[0][2:] == sizes
        plain = build("cnn", spec=spec)
        assert not any(isinstance(m, nn.AvgPool2d) for m in plain.modules())


def test_pooling_may_be_chosen_and_odd_sides_round_up() -> None:
    for name in ("st-cnn", "st-fcn"):
        network = build(name, "affine", replace(DIGITS, height=63, width=64), pool=3)
        assert network(torch.zeros(1, 1, 63, 64)).logits.shape == (1, 10)
    unpooled = build("st-cnn", "affine", RTS, pool=1)
    assert not any(isinstance(m, nn.AvgPool2d) for m in unpooled.classifier.modules())


@pytest.mark.parametrize(("name", "seen"), [("cnn", "6×10"), ("st-cnn", "20×28")])
def test_images_that_are_too_small_are_refused(name: str, seen: str) -> None:
    with pytest.raises(UsageError, match=f"{seen} pixels are too small"):
        build(name, spec=replace(DIGITS, height=20))


@pytest.mark.parametrize("name", ["fcn", "st-fcn"])
def test_fully_connected_networks_take_images_of_any_size(name: str) -> None:
    network = build(name, spec=replace(DIGITS, height=5, width=9))
    assert network(torch.zeros(2, 1, 5, 9)).logits.shape == (2, 10)


@pytest.mark.parametrize(("pool", "pooled"), [(2, "3×3"), (8, "4×4")])
def test_pooling_that_leaves_too_little_for_the_convolutions_is_refused(pool: int, pooled: str) -> None:
    with pytest.raises(UsageError, match=f"{pooled} pixels are too small"):
        build("st-cnn", "affine", pool=pool)
    assert build("st-fcn", "affine", pool=pool)(torch.zeros(1, 1, 28, 28)).logits.shape == (1, 10)


@pytest.mark.parametrize("name", MODELS)
def test_a_budget_below_the_narrowest_network_is_refused_with_both_numbers(name: str) -> None:
    large = replace(DIGITS, height=300, width=300)
    with pytest.raises(UsageError, match=r"300×300 pixels has [\d,]+ parameters, the budget is 20,000"):
        build(name, spec=large, parameters=20_000)
