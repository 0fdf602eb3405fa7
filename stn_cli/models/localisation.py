"""Localisation networks: image → θ (section 3.1, appendix A.4)."""

from collections.abc import Callable
from itertools import pairwise
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from stn_cli.errors import UsageError
from stn_cli.models.convolution import ConvolutionStage

SMALLEST_INPUT = 28  # pixels; what the convolutions and poolings of ST-CNN's localisation leave a positive size of


@final
class ThetaLayer(nn.Linear):
    """The last layer of a localisation network: zero weights, and a bias that gives the identity (section 3).

    It leaves autocast: rounding θ to bf16, 8 bits, would undo the sampler's float32.
    """

    def __init__(self, in_features: int, identity: Float[Tensor, "parameters"]) -> None:
        super().__init__(in_features, len(identity))  # pyright: ignore[reportUnknownMemberType] - untyped in torch
        with torch.no_grad():
            self.weight.zero_()
            self.bias.copy_(identity)

    def forward(self, input: Float[Tensor, "n features"]) -> Float[Tensor, "n parameters"]:
        """Return θ in float32."""
        with torch.autocast(input.device.type, enabled=False):
            return super().forward(input.float())


def fully_connected_localisation(
    channels: int,
    in_size: tuple[int, int],
    identity: Float[Tensor, "parameters"],
    widths: tuple[int, ...] = (32, 32, 32),
) -> nn.Sequential:
    """Return a localisation network of fully connected layers, then θ; that of ST-FCN has three layers of 32 units."""
    units = [channels * in_size[0] * in_size[1], *widths]
    hidden = [part for before, after in pairwise(units) for part in (nn.Linear(before, after), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), *hidden, ThetaLayer(units[-1], identity))


def convolutional_localisation(
    channels: int,
    in_size: tuple[int, int],
    identity: Float[Tensor, "parameters"],
    widths: tuple[int, ...] = (20, 20, 20),
) -> nn.Sequential:
    """Return the localisation network of ST-CNN.

    The input downsampled 2× (by averaging, R), two convolutions of 20 5×5 filters with max-pooling by 2 between, a
    fully connected layer of 20 units, then θ; or as many of each as `widths` says.

    Raises:
        UsageError: the input has fewer than 28 pixels on a side.
    """
    if min(in_size) < SMALLEST_INPUT:
        raise UsageError(
            f"maps of {in_size[0]}×{in_size[1]} pixels are too small for a cnn localisation network",
            f"Use {SMALLEST_INPUT} pixels or more, or model.transformers with localisation: fcn.",
        )
    first, second, units = widths
    features = nn.Sequential(
        nn.AvgPool2d(2),
        ConvolutionStage(channels, first, 5, pool=2),
        ConvolutionStage(first, second, 5),
        nn.Flatten(),
    )
    height, width = ((side // 2 - 4) // 2 - 4 for side in in_size)
    return nn.Sequential(features, nn.Linear(second * height * width, units), nn.ReLU(), ThetaLayer(units, identity))


Localisation = Callable[[int, tuple[int, int], Tensor, tuple[int, ...]], nn.Sequential]

LOCALISATIONS: dict[str, Localisation] = {"fcn": fully_connected_localisation, "cnn": convolutional_localisation}
