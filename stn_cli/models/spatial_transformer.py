"""The spatial transformer: localisation network, grid generator, sampler (section 3)."""

from typing import NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from stn_cli.geometry.sampling import Border, sample
from stn_cli.models.grid_generators import GridGenerator


class Warp(NamedTuple):
    """What a transformer did: its parameters, the sampling grid they gave, and the image read there.

    The grid has as many points as the output has pixels, or more of them where several are averaged.
    """

    theta: Float[Tensor, "n parameters"]
    grid: Float[Tensor, "n grid_height grid_width 2"]
    output: Float[Tensor, "n channels out_height out_width"]


class SpatialTransformer(nn.Module):
    """Looks at an image, decides on a warp and applies it.

    `localisation`: any module that turns [n, channels, height, width] into θ [n, parameters] of the grid generator.
    `border`: what lies outside the image, "zeros" or "border" (the nearest edge pixel).
    `average`: how many samples, down and across, make one pixel of the output. A bilinear kernel reads four pixels
    only, so an output smaller than its input aliases; the grid generator's `out_size` counts the samples.
    Convention: θ maps output → input, normalised. Grid generator and sampler run in float32, whatever the precision
    of the localisation network: an affine grid under bf16 autocast is off by 0.2 px at 60 px and 1.5 px at 448 px
    (benchmarks/readings.py).
    """

    def __init__(
        self,
        localisation: nn.Module,
        grid_generator: GridGenerator,
        *,
        border: Border = "zeros",
        average: tuple[int, int] = (1, 1),
    ) -> None:
        super().__init__()
        self.localisation = localisation
        self.grid_generator = grid_generator
        self.border: Border = border
        self.average = average

    def forward(
        self,
        images: Float[Tensor, "n channels in_height in_width"],
        view: Float[Tensor, "n channels in_height in_width"] | None = None,
    ) -> Warp:
        """Return the warp of `images`.

        `view`: what the localisation network looks at, if not the images themselves; the network gives it the
        normalised images, while the sampler reads the raw ones, whose outside is the background 0.
        """
        theta = cast("Tensor", self.localisation(images if view is None else view))
        with torch.autocast(images.device.type, enabled=False):
            theta = theta.float()
            grid = self.grid_generator(theta)
            output = sample(images.float(), grid, border=self.border)
            return Warp(theta, grid, output if self.average == (1, 1) else avg_pool2d(output, self.average))

    def __call__(self, images: Tensor, view: Tensor | None = None) -> Warp:
        """Apply `forward`; stated here for its type."""
        return cast("Warp", super().__call__(images, view))
