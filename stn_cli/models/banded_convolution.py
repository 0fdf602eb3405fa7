"""Convolution, max-pooling, bias and ReLU as one matrix product and a few passes over it, for CPUs.

The pixels of one pooling window depend on a square of the input a little larger than a filter. Written as vectors, the
one is the other times a matrix that holds the filters once for each place in the window, shifted: a band. Its zeros
cost up to half as much arithmetic again, but the places of a window come out as blocks of rows, whose maximum is taken
elementwise: nothing is searched, gathered or scattered. The bias is a column more, and what is seen there is 1.

Maps lie with their images side by side, [channels, height, width, n] in memory, so that whatever is taken apart or
added up here is rows of n values: in that order a processor's vectors are full however small filters and maps are.
"""

import math
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from stn_cli.models.max_pooling import give_back, let_win

CONFLICT = 1024  # bytes: rows that begin at multiples of it compete for the same lines of a cache


class _Shape(NamedTuple):
    """Sizes of a stage. A pooling window sees `reach` × `reach` inputs, and the next one lies `pool` farther."""

    n: int
    channels: int
    height: int
    width: int
    filters: int
    side: int
    pool: int
    ceil_mode: bool
    dtype: torch.dtype
    device: torch.device

    @property
    def outputs(self) -> tuple[int, int]:
        """Height and width of what is handed on."""
        part = self.pool - 1 if self.ceil_mode else 0
        high, wide = ((length - self.side + 1 + part) // self.pool for length in (self.height, self.width))
        return high, wide

    @property
    def reach(self) -> int:
        return self.side + self.pool - 1

    @property
    def seen(self) -> tuple[int, int]:
        """Height and width of the maps with as many zeros behind as the last windows reach over their edges."""
        high, wide = ((count - 1) * self.pool + self.reach for count in self.outputs)
        return max(high, self.height), max(wide, self.width)


class Workspaces:
    """The memory that a stage works in, kept from one training batch to the next.

    What lies where it lay before is in the processor's caches, and views of it need to be made but once. There is more
    than one where a stage is called again before the backward pass of the call before; a batch of another size takes
    their place. Copies of a stage begin with none.
    """

    def __init__(self) -> None:
        self._free: list[_Workspace] = []

    def take(self, shape: _Shape) -> "_Workspace":
        """Return one that nobody uses."""
        while self._free:
            workspace = self._free.pop()
            if workspace.shape == shape:
                return workspace
        return _Workspace(shape)

    def give(self, workspace: "_Workspace") -> None:
        """Take one back."""
        self._free.append(workspace)

    def __deepcopy__(self, _: dict[int, Any]) -> "Workspaces":
        return Workspaces()


def banded_stage(
    images: Float[Tensor, "n channels height width"],
    weight: Float[Tensor, "filters channels side side"],
    bias: Float[Tensor, "filters"],
    *,
    pool: int = 1,
    ceil_mode: bool = False,
    precision: torch.dtype | None = None,
    workspaces: Workspaces | None = None,
) -> Float[Tensor, "n filters h w"]:
    """Return ReLU(max-pooling(convolution)), stride 1 and no padding; differentiable once.

    Products are made, and maps returned, in `precision`, by default that of the weights, and added up in float32 at
    least. Where several values of a window are the largest, the first gets the gradient, as in PyTorch.
    `workspaces`: of the stage, for speed.
    Convention: the result's memory is [filters, h, w, n]; images that lie so are read as they are.
    """
    n, channels, height, width = images.shape
    filters, _, side, _ = weight.shape
    precision = weight.dtype if precision is None else precision
    shape = _Shape(n, channels, height, width, filters, side, pool, ceil_mode, precision, images.device)
    if torch.is_grad_enabled() and any(part.requires_grad for part in (images, weight, bias)):
        return cast("Tensor", _BandedStage.apply(images, weight, bias, shape, workspaces or Workspaces()))
    return _Workspace(shape).forward(images, weight, bias).permute(3, 0, 1, 2)


class _BandedStage(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, images: Tensor, weight: Tensor, bias: Tensor, shape: _Shape, workspaces: Workspaces
    ) -> Tensor:
        workspace = workspaces.take(shape)
        output = workspace.forward(images, weight, bias)
        ctx.shape, ctx.workspaces, ctx.workspace = shape, workspaces, workspace
        ctx.save_for_backward(images, weight, bias, output)
        return output.permute(3, 0, 1, 2)

    @staticmethod
    @once_differentiable  # whose type has no names of parameters
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, ...]:
        images, weight, bias, output = cast("tuple[Tensor, ...]", ctx.saved_tensors)
        workspace = cast("_Workspace | None", ctx.workspace)
        ctx.workspace = None
        if workspace is None:  # a second time: the first has used up what the forward pass left
            workspace = cast("Workspaces", ctx.workspaces).take(ctx.shape)
            workspace.forward(images, weight, bias)
        gradient = torch.ops.aten.threshold_backward(_lying(gradients[0]), output, 0)
        workspace.spread(gradient)
        of_images = of_weight = of_bias = None
        if any(ctx.needs_input_grad[1:]):
            of_weight, of_bias = workspace.gradients_of_filters()
        if ctx.needs_input_grad[0]:
            lying = workspace.gradient_of_images()
            lay_so = images.permute(1, 2, 3, 0).is_contiguous()
            of_images = lying.permute(3, 0, 1, 2) if lay_so else lying.flatten(0, 2).T.contiguous().view(images.shape)
        ctx.workspaces.give(workspace)
        return of_images, of_weight, of_bias, None, None


