import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from stn_cli.geometry.grids import affine_grid
from stn_cli.geometry.matrices import (
    between_sizes,
    compose,
    facing,
    inverse,
    rotation,
    rotation_about,
    scaling,
    square_to_corners,
    translation,
)
from stn_cli.geometry.sampling import sample

SQUARE = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def move(matrix: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Apply homographies [n, 3, 3] to points [k, 2] or [n, k, 2]."""
    homogeneous = torch.cat([points, torch.ones_like(points[..., :1])], dim=-1) @ matrix.mT
    return homogeneous[..., :2] / homogeneous[..., 2:]


def test_a_positive_angle_turns_clockwise_on_the_screen() -> None:
    right, down, left = [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]
    turned = move(rotation(torch.tensor([90.0])), torch.tensor([right, down]))
    torch.testing.assert_close(turned, torch.tensor([[down, left]]), atol=1e-6, rtol=0)


def test_rotations_compose_by_adding_angles_and_undo_by_negating() -> None:
    a, b = 180 * random(2, 6)
    torch.testing.assert_close(rotation(a) @ rotation(b), rotation(a + b), atol=1e-5, rtol=0)
    torch.testing.assert_close(rotation(a) @ rotation(-a), torch.eye(3).expand(6, 3, 3), atol=1e-6, rtol=0)


def test_products_are_matrix_products() -> None:
    a, b = random(2, 50, 3, 3).double()
    torch.testing.assert_close(compose(a, b), a @ b, atol=1e-14, rtol=0)
    torch.testing.assert_close(compose(a.float(), b.float()), (a @ b).float(), atol=1e-5, rtol=0)


def test_inverses_undo_from_both_sides_and_equal_lapacks() -> None:
    matrix = torch.eye(3, dtype=torch.float64) + 0.2 * random(200, 3, 3).double()
    one = torch.eye(3, dtype=torch.float64).expand(200, 3, 3)
    torch.testing.assert_close(compose(inverse(matrix), matrix), one, atol=1e-12, rtol=0)
    torch.testing.assert_close(compose(matrix, inverse(matrix)), one, atol=1e-12, rtol=0)
    torch.testing.assert_close(inverse(matrix), torch.linalg.inv(matrix), atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_singular_matrices_have_a_finite_inverse(dtype: torch.dtype) -> None:
    flat = random(20, 3, 3).to(dtype)
    flat[:, 2] = 0
    zero, tiny = torch.zeros(1, 3, 3, dtype=dtype), 1e-15 * torch.eye(3, dtype=dtype)[None]
    assert inverse(torch.cat([flat, zero, tiny])).isfinite().all()


@pytest.mark.parametrize("axis", ["x", "y", "z"])
def test_rotations_of_space_equal_scipys(axis) -> None:
    degrees = 180 * random(50).double()
    expected = Rotation.from_euler(axis, degrees[:, None], degrees=True).as_matrix()
    np.testing.assert_allclose(rotation_about(axis, degrees), expected, atol=1e-15, rtol=0)
    assert torch.equal(rotation_about("z", degrees), rotation(degrees))


def test_scalings_and_translations_do_to_points_what_they_say() -> None:
    points, values = random(5, 2), random(1, 2)
    torch.testing.assert_close(move(scaling(values), points)[0], points * values)
    torch.testing.assert_close(move(translation(values), points)[0], points + values)


def test_square_goes_to_the_corners_in_order() -> None:
    corners = SQUARE + 0.3 * random(50, 4, 2)
    torch.testing.assert_close(move(square_to_corners(corners), SQUARE), corners, atol=1e-4, rtol=0)


def test_square_to_a_parallelogram_is_affine() -> None:
    corners = SQUARE @ torch.tensor([[2.0, 0.5], [-1.0, 1.5]]) + torch.tensor([0.3, -0.7])
    matrix = facing(square_to_corners(corners[None]))
    assert matrix[0, 2, :2].tolist() == pytest.approx([0, 0], abs=1e-6)


@pytest.mark.parametrize(
    "corners",
    [
        pytest.param([[0.5, 0.5]] * 4, id="one point"),
        pytest.param([[-1.0, 0.0], [0.0, 0.0], [1.0, 0.0], [2.0, 0.0]], id="a line"),
        pytest.param([[-1.0, -1.0], [1.0, 1.0], [1.0, 1.0], [-1.0, 1.0]], id="two equal corners"),
        pytest.param([[-1.0, -1.0], [1.0, 1.0], [1.0, -1.0], [-1.0, 1.0]], id="crossed"),
    ],
)
def test_degenerate_corners_stay_finite(corners: list[list[float]]) -> None:
    assert facing(square_to_corners(torch.tensor([corners]))).isfinite().all()


def test_facing_is_the_same_map_with_its_centre_in_front_and_its_largest_entry_one() -> None:
    matrix = random(50, 3, 3)
    faced = facing(matrix)
    assert (faced[:, 2, 2] > 0).all()
    torch.testing.assert_close(faced.abs().amax(dim=(1, 2)), torch.ones(50))
    torch.testing.assert_close(faced * matrix[:, 2:, 2:], matrix * faced[:, 2:, 2:])
    torch.testing.assert_close(facing(-7 * matrix), faced)


def test_between_equal_sizes_only_the_centres_shift_is_in_other_units() -> None:
    matrix = translation(torch.tensor([[3.0, -5.0]]))
    expected = translation(torch.tensor([[3 / 10, -5 / 15]]))
    torch.testing.assert_close(between_sizes(matrix, (30, 20), (30, 20)), expected)


@pytest.mark.parametrize(("margin_y", "margin_x"), [(0, 0), (7, 7), (4, 9), (-5, -3)])
def test_between_sizes_keeps_pixels_as_large_as_they_are(margin_y: int, margin_x: int) -> None:
    images = random(1, 2, 20, 22)
    canvas = (20 + 2 * margin_y, 22 + 2 * margin_x)
    theta = between_sizes(torch.eye(3)[None], (20, 22), canvas)[:, :2]
    framed = torch.nn.functional.pad(images, (margin_x, margin_x, margin_y, margin_y))
    torch.testing.assert_close(sample(images, affine_grid(theta, canvas)), framed, atol=1e-5, rtol=0)
