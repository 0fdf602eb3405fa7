import inspect
import os
import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv2d, max_pool2d, relu

from stn_cli.compiled.compiler import why_not
from stn_cli.compiled.operators import lanes, pairs
from stn_cli.models.compiled_convolution import compiled_stage

OTHER_LANES = "STN_TEST_LANES"  # how many a process of its own is to have; there nothing is skipped
pytestmark = pytest.mark.skipif(
    why_not() is not None and OTHER_LANES not in os.environ, reason=f"no compiled kernels: {why_not()}"
)

# Images, channels, filters, side, height, width: full lanes and odd ones, every way to group filters, channels and
# taps, maps smaller than what is computed at a time, and as large that they are taken in pieces.
SHAPES = [
    (16, 1, 8, 7, 28, 28),
    (33, 1, 10, 5, 28, 28),
    (17, 10, 20, 5, 12, 12),
    (3, 1, 5, 9, 28, 28),
    (64, 6, 4, 7, 10, 10),
    (2, 1, 3, 9, 21, 21),
    (1, 3, 2, 5, 5, 5),
    (5, 2, 13, 3, 9, 4),
    (1, 1, 1, 1, 3, 2),
    (4, 7, 7, 1, 1, 1),
    (2, 4, 3, 2, 6, 5),
    (2, 2, 3, 8, 12, 30),
    (3, 13, 2, 10, 11, 12),
    (2, 25, 11, 4, 7, 8),
    (1, 5, 9, 13, 15, 14),
    (2, 1, 64, 9, 42, 42),
    (70, 12, 3, 3, 3, 5),
    (270, 2, 3, 3, 5, 4),
]
BF16 = torch.bfloat16
needs_pairs = pytest.mark.skipif(why_not() is not None or not pairs(), reason="no kernels for bf16 here")
POOLINGS = [(pool, ceil_mode) for pool in (1, 2, 3) for ceil_mode in (False, True)]


def operands(shape: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    n, channels, filters, side, height, width = shape
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(n, channels, height, width, generator=generator)
    weight = torch.randn(filters, channels, side, side, generator=generator) / (side * channels**0.5)
    return images.requires_grad_(), weight.requires_grad_(), torch.randn(filters, generator=generator).requires_grad_()


def by_library(images: Tensor, weight: Tensor, bias: Tensor, *, pool: int = 1, ceil_mode: bool = False) -> Tensor:
    """In float64, so that what differs is ours."""
    images, weight, bias = (part.double() for part in (images, weight, bias))
    return max_pool2d(relu(conv2d(images, weight, bias)), pool, ceil_mode=ceil_mode)


def gradients(output: Tensor, parts: tuple[Tensor, ...], seed: int = 1) -> tuple[Tensor, ...]:
    """Gradients of a random linear form of the output."""
    form = torch.randn(output.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return torch.autograd.grad(output, parts, form.to(output.dtype), retain_graph=True)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("pool", "ceil_mode"), POOLINGS)
def test_it_is_convolution_bias_relu_and_pooling_with_their_gradients(
    shape: tuple[int, ...], pool: int, ceil_mode: bool
) -> None:
    parts = operands(shape)
    if not ceil_mode and min(shape[4:]) - shape[3] + 1 < pool:
        with pytest.raises(ValueError, match="no window"):
            compiled_stage(*parts, pool=pool)
        return
    ours = compiled_stage(*parts, pool=pool, ceil_mode=ceil_mode)
    theirs = by_library(*parts, pool=pool, ceil_mode=ceil_mode)
    torch.testing.assert_close(ours, theirs.float(), atol=2e-5, rtol=1e-5)
    for found, right in zip(gradients(ours, parts), gradients(theirs, parts), strict=True):
        assert (found - right).norm() <= 1e-5 * right.norm() + 1e-6
    with torch.no_grad():
        assert torch.equal(compiled_stage(*parts, pool=pool, ceil_mode=ceil_mode), ours)


@pytest.mark.parametrize("pool", [4, 15])
def test_large_windows(pool: int) -> None:
    parts = operands((3, 1, 2, 2, 17, 21))
    ours, theirs = (stage(*parts, pool=pool, ceil_mode=True) for stage in (compiled_stage, by_library))
    for found, right in zip(gradients(ours, parts), gradients(theirs, parts), strict=True):
        assert (found - right).norm() <= 1e-5 * right.norm()
    with pytest.raises(ValueError, match="no window of 16×16"):
        compiled_stage(*parts, pool=16, ceil_mode=True)


def whole(shape: tuple[int, ...], seed: int) -> Tensor:
    """Whole numbers, so small that bf16 has them and float32 their sums: what is right then is right to the bit."""
    return torch.randint(-4, 5, shape, generator=torch.Generator().manual_seed(seed)).float()


@pytest.mark.parametrize("precision", [torch.float32, BF16])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("pool", "ceil_mode"), POOLINGS)
def test_nothing_is_lost_or_counted_twice(
    shape: tuple[int, ...], pool: int, ceil_mode: bool, precision: torch.dtype
) -> None:
    """Ties are many here; where they are, the first wins, in every way to go through a window."""
    n, channels, filters, side, height, width = shape
    if not ceil_mode and min(height, width) - side + 1 < pool:
        return
    parts = (whole((n, channels, height, width), 0), whole((filters, channels, side, side), 1), whole((filters,), 2))
    for part in parts:
        part.requires_grad_()
    ours = compiled_stage(*parts, pool=pool, ceil_mode=ceil_mode, precision=precision)
    theirs = by_library(*parts, pool=pool, ceil_mode=ceil_mode)
    assert torch.equal(ours.double(), theirs)
    form = whole(ours.shape, 3)
    found, right = torch.autograd.grad(ours, parts, form), torch.autograd.grad(theirs, parts, form.double())
    assert all(map(torch.equal, found, right))


