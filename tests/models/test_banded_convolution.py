import pytest
import torch
from torch.nn.functional import conv2d

from stn_cli.models.banded_convolution import banded_convolution

# Images, channels, filters, side, height, width; output rows of 20, 4, 13 (a prime), 1, 22 and other lengths.
SHAPES = [
    (3, 1, 5, 9, 28, 28),
    (2, 6, 4, 7, 10, 10),
    (2, 1, 3, 9, 21, 21),
    (2, 3, 2, 5, 5, 5),
    (1, 2, 3, 9, 12, 30),
    (2, 2, 2, 3, 9, 4),
    (1, 1, 1, 1, 3, 2),
]


def operands(shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    n, channels, filters, side, height, width = shape
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(n, channels, height, width, generator=generator, dtype=dtype)
    weight = torch.randn(filters, channels, side, side, generator=generator, dtype=dtype)
    return images, weight


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_it_is_the_library_s_convolution_with_its_gradients(
    shape: tuple[int, ...], memory_format: torch.memory_format
) -> None:
    images, weight = (part.contiguous(memory_format=memory_format).requires_grad_() for part in operands(shape))
    theirs, ours = conv2d(images, weight), banded_convolution(images, weight)
    torch.testing.assert_close(ours, theirs)
    assert ours.is_contiguous(memory_format=torch.channels_last)
    gradient = torch.randn(theirs.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = torch.autograd.grad(theirs, (images, weight), gradient)
    for found, right in zip(torch.autograd.grad(ours, (images, weight), gradient), expected, strict=True):
        torch.testing.assert_close(found, right)


def test_gradcheck() -> None:
    for shape in ((2, 2, 3, 3, 5, 10), (1, 1, 2, 3, 7, 7)):
        images, weight = (part.requires_grad_() for part in operands(shape))
        assert torch.autograd.gradcheck(banded_convolution, (images, weight))


@pytest.mark.parametrize("needed", [(True, False), (False, True)])
def test_only_the_gradients_that_are_needed_are_made(needed: tuple[bool, bool]) -> None:
    images, weight = (part.requires_grad_(wanted) for part, wanted in zip(operands(SHAPES[0]), needed, strict=True))
    banded_convolution(images, weight).square().sum().backward()
    assert (images.grad is not None, weight.grad is not None) == needed


def test_bf16_sums_in_float32() -> None:
    images, weight = operands((2, 8, 4, 7, 16, 16))
    exact = conv2d(images, weight)
    rounded = banded_convolution(images.bfloat16(), weight.bfloat16())
    assert rounded.dtype == torch.bfloat16
    assert (rounded - exact).abs().max() < 0.02 * exact.abs().max()
