from fractions import Fraction

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from kornia.geometry.transform import warp_perspective
from PIL import Image
from scipy.ndimage import map_coordinates

from stn_cli.geometry.grids import affine_grid, projective_grid, regular_grid
from stn_cli.geometry.matrices import between_sizes, rotation, scaling, square_to_corners, translation
from stn_cli.geometry.sampling import POSITION_BITS, Border, Kernel, sample, sample_bytes, to_bytes
from stn_cli.geometry.thin_plate_splines import control_points, grid_basis, thin_plate_grid

SIZES = [(1, 1), (28, 28), (60, 61)]
IDENTITIES = {
    "attention": lambda size: affine_grid(1.0 * torch.tensor([[[1, 0, 0], [0, 1, 0]]]), size),
    "affine": lambda size: affine_grid(torch.eye(2, 3)[None], size),
    "projective": lambda size: projective_grid(torch.eye(3)[None], size),
    "tps": lambda size: thin_plate_grid(grid_basis(control_points(), size), control_points()[None], size),
}


def random(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def smooth(size: tuple[int, int]) -> torch.Tensor:
    """An image without edges, so that reading it twice costs little: three blobs, [1, 1, height, width]."""
    points = regular_grid(size)[..., None, :]
    centres = torch.tensor([[0.0, -0.4], [0.3, 0.2], [-0.3, 0.1]])
    return torch.exp(-12 * (points - centres).square().sum(dim=-1)).sum(dim=-1)[None, None]


def in_pixels(matrix: torch.Tensor, in_size: tuple[int, int], out_size: tuple[int, int]) -> torch.Tensor:
    """Normalised output → input maps as maps of pixel indices, by conjugation with (x + 1)·n / 2 − 1 / 2."""

    def index(size: tuple[int, int]) -> torch.Tensor:
        half = torch.tensor([size[1], size[0]], dtype=torch.float64) / 2
        return (translation(half[None] - 0.5) @ scaling(half[None]))[0]

    return index(in_size) @ matrix.double() @ torch.linalg.inv(index(out_size))


@pytest.mark.parametrize("identity", IDENTITIES.values(), ids=IDENTITIES)
@pytest.mark.parametrize("size", SIZES)
def test_identity_gives_the_input_back(identity, size: tuple[int, int]) -> None:
    images = random(1, 3, *size)
    torch.testing.assert_close(sample(images, identity(size)), images, atol=1e-5, rtol=0)


@pytest.mark.parametrize("identity", IDENTITIES.values(), ids=IDENTITIES)
def test_identity_at_a_third_of_the_size_is_every_third_pixel_and_at_three_times_keeps_them(identity) -> None:
    images = random(1, 3, 30, 60)
    torch.testing.assert_close(sample(images, identity((10, 20))), images[..., 1::3, 1::3], atol=1e-5, rtol=0)
    torch.testing.assert_close(sample(images, identity((90, 180)))[..., 1::3, 1::3], images, atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("degrees", "quarters"), [(90, -1), (180, 2), (-90, 1)])
def test_quarter_turns_equal_rot90(size: tuple[int, int], degrees: float, quarters: int) -> None:
    images = random(1, 2, *size)
    expected = torch.rot90(images, quarters, dims=(2, 3))  # from y, downwards, to x: counter-clockwise on the screen
    out_size = (expected.shape[2], expected.shape[3])
    undo = between_sizes(rotation(torch.tensor([-1.0 * degrees])), size, out_size)
    torch.testing.assert_close(sample(images, affine_grid(undo[:, :2], out_size)), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("y", "x"), [(0, 3), (2, 0), (-4, 5), (-1, -1)])
@pytest.mark.parametrize("border", ["zeros", "border"])
def test_translation_by_whole_pixels_is_a_shift(y: int, x: int, border: Border) -> None:
    """Reading (x, y) further to the right and below moves the picture to the left and up."""
    images = random(1, 2, 20, 23)
    theta = between_sizes(translation(torch.tensor([[x, y]]) * 1.0), (20, 23), (20, 23))[:, :2]
    frame = {"zeros": "constant", "border": "replicate"}[border]
    framed = torch.nn.functional.pad(images, (5, 5, 5, 5), mode=frame)
    expected = framed[..., 5 + y : 25 + y, 5 + x : 28 + x]
    torch.testing.assert_close(sample(images, affine_grid(theta, (20, 23)), border=border), expected, atol=1e-5, rtol=0)


def test_warping_twice_is_warping_by_the_product() -> None:
    images = smooth((48, 48))
    first = rotation(torch.tensor([25.0])) @ scaling(torch.tensor([[1.2, 0.9]]))
    second = square_to_corners(torch.tensor([[[-0.9, -1.0], [1.0, -0.8], [1.1, 1.0], [-1.0, 0.9]]]))
    second = second / second[:, 2:, 2:]
    once = sample(images, projective_grid(first @ second, (48, 48)))
    twice = sample(sample(images, projective_grid(first, (48, 48))), projective_grid(second, (48, 48)))
    other_order = sample(images, projective_grid(second @ first, (48, 48)))
    assert (twice - once).abs().max() < 0.02
    assert (twice - other_order).abs().max() > 0.1


def test_the_inverse_map_undoes_a_warp() -> None:
    images = smooth((48, 48))
    matrix = square_to_corners(torch.tensor([[[-1.2, -1.1], [1.3, -1.0], [1.1, 1.3], [-1.0, 1.2]]]))
    matrix = matrix / matrix[:, 2:, 2:]
    warped = sample(images, projective_grid(matrix, (48, 48)))
    inverse = torch.linalg.inv(matrix)
    undone = sample(warped, projective_grid(inverse / inverse[:, 2:, 2:], (48, 48)))
    assert (warped - images).abs().max() > 0.2
    assert (undone - images).abs().max() < 0.02


@pytest.mark.parametrize(("border", "mode"), [("zeros", "grid-constant"), ("border", "nearest")])
@pytest.mark.parametrize(("kernel", "order"), [("bilinear", 1), ("nearest", 0)])
def test_sampler_equals_scipys(border: Border, mode: str, kernel: Kernel, order: int) -> None:
    images, grid = random(2, 3, 9, 11), 3 * random(2, 7, 8, 2) - 1.5
    x, y = ((grid + 1) * torch.tensor([11, 9]) / 2 - 0.5).double().unbind(dim=-1)
    expected = np.stack(
        [
            [map_coordinates(channel, [y[n], x[n]], order=order, mode=mode) for channel in images[n].double().numpy()]
            for n in range(2)
        ]
    )
    np.testing.assert_allclose(sample(images, grid, border=border, kernel=kernel), expected, atol=1e-5, rtol=0)


HOMOGRAPHY = torch.tensor([[[1.1, 0.2, 0.1], [-0.15, 0.9, -0.05], [0.12, -0.08, 1.0]]])


def test_projective_warp_equals_kornias() -> None:
    images, out_size = random(1, 2, 30, 26), (24, 32)
    forward = torch.linalg.inv(in_pixels(HOMOGRAPHY, (30, 26), out_size)).float()
    expected = warp_perspective(images, forward, out_size)
    torch.testing.assert_close(sample(images, projective_grid(HOMOGRAPHY, out_size)), expected, atol=1e-4, rtol=0)


def test_projective_warp_equals_pillows() -> None:
    image, out_size = random(30, 26), (24, 32)
    # Pillow counts from the pixel's corner, and repeats the edge instead of fading to black: compare the inside.
    corner = torch.tensor([[0.5, 0.5]], dtype=torch.float64)
    matrix = (translation(corner) @ in_pixels(HOMOGRAPHY, (30, 26), out_size) @ translation(-corner))[0]
    coefficients = (matrix / matrix[2, 2]).flatten()[:8].tolist()
    picture = Image.fromarray(image.numpy())
    expected = picture.transform(out_size[::-1], Image.Transform.PERSPECTIVE, coefficients, Image.Resampling.BILINEAR)
    grid = projective_grid(HOMOGRAPHY, out_size)
    inside = (grid[0].abs() < 1 - 2 / 26).all(dim=-1)
    assert inside.float().mean() > 0.5
    error = sample(image[None, None], grid)[0, 0] - torch.from_numpy(np.array(expected))
    assert error[inside].abs().max() < 1e-4


@pytest.mark.parametrize("border", ["zeros", "border"])
def test_gradients_in_float64(border: Border) -> None:
    images = random(1, 2, 4, 5).double().requires_grad_()
    # Between pixel centres, where bilinear reading has a gradient: a quarter to three quarters of the way.
    index = torch.randint(0, 3, (1, 3, 3, 2), generator=torch.Generator().manual_seed(0))
    grid = (2 * (index + 0.25 + 0.5 * random(1, 3, 3, 2).double()) + 1) / torch.tensor([5, 4]) - 1
    assert torch.autograd.gradcheck(lambda i, g: sample(i, g, border=border), (images, grid.requires_grad_()))


def test_sampler_stays_in_float32_under_autocast() -> None:
    images, grid = random(2, 1, 28, 28), affine_grid(0.9 * torch.eye(2, 3).expand(2, 2, 3), (28, 28))
    expected = sample(images, grid)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(sample(images, grid), expected)


def levels(*shape: int) -> torch.Tensor:
    return (256 * random(*shape)).to(torch.uint8)


@pytest.mark.parametrize("size", [(1, 1), (28, 28), (9, 33), (64, 60)])
def test_bytes_are_read_as_levels_are(size: tuple[int, int]) -> None:
    """But for the rounding of positions: 2⁻¹⁷ of a pixel at most in x and in y, where a pixel may make 255 levels."""
    images, grid = levels(5, 3, *size), 3 * random(5, 40, 41, 2).double() - 1.5
    found = sample_bytes(images, grid)
    assert found.dtype == torch.float64
    expected = F.grid_sample(images.double(), grid, align_corners=False)
    torch.testing.assert_close(found, expected, atol=2 * 255 * 2.0**-17, rtol=0)


def test_bytes_are_read_without_any_rounding() -> None:
    """Against rational numbers, at positions rounded to fractions of a pixel; far outside everything is black."""
    height, width = 5, 7
    image, grid = levels(height, width), 4 * random(400, 2).double() - 2
    grid[0], grid[1] = 1e4, torch.tensor([-1e4, 1e-9])

    def at(row: int, column: int) -> int:
        return int(image[row, column]) if 0 <= row < height and 0 <= column < width else 0

    expected = []
    for x, y in grid.tolist():
        column, row = (
            Fraction(round(((Fraction(c) + 1) * side / 2 - Fraction(1, 2)) * 2**POSITION_BITS), 2**POSITION_BITS)
            for c, side in ((x, width), (y, height))
        )
        top, left = row.__floor__(), column.__floor__()
        corners = [(top + i, left + j) for i in (0, 1) for j in (0, 1)]
        expected.append(sum((1 - abs(row - i)) * (1 - abs(column - j)) * at(i, j) for i, j in corners))
    found = sample_bytes(image[None, None], grid[None, None])[0, 0, 0].tolist()
    assert [Fraction(value) for value in found] == expected


def test_bytes_come_out_the_same_in_whatever_company_and_order() -> None:
    images, grid = levels(6, 2, 20, 30), 2 * random(6, 17, 19, 2).double() - 1
    found = sample_bytes(images, grid)
    assert torch.equal(torch.cat([sample_bytes(images[n : n + 1], grid[n : n + 1]) for n in range(6)]), found)
    order = torch.randperm(17 * 19, generator=torch.Generator().manual_seed(0))
    shuffled = sample_bytes(images, grid.flatten(1, 2)[:, order, None])
    assert torch.equal(shuffled[..., 0], found.flatten(2)[..., order])


def test_levels_are_rounded_halves_up_and_clamped() -> None:
    found = to_bytes(torch.tensor([-3.0, 0.0, 0.49, 0.5, 1.5, 2.5, 254.49, 254.5, 255.0, 300.0]))
    assert found.dtype == torch.uint8
    assert found.tolist() == [0, 0, 0, 1, 2, 3, 254, 255, 255, 255]


def test_images_may_lie_side_by_side() -> None:
    """As the maps of stages do on CPUs: [channels, height, width, n] in memory."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(3, 2, 5, 4, generator=generator, dtype=torch.float64).requires_grad_()
    grid = (3 * torch.rand(3, 6, 7, 2, generator=generator, dtype=torch.float64) - 1.5).requires_grad_()
    laid = images.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2)
    found, expected = sample(laid, grid), sample(images, grid)
    assert torch.equal(found, expected)
    assert found.is_contiguous()
    parts = (images, grid)
    gradients = zip(*(torch.autograd.grad(output.square().sum(), parts) for output in (found, expected)), strict=True)
    assert all(torch.equal(one, other) for one, other in gradients)
