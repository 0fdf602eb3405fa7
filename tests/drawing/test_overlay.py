import math

import numpy as np
import pytest
import torch
from PIL import Image

from stn_cli.drawing.overlay import (
    FAR,
    LINE_INK,
    MARGIN_SHADE,
    add_margin,
    draw_control_points,
    draw_sampling_grid,
    pixel_corners,
)

RED = "#ff0000"  # on black: the first channel is the opacity of the lines


def identity(height: int, width: int) -> torch.Tensor:
    y, x = ((2 * torch.arange(n) + 1) / n - 1 for n in (height, width))
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)


def affine(grid: torch.Tensor, matrix: list[list[float]], shift: tuple[float, float] = (0.0, 0.0)) -> torch.Tensor:
    return grid @ torch.tensor(matrix).T.to(grid) + torch.tensor(shift).to(grid)


def wavy(grid: torch.Tensor) -> torch.Tensor:
    return 0.8 * grid + 0.1 * torch.sin(3 * grid.flip(-1) + 1)


def ink(grid: torch.Tensor, size: tuple[int, int] = (140, 140), margin: int = 30) -> np.ndarray:
    """Opacity of the lines, 0..255, over a black image of (height, width) with a black margin."""
    canvas = Image.new("RGB", (size[1] + 2 * margin, size[0] + 2 * margin))
    return np.array(draw_sampling_grid(canvas, grid, margin, RED))[..., 0]


def most_ink(picture: np.ndarray, x: float, y: float, reach: int = 1) -> int:
    """The most ink within `reach` pixels of the point."""
    i, j = int(y), int(x)
    return int(picture[i - reach : i + reach + 1, j - reach : j + reach + 1].max())


@pytest.mark.parametrize("size", [(28, 28), (60, 61), (2, 3)])
def test_corners_of_the_identity_are_a_regular_lattice(size):
    y, x = (torch.linspace(-1, 1, n + 1) for n in size)
    expected = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)
    torch.testing.assert_close(pixel_corners(identity(*size)), expected, atol=1e-6, rtol=0)


def test_corners_follow_an_affine_map():
    grid, matrix, shift = identity(9, 14).double(), [[0.7, -0.4], [0.2, 1.3]], (0.3, -0.2)
    torch.testing.assert_close(pixel_corners(affine(grid, matrix, shift)), affine(pixel_corners(grid), matrix, shift))


def test_the_outline_of_the_identity_is_the_border_of_the_image():
    picture = ink(identity(28, 42), (140, 210))
    for x in range(30, 30 + 210):
        assert most_ink(picture, x, 30, 0) == most_ink(picture, x, 30 + 140, 0) == 255
    for y in range(30, 30 + 140):
        assert most_ink(picture, 30, y, 0) == most_ink(picture, 30 + 210, y, 0) == 255
    picture[25:-25, 25:-25] = 0
    assert not picture.any()


@pytest.mark.parametrize("size", [(28, 28), (60, 61), (224, 224), (5, 7)])
def test_the_identity_has_5_to_8_cells_of_one_size(size):
    picture = ink(identity(*size), (240, 240), 30)
    for profile in (picture[41, 26:-26], picture[26:-26, 41]):
        on = np.concatenate([[False], profile > 60, [False]])
        lines = np.flatnonzero(on[1:] & ~on[:-1])
        assert 5 <= len(lines) - 1 <= 8
        assert np.ptp(np.diff(lines)) <= 240 / min(size) + 1


@pytest.mark.parametrize("flip", [1.0, -1.0])
@pytest.mark.parametrize("turn", [0, 90, 180, 270])
def test_the_corner_mark_and_the_thick_top_tell_turns_from_flips(turn, flip):
    c, s = round(math.cos(math.radians(turn))), round(math.sin(math.radians(turn)))
    matrix = np.array([[c * flip, -s], [s * flip, c]])
    picture = ink(affine(identity(28, 28), matrix.tolist())).astype(int)

    def total(point: tuple[int, int]) -> int:
        x, y = ((matrix @ point + 1) / 2 * 140 + 30).astype(int)
        return picture[y - 5 : y + 6, x - 5 : x + 6].sum()

    top_left, *others = (total(corner) for corner in ((-1, -1), (1, -1), (-1, 1), (1, 1)))
    assert top_left > 1.4 * max(others)
    top, *others = (total(side) for side in ((0, -1), (0, 1), (-1, 0), (1, 0)))
    assert top > 1.15 * max(others)


