"""Batches: draw → gather → distort, on the device, no worker processes and no per-sample Python."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from stn_cli.datasets.scene import Scene, targets_of
from stn_cli.datasets.source import Split
from stn_cli.distortions.distortion import BLOCK, Parameters, draw_frozen
from stn_cli.randomness import derive_seed, device_generator, named_generator


@dataclass(frozen=True)
class Batch:
    """Samples in 0..1, [n, C, H, W] (volumes have a depth before H), and their classes, [n]."""

    images: Float[Tensor, "n channels ..."]
    targets: Int64[Tensor, "n"]


def uploaded(values: Tensor, device: torch.device) -> Tensor:
    """Return values of the CPU on a device. A CUDA device copies them in its turn, and the host goes on meanwhile."""
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values.to(device)


class BatchLoader:
    """A split that lies on the device as uint8, and the scenes that its images are made into.

    `own`: where each image stands in the training split that pieces of clutter come from; None for other splits.
    """

    def __init__(self, split: Split, scene: Scene, device: torch.device, own: Int64[Tensor, "n"] | None = None) -> None:
        self.scene = scene
        self.device = device
        self._split = Split(split.images.to(device), split.targets.to(device))
        self._own = None if own is None else own.to(device)

    def __len__(self) -> int:
        return len(self._split)

    def under(self, scene: Scene) -> "BatchLoader":
        """Return a loader that makes other scenes of the same images."""
        return BatchLoader(self._split, scene, self.device, self._own)

    def draw(self, index: Int64[Tensor, "n"], generator: torch.Generator) -> dict[str, Tensor]:
        """Return parameters for the images at `index`, on the generator's device."""
        own = None if self._own is None else self._own[index]
        return self.scene.draw(len(index), generator, among=len(self), own=own)

    def gather(self, index: Int64[Tensor, "n"], parameters: Parameters) -> Batch:
        """Return the samples of the images at `index` under `parameters` (drawn for exactly these)."""
        index, moved = index.to(self.device), self._moved(parameters)
        return Batch(self.scene.make(self._split, index, moved), targets_of(self._split, index, moved))

    def render(self, index: Int64[Tensor, "n"], parameters: Parameters) -> UInt8[Tensor, "n channels ..."]:
        """Return the same samples as bytes that are the same on every machine."""
        return self.scene.make(self._split, index.to(self.device), self._moved(parameters), exact=True)

    def targets(self, index: Int64[Tensor, "n"], parameters: Parameters) -> Int64[Tensor, "n"]:
        """Return the classes of the same samples, on the CPU."""
        return targets_of(self._split, index.to(self.device), self._moved(parameters)).cpu()

    def _moved(self, parameters: Parameters) -> dict[str, Tensor]:
        return {name: value.to(self.device) for name, value in parameters.items()}


