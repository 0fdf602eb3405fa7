"""From a data configuration to the source."""

import os
from pathlib import Path

from stn_cli.config import DataConfig
from stn_cli.datasets.digits import load_digits
from stn_cli.datasets.distorted import MANIFEST, read_distorted
from stn_cli.datasets.download import Progress
from stn_cli.datasets.mnist import load_mnist, resolve_data_dir
from stn_cli.datasets.source import Source
from stn_cli.errors import DataError


def build_source(config: DataConfig, progress: Progress | None = None) -> Source:
    """Return the images that a configuration names; downloads them where that is needed and allowed.

    Raises:
        DataError: a file is missing or damaged, or the name is neither a dataset nor a folder of one.
    """
    if config.dataset == "digits":
        return load_digits()
    if config.dataset == "mnist":
        data_dir = resolve_data_dir(None if config.data_dir is None else Path(config.data_dir))
        return load_mnist(data_dir, offline=config.offline, progress=progress)
    folder = Path(config.dataset)
    if not os.path.isfile(folder / MANIFEST):  # unlike Path.is_file, False also for names no file can have
        raise DataError(
            f"{config.dataset!r} is no dataset: neither digits nor mnist nor a folder with a {MANIFEST}",
            f"Make one with `stn distort-dataset R --out {config.dataset}`.",
        )
    return read_distorted(folder)
