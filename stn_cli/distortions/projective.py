"""Four moved corners: the distortion P."""

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from stn_cli.distortions.distortion import Distortion, Parameters, uniform
from stn_cli.geometry.grids import projective_grid
from stn_cli.geometry.matrices import facing, square_to_corners


class Projective(Distortion):
    """Scale a digit, then move each corner by a normal distance.

    `scale`: size of the digit's square before the corners move. `corner_sigma`: standard deviation of each corner's
    x and y, in pixels.
    Convention: the canvas's corners stay and the moved ones lie in the scaled input, so that the output → input map is
    the homography itself, as for E (a reading, R: the paper does not name the moved side. Moving the corners of the
    digit's own square leaves 1.6 % of the MNIST test digits with under a tenth of their ink, more than the error of
    0.8 % that the paper reports; this reading leaves 0.14 %, benchmarks/readings.py).
    Source: section 4.1 and appendix A.4.
    """

    def __init__(self, *, canvas: tuple[int, int], scale: tuple[float, float], corner_sigma: float) -> None:
        self.canvas = canvas
        self.scale = scale
        self.corner_sigma = corner_sigma

    def draw(self, n: int, generator: Generator) -> dict[str, Tensor]:
        """Return `scale` [n] and `corner_shift` [n, 4, 2], (x, y) in pixels, clockwise from the top left."""
        scale = uniform(n, self.scale, generator)
        shift = torch.randn(n, 4, 2, generator=generator, device=generator.device)
        return {"scale": scale, "corner_shift": shift * self.corner_sigma}

    def grid(self, parameters: Parameters, in_size: tuple[int, int]) -> Float[Tensor, "n height width 2"]:
        """Return the output → input map: the homography from the canvas's corners to the source corners.

        Where corners cross, the part of the canvas beyond the horizon is background.
        """
        homography = facing(square_to_corners(self.source_corners(parameters, in_size)))
        return projective_grid(homography, self.canvas)

    def source_corners(self, parameters: Parameters, in_size: tuple[int, int]) -> Float[Tensor, "n 4 2"]:
        """Return the point of the input that is seen at each corner of the canvas, (x, y) normalised."""
        shift = parameters["corner_shift"]
        signs = shift.new_tensor([[-1, -1], [1, -1], [1, 1], [-1, 1]])
        canvas_half = shift.new_tensor(self.canvas[::-1]) / 2
        in_half = shift.new_tensor(in_size[::-1]) / 2
        return (signs * canvas_half + shift) / parameters["scale"][:, None, None] / in_half
