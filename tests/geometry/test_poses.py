"""How digits stand in pictures: against least squares and rotations of NumPy and SciPy."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from scipy.stats import circmean, circstd, circvar
from torch import Tensor

from stn_cli.geometry.grids import regular_grid
from stn_cli.geometry.poses import (
    LEAST_POINTS,
    Poses,
    circular_deviation,
    common_pose,
    distances,
    fit_poses,
    seen_at,
    variances,
)

N = 40
LATTICE = 20 * regular_grid((12, 12), dtype=torch.float64).reshape(1, -1, 2)
ALL = torch.ones(N, 144, dtype=torch.bool)


def random(*shape: int, seed: int = 0) -> Tensor:
    return 2 * torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) - 1


def affine_maps() -> tuple[Tensor, Tensor]:
    """Matrices that turn by any angle, scale, stretch and do not mirror, and translations."""
    linear = torch.linalg.matrix_exp(random(N, 2, 2)) @ torch.linalg.matrix_exp(
        math.pi * random(N, 1, 1, seed=1) * torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)
    )
    return linear, 5 * random(N, 1, 2, seed=2)


def mapped() -> Tensor:
    linear, shift = affine_maps()
    return LATTICE @ linear.mT + shift


def test_a_pose_tells_where_the_points_of_an_affine_map_are_seen():
    original = mapped()
    poses = fit_poses(LATTICE.expand(N, -1, -1), original, ALL)
    assert poses.measured.all()
    torch.testing.assert_close(seen_at(poses, original), LATTICE.expand(N, -1, -1))
    torch.testing.assert_close(seen_at(poses, torch.zeros(1, 1, 2))[:, 0], poses.centre)


def test_rotation_is_that_of_procrustes_and_scale_that_of_least_squares():
    original = mapped() + 0.5 * random(N, 144, 2, seed=3)
    poses = fit_poses(LATTICE.expand(N, -1, -1), original, ALL)
    flat = np.pad(LATTICE[0].numpy(), ((0, 0), (0, 1)))
    for k, points in enumerate(original.numpy()):
        centred = np.pad(points - points.mean(axis=0), ((0, 0), (0, 1)))
        # y points down, so SciPy's counter-clockwise is clockwise on the screen, and a pose takes original to picture.
        turn, _ = Rotation.align_vectors(flat, centred, weights=np.full(144, 1.0))
        if abs(turn.as_rotvec()[:2]).max() < 1e-6:  # SciPy may also turn the plane over
            assert poses.rotation[k].item() == pytest.approx(turn.as_rotvec(degrees=True)[2], abs=1e-6)
        similar = np.concatenate([np.stack([flat[:, 0], -flat[:, 1]], 1), np.stack([flat[:, 1], flat[:, 0]], 1)])
        a, *_ = np.linalg.lstsq(similar, centred[:, :2].T.ravel(), rcond=None)
        assert poses.log_scale[k].item() == pytest.approx(-math.log(math.hypot(*a)))


def test_only_what_is_shown_is_fitted_and_by_least_squares():
    original, shown = mapped() + random(N, 144, 2, seed=3), random(N, 144, seed=4) > 0.3
    poses = fit_poses(LATTICE.expand(N, -1, -1), torch.where(shown[..., None], original, 1e4), shown)
    for k in range(N):
        points = np.pad(LATTICE[0, shown[k]].numpy(), ((0, 0), (0, 1)), constant_values=1)
        theta, *_ = np.linalg.lstsq(points, original[k, shown[k]].numpy(), rcond=None)
        found = seen_at(poses.at(torch.tensor([k])), torch.from_numpy(points @ theta)[None])[0]
        torch.testing.assert_close(found, torch.from_numpy(points[:, :2]))


def test_stretch_is_the_ratio_of_the_sides():
    wide = LATTICE * torch.tensor([1.5, 0.5])  # the picture shows the digit 1/1.5 as wide and twice as high
    poses = fit_poses(LATTICE, wide, ALL[:1])
    assert poses.stretch[0].tolist() == pytest.approx([0.5, 0.0])
    assert (1 + 0.5) / (1 - 0.5) == 1.5 / 0.5
    turned = fit_poses(LATTICE, wide.flip(-1), ALL[:1])
    assert not turned.measured.item()  # which is a mirror image
    corners = torch.tensor([[[15.0, 5.0], [-15.0, 5.0]]])
    torch.testing.assert_close(seen_at(poses, corners).float(), torch.tensor([[[10.0, 10.0], [-10.0, 10.0]]]))


@pytest.mark.parametrize("few", ["points", "directions", "width", "numbers"])
def test_what_cannot_be_told_is_not_measured(few: str):
    picture, original, shown = LATTICE.repeat(2, 1, 1), mapped()[:2], ALL[:2].clone()
    if few == "points":
        shown[0, LEAST_POINTS - 1 :] = False
    elif few == "directions":
        picture[0, :, 1] = 0.7 * picture[0, :, 0] + 3
    elif few == "width":
        original = picture.clone()
        original[0, :, 1] *= 10
        original[1, :, 1] *= 8
    else:
        original[0], shown[0] = math.nan, False
    poses = fit_poses(picture, original, shown)
    assert poses.measured.tolist() == [False, True]
    assert all(value[0].isnan().all() and value[1].isfinite().all() for value in poses)


def poses_of(rotation: Tensor) -> Poses:
    n = len(rotation)
    return Poses(rotation, random(n, seed=1), random(n, 2, seed=2), random(n, 2, seed=3))


@pytest.mark.parametrize(("middle", "spread"), [(0, 90), (170, 30), (-60, 180)])
def test_rotations_are_averaged_around_the_circle(middle: float, spread: float):
    rotation = (middle + spread * random(500) + 180) % 360 - 180
    radians = np.deg2rad(rotation.numpy())
    poses = poses_of(rotation)
    common = common_pose(poses)
    apart = (common.rotation.item() - np.rad2deg(circmean(radians)) + 180) % 360 - 180
    assert apart == pytest.approx(0, abs=1e-6)
    found = variances(poses)
    assert found[0].item() == pytest.approx(circvar(radians))
    assert circular_deviation(found[0].item()) == pytest.approx(np.rad2deg(circstd(radians)))
    assert distances(poses, common)[0].max().item() <= 180
    torch.testing.assert_close(variances(poses_of(rotation + 77)), found)


def test_the_other_variances_are_the_usual_ones():
    poses = poses_of(90 * random(500))
    found = variances(poses)[1:].tolist()
    expected = [value.numpy().var(axis=0).sum() for value in poses[1:]]
    assert found == pytest.approx(expected)
    one = poses.at(torch.tensor([3]))
    assert distances(one, one).flatten().tolist() == [0, 0, 0, 0]
    assert variances(one).tolist() == [0, 0, 0, 0]
    apart = distances(poses, one)
    torch.testing.assert_close(apart[2], (poses.centre - one.centre).norm(dim=1))
    assert circular_deviation(0.0) == 0
