"""What a format is: a way to keep the images of a split and their targets in files, written chunk by chunk."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from stn_cli.datasets.source import Split

SplitName = Literal["train", "test"]
Shape = Sequence[int]  # of one sample: (channels, height, width) or (channels, depth, height, width)
Classes = Sequence[str]
Images = UInt8[Tensor, "n ..."]
Targets = Int64[Tensor, "n"]


class Writer:
    """Takes the images of one split, chunk by chunk, in their order.

    `sha256`: after the block, the hash of every file written; relative to the folder, with slashes.
    """

    def __init__(self, targets: Targets, shape: Shape, classes: Classes, put: Callable[[int, Images], None]) -> None:
        """`put` is given the number of a chunk's first image and the chunk, in the memory of the CPU."""
        if wrong := set(targets.tolist()).difference(range(len(classes))):
            raise ValueError(f"expected targets in 0..{len(classes) - 1}, found {min(wrong)}")
        self.sha256: dict[str, str] = {}
        self._count, self._shape, self._put, self._done = len(targets), list(shape), put, 0

    def add(self, images: Images) -> None:
        """Write the next images, [n, *shape], from any device.

        Raises:
            ValueError: another dtype or shape, or more images than targets.
            ResourceError: a file cannot be written.
        """
        start, end = self._done, self._done + len(images)
        if images.dtype != torch.uint8 or list(images.shape[1:]) != self._shape or end > self._count:
            raise ValueError(
                f"expected uint8 images {self._shape}, {self._count} in all,"
                f" found {list(images.shape)} of {images.dtype} after {start}"
            )
        self._put(start, images.cpu())
        self._done = end

    def finish(self) -> None:
        """Be called at the end of the block: ValueError for fewer images than targets."""
        if self._done != self._count:
            raise ValueError(f"expected {self._count} images, found {self._done}")


class Format(ABC):
    """A way to keep images and their targets in a folder.

    Writing needs the memory of one chunk. The bytes written depend neither on the size of the chunks nor on the
    machine, save that PNG files are packed by Pillow's zlib, and another one may pack them otherwise.
    """

    @abstractmethod
    def refusal(self, shape: Shape, classes: Classes) -> str | None:
        """Return why samples of this shape and these classes cannot be kept so, or None."""

    @abstractmethod
    def writer(
        self, folder: Path, split: SplitName, targets: Targets, shape: Shape, classes: Classes
    ) -> AbstractContextManager[Writer]:
        """Open a split of samples that `refusal` allows; its files appear where the block ends without an exception.

        Otherwise nothing new is left and old files are as before, but for PNG files: each appears when it is added.

        Raises:
            ValueError: targets or images don't fit, as `Writer` says.
            ResourceError: a file cannot be written.
        """

    @abstractmethod
    def read(self, folder: Path, split: SplitName, count: int, shape: Shape, classes: Classes) -> Split:
        """Return the images (channels, height, width) of a split, in the order they were written.

        Raises:
            DataError: a file is missing or damaged, or does not hold `count` samples of this shape and these classes.
        """

    @abstractmethod
    def targets(self, folder: Path, split: SplitName, count: int, shape: Shape, classes: Classes) -> Targets:
        """Return the targets of a split alone, of images or volumes.

        Raises:
            DataError: as `read`.
        """

    @abstractmethod
    def mapped(self, folder: Path, split: SplitName, count: int, shape: Shape) -> Images:
        """Return the images or volumes of a split, [count, *shape], mapped into memory: what is not used is not loaded.

        Changes of the tensor stay in memory. While it lives, the file may be removed or replaced, but not cut.

        Raises:
            DataError: as `read`.
            ValueError: for PNG, which is compressed.
        """
