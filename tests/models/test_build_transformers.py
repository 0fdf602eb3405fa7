"""Networks with several transformers: anywhere, of any size, within one budget."""

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stn_cli.config import ModelConfig
from stn_cli.errors import UsageError
from stn_cli.models.budget import count_parameters, layer_widths
from stn_cli.models.build import InputSpec, build_model
from stn_cli.models.classifiers import CLASSIFIERS
from stn_cli.models.grid_generators import TRANSFORMS
from stn_cli.models.localisation import ThetaLayer, convolutional_localisation, fully_connected_localisation
from stn_cli.models.network import Network, Normalise
from stn_cli.models.spatial_transformer import SpatialTransformer
from stn_cli.randomness import named_generator

DIGITS = InputSpec(channels=1, height=28, width=28, classes=10, mean=(0.1307,), std=(0.3081,))
RTS = replace(DIGITS, height=42, width=42)
ADDITION = InputSpec(channels=2, height=42, width=42, classes=19, mean=(0.13, 0.13), std=(0.31, 0.31))
PAIRS = [(name, transform) for name in ("st-fcn", "st-cnn") for transform in TRANSFORMS]

# Widths of the two hidden layers at 400,000 parameters, as they were before transformers could stand elsewhere.
WIDTHS = {
    ("st-fcn", 28): dict.fromkeys(TRANSFORMS, (331, 331)) | {"tps": (330, 330)},
    ("st-cnn", 28): dict.fromkeys(TRANSFORMS, (88, 88)),
    ("st-fcn", 42): dict.fromkeys(TRANSFORMS, (400, 400)) | {"tps": (399, 400)},
    ("st-cnn", 42): dict.fromkeys(TRANSFORMS, (87, 88)),
}


def build(*transformers: Any, spec: InputSpec = DIGITS, seed: int = 0, **settings: Any) -> Network:
    config = {"name": "cnn", "parameters": 120_000, "transformers": transformers} | settings
    return build_model(ModelConfig.model_validate(config), spec, seed)


def transformers_of(network: Network) -> dict[str, SpatialTransformer]:
    places = network.by_place.values()
    return {name: one for place in places for name, one in zip(place.names, place.transformers, strict=True)}


def images(spec: InputSpec = DIGITS, n: int = 3) -> Tensor:
    return torch.rand(n, spec.channels, *spec.size, generator=torch.Generator().manual_seed(0))


def drawn(layers: nn.Module) -> dict[str, Tensor]:
    return {name: value for name, value in layers.state_dict().items() if name.endswith("weight") and value.any()}


def wake(network: Network, std: float = 1e-3) -> None:
    """Let every transformer decide by what it sees."""
    for number, transformer in enumerate(transformers_of(network).values()):
        (last,) = (m for m in transformer.localisation.modules() if isinstance(m, ThetaLayer))
        nn.init.normal_(last.weight, std=std, generator=torch.Generator().manual_seed(number))


# ---- the short form


@pytest.mark.parametrize("spec", [DIGITS, RTS], ids=["28", "42"])
@pytest.mark.parametrize(("name", "transform"), PAIRS)
def test_one_transformer_at_the_input_is_what_it_always_was(name: str, transform: str, spec: InputSpec) -> None:
    """Widths, order of drawing and arithmetic, written out as they were when there was no other place for one."""
    network = build_model(ModelConfig(name=name, transform=transform), spec, 3)
    widths = WIDTHS[name, spec.height][transform]
    assert layer_widths(network.classifier) == (*widths, 10)
    grid_generator = TRANSFORMS[transform](spec.size)
    make = {"st-fcn": fully_connected_localisation, "st-cnn": convolutional_localisation}[name]
    localisation = make(1, spec.size, grid_generator.identity)
    pooled = (28, 28) if spec is DIGITS else (21, 21)
    classifier = CLASSIFIERS[name.removeprefix("st-")](1, pooled, 10, widths)
    generator = named_generator(3, "weights")
    for layer in (*localisation.modules(), *classifier.modules()):
        if isinstance(layer, nn.Linear | nn.Conv2d) and not isinstance(layer, ThetaLayer):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
            nn.init.zeros_(layer.bias)
    expected = [*localisation.state_dict().values(), *classifier.state_dict().values()]
    found = [value for key, value in network.state_dict().items() if not key.startswith("normalise.")]
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))

    normalise = Normalise(torch.tensor(spec.mean), torch.tensor(spec.std))
    warp = SpatialTransformer(localisation, grid_generator)(images(spec), view=normalise(images(spec)))
    maps = normalise(warp.output)
    maps = maps if spec is DIGITS else nn.functional.avg_pool2d(maps, 2)
    logits, (named,) = network(images(spec))
    assert torch.equal(logits, classifier(maps))
    assert (named.name, torch.equal(named.grid, warp.grid)) == ("input", True)


