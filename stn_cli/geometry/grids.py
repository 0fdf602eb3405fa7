"""Sampling grids: for every output pixel, where in the input it is read.

Convention for the whole package: coordinates are normalised so that −1..1 spans an image from edge to edge,
points are (x, y), sizes are (height, width), and a map goes output → input (section 3 of the paper).
"""

import torch
from jaxtyping import Float
from torch import Tensor

# Pixel centres: pixel i of n lies at (2i + 1) / n − 1. The paper leaves this open (a reading, "R"); unlike the corner
# convention it gives one meaning to "scale 0.5" at every resolution, and a 1-pixel image a centre.
ALIGN_CORNERS = False

# Below this the projective denominator counts as "behind the horizon". 1e-4 sends such points 1e4 half-images away,
# outside every image, and keeps everything finite in float32.
HORIZON = 1e-4


def pixel_centres(
    count: int, *, dtype: torch.dtype = torch.float32, device: torch.device | str | None = None
) -> Float[Tensor, "count"]:
    """Return the normalised coordinates of `count` pixel centres along one side, in (−1, 1)."""
    # Made on the device itself: a copy from the host would break the capture of a training step.
    return torch.arange(1 - count, count, 2, dtype=dtype, device=device) / count


def regular_grid(
    size: tuple[int, int], *, dtype: torch.dtype = torch.float32, device: torch.device | str | None = None
) -> Float[Tensor, "height width 2"]:
    """Return the regular target grid: the (x, y) of every pixel centre of an image of `size`."""
    height, width = size
    y = pixel_centres(height, dtype=dtype, device=device)
    x = pixel_centres(width, dtype=dtype, device=device)
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)


def affine_grid(theta: Float[Tensor, "n 2 3"], size: tuple[int, int]) -> Float[Tensor, "n height width 2"]:
    """Return the sampling grid of affine maps (equation 1).

    Convention: `theta` maps normalised output coordinates to normalised input coordinates; `size` is the output's.
    """
    return _planes(theta, size).permute(0, 2, 3, 1)


def projective_grid(matrix: Float[Tensor, "n 3 3"], size: tuple[int, int]) -> Float[Tensor, "n height width 2"]:
    """Return the sampling grid of projective maps (homographies).

    Convention: `matrix` maps homogeneous normalised output coordinates to input coordinates; a positive third
    coordinate is in front of the horizon. Points on or behind it are sent far outside the input, always finite.
    """
    homogeneous = _planes(matrix, size)
    return _divided(homogeneous[:, :2], homogeneous[:, 2:]).permute(0, 2, 3, 1)


def affine_points(theta: Float[Tensor, "n 2 3"], points: Float[Tensor, "n k 2"]) -> Float[Tensor, "n k 2"]:
    """Return where affine maps take points; `affine_grid` is this at every pixel centre."""
    return _images(theta, points).transpose(1, 2)


def projective_points(matrix: Float[Tensor, "n 3 3"], points: Float[Tensor, "n k 2"]) -> Float[Tensor, "n k 2"]:
    """Return where projective maps take points; `projective_grid` is this at every pixel centre."""
    homogeneous = _images(matrix, points)
    return _divided(homogeneous[:, :2], homogeneous[:, 2:]).transpose(1, 2)


def _planes(matrix: Float[Tensor, "n rows 3"], size: tuple[int, int]) -> Float[Tensor, "n rows height width"]:
    """Return a linear form of (x, y, 1) for every row of the matrix, at every pixel centre.

    One plane per row, in whose rows the processor's vectors run: a grid of (x, y) pairs takes 4 times as long, and the
    sampler reads planes just as fast (0.29 against 1.06 µs for 28×28, two cores). Each form is separable, its x part
    and its y part meet in one addition; no matrix product that TF32 could round.
    """
    x = pixel_centres(size[1], dtype=matrix.dtype, device=matrix.device)
    y = pixel_centres(size[0], dtype=matrix.dtype, device=matrix.device)
    of_x, of_y, constant = matrix[..., None].unbind(2)
    along_x, along_y = of_x * x + constant, of_y * y
    return along_x[:, :, None, :] + along_y[:, :, :, None]


def _images(matrix: Float[Tensor, "n rows 3"], points: Float[Tensor, "n k 2"]) -> Float[Tensor, "n rows k"]:
    x, y = points[:, None, :, 0], points[:, None, :, 1]
    return matrix[:, :, 0, None] * x + matrix[:, :, 2, None] + matrix[:, :, 1, None] * y


def _divided(point: Float[Tensor, "n 2 *pixels"], depth: Float[Tensor, "n 1 *pixels"]) -> Float[Tensor, "n 2 *pixels"]:
    # The push is 0 before the horizon, and 1e8 a little behind it. By arithmetic, because masks take three times as
    # long as all the rest of a grid.
    push = (HORIZON - depth).clamp(min=0, max=HORIZON) * HORIZON**-3
    return torch.addcmul(push, point, depth.clamp(min=HORIZON).reciprocal())


def share_outside(grid: Float[Tensor, "n height width 2"]) -> Float[Tensor, "n"]:
    """Return, per grid, the share of its points that lie outside the input image, 0..1."""
    return (~(grid.abs().amax(dim=-1) <= 1)).float().mean(dim=(1, 2))  # NaN lies outside too


def square_beyond(grid: Float[Tensor, "n height width 2"]) -> Float[Tensor, "n"]:
    """Return, per grid, the mean square of how far its points lie beyond the input image's edges, in half sides."""
    return (grid.abs() - 1).clamp(min=0).square().sum(dim=-1).mean(dim=(1, 2))