@needs_pairs
@pytest.mark.parametrize("shape", [(40, 1, 10, 5, 28, 28), (16, 10, 20, 5, 12, 12), (33, 32, 16, 7, 10, 10)])
@pytest.mark.parametrize("pool", [1, 2])
def test_bf16_errs_as_the_library_does(shape: tuple[int, ...], pool: int) -> None:
    """Against float64, operands rounded before, and no window's largest value another one by rounding."""
    images, weight, bias = (part.detach().bfloat16() for part in operands(shape))
    bias = bias if pool > 1 else torch.full_like(bias, 256.0)
    exact, theirs, ours = (
        tuple(part.to(dtype).clone().requires_grad_() for part in (images, weight, bias))
        for dtype in (torch.float64, BF16, torch.float32)
    )
    found: list[tuple[Tensor, ...]] = []
    for output, parts in (
        (by_library(*exact, pool=pool), exact),
        (relu(max_pool2d(conv2d(*theirs[:2]), pool) + theirs[2][:, None, None]), theirs),
        (compiled_stage(*ours, pool=pool, precision=BF16), ours),
    ):
        found.append((output, *gradients(output, parts)))
    for right, library, compiled in zip(*found, strict=True):
        assert (compiled - right).norm() <= 1.01 * (library - right).norm()


@needs_pairs
def test_bf16_rounds_factors_and_nothing_else() -> None:
    shape = (20, 5, 6, 3, 9, 9)
    parts, rounded = operands(shape), [part.detach().bfloat16().float() for part in operands(shape)]
    found = compiled_stage(*parts, pool=2, precision=BF16)
    assert found.dtype == torch.float32
    right = compiled_stage(*rounded[:2], parts[2], pool=2)
    torch.testing.assert_close(found, right, atol=1e-5, rtol=1e-5)
    assert not torch.equal(found, compiled_stage(*parts, pool=2))


