"""Random numbers for parameters. On a CPU generator they have the same bits on every machine."""

import math

import torch
from jaxtyping import Float, Float64
from torch import Generator, Tensor

# Of sin(x·90°) / x by x², for |x| ≤ 1: 1.571^17 / 17! is 6e-12.
_SINE = [(-1) ** k * (math.pi / 2) ** (2 * k + 1) / math.factorial(2 * k + 1) for k in range(8)]
# Of 2 artanh(s) / s by s² = log((1 + s) / (1 − s)) / s, for |s| ≤ 0.172: 0.172^15 / 15 is 2e-13.
_LOGARITHM = [2 / (2 * k + 1) for k in range(7)]
_MIDDLE = math.sqrt(0.5)  # of mantissas, so that s is small on both sides


def uniform(n: int, low_high: tuple[float, float], generator: Generator, *shape: int) -> Float[Tensor, "n ..."]:
    """Return numbers uniform between the two bounds, [n, *shape]."""
    low, high = low_high
    return low + (high - low) * torch.rand(n, *shape, generator=generator, device=generator.device)


def normal(n: int, sigma: float, generator: Generator, *shape: int) -> Float[Tensor, "n ..."]:
    """Return normal numbers with mean 0 and standard deviation `sigma`, [n, *shape].

    PyTorch's own differ in their last bits between vector widths, so on the CPU they are made by Box and Muller's
    transform in float64 from operations whose bits are defined, accurate to 1e-8 (0.1 ms for 1,000 of them). A
    generator on another device gives that device's own.
    """
    count = n * torch.Size(shape).numel()
    if generator.device.type != "cpu":
        return sigma * torch.randn(n, *shape, generator=generator, device=generator.device)
    first, second = torch.rand(2, -(-count // 2), generator=generator, dtype=torch.float64)
    radius = (-2 * sigma * sigma * _logarithm(1 - first)).sqrt()
    # A triangle wave takes quarter turns (the cosine is one ahead) to where the polynomial is the sine.
    turns = torch.stack([4 * second + 1, 4 * second], dim=1)
    waves = (turns + 1).remainder_(4).sub_(2).abs_().neg_().add_(1)
    return (radius[:, None] * waves * _polynomial(_SINE, waves * waves)).flatten()[:count].float().reshape(n, *shape)


def _logarithm(x: Float64[Tensor, "n"]) -> Float64[Tensor, "n"]:
    """Return the natural logarithm of numbers in (0, 1], to float32's accuracy."""
    mantissa, exponent = torch.frexp(x)  # 0.5 ≤ mantissa < 1
    s = (mantissa - _MIDDLE) / (mantissa + _MIDDLE)
    return s * _polynomial(_LOGARITHM, s * s) + (exponent.double() * math.log(2) + math.log(_MIDDLE))


def _polynomial(coefficients: list[float], x: Float64[Tensor, "*shape"]) -> Float64[Tensor, "*shape"]:
    result = torch.full_like(x, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        result.mul_(x).add_(coefficient)
    return result
