"""A look at a network shows what the network does, also with the θ of another time."""

import pytest
import torch

from stn_cli.config_model import ModelConfig
from stn_cli.geometry.thin_plate_splines import control_points
from stn_cli.models.build import InputSpec, build_model
from stn_cli.models.network import Network
from stn_cli.training.look import look_at_images
from stn_cli.training.runtime import Runtime

SPEC = InputSpec(channels=1, height=28, width=28, classes=10, mean=(0.13,), std=(0.3,))
FLOAT32 = Runtime(torch.device("cpu"), "float32", "")
IMAGES = torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(0))
SERIES = [{"transform": "affine"}, {"transform": "tps"}, {"at": "conv2", "transform": "tps"}]


def network_of(transformers: list[object]) -> Network:
    config = ModelConfig.model_validate({"name": "cnn", "transformers": transformers, "parameters": 200_000})
    network = build_model(config, SPEC, 0)
    for place in network.by_place.values():
        for number, one in enumerate(place.transformers):
            generator = torch.Generator().manual_seed(number)
            torch.nn.init.normal_(one.localisation[-1].weight, std=0.02, generator=generator)
    return network


@pytest.mark.parametrize("transformers", [[], SERIES, [[{}, {"transform": "projective"}]]])
def test_a_look_is_what_the_network_does(transformers: list[object]):
    network = network_of(transformers).eval()
    look = look_at_images(network.train(), IMAGES, FLOAT32)
    assert network.training
    with torch.no_grad():
        logits, warps = network.eval()(IMAGES)
    torch.testing.assert_close(look.probabilities, logits.softmax(dim=1))
    assert look.predicted == logits.argmax(dim=1).tolist()
    assert {name: theta.tolist() for name, theta in look.thetas.items()} == {w.name: w.theta.tolist() for w in warps}
    assert [place.place for place in look.places] == list(network.by_place)
    at_input = [warp for warp in warps if warp.name.startswith("input")]
    for place in look.places[:1]:
        assert torch.equal(place.maps, IMAGES)
        assert all(torch.equal(a, b.output) for a, b in zip(place.outputs, at_input, strict=True))
        assert all(torch.equal(grid, place.grids[0][0]) for grid in [at_input[0].grid])


def test_with_the_identity_nothing_is_warped_and_the_network_is_left_as_it_was():
    network = network_of(SERIES)
    identity = {
        name: one.grid_generator.identity.expand(3, -1)
        for place in network.by_place.values()
        for name, one in zip(place.names, place.transformers, strict=True)
    }
    before = look_at_images(network, IMAGES, FLOAT32)
    plain = look_at_images(network, IMAGES, FLOAT32, identity)
    for output in plain.places[0].outputs:
        torch.testing.assert_close(output, IMAGES, atol=1e-5, rtol=0)
    after = look_at_images(network, IMAGES, FLOAT32)
    assert torch.equal(before.probabilities, after.probabilities)
    assert not torch.equal(before.probabilities, plain.probabilities)
    again = look_at_images(network, IMAGES, FLOAT32, before.thetas)
    assert torch.equal(before.probabilities, again.probabilities)


def test_control_points_are_those_of_splines_seen_through_the_transformers_before():
    network = network_of(SERIES)
    look = look_at_images(network, IMAGES, FLOAT32)
    affine, spline = network.by_place["input"].transformers
    none, (points,) = look.places[0].points
    assert none == []
    regular = control_points().expand(3, -1, -1)
    read = spline.grid_generator.points(look.thetas["input.1"], regular)
    torch.testing.assert_close(points, affine.grid_generator.points(look.thetas["input.0"], read), atol=1e-5, rtol=0)
    ((deep,),) = look.places[1].points
    torch.testing.assert_close(deep, look.thetas["conv2"].view(3, 16, 2))
