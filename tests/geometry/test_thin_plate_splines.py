import numpy as np
import pytest
import torch
from scipy.interpolate import RBFInterpolator

from stn_cli.geometry.grids import affine_grid, regular_grid
from stn_cli.geometry.thin_plate_splines import (
    control_points,
    grid_basis,
    spline_basis,
    spline_solution,
    thin_plate_grid,
    thin_plate_inverse,
    thin_plate_points,
)

SIZES = [(1, 1), (28, 28), (60, 61)]


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_control_points_span_the_square_row_by_row_from_the_top_left() -> None:
    assert control_points(2, 3).tolist() == [[-1, -1], [0, -1], [1, -1], [-1, 1], [0, 1], [1, 1]]
    assert control_points().shape == (16, 2)


@pytest.mark.parametrize("points", [control_points(), control_points(3, 5), random(12, 2)], ids=["4×4", "3×5", "any"])
def test_basis_at_the_control_points_is_the_identity(points: torch.Tensor) -> None:
    torch.testing.assert_close(spline_basis(points, points), torch.eye(len(points)), atol=1e-6, rtol=0)


@pytest.mark.parametrize("points", [control_points(), control_points(5, 6), random(12, 2)], ids=["4×4", "5×6", "any"])
@pytest.mark.parametrize("size", SIZES)
def test_spline_equals_scipys(points: torch.Tensor, size: tuple[int, int]) -> None:
    source_points = points + 0.2 * random(3, len(points), 2)
    pixels = regular_grid(size).reshape(-1, 2).numpy()
    expected = np.stack(
        [RBFInterpolator(points, values, kernel="thin_plate_spline", degree=1)(pixels) for values in source_points]
    )
    grid = thin_plate_grid(grid_basis(points, size), source_points, size)
    np.testing.assert_allclose(grid.reshape(3, -1, 2), expected, atol=1e-5, rtol=0)


def test_splines_at_points_equal_scipys_also_far_outside_and_at_the_control_points() -> None:
    target, values = control_points().double(), control_points().double() + 0.2 * random(3, 16, 2).double()
    points = torch.cat([3 * random(3, 200, 2).double(), target.expand(3, -1, -1)], dim=1)
    found = thin_plate_points(control_points(), spline_solution(control_points()) @ values, points)
    expected = np.stack(
        [RBFInterpolator(target, values[n], kernel="thin_plate_spline", degree=1)(points[n]) for n in range(3)]
    )
    np.testing.assert_allclose(found, expected, atol=1e-10, rtol=0)
    torch.testing.assert_close(found[:, 200:], values, atol=1e-12, rtol=0)


@pytest.mark.parametrize("points", [control_points(), control_points(5, 6), random(12, 2)], ids=["4×4", "5×6", "any"])
@pytest.mark.parametrize("size", SIZES)
def test_splines_at_pixel_centres_are_the_grids(points: torch.Tensor, size: tuple[int, int]) -> None:
    values = (points + 0.2 * random(3, len(points), 2)).double()
    centres = regular_grid(size, dtype=torch.float64).reshape(1, -1, 2).expand(3, -1, -1)
    found = thin_plate_points(points, spline_solution(points) @ values, centres)
    grid = thin_plate_grid(grid_basis(points, size, torch.float64), values, size)
    torch.testing.assert_close(found.reshape(3, *size, 2), grid, atol=1e-6, rtol=0)  # the basis is rounded to 2⁻²⁴


def test_the_inverse_gives_the_points_back_of_splines_that_do_not_fold() -> None:
    solution, values = spline_solution(control_points()), control_points().double() + 0.08 * random(20, 16, 2).double()
    points = torch.rand(20, 300, 2, generator=torch.Generator().manual_seed(0)).double() * 2 - 1
    coefficients = solution @ values
    found = thin_plate_inverse(
        control_points(), coefficients, thin_plate_points(control_points(), coefficients, points)
    )
    torch.testing.assert_close(found, points, atol=1e-9, rtol=0)


def test_the_inverse_of_any_spline_is_right_or_far_outside_and_finite() -> None:
    values = control_points().double() + random(50, 16, 2).double()
    values[-1], values[-2] = 0, control_points().double()[:, :1]  # to a point, and to a line
    coefficients = spline_solution(control_points()) @ values
    wanted = torch.rand(50, 300, 2, generator=torch.Generator().manual_seed(0)).double() * 2 - 1
    found = thin_plate_inverse(control_points(), coefficients, wanted)
    near = found.abs().amax(dim=-1) < 100
    error = (thin_plate_points(control_points(), coefficients, found) - wanted).abs().amax(dim=-1)
    assert found.isfinite().all()
    assert error[near].max() < 1e-5
    assert 0.3 < near[:-2].double().mean() < 1
    assert not near[-2:].any()


@pytest.mark.parametrize("size", SIZES)
def test_spline_reproduces_affine_maps(size: tuple[int, int]) -> None:
    theta = random(5, 2, 3)
    source_points = control_points() @ theta[:, :, :2].mT + theta[:, None, :, 2]
    grid = thin_plate_grid(grid_basis(control_points(), size), source_points, size)
    torch.testing.assert_close(grid, affine_grid(theta, size), atol=1e-5, rtol=0)


def test_spline_is_linear_in_its_values() -> None:
    basis, (a, b) = grid_basis(control_points(), (7, 9)), random(2, 4, 16, 2)
    expected = 2 * thin_plate_grid(basis, a, (7, 9)) - thin_plate_grid(basis, b, (7, 9))
    torch.testing.assert_close(thin_plate_grid(basis, 2 * a - b, (7, 9)), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "points",
    [
        pytest.param(control_points()[[*range(16), 5]], id="coincident"),
        pytest.param(torch.linspace(-1, 1, 5)[:, None] * torch.tensor([1.0, 0.0]), id="horizontal line"),
        pytest.param(torch.linspace(-1, 1, 5)[:, None] * torch.tensor([1.0, 0.3]) + 0.1, id="oblique line"),
    ],
)
def test_points_without_a_spline_are_refused(points: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="coincide"):
        spline_basis(points, control_points())


def test_gradients_in_float64() -> None:
    basis = grid_basis(control_points(), (3, 4)).double()
    source_points = random(2, 16, 2).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda points: thin_plate_grid(basis, points, (3, 4)), source_points)
    coefficients, points = random(2, 19, 2).double().requires_grad_(), random(2, 5, 2).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda c, p: thin_plate_points(control_points(), c, p), (coefficients, points))
