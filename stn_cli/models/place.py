"""Spatial transformers at one place of a network: in series, in parallel, or both (section 3)."""

from collections.abc import Sequence
from itertools import islice
from typing import NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from stn_cli.models.spatial_transformer import SpatialTransformer


class NamedWarp(NamedTuple):
    """What a transformer of a network did, and which one: "conv2", or "conv2.0" where several stand there."""

    name: str
    theta: Float[Tensor, "n parameters"]
    grid: Float[Tensor, "n grid_height grid_width 2"]
    output: Float[Tensor, "n channels out_height out_width"]


class Member(NamedTuple):
    """A transformer at its place.

    `rate`: learning rate of its localisation network, as a factor; None for the run's. `feeds_theta`: whether the
    output layer sees its θ.
    """

    transformer: SpatialTransformer
    rate: float | None = None
    feeds_theta: bool = False


class Place(nn.Module):
    """Transformers before one layer: steps follow one another, the members of a step see the same map.

    The outputs of a step are put together along the channels, so a step of two doubles them.
    """

    def __init__(self, name: str, steps: Sequence[Sequence[Member]]) -> None:
        super().__init__()
        members = [member for step in steps for member in step]
        self.members = nn.ModuleList(member.transformer for member in members)
        self.names = [name] if len(members) == 1 else [f"{name}.{i}" for i in range(len(members))]
        self.rates = [member.rate for member in members]
        self.feeding = {name for name, member in zip(self.names, members, strict=True) if member.feeds_theta}
        self.steps = [len(step) for step in steps]

    @property
    def transformers(self) -> list[SpatialTransformer]:
        """The members in order, step by step."""
        return [cast("SpatialTransformer", member) for member in self.members]

    def forward(
        self, maps: Float[Tensor, "n channels height width"], normalise: nn.Module | None = None
    ) -> tuple[Float[Tensor, "n out_channels out_height out_width"], list[NamedWarp]]:
        """Return what the next layer sees, and the warps of all members.

        `normalise`: makes of a map what the localisation networks look at; else they look at the map itself.
        """
        warps: list[NamedWarp] = []
        waiting = iter(zip(self.names, self.transformers, strict=True))
        for count in self.steps:
            view = maps if normalise is None else cast("Tensor", normalise(maps))
            step = [NamedWarp(name, *transformer(maps, view=view)) for name, transformer in islice(waiting, count)]
            maps = step[0].output if count == 1 else torch.cat([warp.output for warp in step], dim=1)
            warps += step
        return maps, warps

    def composed(self, warps: Sequence[NamedWarp]) -> list[list[Float[Tensor, "n grid_height grid_width 2"]]]:
        """Return where on the map that the place sees each member reads, through the transformers of the steps before.

        Convention: grids go output → the place's own input. One for each way there is through the steps before, in the
        order of the channels; so one alone unless some of them stand in parallel.
        """
        ways: list[list[tuple[SpatialTransformer, Tensor]]] = [[]]  # back to the map, from the latest step
        grids: list[list[Tensor]] = []
        waiting = iter(zip(self.transformers, warps, strict=True))
        for count in self.steps:
            step = list(islice(waiting, count))
            grids += [[_through(way, warp.grid) for way in ways] for _, warp in step]
            ways = [[(transformer, warp.theta), *way] for transformer, warp in step for way in ways]
        return grids

    def __call__(self, maps: Tensor, normalise: nn.Module | None = None) -> tuple[Tensor, list[NamedWarp]]:
        """Apply `forward`; stated here for its type."""
        return cast("tuple[Tensor, list[NamedWarp]]", super().__call__(maps, normalise))


def _through(way: list[tuple[SpatialTransformer, Tensor]], grid: Tensor) -> Tensor:
    points = grid.flatten(1, 2)
    for transformer, theta in way:
        points = transformer.grid_generator.points(theta, points)
    return points.view(grid.shape)