@pytest.mark.parametrize(("name", "transform"), PAIRS)
def test_the_long_form_of_one_transformer_is_the_short_one(name: str, transform: str) -> None:
    short = build_model(ModelConfig(name=name, transform=transform), RTS, 0)
    long = build({"transform": transform}, spec=RTS, name=name.removeprefix("st-"), parameters=400_000)
    assert short.state_dict().keys() == long.state_dict().keys()
    assert all(torch.equal(value, long.state_dict()[key]) for key, value in short.state_dict().items())
    assert torch.equal(short(images(RTS)).logits, long(images(RTS)).logits)


# ---- anywhere

EVERYWHERE = [
    [{"at": "input"}],
    [{"at": "conv1"}],
    [{"at": "conv2"}],
    [{"at": "input"}, {"at": "input", "transform": "tps"}],
    [{"at": "conv2", "transform": "projective"}, {"at": "conv1", "transform": "similarity"}],
    [{"at": "input", "transform": "tps"}, {"at": "conv1"}, {"at": "conv2"}, {"at": "conv2", "transform": "attention"}],
]


@pytest.mark.parametrize("transformers", EVERYWHERE)
def test_at_the_start_the_network_is_the_one_without_transformers(transformers: list[dict[str, Any]]) -> None:
    network = build(*transformers)
    assert len(network(images()).warps) == len(transformers)
    plain = Network(normalise=network.normalise, classifier=network.classifier)
    expected = plain(images()).logits
    torch.testing.assert_close(network(images()).logits, expected, atol=1e-5 * expected.abs().max().item(), rtol=1e-5)
    wake(network, 0.02)
    assert (network(images()).logits - expected).abs().max() > 1e-2 * expected.abs().max()


def test_warps_come_in_the_order_of_the_network_with_their_names() -> None:
    network = build({"at": "conv2"}, [{"at": "input"}, {"at": "input", "transform": "tps"}], {"at": "input"})
    names = [warp.name for warp in network(images()).warps]
    assert names == list(transformers_of(network)) == ["input.0", "input.1", "input.2", "conv2"]


def test_a_transformer_reads_the_maps_before_its_layer() -> None:
    network = build({"at": "conv2"})
    wake(network, 0.02)
    stage, second, flatten, output = network.classifier
    maps = stage(network.normalise(images()))
    warp = transformers_of(network)["conv2"](maps)
    logits, (found,) = network(images())
    assert torch.equal(found.output, warp.output)
    assert torch.equal(logits, output(flatten(second(warp.output))))


@pytest.mark.parametrize("transformers", [[{"at": "conv1"}], [[{"at": "input"}] * 2, {"at": "conv1"}]])
def test_outside_of_what_conv1_sees_lies_black_not_grey(transformers: list[Any]) -> None:
    spec = replace(DIGITS, channels=2, mean=(0.2, 0.6), std=(0.3, 0.5))
    network = build(*transformers, spec=spec, parameters=400_000)
    (last,) = (m for m in transformers_of(network)["conv1"].localisation.modules() if isinstance(m, ThetaLayer))
    with torch.no_grad():
        last.bias.copy_(torch.tensor([1.0, 0.0, 9.0, 0.0, 1.0, 0.0]))  # reads nothing of the image
    seen: list[Tensor] = []
    next(m for m in network.classifier if isinstance(m, nn.Conv2d)).register_forward_pre_hook(
        lambda _, given: seen.append(given[0])
    )
    network(images(spec))
    black = network.normalise(torch.zeros(1, seen[0].shape[1], 1, 1)).expand_as(seen[0])
    assert torch.equal(seen[0], black)


def test_transformers_in_parallel_multiply_the_channels_of_what_comes_next() -> None:
    network = build([{"at": "input"}] * 3, [{"at": "conv2"}] * 2, spec=ADDITION, parameters=900_000)
    first, second = (m for m in network.classifier if isinstance(m, nn.Conv2d))
    assert (first.in_channels, second.in_channels) == (3 * 2, 2 * first.out_channels)
    fcn = build([{"at": "input"}] * 2, spec=ADDITION, name="fcn", parameters=400_000)
    assert next(m for m in fcn.classifier if isinstance(m, nn.Linear)).in_features == 2 * 2 * 21 * 21
    assert fcn(images(ADDITION)).logits.shape == (3, 19)
    copied = images(ADDITION).repeat(1, 2, 1, 1)
    torch.testing.assert_close(
        fcn(images(ADDITION)).logits, fcn.classifier(fcn.normalise(copied)), atol=1e-4, rtol=1e-4
    )


# ---- weights


