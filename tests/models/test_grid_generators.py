import math

import pytest
import torch

from stn_cli.geometry.grids import regular_grid
from stn_cli.geometry.sampling import sample
from stn_cli.geometry.thin_plate_splines import control_points
from stn_cli.models.grid_generators import TRANSFORMS, AffineGrid, AttentionGrid, ProjectiveGrid, SimilarityGrid
from stn_cli.names import TRANSFORMS as NAMES

every_transform = pytest.mark.parametrize("name", TRANSFORMS)
SIZES = [(1, 1), (28, 28), (7, 9), (42, 41)]


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_the_table_holds_the_listed_names() -> None:
    assert tuple(TRANSFORMS) == NAMES


def test_parameters_are_as_many_as_in_the_paper() -> None:
    counts = {name: len(generator((8, 8)).identity) for name, generator in TRANSFORMS.items()}
    assert counts == {"attention": 3, "similarity": 4, "affine": 6, "projective": 8, "tps": 2 * 16}


@every_transform
@pytest.mark.parametrize("size", SIZES)
def test_identity_gives_the_input_back(name: str, size: tuple[int, int]) -> None:
    generator, images = TRANSFORMS[name](size), random(2, 3, *size)
    grid = generator(generator.identity.expand(2, -1))
    assert grid.dtype == torch.float32
    torch.testing.assert_close(sample(images, grid), images, atol=1e-5, rtol=0)


@every_transform
def test_grids_have_the_size_asked_for_and_span_the_input(name: str) -> None:
    """A larger output reads the same input more densely: its middle pixels are those of the smaller one."""
    small, large = TRANSFORMS[name]((4, 5)), TRANSFORMS[name]((12, 15))
    theta = small.identity + 0.1 * random(3, len(small.identity))
    torch.testing.assert_close(large(theta)[:, 1::3, 1::3], small(theta), atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", SIZES)
def test_every_transform_is_a_special_case_of_a_larger_one(size: tuple[int, int]) -> None:
    scale, angle, x, y = random(5, 4).unbind(dim=1)
    zero = torch.zeros_like(scale)
    attention = AttentionGrid(size)(torch.stack([scale, x, y], dim=1))
    without_angle = SimilarityGrid(size)(torch.stack([scale, zero, x, y], dim=1))
    assert torch.equal(attention, without_angle)

    cosine, sine = scale * (math.pi * angle).cos(), scale * (math.pi * angle).sin()
    similarity = SimilarityGrid(size)(torch.stack([cosine, sine, x, y], dim=1))
    matrix = torch.stack([cosine, -sine, x, sine, cosine, y], dim=1)
    assert torch.equal(similarity, AffineGrid(size)(matrix))

    theta = random(5, 6)
    affine, no_perspective = AffineGrid(size)(theta), torch.cat([theta, torch.zeros(5, 2)], dim=1)
    torch.testing.assert_close(ProjectiveGrid(size)(no_perspective), affine, atol=1e-6, rtol=0)
    moved = control_points() @ theta.view(5, 2, 3)[:, :, :2].mT + theta.view(5, 1, 2, 3)[..., 2]
    torch.testing.assert_close(TRANSFORMS["tps"](size)(moved.flatten(1)), affine, atol=1e-5, rtol=0)


def test_a_similarity_turns_clockwise_and_keeps_angles() -> None:
    """θ = (0, 1, 0, 0) reads the pixel to the right of the centre from below it."""
    grid = SimilarityGrid((3, 3))(torch.tensor([[0.0, 1.0, 0.0, 0.0]]))
    torch.testing.assert_close(grid[0, 1, 2], torch.tensor([0.0, 2 / 3]))
    torch.testing.assert_close(grid[0, 2, 1], torch.tensor([-2 / 3, 0.0]))


@every_transform
def test_a_spline_or_matrix_is_no_state_of_a_checkpoint(name: str) -> None:
    assert not TRANSFORMS[name]((28, 28)).state_dict()


@every_transform
def test_gradients_in_float64(name: str) -> None:
    generator = TRANSFORMS[name]((3, 4)).double()
    theta = (0.8 * generator.identity + 0.15 * random(2, len(generator.identity))).double().requires_grad_()
    images = random(2, 2, 5, 6, seed=1).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda i, t: sample(i, generator(t)), (images, theta))


@every_transform
def test_a_grid_is_the_points_at_every_pixel_centre(name: str) -> None:
    size = (9, 14)
    generator = TRANSFORMS[name](size)
    theta = generator.identity + 0.2 * random(3, len(generator.identity))
    centres = regular_grid(size).reshape(1, -1, 2).expand(3, -1, -1)
    found = generator.points(theta, centres)
    torch.testing.assert_close(found.view(3, *size, 2), generator(theta), atol=1e-5, rtol=0)


@every_transform
def test_the_identity_leaves_points_where_they_are(name: str) -> None:
    generator, points = TRANSFORMS[name]((2, 3)), 2 * random(2, 50, 2)  # outside of the image too
    torch.testing.assert_close(generator.points(generator.identity.expand(2, -1), points), points, atol=1e-5, rtol=0)