def test_images_may_lie_in_any_way_and_have_any_precision() -> None:
    images, weight, bias = operands((17, 3, 5, 3, 9, 8))
    expected = compiled_stage(images, weight, bias, pool=2)
    for laid in (
        images.contiguous(memory_format=torch.channels_last),
        images.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2),
        images.double(),
    ):
        assert torch.equal(compiled_stage(laid, weight, bias, pool=2), expected)
    form = torch.randn(expected.shape).contiguous(memory_format=torch.channels_last)
    found, right = (torch.autograd.grad(expected, weight, one, retain_graph=True)[0] for one in (form, form.clone()))
    assert torch.equal(found, right)


@pytest.mark.parametrize("n", [0, 1, 5])
def test_no_image_and_few_images(n: int) -> None:
    _, weight, bias = operands((1, 2, 4, 3, 6, 6))
    images = torch.rand(n, 2, 6, 6)
    output = compiled_stage(images, weight, bias, pool=2)
    assert output.shape == (n, 4, 2, 2)
    output.sum().backward()
    theirs = by_library(images, weight, bias, pool=2)
    for found, right in zip((weight.grad, bias.grad), torch.autograd.grad(theirs.sum(), (weight, bias)), strict=True):
        assert found is not None
        torch.testing.assert_close(found, right.float(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("precision", [torch.float32, BF16])
@pytest.mark.parametrize("pool", [1, 2, 3])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_not_hidden(pool: int, value: float, precision: torch.dtype) -> None:
    """It stays where the library has it, in output and gradients, and in its own image alone."""
    images, weight, bias = operands((4, 2, 3, 3, 9, 9))
    tolerance = 1e-4 if precision == torch.float32 else 0.02
    with torch.no_grad():
        images[2, 1, 4, 4] = value
    ours = compiled_stage(images, weight, bias, pool=pool, precision=precision)
    theirs = by_library(images, weight, bias, pool=pool)
    torch.testing.assert_close(ours.double(), theirs, equal_nan=True, atol=tolerance, rtol=tolerance)
    (of_weight,) = gradients(ours, (weight,))
    assert not of_weight.isfinite().all()
    spoilt = torch.zeros_like(ours)
    spoilt[1, 0, 0, 0] = float("nan")
    with torch.no_grad():
        bias.fill_(100)  # so that ReLU is open
        images[2, 1, 4, 4] = 0
    output = compiled_stage(images, weight, bias, pool=pool, precision=precision)
    found = torch.autograd.grad(output, (images, weight, bias), spoilt)
    assert [part.isnan().any().item() for part in found] == [True] * 3
    assert not found[0][[0, 2, 3]].isnan().any()


@pytest.mark.parametrize("precision", [torch.float32, BF16])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(("pool", "ceil_mode"), POOLINGS)
@pytest.mark.parametrize("side", [1, 2, 3])
def test_it_is_hidden_nowhere_and_goes_nowhere_else(
    side: int, pool: int, ceil_mode: bool, value: float, precision: torch.dtype
) -> None:
    """Wherever it is in an image of one channel, whose rows bf16 multiplies two at a time."""
    height, width = 5, 6
    images = whole((height * width, 1, height, width), 0)
    images.flatten(1).fill_diagonal_(value)
    parts = (images.requires_grad_(), whole((3, 1, side, side), 1).clamp(1).requires_grad_(), torch.zeros(3))
    if not ceil_mode and height - side + 1 < pool:
        return
    ours = compiled_stage(*parts, pool=pool, ceil_mode=ceil_mode, precision=precision)
    theirs = by_library(*parts, pool=pool, ceil_mode=ceil_mode)
    torch.testing.assert_close(ours.double(), theirs, equal_nan=True, atol=0, rtol=0)
    form = whole(ours.shape, 2)
    found, right = (torch.autograd.grad(output, parts[0], form.to(output.dtype))[0] for output in (ours, theirs))
    assert torch.equal(found, right)


def test_what_does_not_fit_is_refused() -> None:
    """Not only by the shapes in the signature, which nobody checks outside of tests."""
    images, weight, bias = operands((2, 3, 4, 3, 8, 8))
    for wrong in (
        (images[:, :2], weight, bias),
        (images, weight[:, :, :2], bias),
        (images, weight, bias[:1]),
        (images, weight[:0], bias[:0]),
        (images[:, :0], weight[:, :0], bias),
    ):
        with pytest.raises(ValueError, match="do not fit"):
            inspect.unwrap(compiled_stage)(*wrong)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:FutureWarning")  # what PyTorch's forward mode imports
def test_forward_mode_and_saved_tensors_that_lie_elsewhere() -> None:
    parts = operands((5, 3, 4, 3, 8, 8))
    with pytest.raises(RuntimeError, match="jvp"):
        torch.func.jvp(lambda weight: compiled_stage(parts[0].detach(), weight, parts[2].detach()), *[(parts[1],)] * 2)

    def elsewhere(saved: Tensor) -> Tensor:
        return torch.cat([saved.flatten()[:1], saved.flatten()])[1:].view(saved.shape)

    expected = gradients(compiled_stage(*parts, pool=2), parts)
    with torch.autograd.graph.saved_tensors_hooks(lambda saved: saved, elsewhere):
        found = gradients(compiled_stage(*parts, pool=2), parts)
    assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize("needed", [(True, False, False), (False, True, True), (False, True, False)])
def test_only_the_gradients_that_are_needed_are_given(needed: tuple[bool, ...]) -> None:
    every = operands(SHAPES[2])
    parts = [part.detach().clone().requires_grad_(need) for part, need in zip(every, needed, strict=True)]
    expected = torch.autograd.grad(compiled_stage(*every, pool=2).square().sum(), every)
    compiled_stage(*parts, pool=2).square().sum().backward()
    for part, need, right in zip(parts, needed, expected, strict=True):
        assert (part.grad is not None) == need
        assert part.grad is None or torch.equal(part.grad, right)


def test_the_same_bits_twice_and_with_any_number_of_threads() -> None:
    """Also where several threads of Python compute at the same time."""
    parts, before = operands((100, 3, 7, 5, 14, 13)), torch.get_num_threads()

    def work(threads: int) -> tuple[Tensor, ...]:
        torch.set_num_threads(threads)
        output = compiled_stage(*parts, pool=2)
        return output, *gradients(output, parts)

    try:
        expected = work(1)
        found = [work(2), work(3)]
        with ThreadPoolExecutor(4) as pool:
            found += pool.map(work, [1, 2, 3, 4] * 5)
    finally:
        torch.set_num_threads(before)
    for other in found:
        assert all(map(torch.equal, other, expected))


def test_it_can_be_differentiated_again_but_not_twice() -> None:
    parts = operands((9, 2, 3, 3, 8, 8))
    output = compiled_stage(*parts, pool=2)
    assert all(map(torch.equal, gradients(output, parts), gradients(output, parts)))
    (gradient,) = torch.autograd.grad(output.square().sum(), parts[1], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="flags of x86 processors")
@pytest.mark.skipif(OTHER_LANES in os.environ, reason="this is that other process")
@pytest.mark.parametrize(("flags", "count"), [("-mno-avx512f", 8), ("-mno-avx", 4)])
def test_all_of_this_holds_for_narrower_vectors(flags: str, count: int, tmp_path: Path) -> None:
    environment = os.environ | {"CXX": f"c++ {flags}", OTHER_LANES: str(count), "XDG_CACHE_HOME": str(tmp_path)}
    environment = {name: value for name, value in environment.items() if not name.startswith("PYTEST")}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(Path(__file__))]
    done = subprocess.run(command, check=False, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:]


def test_lanes_are_as_many_as_asked_for() -> None:
    assert lanes() == int(os.environ.get(OTHER_LANES, lanes()))
    assert lanes() in (4, 8, 16)
