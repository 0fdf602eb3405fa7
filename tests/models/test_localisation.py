import pytest
import torch
import torch.nn.functional as F
from torch import nn

from stn_cli.errors import UsageError
from stn_cli.models.convolution import ConvolutionStage
from stn_cli.models.grid_generators import TRANSFORMS
from stn_cli.models.localisation import ThetaLayer, convolutional_localisation, fully_connected_localisation
from stn_cli.models.network import initialise

BUILD = {"st-fcn": fully_connected_localisation, "st-cnn": convolutional_localisation}
SIZES = [(28, 28), (42, 42), (60, 61)]
every_kind = pytest.mark.parametrize("build", BUILD.values(), ids=BUILD)


def random(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0)) * 2 - 1


def layers(network: nn.Module) -> list[str]:
    """Everything that computes, without the shape of tensors: Linear in→out, Conv in→out k×k, poolings."""
    names = []
    for module in network.modules():
        match module:
            case nn.Linear():
                names.append(f"linear {module.in_features}→{module.out_features}")
            case ConvolutionStage():
                assert (module.stride, module.padding) == ((1, 1), (0, 0))
                names.append(f"conv {module.in_channels}→{module.out_channels} {module.kernel_size[0]}")
                names += [f"max-pool {module.pool}"] * (module.pool > 1) + ["relu"]
            case nn.AvgPool2d():
                names.append(f"average-pool {module.kernel_size}")
            case nn.ReLU():
                names.append("relu")
    return names


def test_layers_of_st_fcn_are_the_papers() -> None:
    network = fully_connected_localisation(1, (28, 28), torch.zeros(6))
    assert layers(network) == [
        *("linear 784→32", "relu", "linear 32→32", "relu", "linear 32→32", "relu"),
        "linear 32→6",
    ]


def test_layers_of_st_cnn_are_the_papers() -> None:
    network = convolutional_localisation(1, (42, 42), torch.zeros(8))
    assert layers(network) == [
        *("average-pool 2", "conv 1→20 5", "max-pool 2", "relu", "conv 20→20 5", "relu"),
        *("linear 320→20", "relu", "linear 20→8"),
    ]


@every_kind
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_it_starts_at_the_identity_whatever_it_sees(build, size: tuple[int, int], transform: str) -> None:
    identity = TRANSFORMS[transform](size).identity
    network = build(3, size, identity)
    initialise(network, torch.Generator().manual_seed(0))
    images = torch.cat([100 * random(3, 3, *size), torch.zeros(1, 3, *size)])
    assert torch.equal(network(images), identity.expand(4, -1))


def test_the_last_layer_has_zero_weights_and_the_identity_as_bias() -> None:
    layer = ThetaLayer(5, torch.tensor([1.0, 0.0, -2.0]))
    assert not layer.weight.any()
    assert layer.bias.tolist() == [1, 0, -2]
    assert layer.weight.requires_grad
    assert layer.bias.requires_grad


def test_theta_is_not_rounded_under_bf16() -> None:
    layer, features = ThetaLayer(5, torch.tensor([1.0, 0.0, -2.0])), random(3, 5).bfloat16()
    nn.init.normal_(layer.weight, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        theta = layer(features)
    assert torch.equal(theta, F.linear(features.float(), layer.weight, layer.bias))


def test_st_cnn_equals_its_layers_written_out() -> None:
    """ReLU before the pooling, as everybody writes it: the two commute."""
    network = convolutional_localisation(3, (28, 31), torch.zeros(6))
    initialise(network, torch.Generator().manual_seed(0))
    first, second, hidden, last = (m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear))
    nn.init.normal_(last.weight, generator=torch.Generator().manual_seed(1))
    images = random(2, 3, 28, 31)
    found = network(images)
    out = F.avg_pool2d(images, 2)
    out = F.max_pool2d(F.relu(F.conv2d(out, first.weight, first.bias)), 2)
    out = F.relu(F.conv2d(out, second.weight, second.bias))
    out = F.relu(F.linear(out.flatten(1), hidden.weight, hidden.bias))
    torch.testing.assert_close(found, F.linear(out, last.weight, last.bias))
    assert found.std() > 0.1


@every_kind
def test_gradients_reach_the_last_layer_at_once_and_all_others_from_the_second_step_on(build) -> None:
    network = build(1, (28, 28), torch.zeros(6))
    initialise(network, torch.Generator().manual_seed(0))
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1)
    *others, last = (m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear))
    for reached in (False, True):
        optimiser.zero_grad()
        (network(random(4, 1, 28, 28)) - 1).square().sum().backward()
        optimiser.step()
        assert last.weight.grad is not None
        assert last.weight.grad.any()
        assert all(bool(layer.weight.grad.any()) is reached for layer in others)


def test_widths_may_be_chosen() -> None:
    assert layers(fully_connected_localisation(2, (5, 4), torch.zeros(6), (7, 9))) == [
        *("linear 40→7", "relu", "linear 7→9", "relu", "linear 9→6")
    ]
    assert layers(convolutional_localisation(2, (28, 28), torch.zeros(3), (4, 5, 6))) == [
        *("average-pool 2", "conv 2→4 5", "max-pool 2", "relu", "conv 4→5 5", "relu"),
        *("linear 5→6", "relu", "linear 6→3"),
    ]


def test_no_hidden_layer_at_all_will_do() -> None:
    assert layers(fully_connected_localisation(2, (5, 4), torch.zeros(6), ())) == ["linear 40→6"]


def test_maps_that_are_too_small_for_convolutions_are_refused() -> None:
    convolutional_localisation(1, (28, 28), torch.zeros(6))
    for size in ((27, 28), (28, 10)):
        with pytest.raises(UsageError, match=f"maps of {size[0]}×{size[1]} pixels are too small") as caught:
            convolutional_localisation(1, size, torch.zeros(6))
        assert caught.value.fix == "Use 28 pixels or more, or model.transformers with localisation: fcn."
