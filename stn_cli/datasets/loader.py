"""Batches: gather → float → distort, on the device, no worker processes and no per-sample Python."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from stn_cli.datasets.source import Split
from stn_cli.distortions.distortion import Distortion, draw_frozen
from stn_cli.randomness import named_generator


@dataclass(frozen=True)
class Batch:
    """Distorted images in 0..1, [n, C, H, W], and their classes, [n]."""

    images: Float[Tensor, "n channels height width"]
    targets: Int64[Tensor, "n"]


class BatchLoader:
    """A split that lies on the device as uint8, and the distortion its batches go through (None: as they are)."""

    def __init__(self, split: Split, distortion: Distortion | None, device: torch.device) -> None:
        self.distortion = distortion
        self.device = device
        self._images = split.images.to(device)
        self.targets = split.targets.to(device)

    def __len__(self) -> int:
        return len(self.targets)

    def gather(self, index: Int64[Tensor, "n"], parameters: dict[str, Tensor]) -> Batch:
        """Return the images at `index`, distorted by `parameters` (drawn for exactly these)."""
        index = index.to(self.device)
        images = self._images[index].float().div_(255)
        if self.distortion is not None:
            moved = {name: value.to(self.device) for name, value in parameters.items()}
            images = self.distortion.apply(images, moved)
        return Batch(images, self.targets[index])


class TrainingStream:
    """The endless stream of training batches: a new order every epoch, a new distortion every step.

    Every batch follows from (seed, step) alone, so a resumed run needs no replay. Images that do not fill the last
    batch of an epoch are left out of that epoch.
    """

    def __init__(self, loader: BatchLoader, batch_size: int, seed: int) -> None:
        self._loader = loader
        self._batch_size = batch_size
        self._seed = seed
        self._order: tuple[int, Tensor] = (-1, torch.empty(0))
        self.steps_per_epoch = len(loader) // batch_size

    def batch(self, step: int) -> Batch:
        """Return the batch of a step, counted from 0 over the whole run."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if self._order[0] != epoch:
            generator = named_generator(self._seed, "order", epoch)
            self._order = (epoch, torch.randperm(len(self._loader), generator=generator))
        index = self._order[1][place * self._batch_size : (place + 1) * self._batch_size]
        parameters: dict[str, Tensor] = {}
        if self._loader.distortion is not None:
            generator = named_generator(self._seed, "distortion", step)
            parameters = self._loader.distortion.draw(self._batch_size, generator)
        return self._loader.gather(index, parameters)


class FrozenSet:
    """A split under one frozen draw of its distortion: the same images at every evaluation, for one seed.

    `purpose`: "test", "validation" or "train", so that different splits get unrelated draws.
    """

    def __init__(self, loader: BatchLoader, seed: int, purpose: str) -> None:
        self._loader = loader
        self.parameters: dict[str, Tensor] = {}
        if loader.distortion is not None:
            self.parameters = draw_frozen(loader.distortion, len(loader), seed, purpose)

    def __len__(self) -> int:
        return len(self._loader)

    @property
    def targets(self) -> Int64[Tensor, "n"]:
        """The classes of all images, on the CPU."""
        return self._loader.targets.cpu()

    def take(self, index: Int64[Tensor, "n"]) -> Batch:
        """Return the images at `index`, under their frozen distortion."""
        return self._loader.gather(index, {name: value[index] for name, value in self.parameters.items()})

    def batches(self, batch_size: int) -> Iterator[Batch]:
        """Yield the whole split in order; the last batch may be smaller."""
        for index in torch.arange(len(self)).split(batch_size):
            yield self.take(index)


def hold_out(split: Split, share: float, seed: int) -> tuple[Split, Split]:
    """Return (the rest, the held-out images): a share of a split drawn at random, each in the split's order."""
    mark = torch.zeros(len(split), dtype=torch.bool)
    chosen = torch.randperm(len(split), generator=named_generator(seed, "validation"))
    mark[chosen[: round(share * len(split))]] = True
    return Split(split.images[~mark], split.targets[~mark]), Split(split.images[mark], split.targets[mark])


def first_of_each_class(targets: Int64[Tensor, "n"], classes: int, count: int) -> Int64[Tensor, "m"]:
    """Return the indices of the first images of every class, `count` in all or a little less, class by class."""
    each = max(1, count // classes)
    return torch.cat([torch.nonzero(targets == label)[:each, 0] for label in range(classes)])[:count]
