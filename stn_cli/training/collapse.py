"""What transformers do to a whole set of images, and whether one has run away from them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stn_cli.geometry.grids import regular_grid, share_outside
from stn_cli.models.network import Network
from stn_cli.models.place import NamedWarp
from stn_cli.training.distributed import Ranks

# A transformer that still looks at its image has none of these. The widest warp that the paper's distortions ask for,
# undoing RTS, has a scale of 0.8 and nothing outside; identity has 1 and 0.
MOST_OUTSIDE = 75.0  # percent
SMALLEST_SCALE, LARGEST_SCALE = 0.1, 10.0


@dataclass(frozen=True)
class WarpStatistics:
    """How one transformer warps a set of images.

    `outside_percent`: share of its samples that lie outside of what it reads. `scale`: how far its samples spread,
    relative to what it reads, as a geometric mean over the images; 1 for the identity. `theta_sd`: standard deviation
    of θ over the images, root mean square over its components; 0 for one warp for all. `angle_degrees`: by how much it
    turns images, either way, in the mean. `shift`: how far the middle of its samples is off that of what it reads, in
    half sides, in the mean.
    """

    outside_percent: float
    scale: float
    theta_sd: float
    angle_degrees: float
    shift: float

    @property
    def fault(self) -> str | None:
        """What is wrong with a transformer that has run away; None for another."""
        if not self.outside_percent <= MOST_OUTSIDE:  # NaN is more
            return f"{self.outside_percent:.0f} % of its samples lie outside the image"
        if not SMALLEST_SCALE <= self.scale <= LARGEST_SCALE:
            return f"its samples spread over {self.scale:.2g} times the image's size"
        return None


def faults(statistics: dict[str, WarpStatistics]) -> tuple[str, ...]:
    """Return a line for each transformer that has run away."""
    return tuple(f"transformer {name} has collapsed: {one.fault}" for name, one in statistics.items() if one.fault)


class WarpSums:
    """Adds up what `WarpStatistics` are made of, batch by batch, on the device."""

    def __init__(self, network: Network, device: torch.device) -> None:
        self._names = [name for place in network.by_place.values() for name in place.names]
        self._sums = torch.zeros(len(self._names), 4, device=device)
        sizes = [len(one.grid_generator.identity) for place in network.by_place.values() for one in place.transformers]
        self._wide = torch.float32 if device.type == "mps" else torch.float64  # which MPS has not
        self._thetas = [torch.zeros(2, size, dtype=self._wide, device=device) for size in sizes]

    def add(self, warps: Sequence[NamedWarp]) -> None:
        """Add the warps of a batch."""
        for place, warp in enumerate(warps):
            of_images = (share_outside(warp.grid), _log_scale(warp.grid), *_turn_and_shift(warp.grid))
            self._sums[place] += torch.stack([values.sum() for values in of_images])
            theta = warp.theta.to(self._wide)
            self._thetas[place] += torch.stack([theta.sum(dim=0), theta.square().sum(dim=0)])

    def share(self, ranks: Ranks) -> None:
        """Add what other ranks have added up."""
        if self._names:
            ranks.add_up([self._sums])
            ranks.add_up(self._thetas)

    def statistics(self, n: int) -> dict[str, WarpStatistics]:
        """Return the statistics over all `n` images, by the transformers' names."""
        found: dict[str, WarpStatistics] = {}
        for name, sums, theta in zip(self._names, self._sums / n, self._thetas, strict=True):
            outside, log_scale, angle, shift = sums.tolist()
            mean, square = theta / n
            variance = (square - mean.square()).clamp(min=0).mean()
            found[name] = WarpStatistics(
                100 * outside, math.exp(log_scale), variance.sqrt().item(), math.degrees(angle), shift
            )
        return found


def _log_scale(grid: Tensor) -> Tensor:
    """Return the logarithm of how far the points of grids spread, relative to the regular grid's, [n]."""
    size = (grid.shape[1], grid.shape[2])
    regular = regular_grid(size, device=grid.device).reshape(1, -1, 2)
    spreads = [_spread(points) for points in (grid.flatten(1, 2), regular)]
    return torch.log(spreads[0].clamp(1e-6, 1e9) / spreads[1].clamp(min=1e-6))  # squares of more than 1e19 overflow


def _turn_and_shift(grid: Tensor) -> tuple[Tensor, Tensor]:
    """Return by what angle grids are turned, in radians without the sign, and how far off the middle they are, [n].

    The turn is that of the affine map which fits best by least squares, in normalised coordinates.
    """
    regular = regular_grid((grid.shape[1], grid.shape[2]), device=grid.device).reshape(-1, 2)
    points = grid.flatten(1, 2).clamp(-1e6, 1e6)  # products of what is further out overflow
    along = points.mT @ (regular / regular.square().sum(dim=0).clamp(min=1e-6))  # the map's matrix, [n, 2, 2]
    turn = torch.atan2(along[:, 1, 0] - along[:, 0, 1], along[:, 0, 0] + along[:, 1, 1])
    return turn.abs(), points.mean(dim=1).square().sum(dim=1).sqrt()


def _spread(points: Tensor) -> Tensor:
    return (points - points.mean(dim=1, keepdim=True)).square().sum(dim=2).mean(dim=1).sqrt()
