"""Random numbers for parameters. On a CPU generator they have the same bits on every machine."""

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from stn_cli.geometry.reproducible import logarithm, sine_cosine


def uniform(n: int, low_high: tuple[float, float], generator: Generator, *shape: int) -> Float[Tensor, "n ..."]:
    """Return numbers uniform between the two bounds, [n, *shape]."""
    low, high = low_high
    return low + (high - low) * torch.rand(n, *shape, generator=generator, device=generator.device)


def normal(n: int, sigma: float, generator: Generator, *shape: int) -> Float[Tensor, "n ..."]:
    """Return normal numbers with mean 0 and standard deviation `sigma`, [n, *shape].

    PyTorch's own differ in their last bits between vector widths, so on the CPU they are made by Box and Muller's
    transform in float64 from operations whose bits are defined. A generator on another device gives that device's own.
    """
    if generator.device.type != "cpu":
        return sigma * torch.randn(n, *shape, generator=generator, device=generator.device)
    pairs = -(-n * torch.Size(shape).numel() // 2)
    first, second = torch.rand(2, pairs, generator=generator, dtype=torch.float64)
    radius = (-2 * logarithm(1 - first)).sqrt()
    sine, cosine = sine_cosine(360 * second)
    both = torch.stack([radius * cosine, radius * sine], dim=1).flatten()
    return (sigma * both[: n * torch.Size(shape).numel()]).float().reshape(n, *shape)
