import numpy as np
import pytest
import torch
from scipy.interpolate import RBFInterpolator

from stn_cli.geometry.grids import affine_grid, regular_grid
from stn_cli.geometry.thin_plate_splines import control_points, grid_basis, spline_basis, thin_plate_grid

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