class _Workspace:
    """The memory of a stage for one shape, and all views of it that forward and backward pass need."""

    def __init__(self, shape: _Shape) -> None:
        self.shape = shape
        n, channels, filters, pool, reach = shape.n, shape.channels, shape.filters, shape.pool, shape.reach
        (rows, columns), places, values = shape.outputs, pool * pool, reach * reach * channels

        def empty(*size: int) -> Tensor:
            return torch.empty(size, dtype=shape.dtype, device=shape.device)

        # What the windows see of the maps; once it has served for the gradients of the filters, that of itself. Below
        # it a row of ones, and one of zeros where their number would be odd: bf16 is multiplied in pairs.
        self.seen = empty(values + 2 - values % 2, rows * columns * n).zero_()
        self.seen[values] = 1
        self.patches = self.seen[:values]
        self.taken = self.patches.view(reach, reach, channels, rows, columns, n)
        self.maps = None
        if shape.seen != (shape.height, shape.width):
            self.maps = empty(channels, *shape.seen, n).zero_()
        high, wide = shape.seen
        row = wide * n
        self.strides = (row, n, high * row, pool * row, pool * n, 1)

        self.band = empty(places * filters, len(self.seen)).zero_()
        # Which comes second in a product is laid out anew: of one channel that is less with the filters, and up to 1.8
        # times as fast; of more it is not, and their sum over the places takes longer than is won.
        self.seen_first = channels == 1
        self.band_gradient = empty(len(self.seen), len(self.band)).T if self.seen_first else torch.empty_like(self.band)
        self.diagonals, self.diagonals_gradient = (_diagonals(band, shape) for band in (self.band, self.band_gradient))
        self.bias, self.bias_gradient = (
            band[:, values].view(places, filters) for band in (self.band, self.band_gradient)
        )
        self.filters = self.band[:, :values]

        # A row of slots before those of the windows' places: see `forward` and `spread`.
        slots = empty(pool + places, filters, rows, columns, n)
        in_windows = slots[pool:].view(pool, pool, *slots.shape[1:])
        self.products = slots[pool:].view(len(self.band), -1)
        self.across = [slots[:pool], *in_windows.unbind(1)]
        self.down = [self.across[-2][0], *self.across[-1]]
        self.left_out = _left_out(in_windows, shape)
        self.pieces = _pieces(self.taken, shape)

    def forward(self, images: Tensor, weight: Tensor, bias: Tensor) -> Float[Tensor, "filters h w n"]:
        """Return the stage's output, and keep what the gradients need."""
        shape = self.shape
        maps = _lying(images.to(shape.dtype))
        if self.maps is not None:
            self.maps[:, : shape.height, : shape.width].copy_(maps)
            maps = self.maps
        self.taken.copy_(maps.as_strided(self.taken.shape, self.strides))
        self.diagonals.copy_(weight.permute(0, 2, 3, 1))
        self.bias.copy_(bias)
        torch.mm(self.band, self.seen, out=self.products)
        for view in self.left_out:
            view.fill_(-math.inf)
        let_win(self.across)
        # ReLU, which cannot be told where to put its result.
        return let_win(self.down).clamp_min(0)

    def spread(self, gradient: Float[Tensor, "filters h w n"]) -> None:
        """Give the gradient of each maximum to the place that it is from."""
        if self.shape.pool == 1:
            self.down[1].copy_(gradient)
        give_back(gradient, self.down)
        give_back(self.across[-1], self.across)

    def gradients_of_filters(self) -> tuple[Float[Tensor, "filters channels side side"], Float[Tensor, "filters"]]:
        """Return those of weight and bias from what is spread."""
        wide = _wide(self.shape.dtype)
        if self.seen_first:
            torch.mm(self.seen, self.products.T, out=self.band_gradient.T)
            of_weight = self.diagonals_gradient.movedim(2, -1).sum(dim=(0, 1), dtype=wide).permute(3, 2, 0, 1)
        else:
            torch.mm(self.products, self.seen.T, out=self.band_gradient)
            of_weight = self.diagonals_gradient.sum(dim=(0, 1), dtype=wide).permute(0, 3, 1, 2)
        return of_weight, self.bias_gradient.sum(0, dtype=wide)

    def gradient_of_images(self) -> Float[Tensor, "channels height width n"]:
        """Return it from what is spread: the sums of overlapping patches. The last thing that is asked for."""
        torch.mm(self.filters.T, self.products, out=self.patches)
        shape = self.shape
        # Nine or sixteen numbers may be added up in bf16: that errs 1.3 times as much as the library, 49 twice as much.
        dtype = shape.dtype if shape.pool > 1 else _wide(shape.dtype)
        total = self.patches.new_zeros(shape.channels, *shape.seen, shape.n, dtype=dtype)
        for piece, strides, offset in self.pieces:
            total.as_strided(piece.shape, strides, offset).add_(piece)
        return total if self.maps is None else total[:, : shape.height, : shape.width].contiguous()


