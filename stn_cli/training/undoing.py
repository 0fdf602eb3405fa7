"""How far the transformers of a network undo a distortion, against what was truly done to each sample.

A distortion takes points of the original to the canvas, a transformer reads the canvas where its output is to show it.
One after the other they say which point of the original each point of the output shows. If the transformers undid the
distortion fully, that map would be the same for all samples, upright or not: a classifier learns any one pose as well.
"""

import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from stn_cli.datasets.loader import FrozenSet
from stn_cli.datasets.manifest import MANIFEST
from stn_cli.datasets.scene import Addition, Cluttered, Single, of_digit
from stn_cli.datasets.true_maps import read_truth
from stn_cli.distortions.distortion import Distortion, Parameters
from stn_cli.errors import UsageError
from stn_cli.geometry.grids import regular_grid
from stn_cli.geometry.poses import Poses, circular_deviation, common_pose, distances, fit_poses, seen_at, variances
from stn_cli.models.network import Network
from stn_cli.models.place import Member, NamedWarp, Place
from stn_cli.training.evaluation import BATCH
from stn_cli.training.runtime import Runtime

SIDE = 32  # points along each side of a picture that poses are fitted to
QUANTITIES = ("rotation", "scale", "shift", "stretch")
_CORNERS = ((-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0))
_ROUNDING = 1e-6  # a variance that is no larger is none

Index = Int64[Tensor, "n"]
# Where the pictures of samples read the canvas: points of a picture, and which samples → points of their canvases.
Reads = Callable[[Float[Tensor, "n k 2"], Index], Float[Tensor, "n k 2"]]


@dataclass(frozen=True)
class Truth:
    """What was done to the samples of a frozen set. `digits`: the parameters of each, by name where there are two."""

    distortion: Distortion
    digits: Mapping[str, Parameters]

    def original(self, points: Float[Tensor, "n k 2"], digit: str, index: Index) -> Float64[Tensor, "n k 2"]:
        """Return the points of the originals seen at points of the canvases, in pixels from the originals' middle."""
        chosen = {name: value[index] for name, value in self.digits[digit].items()}
        return self.distortion.to_input(points, chosen).double() * _half(self.distortion.in_size)


@dataclass(frozen=True)
class Spread:
    """How much a quantity differs between samples: standard deviations on the canvas and in a transformer's output.

    `within`: in the output, between samples of one class; None where classes are not those of the digits. `undone`: the
    share of the variance on the canvas that is gone from the output, 1 at best; None where there was none.
    """

    before: float
    after: float
    within: float | None
    undone: float | None
    undone_within: float | None


@dataclass(frozen=True)
class Undoing:
    """What a transformer makes of a digit's pose.

    `measured`: the number of samples that tell; of others hardly anything is in view before or after, or it is squeezed
    flat or mirrored. All but `corners` is of these, and empty without any.
    Units: `rotation` in degrees, circular; `scale` as logarithm; `shift` of the centre in pixels of the original at the
    common scale, since one zoom for all undoes none of it; `stretch` as in `Poses`.
    `pose`: the one that outputs have in common, `scale` relative to the original, the centre `x`, `y` in pixels of the
    canvas.
    `residuals`: median distances from that pose. `turned`: the same from upright, in degrees.
    `corners`: how far the points that are shown where the common pose has the original's four corners are from these
    corners, in pixels of the original: mean of the four, median over all samples, on the canvas and in the output.
    """

    transformer: str
    digit: str
    n: int
    measured: int
    pose: dict[str, float]
    spreads: dict[str, Spread]
    residuals: dict[str, float]
    turned: float | None
    corners: tuple[float, float] | None


