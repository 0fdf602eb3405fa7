"""From a data configuration to the source."""

import difflib
import os
from pathlib import Path

from stn_cli.config import DataConfig
from stn_cli.datasets.digits import load_digits
from stn_cli.datasets.distorted import MANIFEST, UNFINISHED, read_distorted
from stn_cli.datasets.download import Progress
from stn_cli.datasets.idx_folder import is_idx_folder, load_idx_folder
from stn_cli.datasets.image_folder import load_image_folder
from stn_cli.datasets.mnist import resolve_data_dir
from stn_cli.datasets.relatives import LOADERS
from stn_cli.datasets.source import Source
from stn_cli.errors import DataError
from stn_cli.names import DATASETS


def build_source(config: DataConfig, progress: Progress | None = None) -> Source:
    """Return the images that a configuration names; downloads them where that is needed and allowed.

    Raises:
        DataError: a file is missing or damaged, or the name is neither a dataset nor a folder of one.
    """
    if config.dataset == "digits":
        return load_digits()
    if config.dataset in LOADERS:
        data_dir = resolve_data_dir(None if config.data_dir is None else Path(config.data_dir))
        return LOADERS[config.dataset](data_dir, offline=config.offline, progress=progress)
    folder = Path(config.dataset)
    if any(os.path.isfile(folder / name) for name in (MANIFEST, UNFINISHED)):  # unfinished: read_distorted says so
        return read_distorted(folder)
    if os.path.isdir(folder):
        return load_idx_folder(folder) if is_idx_folder(folder) else load_image_folder(folder)
    near = difflib.get_close_matches(config.dataset, DATASETS, n=1)
    hint = f"Did you mean {near[0]}?" if near else "See `stn list datasets`; `stn distort-dataset` makes folders."
    raise DataError(f"{config.dataset!r} is neither a dataset nor a folder", hint)
