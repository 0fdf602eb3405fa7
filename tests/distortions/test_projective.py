from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import perspective

from stn_cli.distortions.distortion import Parameters
from stn_cli.distortions.projective import Projective
from stn_cli.distortions.similarity import Similarity
from stn_cli.geometry.grids import regular_grid

Frozen = Callable[..., dict[str, torch.Tensor]]
P = Projective(in_size=(28, 28), canvas=(28, 28), scale=(0.75, 1.0), corner_sigma=5.0)
SQUARE = torch.tensor([[-14.0, -14.0], [14.0, -14.0], [14.0, 14.0], [-14.0, 14.0]])


def moved(corner_shift: torch.Tensor, scale: float = 1.0) -> Parameters:
    return {"scale": torch.tensor([scale]), "corner_shift": corner_shift[None]}


def solved(source_corners: torch.Tensor) -> np.ndarray:
    """The homography from −1..1 to normalised corners by eight linear equations in float64, 1 at its centre."""
    rows, values = [], []
    for (x, y), (u, v) in zip(SQUARE.double() / 14, source_corners.double(), strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        values += [u, v]
    return np.append(np.linalg.solve(np.array(rows), np.array(values)), 1).reshape(3, 3)


def test_drawn_parameters_lie_in_their_ranges(frozen: Frozen) -> None:
    """How they are distributed there: test_statistics.py."""
    drawn = frozen(P, 4096)
    assert drawn["corner_shift"].shape == (4096, 4, 2)
    assert drawn["scale"].min() >= 0.75
    assert drawn["scale"].max() <= 1


@pytest.mark.parametrize("canvas", [(28, 28), (42, 40)])
def test_without_moved_corners_the_digit_is_scaled_in_the_middle(canvas: tuple[int, int]) -> None:
    images = torch.rand(3, 1, 28, 26, generator=torch.Generator().manual_seed(0))
    scale = torch.tensor([0.75, 0.9, 1.0])
    sizes = {"in_size": (28, 26), "canvas": canvas}
    unmoved = Projective(**sizes, scale=(0.75, 1.0), corner_sigma=0.0)
    warped = unmoved.apply(images, {"scale": scale, "corner_shift": torch.zeros(3, 4, 2)})
    scaled = Similarity(**sizes, rotation=(0.0, 0.0), scale=(0.75, 1.0), place=False)
    expected = scaled.apply(images, {"scale": scale, "rotation": torch.zeros(3)})
    torch.testing.assert_close(warped, expected, atol=1e-4, rtol=0)


def test_corners_are_given_clockwise_from_the_top_left_in_pixels_of_the_scaled_input() -> None:
    shift = torch.tensor([[1.0, 2.0], [3.0, -4.0], [-5.0, 6.0], [7.0, 8.0]])
    corners = P.source_corners(moved(shift, 0.8))[0]
    torch.testing.assert_close(corners * 14 * 0.8, SQUARE + shift)


def test_every_corner_of_the_canvas_shows_its_source_corner() -> None:
    shift = torch.tensor([[1.0, 2.0], [3.0, -4.0], [-5.0, 6.0], [7.0, 8.0]])
    fine = Projective(in_size=(28, 28), canvas=(1001, 1001), scale=(1.0, 1.0), corner_sigma=0.0)
    grid, corners = fine.grid(moved(shift))[0], fine.source_corners(moved(shift))[0]
    seen = torch.stack([grid[0, 0], grid[0, -1], grid[-1, -1], grid[-1, 0]])
    torch.testing.assert_close(seen, corners, atol=0.1, rtol=0)  # half a canvas pixel away from the corners


def test_warp_equals_torchvisions(frozen: Frozen) -> None:
    images = torch.rand(64, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    parameters = frozen(P, 64)
    warped, corners = P.apply(images, parameters), P.source_corners(parameters)
    compared = 0
    for image, result, source in zip(images, warped, corners, strict=True):
        third = torch.from_numpy(solved(source)[2]).float()
        if (torch.cat([SQUARE / 14, torch.ones(4, 1)], dim=1) @ third > 0.05).all():  # the horizon is out of view
            start, end = (14 * source + 14).tolist(), (SQUARE + 14).tolist()
            expected = perspective(image[None], start, end)[0]
            torch.testing.assert_close(result, expected, atol=1e-3, rtol=0)
            compared += 1
    assert compared > 48


def test_warp_equals_pillows(frozen: Frozen) -> None:
    """The coefficients are solved for here; Pillow counts from the pixel's corner and repeats the edge."""
    images = torch.rand(64, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    parameters, compared = frozen(P, 64), 0
    to_pixels = np.array([[14, 0, 14], [0, 14, 14], [0, 0, 1]])  # from −1..1 to 0..28
    for image, result, source in zip(images, P.apply(images, parameters), P.source_corners(parameters), strict=True):
        homography = solved(source)
        if not (np.append(SQUARE.numpy() / 14, np.ones((4, 1)), axis=1) @ homography[2] > 0.05).all():
            continue  # the horizon is in view
        matrix = to_pixels @ homography @ np.linalg.inv(to_pixels)
        coefficients = (matrix / matrix[2, 2]).flatten()[:8].tolist()
        picture = Image.fromarray(image[0].numpy())
        expected = picture.transform((28, 28), Image.Transform.PERSPECTIVE, coefficients, Image.Resampling.BILINEAR)
        points = np.append(regular_grid((28, 28)).numpy(), np.ones((28, 28, 1)), axis=2) @ homography.T
        inside = (np.abs(points[..., :2] / points[..., 2:]) < 1 - 1 / 28).all(axis=-1)
        np.testing.assert_allclose(result[0].numpy()[inside], np.array(expected)[inside], atol=1e-3, rtol=0)
        compared += int(inside.sum())
    assert compared > 64 * 28 * 28 / 2


def test_grid_equals_a_solved_homography_and_lies_outside_beyond_the_horizon(frozen: Frozen) -> None:
    wild = Projective(in_size=(28, 28), canvas=(28, 28), scale=(0.75, 1.0), corner_sigma=15.0)  # so that corners cross
    parameters = frozen(wild, 256)
    grids, corners = wild.grid(parameters), wild.source_corners(parameters)
    points = torch.cat([regular_grid((28, 28)), torch.ones(28, 28, 1)], dim=-1).double().numpy()
    share_behind = []
    for grid, source in zip(grids.double().numpy(), corners, strict=True):
        homogeneous = points @ solved(source).T
        expected = homogeneous[..., :2] / homogeneous[..., 2:]
        behind, near = homogeneous[..., 2] < 0, np.abs(expected).max(axis=-1) < 5
        np.testing.assert_allclose(grid[near & ~behind], expected[near & ~behind], atol=1e-3, rtol=0)
        assert (np.abs(grid[behind | ~near]).max(axis=-1) > 1.1).all()
        share_behind.append(behind.mean())
    assert grids.isfinite().all()
    assert 0.02 < np.mean(share_behind) < 0.5
