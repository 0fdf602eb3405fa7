"""The sampler: reads an input at the points of a sampling grid (equations 3–7)."""

from typing import Literal

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import grid_sample

from stn_cli.geometry.grids import ALIGN_CORNERS

Border = Literal["zeros", "border"]
Kernel = Literal["bilinear", "nearest"]


def sample(
    images: Float[Tensor, "n channels in_height in_width"],
    grid: Float[Tensor, "n height width 2"],
    *,
    border: Border = "zeros",
    kernel: Kernel = "bilinear",
) -> Float[Tensor, "n channels height width"]:
    """Return `images` read at the points of `grid`, the same warp for every channel.

    Convention: grid[n, y, x] is the (x, y) of the input point that output pixel (y, x) shows, −1..1 spans the input.
    `border`: what lies outside, black ("zeros", for digits) or the nearest edge pixel ("border", for photographs).
    `kernel`: bilinear (equation 5) or nearest, the paper's integer sampling (equation 4), which has no gradient in
    the grid.
    """
    return grid_sample(images, grid, mode=kernel, padding_mode=border, align_corners=ALIGN_CORNERS)
