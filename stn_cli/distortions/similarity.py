"""Rotation, scale and place: the distortions R and RTS."""

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from stn_cli.distortions.distortion import Distortion, Parameters
from stn_cli.distortions.draws import uniform
from stn_cli.geometry.grids import affine_grid, affine_points
from stn_cli.geometry.matrices import between_sizes, compose, inverse, rotation, scaling, translation


class Similarity(Distortion):
    """Turn and scale a digit about its centre, then put it somewhere on the canvas.

    `rotation`: degrees, clockwise on the screen. `scale`: size of the distorted digit relative to the original.
    `place`: whether the digit goes to a random place; then its scaled square stays inside the canvas. The paper says
    "random location" only; that the square stays inside is a reading (R).
    Source: section 4.1 and appendix A.4.
    """

    def __init__(
        self,
        *,
        in_size: tuple[int, int],
        canvas: tuple[int, int],
        rotation: tuple[float, float],
        scale: tuple[float, float],
        place: bool,
    ) -> None:
        self.in_size = in_size
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

    def grid(self, parameters: Parameters) -> Float[Tensor, "n height width 2"]:
        return affine_grid(self._matrix(parameters)[:, :2], self.canvas)

    def to_input(self, points: Float[Tensor, "n k 2"], parameters: Parameters) -> Float[Tensor, "n k 2"]:
        return affine_points(self._matrix(parameters)[:, :2], points)

    def to_output(self, points: Float[Tensor, "n k 2"], parameters: Parameters) -> Float[Tensor, "n k 2"]:
        return affine_points(inverse(self._matrix(parameters))[:, :2], points)

    def shift(self, parameters: Parameters) -> Float[Tensor, "n 2"]:
        """Return where the digit's centre lies relative to the canvas's centre, (x, y) in pixels."""
        room = [
            ((c - parameters["scale"] * i) / 2).clamp(min=0) for c, i in zip(self.canvas, self.in_size, strict=True)
        ]
        return parameters["place"] * torch.stack(room[::-1], dim=-1)

    def _matrix(self, parameters: Parameters) -> Float[Tensor, "n 3 3"]:
        """The output → input map: undo the place, then the rotation, then the scale."""
        scale = parameters["scale"]
        undo = compose(scaling((1 / scale)[:, None].expand(-1, 2)), rotation(-parameters["rotation"]))
        if self.place:
            undo = compose(undo, translation(-self.shift(parameters)))
        return between_sizes(undo, self.in_size, self.canvas)
