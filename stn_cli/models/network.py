"""The whole network: images in 0..1 → (transformer →) normalisation → classifier → logits and warps."""

from typing import NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from stn_cli.models.localisation import ThetaLayer
from stn_cli.models.spatial_transformer import SpatialTransformer, Warp


class ModelOutput(NamedTuple):
    """Class scores, and what each transformer did on the way, in order."""

    logits: Float[Tensor, "n classes"]
    warps: tuple[Warp, ...]


class Normalise(nn.Module):
    """Subtracts the mean and divides by the standard deviation of each channel, both kept as buffers."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Float[Tensor, "channels"], std: Float[Tensor, "channels"]) -> None:
        super().__init__()
        self.register_buffer("mean", mean.reshape(-1, 1, 1))
        self.register_buffer("std", std.reshape(-1, 1, 1))

    def forward(self, images: Float[Tensor, "n channels height width"]) -> Float[Tensor, "n channels height width"]:
        """Return normalised images."""
        return (images - self.mean) / self.std

    def __call__(self, images: Tensor) -> Tensor:
        """Apply `forward`; stated here for its type."""
        return cast("Tensor", super().__call__(images))


class Network(nn.Module):
    """A classifier, with a spatial transformer before it or not.

    Convention: images come in 0..1 with background 0 and are normalised after the warp. Normalising first would put a
    grey frame around the digit wherever the warp reads outside, and teach the transformer to flee the image.
    """

    def __init__(self, *, normalise: Normalise, transformer: SpatialTransformer | None, classifier: nn.Module) -> None:
        super().__init__()
        self.normalise = normalise
        self.transformer = transformer
        self.classifier = classifier

    def forward(self, images: Float[Tensor, "n channels height width"]) -> ModelOutput:
        """Return logits and warps."""
        warps: tuple[Warp, ...] = ()
        if self.transformer is not None:
            warp = self.transformer(images, view=self.normalise(images))
            images, warps = warp.output, (warp,)
        logits = cast("Tensor", self.classifier(self.normalise(images)))
        return ModelOutput(logits.float(), warps)

    def __call__(self, images: Tensor) -> ModelOutput:
        """Apply `forward`; stated here for its type."""
        return cast("ModelOutput", super().__call__(images))


def initialise(network: nn.Module, generator: torch.Generator) -> None:
    """Draw the weights: He normal, biases zero, from one named generator. The layer that gives θ stays the identity."""
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d) and not isinstance(module, ThetaLayer):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
            if module.bias is not None:  # pyright: ignore[reportUnnecessaryComparison] - layers may lack a bias
                nn.init.zeros_(module.bias)
