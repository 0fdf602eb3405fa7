"""What a dataset is: two splits of uint8 images with integer targets."""

from dataclasses import dataclass

from jaxtyping import Int64, UInt8
from torch import Tensor


@dataclass(frozen=True)
class Split:
    """Images and their targets.

    `images`: uint8, 0 is the background, [N, C, H, W]. `targets`: class indices, int64, [N].
    """

    images: UInt8[Tensor, "n channels height width"]
    targets: Int64[Tensor, "n"]

    def __len__(self) -> int:
        return self.images.shape[0]

    def at(self, index: Int64[Tensor, "m"]) -> "Split":
        """Return the images at `index`."""
        return Split(self.images[index], self.targets[index])

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of every image."""
        return self.images.shape[2], self.images.shape[3]


@dataclass(frozen=True)
class Source:
    """A dataset by name: its training and test split and the names of its classes.

    `lineage`: what tells a folder of distorted images from the dataset it was made of, "" where nothing was distorted.
    Frozen draws depend on it, so that distorting such a folder once more does not repeat the same draw.
    """

    name: str
    train: Split
    test: Split
    classes: tuple[str, ...]
    lineage: str = ""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of every image."""
        return self.train.images.shape[1], *self.train.size
