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
    # Separable: the x part and the y part meet in one addition, a single pass over the grid (and no matrix product
    # that TF32 could round).
    x = pixel_centres(size[1], dtype=theta.dtype, device=theta.device)
    y = pixel_centres(size[0], dtype=theta.dtype, device=theta.device)
    along_x = theta[:, None, :, 0] * x[None, :, None] + theta[:, None, :, 2]
    along_y = theta[:, None, :, 1] * y[None, :, None]
    return along_x[:, None, :, :] + along_y[:, :, None, :]


def projective_grid(matrix: Float[Tensor, "n 3 3"], size: tuple[int, int]) -> Float[Tensor, "n height width 2"]:
    """Return the sampling grid of projective maps (homographies).

    Convention: `matrix` maps homogeneous normalised output coordinates to input coordinates; a positive third
    coordinate is in front of the horizon. Points on or behind it are sent far outside the input, always finite.
    """
    x = pixel_centres(size[1], dtype=matrix.dtype, device=matrix.device)
    y = pixel_centres(size[0], dtype=matrix.dtype, device=matrix.device)
    along_x = matrix[:, None, :, 0] * x[None, :, None] + matrix[:, None, :, 2]
    along_y = matrix[:, None, :, 1] * y[None, :, None]
    homogeneous = along_x[:, None, :, :] + along_y[:, :, None, :]
    depth = homogeneous[..., 2:]
    return torch.where(depth < HORIZON, 1 / HORIZON, homogeneous[..., :2] / depth.clamp(min=HORIZON))


def share_outside(grid: Float[Tensor, "n height width 2"]) -> Float[Tensor, "n"]:
    """Return, per grid, the share of its points that lie outside the input image, 0..1."""
    return (~(grid.abs().amax(dim=-1) <= 1)).float().mean(dim=(1, 2))  # NaN lies outside too