def weights_of(which: str, *transformers: Any, **settings: Any) -> list[Tensor]:
    return list(drawn(transformers_of(build(*transformers, **settings))[which]).values())


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) > 0 and all(torch.equal(one, other) for one, other in zip(a, b, strict=True))


def test_adding_transformers_changes_no_other_ones_weights() -> None:
    first = weights_of("input", {}, name="fcn")
    assert same(weights_of("input.0", {}, {}, name="fcn"), first)
    assert same(weights_of("input.0", [{}, {"transform": "tps"}], {}, name="fcn"), first)
    assert same(weights_of("input.1", {}, {}, {}, name="fcn"), weights_of("input.1", {}, {}, name="fcn"))
    assert not same(weights_of("input.1", {}, {}, name="fcn"), first)
    for number in (0, 1):
        inside = weights_of(f"input.{number}", {}, {}, {"at": "conv2", "localisation": {"widths": [4]}})
        assert same(inside, weights_of(f"input.{number}", {}, {}))


def test_those_inside_and_the_classifier_do_not_depend_on_those_before_them() -> None:
    assert same(weights_of("conv1", {}, {"at": "conv1"}), weights_of("conv1", {"at": "conv1"}))
    plain = build(parameters=60_000)
    more = build({"at": "conv1"}, parameters=60_000 + 784 * 32 + 32 + 32 * 32 + 32 + 32 * 6 + 6)
    for found in (more, build({"at": "conv1"}, {"at": "conv1"}, parameters=60_000 + 2 * 26374)):
        assert same(list(drawn(found.classifier).values()), list(drawn(plain.classifier).values()))


def test_no_two_transformers_begin_with_the_same_weights() -> None:
    network = build([{}, {}, {}], {"at": "conv1"}, parameters=400_000)
    first = [next(iter(drawn(one).values())).flatten()[:50] for one in transformers_of(network).values()]
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(first, 2))


@pytest.mark.parametrize("transformers", EVERYWHERE)
def test_the_same_seed_gives_the_same_weights(transformers: list[Any]) -> None:
    before = torch.get_rng_state()
    first, again, other = (build(*transformers, seed=seed).state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(value, again[key]) for key, value in first.items())
    weights = [key for key, value in first.items() if key.endswith("weight") and value.any()]
    assert not any(torch.equal(first[key], other[key]) for key in weights)


# ---- budget


@pytest.mark.parametrize("name", ["fcn", "cnn"])
@pytest.mark.parametrize("spec", [DIGITS, RTS, ADDITION], ids=["28", "42", "addition"])
def test_the_width_makes_up_for_every_transformer(name: str, spec: InputSpec) -> None:
    choices: list[list[Any]] = [[], [{}], [{}, {}], [[{}, {"transform": "tps"}]], [{"feed_theta": True}]]
    if name == "cnn":
        choices += [[{"at": "conv2"}], [{}, {"at": "conv2"}, {"at": "conv2"}], [{}, [{"at": "conv2"}] * 2]]
    for transformers in choices:
        network = build(*transformers, name=name, spec=spec, parameters=400_000)
        assert abs(count_parameters(network) - 400_000) <= 0.02 * 400_000, transformers


def test_a_budget_below_the_narrowest_network_is_refused_with_its_name() -> None:
    with pytest.raises(UsageError, match=r"narrowest fcn-affine\+affine for 42×42 pixels has 2\d\d,\d+ parameters"):
        build([{}, {}], name="fcn", spec=ADDITION, parameters=100_000)


# ---- sizes


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize(("at", "out_size"), [("input", (30, 23)), ("conv1", (21, 40)), ("conv2", (7, 15))])
def test_sizes_behind_a_transformer_follow_its_output(at: str, out_size: tuple[int, int], antialias: bool) -> None:
    network = build({"at": at, "out_size": out_size, "antialias": antialias, "feed_theta": True})
    logits, (warp,) = network(images())
    assert logits.shape == (3, 10)
    assert warp.output.shape[2:] == out_size
    if not antialias:
        assert warp.grid.shape[1:3] == out_size


