"""What a distortion is: parameters drawn at random, apart from the warp they are applied with."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import final

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from stn_cli.geometry.sampling import sample
from stn_cli.randomness import named_generator

Parameters = Mapping[str, Tensor]

# Parameters of a frozen set are drawn in blocks of this many images, one generator each, so that asking for more
# images changes none of the earlier ones.
BLOCK = 1024


class Distortion(ABC):
    """A random warp of images: `draw` its parameters, then `apply` them.

    `canvas`: (height, width) of the distorted image.
    """

    canvas: tuple[int, int]

    @abstractmethod
    def draw(self, n: int, generator: Generator) -> dict[str, Tensor]:
        """Return the parameters of `n` warps by name, float32, first dimension n, on the generator's device."""

    @abstractmethod
    def grid(self, parameters: Parameters, in_size: tuple[int, int]) -> Float[Tensor, "n height width 2"]:
        """Return the exact output → input map of every image: the sampling grid on the canvas."""

    @final
    def apply(
        self, images: Float[Tensor, "n channels in_height in_width"], parameters: Parameters
    ) -> Float[Tensor, "n channels height width"]:
        """Return the distorted images; outside of them lies zero, the background of digits."""
        return sample(images, self.grid(parameters, (images.shape[2], images.shape[3])))


def draw_frozen(distortion: Distortion, n: int, seed: int, split: str) -> dict[str, Tensor]:
    """Return the one frozen draw of a split ("test", "validation", "train") for a seed.

    The same (seed, split) gives the same parameters in every process; a larger `n` begins with the smaller one's.
    """
    blocks = [
        distortion.draw(BLOCK, named_generator(seed, f"frozen distortion of {split}", block))
        for block in range(max(1, -(-n // BLOCK)))
    ]
    return {name: torch.cat([block[name] for block in blocks])[:n] for name in blocks[0]}


def uniform(n: int, low_high: tuple[float, float], generator: Generator, *shape: int) -> Float[Tensor, "n ..."]:
    """Return numbers uniform between the two bounds, [n, *shape]."""
    low, high = low_high
    return low + (high - low) * torch.rand(n, *shape, generator=generator, device=generator.device)
