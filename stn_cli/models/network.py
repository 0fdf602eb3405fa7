"""The whole network: images in 0..1 → (transformers →) normalisation → classifier → logits and warps.

Other transformers may stand before the convolutions of the classifier.
"""

from collections.abc import Mapping
from typing import NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from stn_cli.models.convolution import ConvolutionStage
from stn_cli.models.localisation import ThetaLayer
from stn_cli.models.place import NamedWarp, Place


class ModelOutput(NamedTuple):
    """Class scores, and what each transformer did on the way, in order."""

    logits: Float[Tensor, "n classes"]
    warps: tuple[NamedWarp, ...]


class Normalise(nn.Module):
    """Subtracts the mean and divides by the standard deviation of each channel, both kept as buffers."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Float[Tensor, "channels"], std: Float[Tensor, "channels"]) -> None:
        super().__init__()
        self.register_buffer("mean", mean.reshape(-1, 1, 1))
        self.register_buffer("std", std.reshape(-1, 1, 1))

    def forward(self, images: Float[Tensor, "n channels height width"]) -> Float[Tensor, "n channels height width"]:
        """Return normalised images, or several copies along the channels, as transformers in parallel leave them."""
        copies = images.shape[1] // len(self.mean)
        return (images - self.mean.repeat(copies, 1, 1)) / self.std.repeat(copies, 1, 1)

    def undone(self, images: Float[Tensor, "n channels height width"]) -> Float[Tensor, "n channels height width"]:
        """Return normalised images as they were, in 0..1."""
        copies = images.shape[1] // len(self.mean)
        return images * self.std.repeat(copies, 1, 1) + self.mean.repeat(copies, 1, 1)

    def __call__(self, images: Tensor) -> Tensor:
        """Apply `forward`; stated here for its type."""
        return cast("Tensor", super().__call__(images))


class Network(nn.Module):
    """A classifier, with spatial transformers before its layers or not.

    `places`: the transformers by the layer that they stand before, "input" or "conv1", "conv2", … of the classifier.
    Convention: images come in 0..1 with background 0 and are normalised after the warp. Normalising first would put a
    grey frame around the digit wherever the warp reads outside, and teach the transformer to flee the image.
    """

    def __init__(
        self, *, normalise: Normalise, classifier: nn.Sequential, places: Mapping[str, Place] | None = None
    ) -> None:
        super().__init__()
        self.normalise = normalise
        self.places = nn.ModuleDict(places)
        self.classifier = classifier
        self._feeding = {name for place in self.by_place.values() for name in place.feeding}
        stages = [i for i, layer in enumerate(classifier) if isinstance(layer, ConvolutionStage)]
        self._layers = {index: f"conv{number}" for number, index in enumerate(stages, start=1)}

    @property
    def by_place(self) -> dict[str, Place]:
        """The transformers by their place, in the order in which an image meets them."""
        return {name: cast("Place", place) for name, place in self.places.items()}

    def forward(self, images: Float[Tensor, "n channels height width"]) -> ModelOutput:
        """Return logits and warps."""
        warps: list[NamedWarp] = []
        maps = self.normalise(self._warped("input", images, warps))
        *body, output_layer = self.classifier
        for index, layer in enumerate(body):
            maps = self._warped(self._layers.get(index, ""), maps, warps)
            maps = cast("Tensor", layer(maps))
        fed = [warp.theta for warp in warps if warp.name in self._feeding]
        logits = cast("Tensor", output_layer(torch.cat([maps, *fed], dim=1) if fed else maps))
        return ModelOutput(logits.float(), tuple(warps))

    def _warped(self, name: str, maps: Tensor, warps: list[NamedWarp]) -> Tensor:
        """Return the maps as the transformers at a place hand them on, and add their warps to the list."""
        if name not in self.places:
            return maps
        place = cast("Place", self.places[name])
        if name == "input":
            maps, own = place(maps, self.normalise)
        elif name == "conv1":  # what it sees is an image still: black outside, not grey
            maps, own = place(self.normalise.undone(maps), self.normalise)
            maps = self.normalise(maps)
        else:
            maps, own = place(maps)
        warps += own
        return maps

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
