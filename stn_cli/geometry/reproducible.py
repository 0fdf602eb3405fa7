"""Elementary functions with the same bits on every machine, for files that must come out the same everywhere.

IEEE 754 defines every bit of +, −, ×, ÷, √ and of rounding. Sines and logarithms are left to the library, and differ in
the last bit between processors and vector widths. In float64, the precision of files, they are made of the defined
operations here, one kernel each, so that no compiler fuses two into one with a single rounding. In float32, the
precision of training, the library's own are taken: one kernel instead of thirty.
"""

import math

import torch
from jaxtyping import Float, Float64
from torch import Tensor

# Taylor coefficients of sin(x) / x and cos(x) by x², enough for the last bit at 45 degrees: 0.786^20 / 20! is 3e-21.
_SINE_AND_COSINE = [
    torch.tensor([[(-1) ** k / math.factorial(2 * k + 1)], [(-1) ** k / math.factorial(2 * k)]], dtype=torch.float64)
    for k in range(10)
]
# Of 2 artanh(s) = log((1 + s) / (1 − s)), for |s| below 0.172: 0.172^23 / 23 is 1e-19.
_LOGARITHM = [torch.tensor([[2 / (2 * k + 1)]], dtype=torch.float64) for k in range(12)]


def sine_cosine(degrees: Float[Tensor, "..."]) -> tuple[Float[Tensor, "..."], Float[Tensor, "..."]]:
    """Return the sine and cosine of angles in degrees, exactly 0 and ±1 at multiples of 90 in float64."""
    if degrees.dtype != torch.float64:
        radians = torch.deg2rad(degrees)
        return radians.sin(), radians.cos()
    quarters = (degrees / 90).round()
    x = (degrees - 90 * quarters) * (math.pi / 180)
    sine, cosine = _polynomials(_SINE_AND_COSINE, x * x)
    sine = sine * x
    quarter = quarters.remainder(4)
    odd = quarter.remainder(2) == 1
    sine, cosine = torch.where(odd, cosine, sine), torch.where(odd, sine, cosine)
    return torch.where(quarter >= 2, -sine, sine), torch.where((quarter == 1) | (quarter == 2), -cosine, cosine)


def logarithm(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Return the natural logarithm of positive numbers."""
    if x.dtype != torch.float64:
        return x.log()
    mantissa, exponent = torch.frexp(x)  # 0.5 ≤ mantissa < 1
    small = mantissa < math.sqrt(0.5)
    mantissa = torch.where(small, 2 * mantissa, mantissa)
    s = (mantissa - 1) / (mantissa + 1)
    return s * _polynomials(_LOGARITHM, s * s)[0] + (exponent.to(x.dtype) - small.to(x.dtype)) * math.log(2)


def snapped(x: Float[Tensor, "..."], bits: int) -> Float[Tensor, "..."]:
    """Return float64 numbers rounded to multiples of 2^−bits, others as they are.

    Sums of products of such numbers are exact as long as they fit 53 bits, in whatever order and with whatever
    instructions a matrix product or a sampler computes them.
    """
    return (x * 2.0**bits).round() * 2.0**-bits if x.dtype == torch.float64 else x


def fitted(x: Float[Tensor, "n ..."], bits: int) -> Float[Tensor, "n ..."]:
    """Return float64 numbers rounded to `bits` bits of the largest of their sample, others as they are.

    As `snapped`, for numbers of any size: each sample has a power of two of its own, so the rest of a batch changes
    none.
    """
    if x.dtype != torch.float64:
        return x
    largest = x.abs().flatten(start_dim=1).amax(dim=1).clamp(min=1).reshape(-1, *[1] * (x.ndim - 1))
    power = largest / torch.frexp(largest).mantissa
    return snapped(x / power, bits) * power


def _polynomials(
    coefficients: list[Float64[Tensor, "polynomials 1"]], x: Float64[Tensor, "*shape"]
) -> Float64[Tensor, "polynomials *shape"]:
    """Return polynomials of the same degree by Horner's rule, all at once: half of the time goes into single calls."""
    flat = x.flatten()
    result = coefficients[-1].to(x.device).repeat(1, len(flat))
    for column in coefficients[-2::-1]:
        result.mul_(flat).add_(column.to(x.device))
    return result.reshape(len(result), *x.shape)