@pytest.mark.parametrize(
    ("out_size", "samples"), [((14, 14), (28, 28)), ((28, 56), (28, 56)), ((13, 27), (39, 54)), ((1, 28), (28, 28))]
)
def test_against_aliasing_the_grid_is_as_many_times_denser_as_the_output_is_smaller(
    out_size: tuple[int, int], samples: tuple[int, int]
) -> None:
    network = build({"out_size": out_size, "antialias": True}, name="fcn")
    (warp,) = network(images()).warps
    assert warp.grid.shape[1:3] == samples
    assert warp.output.shape[2:] == out_size
    factors = [sampled // out for sampled, out in zip(samples, out_size, strict=True)]
    if samples == (28, 28):  # at the start every sample is a pixel
        torch.testing.assert_close(warp.output, nn.functional.avg_pool2d(images(), factors), atol=1e-5, rtol=0)


def test_only_warps_of_40_pixels_and_more_are_pooled_and_only_those_of_the_input() -> None:
    def pooled(*transformers: Any, **settings: Any) -> int:
        network = build(*transformers, spec=RTS, **settings)
        return next((layer.kernel_size for layer in network.classifier if isinstance(layer, nn.AvgPool2d)), 1)

    assert pooled({}) == pooled({}, {}) == pooled([{}, {}]) == 2
    assert pooled({"out_size": [28, 28]}) == pooled({}, {"out_size": [39, 60]}) == 1
    assert pooled({"at": "conv2"}, parameters=900_000) == pooled({"at": "conv1"}) == 1
    assert pooled({"out_size": [84, 84]}, pool=3) == 3


@pytest.mark.parametrize(
    ("transformers", "what"),
    [
        ([{"at": "conv2", "out_size": [6, 20]}], "6×20 pixels are too small for conv2"),
        ([{"out_size": [28, 14]}], "10×3 pixels are too small for conv2"),
        ([{"at": "conv1", "out_size": [5, 5]}], "5×5 pixels are too small for conv1"),
        ([{"at": "conv2", "localisation": "cnn"}], "10×10 pixels are too small for a cnn localisation network"),
        ([{"out_size": [20, 28], "localisation": "fcn"}, {}], "20×28 pixels are too small for a cnn localisation"),
    ],
)
def test_a_size_too_small_for_the_layers_behind_is_refused(transformers: list[Any], what: str) -> None:
    with pytest.raises(UsageError, match=what):
        build(*transformers)


def test_a_small_image_may_be_enlarged() -> None:
    tiny = replace(DIGITS, height=12, width=9)
    network = build({"out_size": [24, 24], "localisation": "fcn"}, spec=tiny)
    assert network(images(tiny)).logits.shape == (3, 10)


# ---- localisation networks and θ


def test_localisation_networks_are_the_papers_unless_said_otherwise() -> None:
    def widths(*transformers: Any, name: str = "cnn") -> list[tuple[int, ...]]:
        return [layer_widths(one.localisation) for one in transformers_of(build(*transformers, name=name)).values()]

    assert widths({}, name="fcn") == [(32, 32, 32, 6)]
    assert widths({}, {"at": "conv1"}, {"at": "conv2"}) == [(20, 20, 20, 6), (32, 32, 6), (32, 32, 6)]
    assert widths({"localisation": "fcn"}) == [(32, 32, 32, 6)]
    assert widths({"localisation": "cnn"}, name="fcn") == [(20, 20, 20, 6)]
    assert widths({"localisation": {"kind": "cnn", "widths": [4, 5, 6]}}) == [(4, 5, 6, 6)]
    assert widths({"at": "conv2", "transform": "tps", "localisation": {"widths": [7]}}) == [(7, 32)]


@pytest.mark.parametrize("name", ["fcn", "cnn"])
def test_theta_fed_forward_is_seen_by_the_output_layer_beside_its_features(name: str) -> None:
    transformers = [{"feed_theta": True, "transform": "tps"}, {}, {"feed_theta": True, "transform": "attention"}]
    network = build(*transformers, name=name)
    wake(network)
    seen: list[Tensor] = []
    output = network.classifier[-1]
    output.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    warps = network(images()).warps
    assert torch.equal(seen[0][:, -35:], torch.cat([warps[0].theta, warps[2].theta], dim=1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert network(images()).logits.isfinite().all()
    (network(images()).logits[:, 0].sum()).backward()
    assert output.weight.grad[:, -35:].any(dim=0).all()


@pytest.mark.parametrize("transformers", [*EVERYWHERE, [[{}, {"transform": "tps"}]]])
def test_gradients_reach_every_localisation_network(transformers: list[Any]) -> None:
    network = build(*transformers)
    wake(network)
    nn.functional.cross_entropy(network(images()).logits, torch.arange(3)).backward()
    silent = [
        name for name, parameter in network.named_parameters() if parameter.grad is None or not parameter.grad.any()
    ]
    assert silent == []


@pytest.mark.parametrize("transformers", EVERYWHERE)
def test_under_bf16_the_result_is_near_and_geometry_stays_float32(transformers: list[Any]) -> None:
    network = build(*transformers)
    wake(network)
    expected, warps = network(images())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, rounded = network(images().contiguous(memory_format=torch.channels_last))
    assert found.dtype == torch.float32
    assert all(warp.theta.dtype == warp.grid.dtype == warp.output.dtype == torch.float32 for warp in rounded)
    torch.testing.assert_close(found, expected, atol=0.05 * expected.abs().max().item(), rtol=0)
    assert len(warps) == len(rounded)
