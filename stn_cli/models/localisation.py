"""Localisation networks: image → θ (section 3.1, appendix A.4)."""

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from stn_cli.models.convolution import ConvolutionStage


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
    channels: int, in_size: tuple[int, int], identity: Float[Tensor, "parameters"]
) -> nn.Sequential:
    """Return the localisation network of ST-FCN: three fully connected layers of 32 units, then θ."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(channels * in_size[0] * in_size[1], 32),
        nn.ReLU(),
        nn.Linear(32, 32),
        nn.ReLU(),
        nn.Linear(32, 32),
        nn.ReLU(),
        ThetaLayer(32, identity),
    )


def convolutional_localisation(
    channels: int, in_size: tuple[int, int], identity: Float[Tensor, "parameters"]
) -> nn.Sequential:
    """Return the localisation network of ST-CNN.

    The input downsampled 2× (by averaging, R), two convolutions of 20 5×5 filters with max-pooling by 2 between, a
    fully connected layer of 20 units, then θ. Inputs of 28 pixels or more.
    """
    features = nn.Sequential(
        nn.AvgPool2d(2),
        ConvolutionStage(channels, 20, 5, pool=2),
        ConvolutionStage(20, 20, 5),
        nn.Flatten(),
    )
    height, width = ((side // 2 - 4) // 2 - 4 for side in in_size)
    return nn.Sequential(features, nn.Linear(20 * height * width, 20), nn.ReLU(), ThetaLayer(20, identity))
