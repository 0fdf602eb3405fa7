"""The sampler: reads an input at the points of a sampling grid (equations 3–7)."""

from typing import Literal

import torch
from jaxtyping import Float, Float64, UInt8
from torch import Tensor
from torch.nn.functional import grid_sample, pad

from stn_cli.geometry.grids import ALIGN_CORNERS

Border = Literal["zeros", "border"]
Kernel = Literal["bilinear", "nearest"]

# Sampling positions of bytes are rounded to 2^−16 of a pixel: a weight then has 32 bits, its product with a byte 40.
POSITION_BITS = 16


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
    if len(images) > 1 and images.stride(0) == 1:
        # Images that lie side by side, pixel by pixel: the sampler would fetch each number from a line of its own, and
        # take 1.2 times as long, forth and back, as with this.
        images = images.flatten(1).contiguous().view(images.shape)
    return grid_sample(images, grid, mode=kernel, padding_mode=border, align_corners=ALIGN_CORNERS)


def sample_volumes(
    volumes: Float[Tensor, "n channels in_depth in_height in_width"], grid: Float[Tensor, "n depth height width 3"]
) -> Float[Tensor, "n channels depth height width"]:
    """Return volumes read trilinearly at the (x, y, z) of a grid, −1..1 from face to face, black outside."""
    return grid_sample(volumes, grid, align_corners=ALIGN_CORNERS)


def sample_bytes(
    images: UInt8[Tensor, "n channels in_height in_width"], grid: Float64[Tensor, "n height width 2"]
) -> Float64[Tensor, "n channels height width"]:
    """Return bytes read at the points of `grid`, bilinear, black outside, as exact numbers in 0..255.

    Every number on the way is a fraction with fewer than 53 bits, so no operation rounds, and the result has the same
    bits however the sampler orders and fuses them: on every processor, with any number of threads.
    """
    height, width = images.shape[2:]
    # With sides that are powers of two, going to normalised coordinates and back is exact.
    new_height, new_width = (1 << (side - 1).bit_length() for side in (height, width))
    planes = [_position(grid[..., 0], width, new_width), _position(grid[..., 1], height, new_height)]
    padded = pad(images.double(), (0, new_width - width, 0, new_height - height))
    return grid_sample(padded, torch.stack(planes, dim=1).permute(0, 2, 3, 1), align_corners=ALIGN_CORNERS)


def to_bytes(levels: Float[Tensor, "*shape"]) -> UInt8[Tensor, "*shape"]:
    """Return numbers in 0..255 as bytes, rounded to the nearest, halves up."""
    return (levels + 0.5).clamp(0, 255).to(torch.uint8)  # which cuts the fraction off


def _position(
    coordinate: Float64[Tensor, "n height width"], side: int, new_side: int
) -> Float64[Tensor, "n height width"]:
    """Return normalised coordinates of a side as those of a longer one, at whole fractions of a pixel."""
    unit = 2.0**POSITION_BITS
    fractions = coordinate * (side / 2 * unit)
    fractions.add_((side - 1) / 2 * unit).clamp_(-2 * unit, (side + 1) * unit).round_()
    return fractions.mul_(2 / (new_side * unit)).add_(1 / new_side - 1)  # exact: powers of two, and short sums
