"""A thin plate spline with moved control points: the distortion E."""

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from stn_cli.distortions.distortion import Distortion, Parameters
from stn_cli.distortions.draws import normal, uniform
from stn_cli.geometry.matrices import sum_of_products
from stn_cli.geometry.reproducible import fitted
from stn_cli.geometry.thin_plate_splines import (
    SOURCE_BITS,
    control_points,
    grid_basis,
    spline_solution,
    thin_plate_grid,
    thin_plate_inverse,
    thin_plate_points,
)


class Elastic(Distortion):
    """Scale a digit, then bend it by a thin plate spline with 16 control points.

    `scale`: size of the digit's square before it is bent. `control_point_sigma`: standard deviation of each control
    point's x and y, in pixels. The regular side of the spline lies on the canvas and the moved side in the input, so
    that the output → input map is the spline itself, exactly (a reading, R: the paper does not name the moved side).
    Source: section 4.1 and appendix A.4.
    """

    def __init__(
        self,
        *,
        in_size: tuple[int, int],
        canvas: tuple[int, int],
        scale: tuple[float, float],
        control_point_sigma: float,
    ) -> None:
        self.in_size = in_size
        self.canvas = canvas
        self.scale = scale
        self.control_point_sigma = control_point_sigma
        self._points = control_points()
        self._solution = spline_solution(self._points)
        self._basis = grid_basis(self._points, canvas, torch.float64)
        self._moved: dict[tuple[torch.dtype, torch.device], tuple[Tensor, Tensor, Tensor]] = {}

    def draw(self, n: int, generator: Generator) -> dict[str, Tensor]:
        """Return `scale` [n] and `control_point_shift` [n, 16, 2], (x, y) in pixels, row by row."""
        scale = uniform(n, self.scale, generator)
        shift = normal(n, self.control_point_sigma, generator, len(self._points), 2)
        return {"scale": scale, "control_point_shift": shift}

    def grid(self, parameters: Parameters) -> Float[Tensor, "n height width 2"]:
        # A spline is linear in its values, so undoing the scale afterwards is undoing it at the control points.
        source_points = fitted(self.source_points(parameters), SOURCE_BITS)
        return thin_plate_grid(self._constants(source_points)[2], source_points, self.canvas)

    def to_input(self, points: Float[Tensor, "n k 2"], parameters: Parameters) -> Float[Tensor, "n k 2"]:
        return thin_plate_points(self._points, self._coefficients(parameters), points)

    def to_output(self, points: Float[Tensor, "n k 2"], parameters: Parameters) -> Float[Tensor, "n k 2"]:
        return thin_plate_inverse(self._points, self._coefficients(parameters), points)

    def source_points(self, parameters: Parameters) -> Float[Tensor, "n 16 2"]:
        """Return the point of the input that is seen at each control point, (x, y) normalised."""
        shift, scale = parameters["control_point_shift"], parameters["scale"][:, None]
        points = self._constants(shift)[0]
        sides = zip(points.unbind(dim=1), shift.unbind(dim=2), self.canvas[::-1], self.in_size[::-1], strict=True)
        axes = [(point * (out / 2) + moved) / scale / (into / 2) for point, moved, out, into in sides]
        return torch.stack(axes, dim=-1)

    def _coefficients(self, parameters: Parameters) -> Float[Tensor, "n 19 2"]:
        values = self.source_points(parameters)
        solution = self._constants(values)[1]
        return sum_of_products(*[(solution[:, j, None], values[:, None, j]) for j in range(len(self._points))])

    def _constants(self, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The control points, the spline's solution and its basis, where `like` is; they move there once."""
        place = like.dtype, like.device
        if place not in self._moved:
            self._moved[place] = self._points.to(like), self._solution.to(like), self._basis.to(like)
        return self._moved[place]
