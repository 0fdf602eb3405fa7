from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.interpolate import RBFInterpolator
from scipy.ndimage import map_coordinates

from stn_cli.distortions.elastic import Elastic
from stn_cli.distortions.similarity import Similarity
from stn_cli.geometry.grids import regular_grid
from stn_cli.geometry.reproducible import fitted
from stn_cli.geometry.thin_plate_splines import SOURCE_BITS, control_points, grid_basis

Frozen = Callable[..., dict[str, torch.Tensor]]


def elastic(canvas: tuple[int, int] = (28, 28), in_size: tuple[int, int] = (28, 28)) -> Elastic:
    return Elastic(in_size=in_size, canvas=canvas, scale=(0.75, 1.0), control_point_sigma=1.5)


def test_drawn_parameters_lie_in_their_ranges(frozen: Frozen) -> None:
    """How they are distributed there: test_statistics.py."""
    drawn = frozen(elastic(), 4096)
    assert drawn["control_point_shift"].shape == (4096, 16, 2)
    assert drawn["scale"].min() >= 0.75
    assert drawn["scale"].max() <= 1


@pytest.mark.parametrize("canvas", [(28, 28), (42, 40)])
def test_map_and_images_equal_scipys_spline_then_the_scale_undone(canvas: tuple[int, int], frozen: Frozen) -> None:
    distortion, half = elastic(canvas, (28, 26)), np.array([13, 14])
    parameters = {name: value.double() for name, value in frozen(distortion, 5).items()}
    images = torch.rand(5, 1, 28, 26, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    # The canvas is normalised, as everywhere; what is read lies in pixels about the centre of the input.
    points = control_points().double().numpy()
    pixels = regular_grid(canvas, dtype=torch.float64).numpy().reshape(-1, 2)
    found, warped = distortion.grid(parameters), distortion.apply(images, parameters)
    for k in range(5):
        moved = points * np.array(canvas[::-1]) / 2 + parameters["control_point_shift"][k].numpy()
        spline = RBFInterpolator(points, moved, kernel="thin_plate_spline", degree=1)
        expected = spline(pixels) / parameters["scale"][k].item()
        np.testing.assert_allclose(found[k].numpy().reshape(-1, 2) * half, expected, atol=1e-5, rtol=0)
        rows_and_columns = (expected + half - 0.5).T[::-1]
        seen = map_coordinates(images[k, 0].numpy(), rows_and_columns, order=1, mode="grid-constant")
        np.testing.assert_allclose(warped[k, 0].flatten(), seen, atol=2e-5, rtol=0)


@pytest.mark.parametrize("canvas", [(28, 28), (42, 40)])
def test_without_moved_points_the_digit_is_scaled_in_the_middle(canvas: tuple[int, int]) -> None:
    images = torch.rand(3, 1, 28, 26, generator=torch.Generator().manual_seed(0))
    scale, in_size = torch.tensor([0.75, 0.9, 1.0]), (28, 26)
    warped = elastic(canvas, in_size).apply(images, {"scale": scale, "control_point_shift": torch.zeros(3, 16, 2)})
    scaled = Similarity(in_size=in_size, canvas=canvas, rotation=(0.0, 0.0), scale=(0.75, 1.0), place=False)
    expected = scaled.apply(images, {"scale": scale, "rotation": torch.zeros(3)})
    torch.testing.assert_close(warped, expected, atol=1e-4, rtol=0)


def test_points_moved_together_move_the_picture_the_other_way() -> None:
    images = torch.rand(1, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    shift = torch.tensor([3.0, -2.0]).expand(1, 16, 2)
    warped = elastic().apply(images, {"scale": torch.ones(1), "control_point_shift": shift})
    expected = torch.nn.functional.pad(images, (3, 3, 2, 2))[..., :28, 6:34]
    torch.testing.assert_close(warped, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("sigma", [0.0, 1.5, 20.0, 100.0])
def test_grids_for_files_are_sums_that_no_order_of_adding_changes(sigma: float, frozen: Frozen) -> None:
    """However far the points are moved: what is added are fractions of 53 bits in all."""
    wild = Elastic(in_size=(28, 28), canvas=(64, 60), scale=(0.05, 4.0), control_point_sigma=sigma)
    parameters = {name: value.double() for name, value in frozen(wild, 64).items()}
    source = fitted(wild.source_points(parameters), SOURCE_BITS)
    basis = grid_basis(control_points(), wild.canvas, torch.float64)
    terms = [source[:, None, j] * basis[:, j, None] for j in range(16)]
    for order in (terms, terms[::-1], terms[5:] + terms[:5]):
        assert torch.equal(sum(order[1:], order[0]).reshape(64, *wild.canvas, 2), wild.grid(parameters))
