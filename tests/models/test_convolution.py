import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d, max_pool2d, relu

from stn_cli.compiled.compiler import why_not
from stn_cli.compiled.operators import pairs
from stn_cli.errors import UsageError
from stn_cli.models.convolution import ConvolutionStage, choose_convolutions, stages_of

COMPILED = pytest.param(
    "compiled", marks=pytest.mark.skipif(why_not() is not None, reason=f"no compiled kernels: {why_not()}")
)


def stage(**settings: object) -> ConvolutionStage:
    torch.manual_seed(0)
    return ConvolutionStage(2, 5, 3, **settings)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("way", ["library", "banded", COMPILED])
@pytest.mark.parametrize("pool", [1, 2, 3])
@pytest.mark.parametrize("ceil_mode", [False, True])
def test_it_is_convolution_with_bias_then_relu_then_pooling_in_whatever_order(
    way: str, pool: int, ceil_mode: bool
) -> None:
    ours = stage(pool=pool, ceil_mode=ceil_mode)
    choose_convolutions(ours, way)
    images = torch.randn(4, 2, 11, 10, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert ours.bias is not None
    expected = max_pool2d(relu(conv2d(images, ours.weight, ours.bias)), pool, ceil_mode=ceil_mode)
    torch.testing.assert_close(ours(images), expected)
    gradient = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
    parts = (images, ours.weight, ours.bias)
    wanted = torch.autograd.grad(expected, parts, gradient)
    for found, right in zip(torch.autograd.grad(ours(images), parts, gradient), wanted, strict=True):
        torch.testing.assert_close(found, right, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("way", ["library", "banded"])
def test_autocast_decides_the_precision(way: str) -> None:
    ours = stage(pool=2)
    choose_convolutions(ours, way)
    images = torch.rand(4, 2, 10, 10)
    with torch.autocast("cpu", torch.bfloat16):
        found = ours(images)
    assert found.dtype == torch.bfloat16
    assert ours(images).dtype == torch.float32
    assert (found - ours(images)).abs().max() < 0.05


@pytest.mark.skipif(why_not() is not None or not pairs(), reason="no compiled kernels for bf16")
def test_autocast_decides_the_precision_of_compiled_products_alone() -> None:
    ours = stage(pool=2)
    choose_convolutions(ours, "compiled")
    images = torch.rand(4, 2, 10, 10)
    with torch.autocast("cpu", torch.bfloat16):
        found = ours(images)
    assert found.dtype == torch.float32
    assert 0 < (found - ours(images)).abs().max() < 0.05


def test_ways_are_chosen_for_all_stages_or_for_each() -> None:
    network = nn.Sequential(stage(), nn.ReLU(), nn.Sequential(stage()))
    choose_convolutions(network, "banded")
    assert [one.convolutions for one in stages_of(network)] == ["banded", "banded"]
    choose_convolutions(network, "library,banded")
    assert [one.convolutions for one in stages_of(network)] == ["library", "banded"]
    with pytest.raises(UsageError, match="has 3 ways for 2 convolutions"):
        choose_convolutions(network, "library,banded,banded")
    choose_convolutions(nn.Linear(1, 1), "banded")
    with pytest.raises(UsageError, match="has 2 ways for 0"):
        choose_convolutions(nn.Linear(1, 1), "banded,banded")
