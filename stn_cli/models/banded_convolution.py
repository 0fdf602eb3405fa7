"""Convolution, max-pooling, bias and ReLU as one matrix product and a few passes over it, for CPUs.

The pixels of one pooling window depend on a square of the input a little larger than a filter. Written as vectors, the
one is the other times a matrix that holds the filters once for each place in the window, shifted: a band. Its zeros
cost up to half as much arithmetic again, but the places of a window come out as blocks of rows, whose maximum is taken
elementwise: nothing is searched, gathered or scattered.

Maps lie with their images side by side, [channels, height, width, n] in memory, so that whatever is taken apart or
added up here is rows of n values: in that order a processor's vectors are full however small filters and maps are.
"""

from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad


class _Shape(NamedTuple):
    """Sizes of a stage: `rows` × `columns` tiles of `tile` × `tile` windows of `pool` × `pool` outputs.

    A tile sees `reach` × `reach` inputs, and the next one lies a `stride` farther.
    """

    channels: int
    filters: int
    side: int
    pool: int
    tile: int
    rows: int
    columns: int

    @property
    def stride(self) -> int:
        return self.pool * self.tile

    @property
    def reach(self) -> int:
        return self.side + self.stride - 1


def banded_stage(
    images: Float[Tensor, "n channels height width"],
    weight: Float[Tensor, "filters channels side side"],
    bias: Float[Tensor, "filters"],
    *,
    pool: int = 1,
    ceil_mode: bool = False,
    precision: torch.dtype | None = None,
) -> Float[Tensor, "n filters h w"]:
    """Return ReLU(max-pooling(convolution)), stride 1 and no padding; differentiable once.

    Products are made, and maps returned, in `precision`, by default that of the weights; their sums in float32 at
    least. Where several values of a window are the largest, the first gets the gradient, as in PyTorch.
    Convention: the result's memory is [filters, h, w, n]; images that lie so are read as they are.
    """
    precision = weight.dtype if precision is None else precision
    return cast("Tensor", _BandedStage.apply(images, weight, bias, pool, ceil_mode, precision))


class _BandedStage(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, images: Tensor, weight: Tensor, bias: Tensor, pool: int, ceil_mode: bool, precision: torch.dtype
    ) -> Tensor:
        filters, channels, side, _ = weight.shape
        height, width = (length - side + 1 for length in images.shape[2:])
        part = pool - 1 if ceil_mode else 0
        rows, columns = (height + part) // pool, (width + part) // pool
        tile = _tile(channels, filters, pool, height, width)
        shape = _Shape(channels, filters, side, pool, tile, rows // tile, columns // tile)
        maps = _padded(_lying(images.to(precision)), shape)
        patches, band = _patches(maps, shape), _band(weight.to(precision), shape)
        products = (band @ patches).view(pool, pool, tile, tile, filters, shape.rows, shape.columns, -1)
        _leave_out(products, height, width)
        largest, kept = _largest(products.flatten(0, 1))
        output = largest.new_empty(filters, rows, columns, len(images))
        torch.add(largest, bias.to(precision)[:, None, None, None], out=_by_tile(output, shape)).relu_()
        ctx.save_for_backward(patches, band, kept, output)
        ctx.shape, ctx.size, ctx.maps = shape, images.shape, maps.shape
        ctx.lies = images.permute(1, 2, 3, 0).is_contiguous()
        return output.permute(3, 0, 1, 2)

    @staticmethod
    @once_differentiable  # whose type has no names of parameters
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, ...]:
        patches, band, kept, output = cast("tuple[Tensor, ...]", ctx.saved_tensors)
        shape = cast("_Shape", ctx.shape)
        gradient = torch.ops.aten.threshold_backward(_lying(gradients[0]), output, 0)
        products = _spread(_by_tile(gradient, shape), kept).view(len(band), -1)
        images = weight = bias = None
        if ctx.needs_input_grad[0]:
            height, width = ctx.size[2:]
            lying = _gathered(band.T @ products, ctx.maps, shape)[:, :height, :width]
            images = lying.permute(3, 0, 1, 2) if ctx.lies else lying.flatten(0, 2).T.contiguous().view(ctx.size)
        if ctx.needs_input_grad[1]:
            weight = _filters(products @ patches.T, shape)
        if ctx.needs_input_grad[2]:
            bias = gradient.flatten(1).sum(1, dtype=_wide(gradient.dtype))
        return images, weight, bias, None, None, None


def _tile(channels: int, filters: int, pool: int, height: int, width: int) -> int:
    """Return how many windows, down and across, share a patch.

    Four where one channel meets few filters: then copying patches and adding up their gradients takes as long as the
    products, and there is half as much of it; the products have more zeros, but sizes that processors are better at.
    It saves a twentieth of the whole step of a network that begins so.
    """
    whole = height % (2 * pool) == 0 == width % (2 * pool)
    return 2 if pool > 1 and channels == 1 and filters <= 16 and whole else 1


def _lying(maps: Float[Tensor, "n channels height width"]) -> Float[Tensor, "channels height width n"]:
    """Return maps with their images side by side; as a swap of two dimensions, for which PyTorch has a kernel."""
    turned = maps.permute(1, 2, 3, 0)
    return turned if turned.is_contiguous() else maps.flatten(1).T.contiguous().view(turned.shape)


