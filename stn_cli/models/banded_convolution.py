"""Convolutions as products with banded matrices, for CPUs.

A part of an output row depends on a few rows of the input, a little longer than itself. Written as vectors, the one is
the other times a matrix that holds the filters once for each place in the part, shifted: a band. Its zeros cost up to
twice the arithmetic, but a few large products replace many small sums: where there is one input channel that needs a
gradient, as behind a transformer, three times as fast as the library (benchmarks/convolutions.py).
"""

from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor


class _Shape(NamedTuple):
    """Sizes of a convolution: `part` output columns at a time see `reach` input columns."""

    n: int
    height: int
    width: int
    channels: int
    filters: int
    side: int
    part: int

    @property
    def out_height(self) -> int:
        return self.height - self.side + 1

    @property
    def parts(self) -> int:
        return (self.width - self.side + 1) // self.part

    @property
    def reach(self) -> int:
        return self.part + self.side - 1


def banded_convolution(
    images: Float[Tensor, "n channels height width"], weight: Float[Tensor, "filters channels side side"]
) -> Float[Tensor, "n filters out_height out_width"]:
    """Return the convolution, stride 1 and no padding, in channels-last order; differentiable once."""
    return cast("Tensor", _BandedConvolution.apply(images, weight))


class _BandedConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor) -> Tensor:
        filters, channels, side, _ = weight.shape
        n, _, height, width = images.shape
        shape = _Shape(n, height, width, channels, filters, side, _part(width - side + 1))
        patches, band = _patches(images, shape), _band(weight, shape)
        ctx.save_for_backward(patches, band)
        ctx.shape = shape
        return (patches @ band).view(n, shape.out_height, -1, filters).permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        patches, band = cast("tuple[Tensor, Tensor]", ctx.saved_tensors)
        shape = cast("_Shape", ctx.shape)
        rows = gradients[0].permute(0, 2, 3, 1).reshape(len(patches), -1)
        images = _gathered(rows @ band.T, shape) if ctx.needs_input_grad[0] else None
        weight = None
        if ctx.needs_input_grad[1]:
            products = _diagonals(patches.T @ rows, shape).sum(dim=3, dtype=_wide(rows.dtype))
            weight = products.permute(3, 2, 0, 1).to(rows.dtype)
        return images, weight


def _part(out_width: int) -> int:
    """Return how many output columns to take at a time, a divisor of them all.

    Few, so that little of the band is zeros: (part + side − 1) / side is the factor on the arithmetic. But four or
    more, or the sums of overlapping patches take longer than the products.
    """
    divisors = [part for part in range(1, out_width + 1) if out_width % part == 0]
    return min((part for part in divisors if part >= 4), default=out_width)


def _patches(images: Tensor, shape: _Shape) -> Float[Tensor, "vectors values"]:
    """Return what each part of an output row sees, [n · out_height · parts, side · reach · channels]."""
    row, pixel = shape.width * shape.channels, shape.channels
    lying = images.permute(0, 2, 3, 1).contiguous()
    sizes = (shape.n, shape.out_height, shape.parts, shape.side, shape.reach * pixel)
    return lying.as_strided(sizes, (shape.height * row, row, shape.part * pixel, row, 1)).reshape(
        shape.n * shape.out_height * shape.parts, -1
    )


def _band(weight: Tensor, shape: _Shape) -> Float[Tensor, "values part_and_filters"]:
    """Return the matrix that takes a patch to its part of an output row."""
    band = weight.new_zeros(shape.side * shape.reach * shape.channels, shape.part * shape.filters)
    _diagonals(band, shape).copy_(weight.permute(2, 3, 1, 0).unsqueeze(3))
    return band


def _diagonals(band: Tensor, shape: _Shape) -> Float[Tensor, "side side channels part filters"]:
    """Return the entries of a band by the filters' own places, once for every place in the part; a view."""
    strides = band.view(shape.side, shape.reach, shape.channels, shape.part, shape.filters).stride()
    rows, columns, channels, part, filters = strides
    sizes = (shape.side, shape.side, shape.channels, shape.part, shape.filters)
    return band.as_strided(sizes, (rows, columns, channels, part + columns, filters))


def _gathered(patches: Tensor, shape: _Shape) -> Float[Tensor, "n channels height width"]:
    """Return the sums of overlapping patches, added in float32."""
    seen = patches.view(shape.n, shape.out_height, shape.parts, shape.side, shape.reach, shape.channels)
    total = patches.new_zeros((shape.n, shape.height, shape.width, shape.channels), dtype=_wide(patches.dtype))
    for row in range(shape.side):
        for k in range(shape.parts):
            left = k * shape.part
            total[:, row : row + shape.out_height, left : left + shape.reach] += seen[:, :, k, row]
    return total.permute(0, 3, 1, 2).to(patches.dtype)


def _wide(dtype: torch.dtype) -> torch.dtype:
    """Return the precision that sums are made in."""
    return torch.promote_types(dtype, torch.float32)
