import numpy as np
import pytest
import scipy.stats
import torch
from scipy.interpolate import RBFInterpolator

from stn_cli.distortions.distortion import draw_frozen
from stn_cli.distortions.elastic import Elastic
from stn_cli.distortions.similarity import Similarity
from stn_cli.geometry.grids import regular_grid
from stn_cli.geometry.thin_plate_splines import control_points


def elastic(canvas: tuple[int, int] = (28, 28)) -> Elastic:
    return Elastic(canvas=canvas, scale=(0.75, 1.0), control_point_sigma=1.5)


def test_drawn_parameters_follow_their_distributions() -> None:
    drawn = draw_frozen(elastic(), 4096, 0, "test")
    assert drawn["control_point_shift"].shape == (4096, 16, 2)
    assert drawn["scale"].min() >= 0.75
    assert drawn["scale"].max() <= 1
    assert scipy.stats.kstest(drawn["scale"], scipy.stats.uniform(0.75, 0.25).cdf).pvalue > 0.01
    assert scipy.stats.kstest(drawn["control_point_shift"].flatten(), scipy.stats.norm(0, 1.5).cdf).pvalue > 0.01


@pytest.mark.parametrize("canvas", [(28, 28), (42, 40)])
def test_grid_equals_scipys_spline_then_the_scale_undone(canvas: tuple[int, int]) -> None:
    in_size, distortion = (28, 26), elastic(canvas)
    parameters = draw_frozen(distortion, 5, 0, "test")
    # The canvas is normalised, as everywhere; what is read lies in pixels about the centre of the input.
    points = control_points().double().numpy()
    pixels = regular_grid(canvas).double().numpy().reshape(-1, 2)
    found = distortion.grid(parameters, in_size).double().numpy().reshape(5, -1, 2) * np.array(in_size[::-1]) / 2
    for grid, scale, shift in zip(found, parameters["scale"], parameters["control_point_shift"], strict=True):
        moved = points * np.array(canvas[::-1]) / 2 + shift.numpy()
        spline = RBFInterpolator(points, moved, kernel="thin_plate_spline", degree=1)
        np.testing.assert_allclose(grid, spline(pixels) / scale.item(), atol=1e-3, rtol=0)


@pytest.mark.parametrize("canvas", [(28, 28), (42, 40)])
def test_without_moved_points_the_digit_is_scaled_in_the_middle(canvas: tuple[int, int]) -> None:
    images = torch.rand(3, 1, 28, 26, generator=torch.Generator().manual_seed(0))
    scale = torch.tensor([0.75, 0.9, 1.0])
    warped = elastic(canvas).apply(images, {"scale": scale, "control_point_shift": torch.zeros(3, 16, 2)})
    scaled = Similarity(canvas=canvas, rotation=(0.0, 0.0), scale=(0.75, 1.0), place=False)
    expected = scaled.apply(images, {"scale": scale, "rotation": torch.zeros(3)})
    torch.testing.assert_close(warped, expected, atol=1e-4, rtol=0)


def test_points_moved_together_move_the_picture_the_other_way() -> None:
    images = torch.rand(1, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    shift = torch.tensor([3.0, -2.0]).expand(1, 16, 2)
    warped = elastic().apply(images, {"scale": torch.ones(1), "control_point_shift": shift})
    expected = torch.nn.functional.pad(images, (3, 3, 2, 2))[..., :28, 6:34]
    torch.testing.assert_close(warped, expected, atol=1e-4, rtol=0)
