"""Rotation, scale and place: the distortions R and RTS."""

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from stn_cli.distortions.distortion import Distortion, Parameters
from stn_cli.distortions.draws import uniform
from stn_cli.geometry.grids import affine_grid, affine_points
from stn_cli.geometry.matrices import inverse
from stn_cli.geometry.reproducible import sine_cosine


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
        return affine_grid(self._theta(parameters), self.canvas)

    def to_input(self, points: Float[Tensor, "n k 2"], parameters: Parameters) -> Float[Tensor, "n k 2"]:
        return affine_points(self._theta(parameters), points)

    def to_output(self, points: Float[Tensor, "n k 2"], parameters: Parameters) -> Float[Tensor, "n k 2"]:
        theta = self._theta(parameters)
        third = theta.new_tensor([0.0, 0.0, 1.0]).expand(len(theta), 1, 3)
        return affine_points(inverse(torch.cat([theta, third], dim=1))[:, :2], points)

    def shift(self, parameters: Parameters) -> Float[Tensor, "n 2"]:
        """Return where the digit's centre lies relative to the canvas's centre, (x, y) in pixels."""
        room = [
            ((c - parameters["scale"] * i) / 2).clamp(min=0) for c, i in zip(self.canvas, self.in_size, strict=True)
        ]
        return parameters["place"] * torch.stack(room[::-1], dim=-1)

    def _theta(self, parameters: Parameters) -> Float[Tensor, "n 2 3"]:
        """The output → input map: undo the place, then the rotation, then the scale.

        Written out, entry by entry: as a product of matrices it takes five times as many small operations, and a fifth
        of the time of the whole distortion.
        """
        (height, width), (in_height, in_width) = self.canvas, self.in_size
        sine, cosine = sine_cosine(parameters["rotation"])
        cosine, sine = cosine / parameters["scale"], sine / parameters["scale"]
        shift = self.shift(parameters) if self.place else torch.zeros_like(parameters["scale"])[:, None].expand(-1, 2)
        x, y = shift.unbind(dim=1)
        entries = [
            cosine * (width / in_width),
            sine * (height / in_width),
            -(cosine * x + sine * y) / (in_width / 2),
            -sine * (width / in_height),
            cosine * (height / in_height),
            (sine * x - cosine * y) / (in_height / 2),
        ]
        return torch.stack(entries, dim=1).reshape(-1, 2, 3)
