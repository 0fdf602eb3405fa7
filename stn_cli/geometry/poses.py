"""How a digit stands in a picture, read off the map that says which point of the digit each point of the picture shows.

Convention: points are (x, y) in pixels from the middle of the picture, or of the original image; y points down.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Complex128, Float, Float64
from torch import Tensor

from stn_cli.geometry.matrices import inverse

LEAST_POINTS = 16  # of a digit that a pose is fitted to
MOST_STRETCH = 0.8  # one side nine times too long; beyond it the centre may come out anywhere, and mirrors have over 1
_FLAT = 1e-6  # pixels⁴; below this determinant of their covariance points lie on one line


class Poses(NamedTuple):
    """How digits stand in pictures. All four are NaN where that could not be measured.

    `rotation`: degrees, clockwise on the screen. `log_scale`: logarithm of the size relative to the original. `centre`:
    of the digit. `stretch`: by how much it is narrower than long, as a vector: 0 for a similarity; of length s the
    longest side is (1 + s) / (1 − s) times as long as it should be beside the shortest.
    """

    rotation: Float64[Tensor, "n"]
    log_scale: Float64[Tensor, "n"]
    centre: Float64[Tensor, "n 2"]
    stretch: Float64[Tensor, "n 2"]

    def at(self, index: Tensor) -> "Poses":
        """Return some of them."""
        return Poses(*(value[index] for value in self))

    @property
    def measured(self) -> Bool[Tensor, "n"]:
        """Which of them could be measured."""
        return self.rotation.isfinite()


def fit_poses(picture: Float[Tensor, "n k 2"], original: Float[Tensor, "n k 2"], shown: Bool[Tensor, "n k"]) -> Poses:
    """Return the poses of digits in pictures whose points `picture` show the points `original`.

    They are those of the affine maps that fit best by least squares where `shown`. Not measured are digits that fewer
    than `LEAST_POINTS` points show, or points on one line, or that are mirrored or squeezed beyond `MOST_STRETCH`.
    """
    points = torch.cat([picture, torch.ones_like(picture[..., :1])], dim=-1).double()
    weighted = points * shown[..., None]
    gram = weighted.mT @ points
    along_x, along_y, constant = (inverse(gram) @ weighted.mT @ original.double()).unbind(dim=1)
    # The affine map as complex numbers: z → a·(z + stretch·conj(z)) + constant.
    a = torch.complex(along_x[:, 0] + along_y[:, 1], along_x[:, 1] - along_y[:, 0]) / 2
    stretch = torch.complex(along_x[:, 0] - along_y[:, 1], along_x[:, 1] + along_y[:, 0]) / 2 / a
    centre = _unstretched(-_complex(constant) / a, stretch)
    poses = Poses(-a.angle().rad2deg(), -a.abs().log(), _pairs(centre), _pairs(stretch))
    known = (_scatter(gram) > _FLAT) & (shown.sum(dim=1) >= LEAST_POINTS) & (stretch.abs() <= MOST_STRETCH)
    return Poses(*(torch.where(known if value.ndim == 1 else known[:, None], value, math.nan) for value in poses))


def seen_at(poses: Poses, original: Float[Tensor, "#n k 2"]) -> Float64[Tensor, "n k 2"]:
    """Return where in the pictures points of the original are seen, if the poses are all there is to it."""
    turn = torch.polar(poses.log_scale.exp(), poses.rotation.deg2rad())
    points = _unstretched(_complex(original) * turn[:, None], _complex(poses.stretch)[:, None])
    return _pairs(points) + poses.centre[:, None]


def common_pose(poses: Poses) -> Poses:
    """Return the pose that measured ones have in common: the circular mean of rotations, the median of the rest."""
    middle = [value.median(dim=0, keepdim=True).values for value in poses[1:]]
    return Poses(_mean_direction(poses.rotation).angle().rad2deg()[None], *middle)


def distances(poses: Poses, pose: Poses) -> Float64[Tensor, "4 n"]:
    """Return how far poses are from one: in rotation (degrees), logarithm of scale, centre (pixels) and stretch."""
    turned, *rest = (ours - theirs for ours, theirs in zip(poses, pose, strict=True))
    turned = (turned + 180).remainder(360) - 180
    return torch.stack([turned.abs(), *(_squares(value).sqrt() for value in rest)])


def variances(poses: Poses) -> Float64[Tensor, "4"]:
    """Return the variances of measured rotations, logarithms of scales, centres (pixels²) and stretches.

    That of rotations is circular, 1 − the length of the mean direction: 0 for one angle, 1 for all angles alike, and
    for small ones half of the variance in radians.
    """
    rest = [_squares(value - value.mean(dim=0)).mean() for value in poses[1:]]
    return torch.stack([1 - _mean_direction(poses.rotation).abs().clamp(max=1), *rest])


def circular_deviation(variance: float) -> float:
    """Return the standard deviation in degrees that a circular variance stands for, as of a wrapped normal."""
    return math.degrees(math.sqrt(-2 * math.log(max(1 - variance, 1e-12))))


def _mean_direction(degrees: Float64[Tensor, "n"]) -> Complex128[Tensor, ""]:
    radians = degrees.deg2rad()
    return torch.polar(torch.ones_like(radians), radians).mean()


def _scatter(gram: Float64[Tensor, "n 3 3"]) -> Float64[Tensor, "n"]:
    """Return the determinants of the covariances of points, of the sums of products of their (x, y, 1)."""
    count = gram[:, 2, 2].clamp(min=1)
    middle = gram[:, 2, :2] / count[:, None]
    (xx, xy), (_, yy) = ((gram[:, i, :2] / count[:, None] - middle[:, i, None] * middle).unbind(dim=1) for i in (0, 1))
    return xx * yy - xy * xy


def _squares(values: Float64[Tensor, "n ..."]) -> Float64[Tensor, "n"]:
    return values.square().reshape(len(values), -1).sum(dim=1)


def _unstretched(points: Complex128[Tensor, "*n"], stretch: Complex128[Tensor, "*#n"]) -> Complex128[Tensor, "*n"]:
    """Return z with z + stretch·conj(z) = points."""
    return (points - stretch * points.conj()) / (1 - stretch.abs().square())


def _complex(points: Float[Tensor, "*n 2"]) -> Complex128[Tensor, "*n"]:
    return torch.view_as_complex(points.double().contiguous())


def _pairs(values: Complex128[Tensor, "*n"]) -> Float64[Tensor, "*n 2"]:
    return torch.view_as_real(values.resolve_conj())