class TrainingStream:
    """The endless stream of training batches: a new order every epoch, a new distortion every step.

    Every batch follows from (seed, step) alone, so a resumed run needs no replay. Images that do not fill the last
    batch of an epoch are left out of that epoch. `rows`: those of each batch to make, where others make the rest.

    Distortions are drawn by `generator`: on a CUDA device there, at an offset that follows from the step, else on the
    CPU, seeded anew for every step. Between `seek` and `make` nothing passes between host and device, and on a CUDA
    device a `make` leaves the generator where the next step's begins, so that several can be one CUDA graph.
    """

    def __init__(self, loader: BatchLoader, batch_size: int, seed: int, rows: slice = slice(None)) -> None:
        self._loader = loader
        self._batch_size = batch_size
        self._seed = seed
        self._rows = rows
        self._order: tuple[int, Tensor] = (-1, torch.empty(0))
        self.steps_per_epoch = len(loader) // batch_size
        self.generator = named_generator(seed, "distortion")
        self._stride: int | None = None  # between the offsets of two steps
        if loader.device.type == "cuda":
            self.generator = device_generator(seed, "distortion", loader.device)
            loader.draw(torch.zeros(batch_size, dtype=torch.int64, device=loader.device), self.generator)
            self._stride = self.generator.get_offset()

    def batch(self, step: int) -> Batch:
        """Return the batch of a step, counted from 0 over the whole run."""
        self.seek(step)
        return self.make(self.indices(step)[0])

    def indices(self, step: int, count: int = 1) -> Int64[Tensor, "count batch"]:
        """Return which images the batches of `count` steps from one on are made of, on the device."""
        parts: list[Tensor] = []
        while count > 0:
            epoch, place = divmod(step, self.steps_per_epoch)
            parts.append(self._order_of(epoch)[place : place + count])
            step, count = step + len(parts[-1]), count - len(parts[-1])
        return torch.cat(parts)

    def seek(self, step: int) -> None:
        """Let the next batch be drawn as that of a step."""
        if self._stride is None:
            self.generator.manual_seed(derive_seed(self._seed, "distortion", step))
        else:
            self.generator.set_offset(step * self._stride)

    def make(self, index: Int64[Tensor, "batch"]) -> Batch:
        """Return the batch of a row of `indices`."""
        drawn = self._loader.draw(index, self.generator)
        return self._loader.gather(index[self._rows], {name: value[self._rows] for name, value in drawn.items()})

    def _order_of(self, epoch: int) -> Int64[Tensor, "steps batch"]:
        if self._order[0] != epoch:
            generator = named_generator(self._seed, "order", epoch)
            order = torch.randperm(len(self._loader), generator=generator)
            rows = order[: self.steps_per_epoch * self._batch_size].view(-1, self._batch_size)
            self._order = (epoch, uploaded(rows, self._loader.device))
        return self._order[1]


class FrozenSet:
    """A split under one frozen draw of its parameters: the same samples at every evaluation, for one seed.

    `purpose`: "test", "validation" or "train", so that different splits get unrelated draws. `count`: how many images
    from the split's first on; all unless said otherwise. `loader` and `parameters`: what samples are made with.
    """

    def __init__(self, loader: BatchLoader, seed: int, purpose: str, count: int | None = None) -> None:
        self.loader = loader
        self._count = len(loader) if count is None else min(count, len(loader))

        def draw(start: int, generator: torch.Generator) -> dict[str, Tensor]:
            # A whole block always, so that the numbers do not depend on the count; past the end, of the last image.
            return loader.draw(torch.arange(start, start + BLOCK).clamp(max=len(loader) - 1), generator)

        self.parameters = draw_frozen(draw, self._count, seed, purpose)

    def __len__(self) -> int:
        return self._count

    @property
    def targets(self) -> Int64[Tensor, "n"]:
        """The classes of all samples, on the CPU."""
        return self.loader.targets(torch.arange(len(self)), self.parameters)

    def take(self, index: Int64[Tensor, "n"]) -> Batch:
        """Return the samples at `index`."""
        return self.loader.gather(index, self._at(index))

    def render(self, index: Int64[Tensor, "n"]) -> UInt8[Tensor, "n channels ..."]:
        """Return the samples at `index` as bytes that are the same on every machine."""
        return self.loader.render(index, self._at(index))

    def batches(self, batch_size: int, which: slice = slice(None)) -> Iterator[Batch]:
        """Yield the whole split in order, or `which` batches of it; the last batch may be smaller."""
        for index in torch.arange(len(self)).split(batch_size)[which]:
            yield self.take(index)

    def _at(self, index: Int64[Tensor, "n"]) -> dict[str, Tensor]:
        return {name: value[index] for name, value in self.parameters.items()}


def hold_out(n: int, share: float, seed: int) -> tuple[Int64[Tensor, "rest"], Int64[Tensor, "held_out"]]:
    """Return the positions of (the rest, the held-out images) of `n`: a share drawn at random, each in order."""
    mark = torch.zeros(n, dtype=torch.bool)
    mark[torch.randperm(n, generator=named_generator(seed, "validation"))[: round(share * n)]] = True
    return (~mark).nonzero().flatten(), mark.nonzero().flatten()


def first_of_each_class(targets: Int64[Tensor, "n"], classes: int, count: int) -> Int64[Tensor, "m"]:
    """Return the indices of the first images of every class, `count` in all or a little less, class by class."""
    each = max(1, count // classes)
    return torch.cat([torch.nonzero(targets == label)[:each, 0] for label in range(classes)])[:count]
