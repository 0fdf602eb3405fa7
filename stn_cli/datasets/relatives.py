"""The relatives of MNIST, in the folder layout of torchvision, downloaded at first use.

The MD5 sums are those that torchvision 0.29 holds; the addresses are https where torchvision's are not.

Fashion-MNIST: H. Xiao, K. Rasul and R. Vollgraf (2017), arXiv:1708.07747, MIT.
KMNIST: T. Clanuwat et al. (2018), Deep Learning for Classical Japanese Literature, arXiv:1812.01718, CC BY-SA 4.0.
EMNIST: G. Cohen, S. Afshar, J. Tapson and A. van Schaik (2017), arXiv:1702.05373.
QMNIST: C. Yadav and L. Bottou (2019), Cold Case: The Lost MNIST Digits, arXiv:1905.10498, BSD.
"""

import string
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal

from stn_cli.datasets.download import Progress
from stn_cli.datasets.mnist import load_mnist
from stn_cli.datasets.published import Published, load_published
from stn_cli.datasets.source import Source

Splits = Literal["balanced", "byclass", "bymerge", "letters", "digits", "mnist"]

_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
_QMNIST_FILES = (
    "qmnist-train-images-idx3-ubyte",
    "qmnist-train-labels-idx2-int",
    "qmnist-test-images-idx3-ubyte",
    "qmnist-test-labels-idx2-int",
)
_DIGITS = tuple(string.digits)
_BY_CLASS = _DIGITS + tuple(string.ascii_uppercase + string.ascii_lowercase)
_BY_MERGE = tuple(c for c in _BY_CLASS if c not in "cijklmopsuvwxyz")  # those look like their capitals
_EMNIST_CLASSES: dict[str, tuple[str, ...]] = {
    "balanced": _BY_MERGE,
    "byclass": _BY_CLASS,
    "bymerge": _BY_MERGE,
    "letters": tuple(string.ascii_uppercase),  # capitals and small letters together
    "digits": _DIGITS,
    "mnist": _DIGITS,
}


def _emnist(split: str) -> Published:
    train, test = f"emnist-{split}-train", f"emnist-{split}-test"
    return Published(
        name=f"emnist-{split}",
        title=f"EMNIST {split}",
        folder="EMNIST",
        files=(
            f"{train}-images-idx3-ubyte",
            f"{train}-labels-idx1-ubyte",
            f"{test}-images-idx3-ubyte",
            f"{test}-labels-idx1-ubyte",
        ),
        classes=_EMNIST_CLASSES[split],
        mirrors=("https://biometrics.nist.gov/cs_links/EMNIST/", "https://www.itl.nist.gov/iaui/vip/cs_links/EMNIST/"),
        md5={"gzip.zip": "58c8d27c78d21e728a6bc7b3cc06412e"},
        archive="gzip.zip",
        first_label=1 if split == "letters" else 0,
        transposed=True,
    )


def _qmnist(name: str, test_rows: tuple[int, int]) -> Published:
    return Published(
        name=name,
        title="QMNIST",
        folder="QMNIST",
        files=_QMNIST_FILES,
        classes=_DIGITS,
        mirrors=("https://raw.githubusercontent.com/facebookresearch/qmnist/master/",),
        md5={
            "qmnist-train-images-idx3-ubyte.gz": "ed72d4157d28c017586c42bc6afe6370",
            "qmnist-train-labels-idx2-int.gz": "0058f8dd561b90ffdd0f734c6a30e5e4",
            "qmnist-test-images-idx3-ubyte.gz": "1394631089c404de565df7b7aeaf9412",
            "qmnist-test-labels-idx2-int.gz": "5b5b05890a5e13444e108efe57b788aa",
        },
        test_rows=test_rows,
    )


_ROWS = (
    Published(
        name="fashion-mnist",
        title="Fashion-MNIST",
        folder="FashionMNIST",
        files=_FILES,
        classes=(
            "T-shirt/top",
            "Trouser",
            "Pullover",
            "Dress",
            "Coat",
            "Sandal",
            "Shirt",
            "Sneaker",
            "Bag",
            "Ankle boot",
        ),
        mirrors=(
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
            "https://fashion-mnist.s3.eu-central-1.amazonaws.com/",
        ),
        md5={
            "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
            "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
            "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
        },
    ),
    Published(
        name="kmnist",
        title="KMNIST",
        folder="KMNIST",
        files=_FILES,
        classes=("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
        mirrors=("https://codh.rois.ac.jp/kmnist/dataset/kmnist/",),
        md5={
            "train-images-idx3-ubyte.gz": "bdb82020997e1d708af4cf47b453dcf7",
            "train-labels-idx1-ubyte.gz": "e144d726b3acfaa3e44228e80efcd344",
            "t10k-images-idx3-ubyte.gz": "5c965bf0a639b31b8f53240b1b52f4d7",
            "t10k-labels-idx1-ubyte.gz": "7320c461ea6c1c855c0b718fb2a4b134",
        },
    ),
    *(_emnist(split) for split in _EMNIST_CLASSES),
    _qmnist("qmnist", (0, 10_000)),
    _qmnist("qmnist-50k", (10_000, 60_000)),
)
RELATIVES = {row.name: row for row in _ROWS}


def load_fashion_mnist(data_dir: Path, *, offline: bool = False, progress: Progress | None = None) -> Source:
    """Return Fashion-MNIST, 60,000 + 10,000 images of clothes, 28×28, in 10 classes. Errors as `load_published`."""
    return load_published(RELATIVES["fashion-mnist"], data_dir, offline=offline, progress=progress)


def load_kmnist(data_dir: Path, *, offline: bool = False, progress: Progress | None = None) -> Source:
    """Return KMNIST, 60,000 + 10,000 images of cursive hiragana, 28×28, in 10 classes. Errors as `load_published`."""
    return load_published(RELATIVES["kmnist"], data_dir, offline=offline, progress=progress)


def load_emnist(
    data_dir: Path, split: Splits = "balanced", *, offline: bool = False, progress: Progress | None = None
) -> Source:
    """Return a split of EMNIST, handwritten digits and letters, 28×28, upright. Errors as `load_published`.

    `balanced`: 112,800 + 18,800 in 47 classes. `byclass`: 697,932 + 116,323 in 62. `bymerge`: the same images in 47,
    where small letters that look like their capitals join them. `letters`: 124,800 + 20,800 in 26, numbered from 0
    here and from 1 in the files. `digits`: 240,000 + 40,000. `mnist`: 60,000 + 10,000. All splits come in one
    download of 562 MB. The files hold every image transposed; torchvision leaves them so.
    """
    return load_published(RELATIVES[f"emnist-{split}"], data_dir, offline=offline, progress=progress)


def load_qmnist(
    data_dir: Path,
    test: Literal["test10k", "test50k"] = "test10k",
    *,
    offline: bool = False,
    progress: Progress | None = None,
) -> Source:
    """Return QMNIST, the digits of MNIST prepared anew from NIST's originals, 28×28. Errors as `load_published`.

    60,000 training images, those of MNIST in its order. `test10k`: the 10,000 test images of MNIST in its order;
    `test50k`: the 50,000 that MNIST left out. The names are torchvision's.
    """
    name = {"test10k": "qmnist", "test50k": "qmnist-50k"}[test]
    return load_published(RELATIVES[name], data_dir, offline=offline, progress=progress)


LOADERS: dict[str, Callable[..., Source]] = {
    "mnist": load_mnist,
    **{name: partial(load_published, row) for name, row in RELATIVES.items()},
}
"""Every dataset that is downloaded, by the name a user writes: loader(data_dir, offline=…, progress=…)."""
