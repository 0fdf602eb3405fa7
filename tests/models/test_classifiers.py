import pytest
import torch
import torch.nn.functional as F
from torch import nn

from stn_cli.errors import UsageError
from stn_cli.models.budget import count_parameters
from stn_cli.models.classifiers import (
    CLASSIFIERS,
    MapShape,
    convolutional_classifier,
    fully_connected_classifier,
    unchanged,
)
from stn_cli.names import LAYERS, MODELS


def random(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0)) * 2 - 1


def layers(network: nn.Module) -> list[nn.Module]:
    return [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]


def test_the_table_holds_every_listed_model_with_and_without_a_transformer() -> None:
    assert sorted(MODELS) == sorted([*CLASSIFIERS, *(f"st-{name}" for name in CLASSIFIERS)])


def test_fcn_has_two_hidden_layers_and_the_output() -> None:
    network = fully_connected_classifier(3, (28, 29), 10, (128, 256))
    assert [(m.in_features, m.out_features) for m in layers(network)] == [(3 * 28 * 29, 128), (128, 256), (256, 10)]


def test_cnn_has_nine_then_seven_pixel_filters_without_padding() -> None:
    first, second, output = layers(convolutional_classifier(1, (28, 28), 10, (32, 64)))
    assert (first.kernel_size, second.kernel_size) == ((9, 9), (7, 7))
    assert (first.out_channels, second.out_channels) == (32, 64)
    assert {m.stride for m in (first, second)} == {(1, 1)}
    assert {m.padding for m in (first, second)} == {(0, 0)}
    assert output.in_features == 64 * 2 * 2  # 28 → 20 → 10 → 4 → 2


def test_cnn_with_64_filters_at_28_pixels_has_209_thousand_parameters() -> None:
    assert round(count_parameters(convolutional_classifier(1, (28, 28), 10, (64, 64))), -3) == 209_000


def test_fcn_equals_its_layers_written_out() -> None:
    network, images = fully_connected_classifier(2, (5, 6), 4, (7, 8)), random(3, 2, 5, 6)
    first, second, output = layers(network)
    hidden = F.relu(F.linear(images.flatten(1), first.weight, first.bias))
    hidden = F.relu(F.linear(hidden, second.weight, second.bias))
    torch.testing.assert_close(network(images), F.linear(hidden, output.weight, output.bias))


@pytest.mark.parametrize("size", [(21, 21), (28, 28), (30, 27), (42, 42), (60, 60)])
def test_cnn_equals_its_layers_written_out(size: tuple[int, int]) -> None:
    """ReLU before the pooling, as everybody writes it: the two commute. 21 pixels is the smallest that fits."""
    network, images = convolutional_classifier(2, size, 4, (5, 6)), random(3, 2, *size)
    first, second, output = layers(network)
    hidden = F.max_pool2d(F.relu(F.conv2d(images, first.weight, first.bias)), 2, ceil_mode=True)
    hidden = F.max_pool2d(F.relu(F.conv2d(hidden, second.weight, second.bias)), 2, ceil_mode=True)
    torch.testing.assert_close(network(images), F.linear(hidden.flatten(1), output.weight, output.bias))


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_the_listed_layers_are_those_there_are(name: str) -> None:
    """Those called conv see maps, and the classifier asks what becomes of them; the others see vectors."""
    asked: list[tuple[str, MapShape]] = []

    def before(layer: str, shape: MapShape) -> MapShape:
        asked.append((layer, shape))
        return shape

    made = CLASSIFIERS[name](3, (28, 29), 10, (4, 5), before, 0)
    assert [layer for layer, _ in asked] == [layer for layer in LAYERS[name] if layer.startswith("conv")]
    assert len(layers(made)) == len(LAYERS[name])
    maps, seen = torch.zeros(1, 3, 28, 29), []
    for layer in made:
        if isinstance(layer, nn.Conv2d):
            seen.append(MapShape(maps.shape[1], tuple(maps.shape[2:])))
        maps = layer(maps)
    assert [shape for _, shape in asked] == seen


def test_maps_may_change_before_any_convolution() -> None:
    changed = {"conv1": MapShape(2, (30, 21)), "conv2": MapShape(9, (7, 12))}
    made = convolutional_classifier(1, (28, 28), 10, (4, 5), lambda layer, _: changed[layer])
    first, second, output = layers(made)
    assert (first.in_channels, second.in_channels) == (2, 9)
    assert output.in_features == 5 * 1 * 3


def test_the_output_layer_has_room_for_numbers_fed_forward() -> None:
    for name, build in CLASSIFIERS.items():
        (*_, plain), (*_, fed) = (layers(build(1, (28, 28), 10, (4, 5), unchanged, n)) for n in (0, 6))
        assert fed.in_features == plain.in_features + 6, name


@pytest.mark.parametrize(("size", "layer", "seen"), [((8, 30), "conv1", "8×30"), ((20, 30), "conv2", "6×11")])
def test_maps_smaller_than_the_filters_are_refused(size: tuple[int, int], layer: str, seen: str) -> None:
    with pytest.raises(UsageError, match=f"maps of {seen} pixels are too small for {layer} of the cnn"):
        convolutional_classifier(1, size, 10, (4, 5))
    convolutional_classifier(1, (21, 21), 10, (4, 5))