def find_truth(frozen: FrozenSet, dataset: str) -> Truth:
    """Return what was done to the samples of a frozen set, or where that is nothing, to those of a folder.

    Raises:
        UsageError: the images are as they were.
        DataError: the folder's parameters are damaged.
    """
    scene, parameters = frozen.loader.scene, frozen.parameters
    if isinstance(scene, Single) and scene.distortion is None and os.path.isfile(Path(dataset) / MANIFEST):
        scene, parameters = read_truth(Path(dataset))
    if isinstance(scene, Addition):
        return Truth(scene.distortion, {which: of_digit(parameters, which) for which in ("first", "second")})
    if isinstance(scene, Single | Cluttered) and scene.distortion is not None:
        return Truth(scene.distortion, {"": parameters})
    raise UsageError("the images are not distorted, so there is nothing to undo", "Choose a --distortion.")


def measure_undoing(
    network: Network,
    frozen: FrozenSet,
    truth: Truth,
    runtime: Runtime,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> list[Undoing]:
    """Return how far the transformers before the first convolution undo what was done to each digit.

    Those that follow others are taken together with them. Transformers deeper inside see feature maps and are left out.
    The network is to be in evaluation mode. `progress`: is told how many samples of how many it has seen.

    Raises:
        UsageError: there is no such transformer.
    """
    learned = _Learned(network, frozen, runtime, progress)
    classes = frozen.targets if len(truth.digits) == 1 else None  # those of an addition are sums
    found: list[Undoing] = []
    for digit in truth.digits:
        before = _Pictures(lambda points, index: points, truth, digit, len(frozen))
        for name, reads in learned.ways():
            found.append(_compared(name, before, _Pictures(reads, truth, digit, len(frozen)), classes))
    return found


class _Learned:
    """What the transformers before the first convolution do to each image: their θ, and the maps they stand for."""

    def __init__(
        self, network: Network, frozen: FrozenSet, runtime: Runtime, progress: Callable[[int, int], object]
    ) -> None:
        places = [place for name, place in network.by_place.items() if name in ("input", "conv1")]
        if not places:
            raise UsageError(
                "no transformer stands before the first convolution, so nothing is undone",
                "Choose a run whose transformer sees images.",
            )
        steps: list[list[Member]] = []
        for place in places:  # what stands between them, pooling and normalisation, keeps the frame
            members = iter(place.transformers)
            steps += [[Member(one) for one in islice(members, count)] for count in place.steps]
        self._place = Place("input", steps)
        self._names = [name for place in places for name in place.names]
        thetas: list[list[Tensor]] = []
        with torch.inference_mode():
            for batch in frozen.batches(BATCH):
                with runtime.autocast():
                    warps = network(batch.images.contiguous(memory_format=runtime.memory_format)).warps
                thetas.append([warp.theta.cpu() for warp in warps[: len(self._names)]])
                progress(min(len(thetas) * BATCH, len(frozen)), len(frozen))
        self._thetas = [torch.cat(parts) for parts in zip(*thetas, strict=True)]

    def ways(self) -> Iterator[tuple[str, Reads]]:
        """Yield each transformer, with where on the canvas it reads: once for every way through those before it."""
        ways = [len(grids) for grids in self._composed(torch.zeros(1, 1, 2), torch.zeros(1, dtype=torch.int64))]
        for member, (name, count) in enumerate(zip(self._names, ways, strict=True)):
            for way in range(count):
                yield name if count == 1 else f"{name}, way {way}", partial(self._reads, member, way)

    def _reads(self, member: int, way: int, points: Tensor, index: Tensor) -> Tensor:
        return self._composed(points, index)[member][way].flatten(1, 2)

    def _composed(self, points: Tensor, index: Tensor) -> list[list[Tensor]]:
        warps: list[NamedWarp] = []
        for transformer, theta in zip(self._place.transformers, self._thetas, strict=True):
            grid = transformer.grid_generator.points(theta[index], points)[:, None]
            warps.append(NamedWarp("", theta[index], grid, grid))
        return self._place.composed(warps)


class _Pictures:
    """Pictures of a digit, the canvases or what transformers make of them, and how it stands in each."""

    def __init__(self, reads: Reads, truth: Truth, digit: str, n: int) -> None:
        self._reads, self._truth, self.digit = reads, truth, digit
        # The output of a transformer is taken to be as large as the canvas, so that the identity changes no pose.
        self._half_canvas, self._half = _half(truth.distortion.canvas), _half(truth.distortion.in_size)
        self._batches = torch.arange(n).split(BATCH)
        lattice = regular_grid((SIDE, SIDE)).reshape(-1, 2)
        parts: list[Poses] = []
        for original in self._shown(lattice):
            shown = (original.abs() <= self._half).all(dim=-1)
            parts.append(fit_poses((lattice * self._half_canvas).expand_as(original), original, shown))
        self.poses = Poses(*map(torch.cat, zip(*parts, strict=True)))

    def corner_distances(self, pose: Poses) -> Float64[Tensor, "n"]:
        """Return for each picture how far what it shows where a pose has the original's corners is from them."""
        corners = torch.tensor(_CORNERS, dtype=torch.float64) * self._half
        places = seen_at(pose, corners[None])[0] / self._half_canvas
        return torch.cat([(shown - corners).norm(dim=-1).mean(dim=1) for shown in self._shown(places.float())])

    def _shown(self, points: Float[Tensor, "k 2"]) -> Iterator[Float64[Tensor, "batch k 2"]]:
        """Yield the points of the originals that are shown at the same points of all pictures."""
        for index in self._batches:
            read = self._reads(points.expand(len(index), -1, -1), index)
            yield self._truth.original(read, self.digit, index)


def _compared(name: str, before: _Pictures, after: _Pictures, classes: Tensor | None) -> Undoing:
    measured = before.poses.measured & after.poses.measured
    described = partial(Undoing, name, before.digit, len(measured), int(measured.sum()))
    if not measured.any():
        return described(pose={}, spreads={}, residuals={}, turned=None, corners=None)
    old_pose, pose = (common_pose(one.poses.at(measured)) for one in (before, after))
    old, new = _at_common_scale(before.poses.at(measured), old_pose), _at_common_scale(after.poses.at(measured), pose)
    within = None if classes is None else _variances_within(new, classes[measured]).tolist()
    each = zip(variances(old).tolist(), variances(new).tolist(), within or [None] * len(QUANTITIES), strict=True)
    x, y = pose.centre[0].tolist()
    return described(
        pose={"rotation": pose.rotation.item(), "scale": pose.log_scale.exp().item(), "x": x, "y": y},
        spreads={name: _spread(name, *variance) for name, variance in zip(QUANTITIES, each, strict=True)},
        residuals=dict(zip(QUANTITIES, map(_median, distances(new, _at_common_scale(pose, pose))), strict=True)),
        turned=_median(new.rotation.abs()),
        corners=(_median(before.corner_distances(old_pose)), _median(after.corner_distances(pose))),
    )


def _at_common_scale(poses: Poses, pose: Poses) -> Poses:
    """Return poses whose centres are measured in pixels of digits as large as those of one pose."""
    return poses._replace(centre=poses.centre / pose.log_scale.exp())


def _variances_within(poses: Poses, classes: Int64[Tensor, "n"]) -> Float64[Tensor, "4"]:
    """Return the variances between the samples of one class, the mean over samples."""
    parts = [(classes == label).nonzero()[:, 0] for label in classes.unique()]
    return sum((len(part) * variances(poses.at(part)) for part in parts), torch.zeros(4)) / len(classes)


def _spread(quantity: str, before: float, after: float, within: float | None) -> Spread:
    def deviation(variance: float) -> float:
        return circular_deviation(variance) if quantity == "rotation" else math.sqrt(variance)

    def undone(variance: float | None) -> float | None:
        return None if variance is None or before <= _ROUNDING else 1 - variance / before

    own = None if within is None else deviation(within)
    return Spread(deviation(before), deviation(after), own, undone(after), undone(within))


def _median(values: Tensor) -> float:
    return values.median().item()


def _half(size: tuple[int, int]) -> Float64[Tensor, "2"]:
    """Return half of the sides of an image, (x, y)."""
    return torch.tensor([size[1] / 2, size[0] / 2], dtype=torch.float64)
