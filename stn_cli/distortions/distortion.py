"""What a distortion is: parameters drawn at random, apart from the warp they are applied with."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import final

import torch
from jaxtyping import Float, UInt8
from torch import Generator, Tensor

from stn_cli.geometry.grids import regular_grid
from stn_cli.geometry.sampling import sample, sample_bytes, to_bytes
from stn_cli.randomness import named_generator

Parameters = Mapping[str, Tensor]

# Parameters of a frozen set are drawn in blocks of this many images, one generator each, so that asking for more
# images changes none of the earlier ones.
BLOCK = 1024
UNDONE_AT_ONCE = 64  # images; the inverse of a spline takes 1.5 MB for each


class Distortion(ABC):
    """A random warp of images: `draw` its parameters, then `apply` them.

    `in_size`: (height, width) of the image. `canvas`: (height, width) of the distorted image.
    Convention: points are (x, y), normalised to −1..1 over the image they lie in.
    """

    in_size: tuple[int, int]
    canvas: tuple[int, int]

    @abstractmethod
    def draw(self, n: int, generator: Generator) -> dict[str, Tensor]:
        """Return the parameters of `n` warps by name, float32, first dimension n, on the generator's device."""

    @abstractmethod
    def grid(self, parameters: Parameters) -> Float[Tensor, "n height width 2"]:
        """Return the exact output → input map of every image: the sampling grid on the canvas."""

    @abstractmethod
    def to_input(self, points: Float[Tensor, "n k 2"], parameters: Parameters) -> Float[Tensor, "n k 2"]:
        """Return the points of the image that are seen at points of the canvas: the map of `grid`, anywhere."""

    @abstractmethod
    def to_output(self, points: Float[Tensor, "n k 2"], parameters: Parameters) -> Float[Tensor, "n k 2"]:
        """Return where on the canvas points of the image are seen: the inverse of `to_input`.

        A point that is seen nowhere comes out far outside the canvas.
        """

    @final
    def apply(
        self, images: Float[Tensor, "n channels in_height in_width"], parameters: Parameters
    ) -> Float[Tensor, "n channels height width"]:
        """Return the distorted images; outside of them lies zero, the background of digits. For training."""
        return sample(images, self.grid(parameters))

    @final
    def render(
        self, images: UInt8[Tensor, "n channels in_height in_width"], parameters: Parameters
    ) -> UInt8[Tensor, "n channels height width"]:
        """Return the distorted images as bytes, the same on every machine. For files: a third as fast."""
        return to_bytes(sample_bytes(images, self.grid(_in_float64(parameters))))

    @final
    def undo(
        self, distorted: Float[Tensor, "n channels height width"], parameters: Parameters
    ) -> Float[Tensor, "n channels in_height in_width"]:
        """Return the original images as far as the distorted ones still show them, zero elsewhere."""
        exact, parts = _in_float64(parameters), list[Tensor]()
        points = regular_grid(self.in_size, dtype=torch.float64, device=distorted.device).reshape(1, -1, 2)
        for start in range(0, len(distorted), UNDONE_AT_ONCE):
            part = slice(start, start + UNDONE_AT_ONCE)
            images, chosen = distorted[part], {name: value[part] for name, value in exact.items()}
            seen_at = self.to_output(points.expand(len(images), -1, -1), chosen)
            parts.append(sample(images, seen_at.reshape(-1, *self.in_size, 2).to(images.dtype)))
        return torch.cat(parts) if parts else distorted.new_empty(0, distorted.shape[1], *self.in_size)


def draw_frozen(
    draw: Callable[[int, Generator], Mapping[str, Tensor]], n: int, seed: int, purpose: str
) -> dict[str, Tensor]:
    """Return the one frozen draw of a split's parameters for a seed.

    `draw`: gives the parameters of the `BLOCK` images from a position on. `purpose`: "test", "validation", "train",
    so that splits get unrelated draws. The same (seed, purpose) gives the same parameters in every process; a larger
    `n` begins with the smaller one's.
    """
    blocks = [
        draw(start, named_generator(seed, f"frozen distortion of {purpose}", start // BLOCK))
        for start in range(0, max(1, n), BLOCK)
    ]
    return {name: torch.cat([block[name] for block in blocks])[:n] for name in blocks[0]}


def _in_float64(parameters: Parameters) -> dict[str, Tensor]:
    return {name: value.double() for name, value in parameters.items()}