@pytest.mark.parametrize("warp", [wavy, lambda g: affine(g, [[0.5, -0.4], [0.4, 0.5]], (0.1, -0.1))])
def test_lines_are_where_the_grid_says(warp):
    picture = ink(warp(identity(280, 280)), (700, 700))
    lattice = identity(281, 281) * 281 / 280  # pixel borders of the 280 × 280 output
    points = (warp(lattice) + 1) / 2 * 700 + 30
    cell = 280 // 8
    for i in range(0, 281, cell):
        for j in range(0, 281, 5):
            assert most_ink(picture, *points[i, j].tolist()) >= 0.6 * LINE_INK
            assert most_ink(picture, *points[j, i].tolist()) >= 0.6 * LINE_INK
    for i in range(cell // 2, 280, cell):
        for j in range(cell // 2, 280, cell):
            assert most_ink(picture, *points[i, j].tolist()) == 0


def test_lines_outside_the_image_show_in_the_margin():
    picture = ink(affine(identity(28, 28), [[1.3, 0.0], [0.0, 1.3]]))
    assert most_ink(picture, 30 - 0.15 * 140, 100) == 255
    assert not ink(affine(identity(28, 28), [[1.0, 0.0], [0.0, 1.0]], (4.0, 0.0))).any()


def test_the_margin_has_a_shade_of_its_own():
    canvas = add_margin(Image.new("RGB", (4, 4)), 3)
    assert canvas.size == (10, 10)
    assert canvas.getpixel((2, 5)) == Image.new("RGB", (1, 1), MARGIN_SHADE).getpixel((0, 0))
    assert canvas.getpixel((3, 3)) == canvas.getpixel((6, 6)) == (0, 0, 0)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e38])
def test_what_is_not_finite_is_left_out(value):
    assert not ink(torch.full((28, 28, 2), value)).any()
    grid = identity(28, 28)
    whole = ink(grid)
    grid[10:18, 10:18, 0] = value
    holed = ink(grid)
    assert not holed[85:115, 85:115].any()
    holed[70:130, 70:130] = whole[70:130, 70:130]
    assert np.array_equal(holed, whole)


def test_no_line_crosses_the_horizon_of_a_projective_grid():
    grid = identity(28, 28)
    beyond = grid[..., :1] > 0
    assert not ink(torch.where(beyond, grid + 20, grid - 20)).any()
    w = 1 + 1.2 * grid[..., :1]  # zero at x = −1/1.2: from there lines run off to the left and come back from the right
    assert not ink(grid / w)[:, :20].astype(bool).all(1).any()


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (2, 2)])
def test_small_grids_are_drawn(size):
    assert ink(identity(*size)).any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_any_float_type_does(dtype):
    grid = identity(8, 8)  # exact in all of them
    assert np.array_equal(ink(grid.to(dtype).requires_grad_()), ink(grid))


def test_drawing_is_pure():
    canvas, grid = Image.new("RGB", (80, 90), "white"), wavy(identity(12, 10))
    before, first = canvas.tobytes(), draw_sampling_grid(canvas, grid, 10)
    assert canvas.tobytes() == before
    assert first.size == canvas.size
    assert draw_sampling_grid(canvas, grid, 10).tobytes() == first.tobytes() != before


def test_an_outline_alone_is_the_rim_of_the_whole_grid():
    canvas, grid = Image.new("RGB", (200, 200)), wavy(identity(28, 28))
    outline, whole = (
        np.array(draw_sampling_grid(canvas, grid, 30, RED, outline_alone=alone))[..., 0] for alone in (True, False)
    )
    assert (outline <= whole).all()
    assert not outline[80:120, 80:120].any()
    assert whole[80:120, 80:120].any()
    corners = (pixel_corners(grid)[[0, 0, -1, -1], [0, -1, 0, -1]] + 1) / 2 * 140 + 30
    assert all(most_ink(outline, *corner.tolist()) == 255 for corner in corners)


def test_control_points_are_discs_where_they_are_read():
    canvas = Image.new("RGB", (200, 200))
    points = torch.tensor([[[-1.0, -1.0], [0.5, 0.0]], [[math.nan, 0.0], [FAR + 1, 0.0]]])
    before = canvas.tobytes()
    picture = np.array(draw_control_points(canvas, points, 30, RED))
    assert canvas.tobytes() == before
    for x, y in ((30, 30), (30 + 0.75 * 140, 100)):
        assert tuple(picture[round(y), round(x)]) == (255, 255, 255)
        red, green, _ = picture[round(y), round(x) + 3]  # the rim
        assert red > 150 > green == 0
    picture[20:40, 20:40] = picture[90:110, 125:145] = 0
    assert not picture.any()
