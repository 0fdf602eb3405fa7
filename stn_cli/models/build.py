"""From a model's configuration to the network."""

import math
from dataclasses import dataclass

import torch
from torch import nn

from stn_cli.config import ModelConfig
from stn_cli.config_model import TransformerConfig
from stn_cli.errors import UsageError
from stn_cli.models.budget import count_parameters, solve_widths
from stn_cli.models.classifiers import CLASSIFIERS, MapShape, Widths
from stn_cli.models.grid_generators import TRANSFORMS, GridGenerator
from stn_cli.models.localisation import LOCALISATIONS
from stn_cli.models.network import Network, Normalise, initialise
from stn_cli.models.place import Member, Place
from stn_cli.models.spatial_transformer import SpatialTransformer
from stn_cli.randomness import named_generator

POOL_FROM = 40  # pixels; the paper pools the warps of RTS (42) and TC (60), not those of 28-pixel digits


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
        UsageError: the images, or what transformers and pooling leave of them, are too small for the layers behind, or
            the budget is too small for the narrowest network.
    """
    # Layers draw from the global generator when they are made; that one is the user's.
    with torch.random.fork_rng(devices=[]):  # pyright: ignore[reportUnknownMemberType] - untyped in torch
        plan = _Plan(config, spec)
        with torch.device("meta"):
            smallest = count_parameters(plan.network((1, 1)))
        if smallest > config.parameters:
            raise UsageError(
                f"the narrowest {config.label} for {spec.height}×{spec.width} pixels has {smallest:,} parameters, the "
                f"budget is {config.parameters:,}",
                "Raise model.parameters.",
            )
        network = plan.network(solve_widths(plan.network, config.parameters))
    _draw_weights(network, seed)
    return network


class _Plan:
    """A network but for the widths of its classifier, which the sizes of localisation networks inside depend on."""

    def __init__(self, config: ModelConfig, spec: InputSpec) -> None:
        self._config = config
        self._spec = spec
        self._steps: dict[str, list[tuple[TransformerConfig, ...]]] = {}
        for step in config.steps:
            self._steps.setdefault(step[0].at, []).append(step)
        self._grid_generators: dict[tuple[str, tuple[int, int]], GridGenerator] = {}

    def network(self, widths: Widths) -> Network:
        """Return the network with a classifier of these widths, its weights not drawn yet."""
        config, spec, places = self._config, self._spec, dict[str, Place]()

        def before(layer: str, shape: MapShape) -> MapShape:
            if layer in self._steps:
                places[layer], shape = self._place(layer, shape)
            return shape

        shape, pooling = before("input", MapShape(spec.channels, spec.size)), []
        if "input" in places:
            pool = config.pool or (2 if min(shape.size) >= POOL_FROM else 1)
            if pool > 1:
                pooling = [nn.AvgPool2d(pool, ceil_mode=True)]
                shape = MapShape(shape.channels, (-(-shape.size[0] // pool), -(-shape.size[1] // pool)))
        feeding = [one.transform for step in config.steps for one in step if one.feed_theta]
        fed = sum(len(self._grid_generator(transform, (1, 1)).identity) for transform in feeding)
        classifier = CLASSIFIERS[config.classifier](*shape, spec.classes, widths, before, fed)
        normalise = Normalise(torch.tensor(spec.mean), torch.tensor(spec.std))
        return Network(normalise=normalise, places=places, classifier=nn.Sequential(*pooling, *classifier))

    def _place(self, name: str, shape: MapShape) -> tuple[Place, MapShape]:
        """Return the transformers at a place that sees maps of a shape, and the shape of what they hand on."""
        steps: list[list[Member]] = []
        for step in self._steps[name]:
            out_size = step[0].out_size or shape.size
            steps.append([self._member(one, shape, out_size) for one in step])
            shape = MapShape(len(step) * shape.channels, out_size)
        return Place(name, steps), shape

    def _member(self, config: TransformerConfig, shape: MapShape, out_size: tuple[int, int]) -> Member:
        average = (1, 1)
        if config.antialias:
            average = (math.ceil(shape.size[0] / out_size[0]), math.ceil(shape.size[1] / out_size[1]))
        samples = (average[0] * out_size[0], average[1] * out_size[1])
        grid_generator = self._grid_generator(config.transform, samples)
        kind, widths = self._config.localisation_of(config)
        localisation = LOCALISATIONS[kind](*shape, grid_generator.identity, widths)
        transformer = SpatialTransformer(localisation, grid_generator, average=average)
        return Member(transformer, config.rate, config.feed_theta)

    def _grid_generator(self, transform: str, out_size: tuple[int, int]) -> GridGenerator:
        """Return a grid generator; a new one only for each transform and size, since a spline has to be solved."""
        key = transform, out_size
        if key not in self._grid_generators:
            with torch.device("cpu"):
                self._grid_generators[key] = TRANSFORMS[transform](out_size)
        return self._grid_generators[key]


def _draw_weights(network: Network, seed: int) -> None:
    """Draw all weights, those of a transformer from its own place and number there: others change nothing of them."""
    main = named_generator(seed, "weights")
    for name, place in network.by_place.items():
        for number, transformer in enumerate(place.transformers):
            is_first = (name, number) == ("input", 0)
            initialise(transformer, main if is_first else named_generator(seed, f"weights of {name}", number))
    initialise(network.classifier, main)
