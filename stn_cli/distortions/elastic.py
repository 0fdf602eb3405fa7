"""A thin plate spline with moved control points: the distortion E."""

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from stn_cli.distortions.distortion import Distortion, Parameters, uniform
from stn_cli.geometry.thin_plate_splines import control_points, grid_basis, thin_plate_grid


class Elastic(Distortion):
    """Scale a digit, then bend it by a thin plate spline with 16 control points.

    `scale`: size of the digit's square before it is bent. `control_point_sigma`: standard deviation of each control
    point's x and y, in pixels. The regular side of the spline lies on the canvas and the moved side in the input, so
    that the output → input map is the spline itself, exactly (a reading, R: the paper does not name the moved side).
    Source: section 4.1 and appendix A.4.
    """

    def __init__(self, *, canvas: tuple[int, int], scale: tuple[float, float], control_point_sigma: float) -> None:
        self.canvas = canvas
        self.scale = scale
        self.control_point_sigma = control_point_sigma
        self._points = control_points()
        self._basis = grid_basis(self._points, canvas)

    def draw(self, n: int, generator: Generator) -> dict[str, Tensor]:
        """Return `scale` [n] and `control_point_shift` [n, 16, 2], (x, y) in pixels, row by row."""
        scale = uniform(n, self.scale, generator)
        shift = torch.randn(n, len(self._points), 2, generator=generator, device=generator.device)
        return {"scale": scale, "control_point_shift": shift * self.control_point_sigma}

    def grid(self, parameters: Parameters, in_size: tuple[int, int]) -> Float[Tensor, "n height width 2"]:
        """Return the output → input map: the spline, then the scale undone."""
        # A spline is linear in its values, so undoing the scale afterwards is undoing it at the control points.
        source_points = self.source_points(parameters, in_size)
        self._basis = self._basis.to(source_points)  # moves once, to the device of the first batch
        return thin_plate_grid(self._basis, source_points, self.canvas)

    def source_points(self, parameters: Parameters, in_size: tuple[int, int]) -> Float[Tensor, "n 16 2"]:
        """Return the point of the input that is seen at each control point, (x, y) normalised."""
        shift = parameters["control_point_shift"]
        canvas_half = shift.new_tensor(self.canvas[::-1]) / 2
        in_half = shift.new_tensor(in_size[::-1]) / 2
        moved = self._points.to(shift) * canvas_half + shift
        return moved / parameters["scale"][:, None, None] / in_half
