"""The compiled kernels as operators of PyTorch, so that whatever records or profiles operations sees them."""

import ctypes
from functools import lru_cache

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from stn_cli.compiled.compiler import kernels

_library = torch.library.Library("stn", "DEF")
_library.define(
    "stage(Tensor images, Tensor weight, Tensor bias, int pool, bool paired, Tensor(a!) output, Tensor(b!)? lanes,"
    " Tensor(c!)? winners) -> ()"
)
_library.define(
    "stage_backward(Tensor gradient, Tensor weight, Tensor lanes, Tensor winners, int pool, bool paired, int height,"
    " int width, Tensor(a!)? of_images, Tensor(b!) of_weight, Tensor(c!) of_bias) -> ()"
)


def lanes() -> int:
    """Return how many images a kernel takes together."""
    return int(kernels().stn_lanes())


def pairs() -> bool:
    """Return whether the kernels can multiply in bf16, two numbers at a time."""
    return hasattr(kernels(), "stn_stage_double")


def multiply_adds(rounds: int, *, paired: bool) -> int:
    """Multiply and add in registers, float32 or bf16, with as many threads as PyTorch; return how many operations."""
    kernel = kernels().stn_peak_double if paired else kernels().stn_peak_single
    kernel.restype = ctypes.c_int64
    sums = torch.empty(torch.get_num_threads())
    return int(kernel(ctypes.c_int64(rounds), ctypes.c_int64(len(sums)), _address(sums)))


def _stage(
    images: Float[Tensor, "n channels height width"],
    weight: Float[Tensor, "filters channels side side"],
    bias: Float[Tensor, "filters"],
    pool: int,
    paired: bool,
    output: Float[Tensor, "n filters rows columns"],
    lanes: Float[Tensor, "numbers"] | None,
    winners: UInt8[Tensor, "windows"] | None,
) -> None:
    sizes = _sizes((*images.shape, len(weight), weight.shape[3], pool, *output.shape[2:]))
    parts = (images, weight, bias, output, lanes, winners)
    kernel = kernels().stn_stage_double if paired else kernels().stn_stage_single
    kernel(sizes, *map(_address, parts), ctypes.c_int64(torch.get_num_threads()))


def _stage_backward(
    gradient: Float[Tensor, "n filters rows columns"],
    weight: Float[Tensor, "filters channels side side"],
    lanes: Float[Tensor, "numbers"],
    winners: UInt8[Tensor, "windows"],
    pool: int,
    paired: bool,
    height: int,
    width: int,
    of_images: Float[Tensor, "n channels height width"] | None,
    of_weight: Float[Tensor, "filters channels side side"],
    of_bias: Float[Tensor, "filters"],
) -> None:
    # hooks on saved tensors may lay them elsewhere
    lanes, winners = (part if part.data_ptr() % 64 == 0 else part.clone() for part in (lanes, winners))
    filters, channels, side, _ = weight.shape
    sizes = _sizes((len(gradient), channels, height, width, filters, side, pool, *gradient.shape[2:]))
    parts = (gradient, weight, lanes, winners, of_images, of_weight, of_bias)
    kernel = kernels().stn_stage_backward_double if paired else kernels().stn_stage_backward_single
    kernel(sizes, *map(_address, parts), ctypes.c_int64(torch.get_num_threads()))


@lru_cache(256)
def _sizes(sizes: tuple[int, ...]) -> ctypes.Array[ctypes.c_int64]:
    return (ctypes.c_int64 * len(sizes))(*sizes)


def _address(tensor: Tensor | None) -> ctypes.c_void_p:
    """Return where a tensor's numbers lie; null for none."""
    if tensor is None:
        return ctypes.c_void_p(None)
    assert tensor.is_contiguous()
    return ctypes.c_void_p(tensor.data_ptr())


_library.impl("stage", _stage, "CPU")
_library.impl("stage_backward", _stage_backward, "CPU")
