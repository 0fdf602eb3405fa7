"""The UCI handwritten digits: a small data set inside the package, so that a first run needs no download.

E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits (1998), UCI Machine Learning Repository,
https://doi.org/10.24432/C50P49, CC BY 4.0. The 1,797 images are those that scikit-learn ships as `load_digits`.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Int64, UInt8
from torch import Tensor

from stn_cli.datasets.idx import read_labelled
from stn_cli.datasets.source import Source, Split

_EMBEDDED = Path(__file__).with_name("embedded")
_TRAIN_COUNT = 1297


def load_digits() -> Source:
    """Return the UCI digits as 28×28 images: the first 1,297 of the file to train on, the last 500 to test on.

    The file is grouped by writer, so most test writers are new to the network: a harder, more honest split than a
    shuffled one. The images are laid out like MNIST: 20×20 pixels of digit in the middle of a black 28×28 frame.
    """
    whole = read_labelled(_EMBEDDED / "digits-images-idx3-ubyte.gz", _EMBEDDED / "digits-labels-idx1-ubyte.gz", 10)
    images = F.pad(enlarge(whole.images), (4, 4, 4, 4))
    return Source(
        name="digits",
        train=Split(images[:_TRAIN_COUNT], whole.targets[:_TRAIN_COUNT]),
        test=Split(images[_TRAIN_COUNT:], whole.targets[_TRAIN_COUNT:]),
        classes=tuple("0123456789"),
    )


def enlarge(images: UInt8[Tensor, "n c 8 8"]) -> UInt8[Tensor, "n c 20 20"]:
    """Enlarge 8×8 images with values 0..16 to 20×20 with values 0..255, by Catmull-Rom interpolation (a = -1/2).

    Pixel centres, edge pixels replicated. All in integers, so the bytes are the same on every machine: the values
    are scaled by 2000 × 2000 / 16, rounded once (halves up), and clamped where the cubic overshoots.
    """
    weights = _catmull_rom_2000()
    scaled = weights @ images.long() @ weights.T
    unit = 16 * 2000 * 2000
    return ((2 * 255 * scaled + unit) // (2 * unit)).clamp(0, 255).to(torch.uint8)


def _catmull_rom_2000() -> Int64[Tensor, "20 8"]:
    """The interpolation weights × 2000: at the distance k/10 the cubic's coefficients are multiples of 1/2000."""
    weights = torch.zeros(20, 8, dtype=torch.int64)
    for i in range(20):
        left, k = divmod(4 * i - 3, 10)  # the centre of output pixel i lies at (i + 1/2) 8/20 - 1/2 = (4i - 3)/10
        taps = (
            -100 * k + 20 * k**2 - k**3,
            2000 - 50 * k**2 + 3 * k**3,
            100 * k + 40 * k**2 - 3 * k**3,
            -10 * k**2 + k**3,
        )
        for offset, tap in enumerate(taps, start=-1):
            weights[i, min(max(left + offset, 0), 7)] += tap
    return weights
