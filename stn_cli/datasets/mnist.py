"""MNIST, in the folder layout of torchvision, downloaded at first use."""

import os
from pathlib import Path

from stn_cli.datasets.download import Progress
from stn_cli.datasets.published import Published, load_published
from stn_cli.datasets.source import Source

MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
# SHA-256 of the unpacked files. Processors have instructions for it and the files are small, so every
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

    Raises:
        DataError, ResourceError: as `load_published`.
    """
    train_images, train_labels, test_images, test_labels = FILES
    mnist = Published(
        name="mnist",
        title="MNIST",
        folder="MNIST",
        files=(train_images, train_labels, test_images, test_labels),
        classes=tuple("0123456789"),
        mirrors=MIRRORS,
        sha256=FILES,
    )
    return load_published(mnist, data_dir, offline=offline, progress=progress)
