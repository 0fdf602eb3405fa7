import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv2d, max_pool2d, relu

from stn_cli.models import banded_convolution
from stn_cli.models.banded_convolution import Workspaces, banded_stage
from stn_cli.models.convolution import ConvolutionStage

# Images, channels, filters, side, height, width; outputs of 20×20, 4×4, 13×13, 1×1, 4×22, 7×2, 3×2 and 28×28 pixels,
# from images that compete for lines of the caches.
SHAPES = [
    (3, 1, 5, 9, 28, 28),
    (2, 6, 4, 7, 10, 10),
    (2, 1, 3, 9, 21, 21),
    (2, 3, 2, 5, 5, 5),
    (1, 2, 3, 9, 12, 30),
    (2, 2, 2, 3, 9, 4),
    (1, 1, 1, 1, 3, 2),
    (2, 1, 2, 5, 32, 32),
]
POOLINGS = [(pool, ceil_mode) for pool in (1, 2, 3) for ceil_mode in (False, True)]
Operands = tuple[Tensor, Tensor, Tensor]


def operands(shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> Operands:
    n, channels, filters, side, height, width = shape
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(n, channels, height, width, generator=generator, dtype=dtype)
    weight = torch.randn(filters, channels, side, side, generator=generator, dtype=dtype)
    return images, weight, torch.randn(filters, generator=generator, dtype=dtype)


def requiring(parts: Operands, *needed: bool) -> Operands:
    images, weight, bias = (part.requires_grad_(need) for part, need in zip(parts, needed or [True] * 3, strict=True))
    return images, weight, bias


def by_library(images: Tensor, weight: Tensor, bias: Tensor, *, pool: int = 1, ceil_mode: bool = False) -> Tensor:
    return max_pool2d(relu(conv2d(images, weight, bias)), pool, ceil_mode=ceil_mode)


def gradients(output: Tensor, parts: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Gradients of a random linear form of the output."""
    form = torch.randn(output.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return torch.autograd.grad(output, parts, form.to(output.dtype))


def side_by_side(images: Tensor) -> Tensor:
    """The same images, but as a stage returns its maps."""
    return images.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("laid", [torch.Tensor.contiguous, side_by_side], ids=["one after another", "side by side"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_it_is_convolution_bias_relu_and_pooling_with_their_gradients(
    shape: tuple[int, ...], laid: Callable[[Tensor], Tensor], dtype: torch.dtype
) -> None:
    parts, tolerance = requiring(operands(shape, dtype)), 1e-4 if dtype == torch.float32 else 1e-10
    for pool, ceil_mode in POOLINGS:
        if not ceil_mode and min(shape[4:]) - shape[3] + 1 < pool:  # no window fits, which the library refuses
            continue
        theirs = by_library(*parts, pool=pool, ceil_mode=ceil_mode)
        ours = banded_stage(laid(parts[0]), *parts[1:], pool=pool, ceil_mode=ceil_mode)
        torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=tolerance)
        assert ours.permute(1, 2, 3, 0).is_contiguous()
        for found, right in zip(gradients(ours, parts), gradients(theirs, parts), strict=True):
            torch.testing.assert_close(found, right, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize(("shape", "pool"), [((2, 2, 3, 3, 5, 10), 2), ((1, 1, 2, 3, 7, 7), 3)])
def test_gradcheck(shape: tuple[int, ...], pool: int) -> None:
    def stage(images: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return banded_stage(images, weight, bias, pool=pool, ceil_mode=True)

    assert torch.autograd.gradcheck(stage, requiring(operands(shape)))


@pytest.mark.parametrize("levels", [1, 2])
def test_of_several_largest_values_the_first_gets_the_gradient(levels: int) -> None:
    """Over a constant image every window is a tie; with two levels, in every way that there is."""
    images = torch.randint(0, levels, (20, 1, 12, 12), generator=torch.Generator().manual_seed(0)).double() + 1
    weight, bias = torch.ones(2, 1, 1, 1, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    for pool, ceil_mode in POOLINGS:
        parts = (images.requires_grad_(), weight, bias)
        theirs, ours = (stage(*parts, pool=pool, ceil_mode=ceil_mode) for stage in (by_library, banded_stage))
        torch.testing.assert_close(gradients(ours, (images,)), gradients(theirs, (images,)))


@pytest.mark.parametrize(
    ("needed", "unused"), [((True, False, False), "gradients_of_filters"), ((False, True, True), "gradient_of_images")]
)
def test_only_the_gradients_that_are_needed_are_made(
    needed: tuple[bool, ...], unused: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(banded_convolution._Workspace, unused, None)
    parts = requiring(operands(SHAPES[0]), *needed)
    banded_stage(*parts, pool=2).square().sum().backward()
    assert tuple(part.grad is not None for part in parts) == needed


def test_the_same_bits_twice() -> None:
    parts = requiring(operands((4, 3, 5, 5, 20, 20), torch.bfloat16))
    first, second = (banded_stage(*parts, pool=2) for _ in range(2))
    assert torch.equal(first, second)
    assert all(map(torch.equal, gradients(first, parts), gradients(second, parts)))


def test_memory_that_is_used_again_changes_nothing() -> None:
    """Batches of changing size, two calls before the first's backward pass, a second backward pass, and none at all."""
    workspaces = Workspaces()
    for n in (3, 2, 3, 3):
        first, second = (requiring(operands((n, 2, 4, 3, 9, 12))) for _ in range(2))
        with torch.no_grad():
            banded_stage(*second, pool=2, ceil_mode=True, workspaces=workspaces)
        second[0].detach().neg_()
        outputs = [banded_stage(*one, pool=2, ceil_mode=True, workspaces=workspaces) for one in (first, second)]
        right = [by_library(*one, pool=2, ceil_mode=True) for one in (first, second)]
        for _ in range(2):
            for found, expected, parts in zip(outputs, right, (first, second), strict=True):
                torch.testing.assert_close(found, expected)
                ours, theirs = (
                    torch.autograd.grad(output.square().sum(), parts, retain_graph=True) for output in (found, expected)
                )
                torch.testing.assert_close(ours, theirs)


def test_only_training_keeps_memory() -> None:
    workspaces, parts = Workspaces(), requiring(operands((3, 2, 4, 3, 9, 12)))
    for context in (torch.no_grad(), torch.inference_mode()):
        with context:
            banded_stage(*parts, pool=2, workspaces=workspaces)
    assert workspaces._free == []
    for _ in range(2):
        banded_stage(*parts, pool=2, workspaces=workspaces).sum().backward()
        assert len(workspaces._free) == 1


def test_memory_lies_where_the_images_do() -> None:
    images, weight, bias = (part.to("meta") for part in operands((3, 2, 4, 3, 9, 12)))
    assert banded_stage(images, weight, bias, pool=2).device.type == "meta"


def test_a_copied_stage_has_memory_of_its_own() -> None:
    stage = ConvolutionStage(1, 2, 3, pool=2)
    stage.convolutions = "banded"
    images = torch.rand(2, 1, 8, 8)
    stage(images).sum().backward()
    twin, expected = copy.deepcopy(stage), stage.weight.grad
    output = twin(images)
    stage(-images)
    assert torch.equal(torch.autograd.grad(output.sum(), twin.weight)[0], expected)


@pytest.mark.parametrize("shape", [(16, 1, 10, 5, 28, 28), (16, 10, 20, 5, 12, 12), (4, 32, 16, 7, 10, 10)])
@pytest.mark.parametrize("pool", [1, 2])
def test_bf16_errs_as_the_library_does(shape: tuple[int, ...], pool: int) -> None:
    """Against float64, operands rounded before.

    What is added up for the gradient of the images has been rounded once, which the library's has not, and behind a
    pooling the sum is rounded at each addition too. Where no window's largest value is another one by rounding, √2
    times the error is to be expected at least.
    """
    images, weight, bias = (part.bfloat16() for part in operands(shape))
    bias = bias if pool > 1 else torch.full_like(bias, 256.0)
    exact = requiring((images.double(), weight.double(), bias.double()))
    theirs = requiring((images.clone(), weight.clone(), bias.clone()))
    ours = requiring((images.clone(), weight.float(), bias.float()))
    found: list[tuple[Tensor, ...]] = []
    for output, parts in (
        (by_library(*exact, pool=pool), exact),
        (relu(max_pool2d(conv2d(*theirs[:2]), pool) + theirs[2][:, None, None]), theirs),
        (banded_stage(*ours, pool=pool, precision=torch.bfloat16), ours),
    ):
        found.append((output, *gradients(output, parts)[:2]))
    for right, library, banded, times in zip(*found, (1.01, 1.5, 1.01), strict=True):
        assert (banded - right).norm() <= times * (library - right).norm()


def test_products_and_maps_have_the_precision_and_gradients_that_of_the_operands() -> None:
    parts = requiring(operands((2, 8, 4, 7, 16, 16), torch.float32))
    output = banded_stage(*parts, pool=2, precision=torch.bfloat16)
    exact = by_library(*parts, pool=2)
    assert output.dtype == torch.bfloat16
    assert (output - exact).abs().max() < 0.02 * exact.abs().max()
    assert [gradient.dtype for gradient in gradients(output, parts)] == [torch.float32] * 3
