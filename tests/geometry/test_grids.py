import pytest
import torch
import torch.nn.functional as F

from stn_cli.geometry.grids import (
    affine_grid,
    affine_points,
    pixel_centres,
    projective_grid,
    projective_points,
    regular_grid,
    share_outside,
)

SIZES = [(1, 1), (28, 28), (60, 61)]


def random_affine(n: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(n, 2, 3, generator=torch.Generator().manual_seed(0), dtype=dtype)


def random_homography(n: int, spread: float, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    noise = torch.randn(n, 3, 3, generator=torch.Generator().manual_seed(1), dtype=dtype)
    return torch.eye(3, dtype=dtype) + spread * noise


def test_one_pixel_lies_at_the_centre_and_neighbours_two_over_n_apart() -> None:
    assert pixel_centres(1).tolist() == [0]
    assert pixel_centres(4).tolist() == [-0.75, -0.25, 0.25, 0.75]


@pytest.mark.parametrize("count", [2, 28, 61])
def test_pixel_centres_are_mirror_symmetric_and_a_border_of_half_a_pixel_away_from_the_edge(count: int) -> None:
    centres = pixel_centres(count, dtype=torch.float64)
    torch.testing.assert_close(centres, -centres.flip(0), atol=1e-15, rtol=0)
    torch.testing.assert_close(1 - centres[-1].item(), 1 / count)


def test_regular_grid_holds_x_then_y_from_the_top_left() -> None:
    grid = regular_grid((2, 3))
    assert grid[0, 0].tolist() == pytest.approx([-2 / 3, -1 / 2])
    assert grid[0, 2].tolist() == pytest.approx([2 / 3, -1 / 2])
    assert grid[1, 0].tolist() == pytest.approx([-2 / 3, 1 / 2])


@pytest.mark.parametrize("size", SIZES)
def test_identity_gives_the_regular_grid_bit_for_bit(size: tuple[int, int]) -> None:
    assert torch.equal(affine_grid(torch.eye(2, 3)[None], size)[0], regular_grid(size))
    assert torch.equal(projective_grid(torch.eye(3)[None], size)[0], regular_grid(size))


@pytest.mark.parametrize("size", SIZES)
def test_affine_grid_equals_pytorchs(size: tuple[int, int]) -> None:
    theta = random_affine(5)
    expected = F.affine_grid(theta, [5, 1, *size], align_corners=False)
    torch.testing.assert_close(affine_grid(theta, size), expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize("size", SIZES)
def test_projective_grid_with_an_affine_matrix_is_the_affine_grid(size: tuple[int, int]) -> None:
    theta = random_affine(5)
    last_row = torch.tensor([0.0, 0.0, 1.0]).expand(5, 1, 3)
    assert torch.equal(projective_grid(torch.cat([theta, last_row], dim=1), size), affine_grid(theta, size))


@pytest.mark.parametrize("size", SIZES)
def test_projective_grid_maps_every_point_by_the_matrix(size: tuple[int, int]) -> None:
    matrix = random_homography(20, 0.15)
    x, y = regular_grid(size, dtype=torch.float64).unbind(dim=-1)
    points = torch.einsum("nij,hwj->nhwi", matrix.double(), torch.stack([x, y, torch.ones_like(x)], dim=-1))
    seen = points[..., 2:] > 0.1
    error = projective_grid(matrix, size) - points[..., :2] / points[..., 2:]
    assert seen.float().mean() > 0.9
    assert error.where(seen, 0.0).abs().max() < 1e-4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", SIZES)
def test_points_at_pixel_centres_are_the_grids(size: tuple[int, int], dtype: torch.dtype) -> None:
    centres = regular_grid(size, dtype=dtype).reshape(1, -1, 2).expand(200, -1, -1)
    affine, projective = random_affine(200, dtype), random_homography(200, 1.0, dtype)  # some behind the horizon
    assert torch.equal(affine_points(affine, centres).reshape(200, *size, 2), affine_grid(affine, size))
    assert torch.equal(projective_points(projective, centres).reshape(200, *size, 2), projective_grid(projective, size))


def test_points_are_mapped_one_by_one_by_the_matrix_of_their_sample() -> None:
    points = torch.randn(20, 7, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    theta, matrix = random_affine(20, torch.float64), random_homography(20, 0.02, torch.float64)
    homogeneous = torch.cat([points, torch.ones_like(points[..., :1])], dim=-1)
    torch.testing.assert_close(affine_points(theta, points), homogeneous @ theta.mT, atol=1e-14, rtol=0)
    mapped = homogeneous @ matrix.mT
    torch.testing.assert_close(projective_points(matrix, points), mapped[..., :2] / mapped[..., 2:], atol=1e-12, rtol=0)


def test_a_homography_has_no_scale_of_its_own() -> None:
    matrix = random_homography(20, 0.1)
    torch.testing.assert_close(projective_grid(3 * matrix, (8, 9)), projective_grid(matrix, (8, 9)))


def test_behind_the_horizon_everything_is_finite_and_outside() -> None:
    matrix = random_homography(200, 1.0)
    grid = projective_grid(matrix, (28, 29))
    x, y = regular_grid((28, 29)).unbind(dim=-1)
    behind = torch.einsum("nj,hwj->nhw", matrix[:, 2], torch.stack([x, y, torch.ones_like(x)], dim=-1)) < -1e-6
    assert 0.05 < behind.float().mean() < 0.95
    assert grid.isfinite().all()
    assert (grid.abs().amax(dim=-1)[behind] > 1).all()


@pytest.mark.parametrize(
    "matrix",
    [
        pytest.param([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, -1.0]], id="input centre behind"),
        pytest.param([[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]], id="no map at all"),
    ],
)
def test_behind_the_horizon_lies_outside_even_where_the_numerator_is_zero(matrix: list[list[float]]) -> None:
    grid = projective_grid(torch.tensor([matrix]), (61, 61))
    assert grid.isfinite().all()
    assert share_outside(grid).item() == 1


def test_share_outside_counts_points_beyond_the_edges() -> None:
    along_x, along_y = torch.eye(2, 3).repeat(2, 4, 1, 1)
    along_x[:, 0, 2] = along_y[:, 1, 2] = torch.tensor([0.0, 1.0, -0.5, 2.0])
    assert share_outside(affine_grid(along_x, (3, 8))).tolist() == [0, 0.5, 0.25, 1]
    assert share_outside(affine_grid(along_y, (8, 3))).tolist() == [0, 0.5, 0.25, 1]


def test_gradients_in_float64() -> None:
    affine = random_affine(2, torch.float64).requires_grad_()
    projective = random_homography(2, 0.1, torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda theta: affine_grid(theta, (3, 4)), affine)
    assert torch.autograd.gradcheck(lambda matrix: projective_grid(matrix, (3, 4)), projective)


def test_grids_stay_in_float32_under_autocast() -> None:
    theta, matrix = random_affine(3), random_homography(3, 0.1)
    expected = affine_grid(theta, (60, 61)), projective_grid(matrix, (60, 61))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(affine_grid(theta, (60, 61)), expected[0])
        assert torch.equal(projective_grid(matrix, (60, 61)), expected[1])