def _lying(maps: Float[Tensor, "n channels height width"]) -> Float[Tensor, "channels height width n"]:
    """Return maps with their images side by side.

    A copy of four dimensions is made by several threads, twice as fast with two, and 1.1 to 1.4 times with one. Where
    images compete for lines of the caches, PyTorch's kernel for a swap of two dimensions is 1.5 to 3 times as fast.
    """
    turned = maps.permute(1, 2, 3, 0)
    if turned.is_contiguous() or maps[0].nbytes % CONFLICT:
        return turned.contiguous()
    return maps.flatten(1).T.contiguous().view(turned.shape)


def _diagonals(band: Tensor, shape: _Shape) -> Float[Tensor, "pool pool filters side side channels"]:
    """Return the entries of a band that are a filter's, for every place in the window; a view."""
    pool, side, reach = shape.pool, shape.side, shape.reach
    one_filter, one = band.stride()
    across, row, column = shape.filters * one_filter, reach * shape.channels * one, shape.channels * one
    size = (pool, pool, shape.filters, side, side, shape.channels)
    return band.as_strided(size, (pool * across + row, across + column, one_filter, row, column, one))


def _left_out(places: Float[Tensor, "pool pool filters rows columns n"], shape: _Shape) -> list[Tensor]:
    """Return views of all that lies beyond the convolution's last row and column: nothing there is to be largest."""
    (high, wide), pool, side = shape.outputs, shape.pool, shape.side
    below = high * pool - (shape.height - side + 1)
    right = wide * pool - (shape.width - side + 1)
    views = [places[-below:, ..., -1, :, :]] if below > 0 else []
    return views + ([places[:, -right:, ..., -1, :]] if right > 0 else [])


def _pieces(patches: Tensor, shape: _Shape) -> list[tuple[Tensor, tuple[int, ...], int]]:
    """Return views of parts of patches, with the strides and the offset of where in the maps they belong.

    Squares as wide as windows are apart meet nowhere, so one of every window is added in one go.
    """
    n, pool, reach, (rows, columns) = shape.n, shape.pool, shape.reach, shape.outputs
    high, wide = shape.seen
    down, across = (pool if count > 1 else reach for count in (rows, columns))
    row = wide * n
    strides = (high * row, pool * row, pool * n, 1, row, n)
    apart = patches.permute(2, 3, 4, 5, 0, 1)
    return [
        (apart[..., y : y + down, x : x + across], strides, y * row + x * n)
        for y in range(0, reach, down)
        for x in range(0, reach, across)
    ]


def _wide(dtype: torch.dtype) -> torch.dtype:
    """Return the precision that sums over images are made in."""
    return torch.promote_types(dtype, torch.float32)
