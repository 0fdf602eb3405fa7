"""Four moved corners: the distortion P."""

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from stn_cli.distortions.distortion import Distortion, Parameters
from stn_cli.distortions.draws import normal, uniform
from stn_cli.geometry.grids import projective_grid, projective_points
from stn_cli.geometry.matrices import facing, inverse, square_to_corners

_CORNERS = ((-1, -1), (1, -1), (1, 1), (-1, 1))


class Projective(Distortion):
    """Scale a digit, then move each corner by a normal distance.

    `scale`: size of the digit's square before the corners move. `corner_sigma`: standard deviation of each corner's
    x and y, in pixels.
    Convention: the canvas's corners stay and the moved ones lie in the scaled input, so that the output → input map is
    the homography itself, as for E (a reading, R: the paper does not name the moved side. Moving the corners of the
    digit's own square leaves 1.6 % of the MNIST test digits with under a tenth of their ink, more than the error of
    0.8 % that the paper reports; this reading leaves 0.16 %, benchmarks/readings.py).
    Source: section 4.1 and appendix A.4.
    """

    def __init__(
        self, *, in_size: tuple[int, int], canvas: tuple[int, int], scale: tuple[float, float], corner_sigma: float
    ) -> None:
        self.in_size = in_size
        self.canvas = canvas
        self.scale = scale
        self.corner_sigma = corner_sigma
        self._moved: dict[tuple[torch.dtype, torch.device], tuple[Tensor, Tensor]] = {}

    def draw(self, n: int, generator: Generator) -> dict[str, Tensor]:
        """Return `scale` [n] and `corner_shift` [n, 4, 2], (x, y) in pixels, clockwise from the top left."""
        scale = uniform(n, self.scale, generator)
        return {"scale": scale, "corner_shift": normal(n, self.corner_sigma, generator, 4, 2)}

    def grid(self, parameters: Parameters) -> Float[Tensor, "n height width 2"]:
        return projective_grid(self._homography(parameters), self.canvas)

    def to_input(self, points: Float[Tensor, "n k 2"], parameters: Parameters) -> Float[Tensor, "n k 2"]:
        return projective_points(self._homography(parameters), points)

    def to_output(self, points: Float[Tensor, "n k 2"], parameters: Parameters) -> Float[Tensor, "n k 2"]:
        back = inverse(self._homography(parameters))
        # By a positive number, so that what lies in front of the horizon stays there.
        return projective_points(back / back.abs().amax(dim=(1, 2), keepdim=True), points)

    def source_corners(self, parameters: Parameters) -> Float[Tensor, "n 4 2"]:
        """Return the point of the input that is seen at each corner of the canvas, (x, y) normalised."""
        shift, scale = parameters["corner_shift"], parameters["scale"][:, None, None]
        corners, half = self._constants(shift)
        return (corners + shift) / scale / half

    def _constants(self, like: Tensor) -> tuple[Float[Tensor, "4 2"], Float[Tensor, "2"]]:
        """The canvas's corners and half the input's sides, (x, y) in pixels, where `like` is; they move there once."""
        place = like.dtype, like.device
        if place not in self._moved:
            corners = like.new_tensor(_CORNERS) * (like.new_tensor(self.canvas[::-1]) / 2)
            self._moved[place] = corners, like.new_tensor(self.in_size[::-1]) / 2
        return self._moved[place]

    def _homography(self, parameters: Parameters) -> Float[Tensor, "n 3 3"]:
        """The output → input map, from the canvas's corners to the source corners.

        Where corners cross, the part of the canvas beyond the horizon is background.
        """
        return facing(square_to_corners(self.source_corners(parameters)))
