"""Rotation, scale and place: the distortions R and RTS."""

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from stn_cli.distortions.distortion import Distortion, Parameters, uniform
from stn_cli.geometry.grids import affine_grid
from stn_cli.geometry.matrices import between_sizes, rotation, scaling, translation


class Similarity(Distortion):
    """Turn and scale a digit about its centre, then put it somewhere on the canvas.

    `rotation`: degrees, clockwise on the screen. `scale`: size of the distorted digit relative to the original.
    `place`: whether the digit goes to a random place; then its scaled square stays inside the canvas. The paper says
    "random location" only; that the square stays inside is a reading (R).
    Source: section 4.1 and appendix A.4.
    """

    def __init__(
        self, *, canvas: tuple[int, int], rotation: tuple[float, float], scale: tuple[float, float], place: bool
    ) -> None:
        self.canvas = canvas
        self.rotation = rotation
        self.scale = scale
        self.place = place

    def draw(self, n: int, generator: Generator) -> dict[str, Tensor]:
        """Return `rotation` [n] in degrees, `scale` [n] and `place` [n, 2], −1..1 of the room there is in x and y."""
        parameters = {"rotation": uniform(n, self.rotation, generator), "scale": uniform(n, self.scale, generator)}
        if self.place:
            parameters["place"] = uniform(n, (-1.0, 1.0), generator, 2)
        return parameters

    def grid(self, parameters: Parameters, in_size: tuple[int, int]) -> Float[Tensor, "n height width 2"]:
        """Return the output → input map: undo the place, then the rotation, then the scale."""
        scale = parameters["scale"]
        undo = scaling((1 / scale)[:, None].expand(-1, 2)) @ rotation(-parameters["rotation"])
        if self.place:
            undo = undo @ translation(-self.shift(parameters, in_size))
        return affine_grid(between_sizes(undo, in_size, self.canvas)[:, :2], self.canvas)

    def shift(self, parameters: Parameters, in_size: tuple[int, int]) -> Float[Tensor, "n 2"]:
        """Return where the digit's centre lies relative to the canvas's centre, (x, y) in pixels."""
        canvas, image = torch.tensor(self.canvas[::-1]), torch.tensor(in_size[::-1])
        scale = parameters["scale"][:, None]
        room = (canvas.to(scale) - scale * image.to(scale)) / 2
        return parameters["place"] * room.clamp(min=0)
