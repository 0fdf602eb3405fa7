"""Distortions one after another, read in one go."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from stn_cli.distortions.distortion import Distortion, Parameters
from stn_cli.geometry.grids import HORIZON

# In half-images. What a stage sends so far away is nowhere, and must not come back by the rounding of the next.
_NOWHERE = 100.0


class Chain(Distortion):
    """The first distortion, then the next, each on the canvas of the one before.

    Their maps are chained and the image is read once, so nothing is blurred twice, and what leaves a canvas on the
    way may come back on a later one.
    """

    def __init__(self, stages: Sequence[Distortion]) -> None:
        self.stages = tuple(stages)
        self.in_size = self.stages[0].in_size
        self.canvas = self.stages[-1].canvas

    def draw(self, n: int, generator: Generator) -> dict[str, Tensor]:
        """Return the parameters of every stage, their names after its number, "1.rotation"."""
        drawn = [stage.draw(n, generator) for stage in self.stages]
        return {f"{k}.{name}": value for k, part in enumerate(drawn, 1) for name, value in part.items()}

    def grid(self, parameters: Parameters) -> Float[Tensor, "n height width 2"]:
        last = self.stages[-1].grid(of_stage(parameters, len(self.stages)))
        points = last.reshape(len(last), -1, 2)
        return _kept(points, self._to_input(points, parameters, len(self.stages) - 1)).reshape(last.shape)

    def to_input(self, points: Float[Tensor, "n k 2"], parameters: Parameters) -> Float[Tensor, "n k 2"]:
        return self._to_input(points, parameters, len(self.stages))

    def to_output(self, points: Float[Tensor, "n k 2"], parameters: Parameters) -> Float[Tensor, "n k 2"]:
        for k, stage in enumerate(self.stages, 1):
            points = _kept(points, stage.to_output(points, of_stage(parameters, k)))
        return points

    def _to_input(self, points: Tensor, parameters: Parameters, stages: int) -> Tensor:
        for k in range(stages, 0, -1):
            points = _kept(points, self.stages[k - 1].to_input(points, of_stage(parameters, k)))
        return points


def of_stage(parameters: Parameters, number: int) -> dict[str, Tensor]:
    """Return the parameters of one stage, counted from 1, by their own names."""
    prefix = f"{number}."
    return {name.removeprefix(prefix): value for name, value in parameters.items() if name.startswith(prefix)}


def _kept(before: Float[Tensor, "n k 2"], after: Float[Tensor, "n k 2"]) -> Float[Tensor, "n k 2"]:
    """Return the points after a stage; those that were nowhere before stay so."""
    return torch.where((before.abs() > _NOWHERE).any(dim=-1, keepdim=True), 1 / HORIZON, after)