def _padded(maps: Float[Tensor, "channels height width n"], shape: _Shape) -> Float[Tensor, "channels high wide n"]:
    """Return maps with as many zeros below and on the right as the last tiles reach over their edges."""
    below = (shape.rows - 1) * shape.stride + shape.reach - maps.shape[1]
    right = (shape.columns - 1) * shape.stride + shape.reach - maps.shape[2]
    return pad(maps, (0, 0, 0, max(right, 0), 0, max(below, 0))) if max(right, below) > 0 else maps


def _by_tile(maps: Tensor, shape: _Shape) -> Float[Tensor, "tile tile filters rows columns n"]:
    """Return a view of maps, [filters, rows · tile, columns · tile, n], by the windows of a tile."""
    tile = shape.tile
    return maps.view(shape.filters, shape.rows, tile, shape.columns, tile, -1).permute(2, 4, 0, 1, 3, 5)


def _patches(maps: Tensor, shape: _Shape) -> Float[Tensor, "values tiles"]:
    """Return what each tile sees, [reach · reach · channels, rows · columns · n]."""
    return _seen(maps, shape).permute(4, 5, 0, 1, 2, 3).reshape(shape.reach**2 * shape.channels, -1)


def _seen(maps: Tensor, shape: _Shape) -> Float[Tensor, "channels rows columns n reach reach"]:
    """Return a view of maps, [channels, height, width, n], by what each tile sees of them."""
    return maps.unfold(1, shape.reach, shape.stride).unfold(2, shape.reach, shape.stride)


def _band(weight: Tensor, shape: _Shape) -> Float[Tensor, "places_and_filters values"]:
    """Return the matrix that takes what a tile sees to the outputs in it."""
    band = weight.new_zeros(shape.stride**2 * shape.filters, shape.reach**2 * shape.channels)
    _diagonals(band, shape).copy_(weight.permute(0, 2, 3, 1))
    return band


def _filters(band: Tensor, shape: _Shape) -> Float[Tensor, "filters channels side side"]:
    """Return the sums of a band's entries over the places of each filter."""
    return _diagonals(band, shape).to(_wide(band.dtype)).sum(dim=(0, 1, 2, 3)).permute(0, 3, 1, 2)


def _diagonals(band: Tensor, shape: _Shape) -> Float[Tensor, "pool pool tile tile filters side side channels"]:
    """Return the entries of a band that are a filter's, for every place in the tile; a view."""
    pool, tile, side, reach = shape.pool, shape.tile, shape.side, shape.reach
    strides = band.view(pool, pool, tile, tile, shape.filters, reach, reach, shape.channels).stride()
    down, across, low, right, *rest = strides
    row, column = rest[1:3]
    places = (down + row, across + column, low + pool * row, right + pool * column)
    return band.as_strided((pool, pool, tile, tile, shape.filters, side, side, shape.channels), (*places, *rest))


def _leave_out(products: Float[Tensor, "pool pool tile tile filters rows columns n"], height: int, width: int) -> None:
    """Let nothing beyond the last row and column of the convolution be the largest of its window."""
    pool, _, tile, _, _, rows, columns, _ = products.shape
    below, right = rows * tile * pool - height, columns * tile * pool - width  # above 0 only where a tile is a window
    if below > 0:
        products[-below:, ..., -1, :, :] = -torch.inf
    if right > 0:
        products[:, -right:, ..., -1, :] = -torch.inf


def _largest(
    places: Tensor,
) -> tuple[Float[Tensor, "tile tile filters rows columns n"], Float[Tensor, "places_less_1 ..."]]:
    """Return the maximum over the places, and for each but the first where those before it keep it: 1, else 0.

    As numbers, since boolean masks take ten times as long to make and to use. The first place becomes the maximum.
    """
    kept = torch.empty_like(places[1:])
    largest = places[0]
    for place, mask in zip(places[1:], kept, strict=True):
        torch.ge(largest, place, out=mask)
        torch.maximum(largest, place, out=largest)
    return largest, kept


def _spread(gradient: Tensor, kept: Tensor) -> Float[Tensor, "places tile tile filters rows columns n"]:
    """Return the gradient of all places from that of their maximum: it goes to the one that is the maximum."""
    if len(kept) == 0:
        return gradient[None]
    places = gradient.new_empty(len(kept) + 1, *gradient.shape)
    for k in range(len(kept), 0, -1):
        torch.mul(gradient, kept[k - 1], out=places[k - 1])
        torch.sub(gradient, places[k - 1], out=places[k])
        gradient = places[k - 1]
    return places


def _gathered(patches: Tensor, maps: torch.Size, shape: _Shape) -> Float[Tensor, "channels height width n"]:
    """Return the sums of overlapping patches, added in float32; `maps` is the size of what they were taken from."""
    total = patches.new_zeros(maps, dtype=_wide(patches.dtype))
    seen = _seen(total, shape)
    apart = patches.view(shape.reach, shape.reach, *seen.shape[:4]).permute(2, 3, 4, 5, 0, 1)
    # Squares as wide as tiles are apart meet in none of them, so one of every tile is added in one go.
    high, wide = (shape.stride if count > 1 else shape.reach for count in (shape.rows, shape.columns))
    for to_rows, rows in zip(torch.split(seen, high, 4), torch.split(apart, high, 4), strict=True):
        for to, square in zip(torch.split(to_rows, wide, 5), torch.split(rows, wide, 5), strict=True):
            to.add_(square)
    return total


def _wide(dtype: torch.dtype) -> torch.dtype:
    """Return the precision that sums are made in."""
    return torch.promote_types(dtype, torch.float32)
