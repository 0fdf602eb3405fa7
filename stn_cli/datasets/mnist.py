"""MNIST, in the folder layout of torchvision, downloaded at first use."""

import os
from pathlib import Path

from jaxtyping import UInt8
from torch import Tensor

from stn_cli.datasets.download import Progress, fetch
from stn_cli.datasets.idx import idx_sha256, read_idx
from stn_cli.datasets.source import Source, Split
from stn_cli.errors import DataError

MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
# SHA-256 of the unpacked files. Checking all four takes 26 to 42 ms on a processor with SHA instructions, so every
# load does it.
FILES = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}


def resolve_data_dir(option: Path | None) -> Path:
    """Return the folder of the data sets: the option, else the environment variable STN_DATA, else ./data."""
    return option or Path(os.environ.get("STN_DATA") or "data")


def load_mnist(data_dir: Path, *, offline: bool = False, progress: Progress | None = None) -> Source:
    """Return MNIST, 60,000 + 10,000 images of 28×28, from `data_dir`/MNIST/raw; missing files are downloaded.

    A `.gz` file stands in for its missing plain file. The content of each file is checked by its SHA-256 every time.

    Raises:
        DataError: a file is missing and cannot be downloaded (or `offline`), or is not the file that it should be.
        ResourceError: a downloaded file cannot be written.
    """
    raw = data_dir / "MNIST" / "raw"
    missing = [name for name in FILES if not os.path.exists(_stored(raw, name))]
    if missing and offline:
        raise _missing(raw, missing, "downloads are off")
    for name in missing:
        try:
            fetch(raw / name, [f"{mirror}{name}.gz" for mirror in MIRRORS], FILES[name], progress)
        except DataError as error:
            raise _missing(raw, [name], error.what) from error
    train_images, train_labels, test_images, test_labels = (_read(_stored(raw, name), FILES[name]) for name in FILES)
    return Source(
        name="mnist",
        train=Split(train_images.unsqueeze(1), train_labels.long()),
        test=Split(test_images.unsqueeze(1), test_labels.long()),
        classes=tuple("0123456789"),
    )


def _stored(raw: Path, name: str) -> Path:
    """Return the plain file, or the `.gz` file if that is the only one there."""
    # os.path.exists takes a folder without permission for an empty one, where Path.exists raises on Python 3.11;
    # the attempt to write there then names the permission.
    packed = raw / f"{name}.gz"
    return packed if os.path.exists(packed) and not os.path.exists(raw / name) else raw / name


def _read(path: Path, sha256: str) -> UInt8[Tensor, "..."]:
    fix = "Delete it and run again: it will be downloaded"
    try:
        tensor = read_idx(path)
    except DataError as error:
        raise DataError(error.what, fix) from error
    found = idx_sha256(tensor)
    if found != sha256:
        raise DataError(f"{path}: expected sha256 {sha256}, found {found}", fix)
    return tensor


def _missing(raw: Path, names: list[str], why: str) -> DataError:
    return DataError(
        f"MNIST is not complete: {', '.join(names)} not found in {raw} (nor with .gz), and {why}",
        f"Run `stn train --dataset mnist --data-dir {raw.parent.parent}` with a network, or copy the four files into"
        f" {raw}, or use `--dataset digits`, which needs no download",
    )
