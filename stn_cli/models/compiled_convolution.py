"""Convolution, max-pooling, bias and ReLU by our own compiled kernels, for CPUs; see stn_cli/compiled."""

from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from stn_cli.compiled.operators import lanes, pairs

MOST_POOL = 15  # places of a window are counted in a byte


def compiled_stage(
    images: Float[Tensor, "n channels height width"],
    weight: Float[Tensor, "filters channels side side"],
    bias: Float[Tensor, "filters"],
    *,
    pool: int = 1,
    ceil_mode: bool = False,
    precision: torch.dtype = torch.float32,
) -> Float[Tensor, "n filters rows columns"]:
    """Return ReLU(max-pooling(convolution)) in float32, stride 1 and no padding; differentiable once.

    Where `precision` is bf16 and the processor multiplies so, factors are rounded to it; sums are float32 throughout.
    Where several values of a window are the largest, the first gets the gradient, as in PyTorch. The same bits with
    any number of threads.

    Raises:
        ValueError: filters, biases, images or windows do not fit together.
        ResourceError: there are no compiled kernels here.
    """
    filters, channels, side, _ = weight.shape
    if (channels, side, filters) != (images.shape[1], weight.shape[3], len(bias)) or not filters * channels:
        raise ValueError(f"filters of {tuple(weight.shape)} and {len(bias)} biases do not fit {tuple(images.shape)}")
    part = pool - 1 if ceil_mode else 0
    rows, columns = ((length - side + 1 + part) // pool for length in images.shape[2:])
    if min(rows, columns) < 1 or pool > MOST_POOL:
        raise ValueError(f"no window of {pool}×{pool} fits images of {tuple(images.shape[2:])}, filters of side {side}")
    images, weight, bias = (part.float().contiguous() for part in (images, weight, bias))
    paired = precision == torch.bfloat16 and pairs()
    if torch.is_grad_enabled():  # also where nothing needs a gradient: what cannot be differentiated is refused there
        return cast("Tensor", _CompiledStage.apply(images, weight, bias, pool, paired, rows, columns))
    output = images.new_empty(len(images), len(weight), rows, columns)
    torch.ops.stn.stage(images, weight, bias, pool, paired, output, None, None)
    return output


class _CompiledStage(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, images: Tensor, weight: Tensor, bias: Tensor, pool: int, paired: bool, rows: int, columns: int
    ) -> Tensor:
        output = images.new_empty(len(images), len(weight), rows, columns)
        padded = -(-len(images) // lanes()) * lanes()
        in_lanes = images.new_empty(padded * images.shape[1:].numel())
        winners = images.new_empty(padded * output.shape[1:].numel(), dtype=torch.uint8)
        torch.ops.stn.stage(images, weight, bias, pool, paired, output, in_lanes, winners)
        ctx.save_for_backward(weight, in_lanes, winners)
        ctx.pool, ctx.paired, ctx.shape = pool, paired, images.shape
        return output

    @staticmethod
    @once_differentiable  # whose type has no names of parameters
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, ...]:
        weight, in_lanes, winners = cast("tuple[Tensor, ...]", ctx.saved_tensors)
        of_images = weight.new_empty(ctx.shape) if ctx.needs_input_grad[0] else None
        of_weight, of_bias = torch.empty_like(weight), weight.new_empty(len(weight))
        given = gradients[0].contiguous()
        torch.ops.stn.stage_backward(
            given, weight, in_lanes, winners, ctx.pool, ctx.paired, *ctx.shape[2:], of_images, of_weight, of_bias
        )
        return of_images, of_weight, of_bias, None, None, None, None
