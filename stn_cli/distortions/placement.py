"""A whole image at a random place of a larger canvas: the distortion T."""

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from stn_cli.distortions.distortion import Distortion, Parameters
from stn_cli.geometry.grids import affine_grid, affine_points
from stn_cli.geometry.matrices import between_sizes, inverse, translation


class Placement(Distortion):
    """Put a digit somewhere on the canvas, by whole pixels, wholly inside.

    A digit larger than the canvas lies in its middle. Source: appendix A.2 and A.4; whole pixels are a reading (R),
    which keeps every pixel of the digit as it is.
    """

    def __init__(self, *, in_size: tuple[int, int], canvas: tuple[int, int]) -> None:
        self.in_size = in_size
        self.canvas = canvas

    def draw(self, n: int, generator: Generator) -> dict[str, Tensor]:
        """Return `corner` [n, 2], where the digit's top left corner lies, (x, y) in pixels of the canvas."""
        axes: list[Tensor] = []
        for canvas, image in zip(self.canvas[::-1], self.in_size[::-1], strict=True):
            room = canvas - image
            drawn = torch.randint(max(room, 0) + 1, (n,), generator=generator, device=generator.device)
            axes.append(drawn + min(room, 0) // 2)
        return {"corner": torch.stack(axes, dim=-1).float()}

    def grid(self, parameters: Parameters) -> Float[Tensor, "n height width 2"]:
        return affine_grid(self._matrix(parameters)[:, :2], self.canvas)

    def to_input(self, points: Float[Tensor, "n k 2"], parameters: Parameters) -> Float[Tensor, "n k 2"]:
        return affine_points(self._matrix(parameters)[:, :2], points)

    def to_output(self, points: Float[Tensor, "n k 2"], parameters: Parameters) -> Float[Tensor, "n k 2"]:
        return affine_points(inverse(self._matrix(parameters))[:, :2], points)

    def _matrix(self, parameters: Parameters) -> Float[Tensor, "n 3 3"]:
        corner, room = parameters["corner"], [c - i for c, i in zip(self.canvas, self.in_size, strict=True)]
        shift = torch.stack([corner[:, 0] - room[1] / 2, corner[:, 1] - room[0] / 2], dim=-1)
        return between_sizes(translation(-shift), self.in_size, self.canvas)
