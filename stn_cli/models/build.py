"""From a model's configuration to the network."""

from dataclasses import dataclass

import torch
from torch import nn

from stn_cli.config import ModelConfig
from stn_cli.errors import UsageError
from stn_cli.models.budget import count_parameters, solve_widths
from stn_cli.models.classifiers import CLASSIFIERS, Widths
from stn_cli.models.grid_generators import TRANSFORMS
from stn_cli.models.localisation import convolutional_localisation, fully_connected_localisation
from stn_cli.models.network import Network, Normalise, initialise
from stn_cli.models.spatial_transformer import SpatialTransformer
from stn_cli.randomness import named_generator

POOL_FROM = 40  # pixels; the paper pools the warps of RTS (42) and TC (60), not those of 28-pixel digits
SMALLEST_INPUT = 28  # pixels; what convolutions and poolings leave a positive size of
SMALLEST_WARP = 21  # pixels, after pooling; what those of the CNN leave a positive size of


@dataclass(frozen=True)
class InputSpec:
    """What a network is built for: images of a shape, with a mean and standard deviation, and a number of classes."""

    channels: int
    height: int
    width: int
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.height, self.width


def build_model(config: ModelConfig, spec: InputSpec, seed: int) -> Network:
    """Return the network that a configuration describes, its weights drawn from `seed`.

    Raises:
        UsageError: the images, or what pooling leaves of them, are too small for the paper's layers, or the budget is
            too small for the narrowest network.
    """
    shape = f"{spec.height}×{spec.width}"
    if min(spec.size) < SMALLEST_INPUT and config.name.endswith("cnn"):
        raise UsageError(f"images of {shape} pixels are too small for {config.name}", f"Use {SMALLEST_INPUT} or more.")
    # Layers draw from the global generator when they are made; that one is the user's.
    with torch.random.fork_rng(devices=[]):  # pyright: ignore[reportUnknownMemberType] - untyped in torch
        transformer = _build_transformer(config, spec)
        pool = config.pool or (2 if min(spec.size) >= POOL_FROM else 1)
        if transformer is None or pool == 1:
            size, before = spec.size, []
        else:
            size = (-(-spec.height // pool), -(-spec.width // pool))
            before = [nn.AvgPool2d(pool, ceil_mode=True)]
        if min(size) < SMALLEST_WARP and config.name == "st-cnn":
            pooled = f"{size[0]}×{size[1]}"
            raise UsageError(
                f"warps of {shape} pixels, pooled to {pooled}, are too small for a cnn", "Lower model.pool."
            )
        spent = 0 if transformer is None else count_parameters(transformer)

        def classifier(widths: Widths) -> nn.Sequential:
            return CLASSIFIERS[config.name.removeprefix("st-")](spec.channels, size, spec.classes, widths)

        smallest = spent + count_parameters(classifier((1, 1)))
        if smallest > config.parameters:
            raise UsageError(
                f"the narrowest {config.name} for {shape} pixels has {smallest:,} parameters, the budget is "
                f"{config.parameters:,}",
                "Raise model.parameters.",
            )
        network = Network(
            normalise=Normalise(torch.tensor(spec.mean), torch.tensor(spec.std)),
            transformer=transformer,
            classifier=nn.Sequential(*before, *classifier(solve_widths(classifier, config.parameters - spent))),
        )
    initialise(network, named_generator(seed, "weights"))
    return network


def _build_transformer(config: ModelConfig, spec: InputSpec) -> SpatialTransformer | None:
    if config.transform is None:
        return None
    grid_generator = TRANSFORMS[config.transform](spec.size)
    build = fully_connected_localisation if config.name == "st-fcn" else convolutional_localisation
    return SpatialTransformer(build(spec.channels, spec.size, grid_generator.identity), grid_generator)
