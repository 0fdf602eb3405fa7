"""From a data configuration to the source, and from a distortion's to the scenes."""

import difflib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from pydantic import TypeAdapter
from torch import Tensor

from stn_cli.config import DataConfig
from stn_cli.config_distortion import AdditionConfig, ChainConfig, DistortionConfig, TCConfig, VolumeConfig
from stn_cli.datasets.digits import load_digits
from stn_cli.datasets.distorted import read_distorted
from stn_cli.datasets.download import Progress
from stn_cli.datasets.idx_folder import is_idx_folder, load_idx_folder, load_idx_pair
from stn_cli.datasets.image_folder import load_image_folder
from stn_cli.datasets.manifest import MANIFEST, UNFINISHED
from stn_cli.datasets.mnist import resolve_data_dir
from stn_cli.datasets.relatives import LOADERS
from stn_cli.datasets.scene import Addition, Cluttered, Scene, Single, Volume
from stn_cli.datasets.source import Source
from stn_cli.distortions.build import build_clutter, build_distortion, build_extrusion
from stn_cli.errors import DataError, UsageError
from stn_cli.names import DATASETS

_UNREAD = (".npz", ".npy", ".mat", ".pt", ".pth", ".pkl")  # most can run code or claim any size, so none is opened
_CONVERT = "Convert it to IDX files, or to a folder of PNG or JPEG files with one folder per class."


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
    if folder.suffix.lower() in _UNREAD:
        raise DataError(f"{folder}: {folder.suffix} files are not read", _CONVERT)
    if os.path.isfile(folder):
        return load_idx_pair(folder, _labels_of(folder, config.labels))
    near = difflib.get_close_matches(config.dataset, DATASETS, n=1)
    hint = f"Did you mean {near[0]}?" if near else "See `stn list datasets`; `stn distort-dataset` makes folders."
    raise DataError(f"{config.dataset!r} is neither a dataset nor a folder", hint)


def _labels_of(images: Path, given: str | None) -> Path:
    """Return the file of labels that belongs to a file of images: the one given, or the one that is named like it."""
    if given is not None:
        return Path(given)
    named_alike = images.with_name(images.name.replace("images", "labels").replace("idx3", "idx1"))
    if named_alike == images or not os.path.isfile(named_alike):
        raise DataError(f"{images} needs a file of labels", "Give it with data.labels=FILE.")
    return named_alike


def build_scene(config: DistortionConfig, source: Source) -> Scene:
    """Return how samples are made of a dataset's images.

    Raises:
        UsageError: the pieces of TC are larger than the images or the canvas, or the classes cannot be added.
    """
    return _scene(config, source.shape, source.classes, source.train.images)


def rebuild_scene(settings: Mapping[str, Any], shape: Sequence[int], classes: Sequence[str]) -> Scene:
    """Return how samples were made, for its maps: of a manifest's distortion, and its source's shape and classes."""
    channels, height, width = shape
    nothing = torch.empty(0, channels, height, width, dtype=torch.uint8)
    config: DistortionConfig = TypeAdapter(DistortionConfig).validate_python(settings)
    return _scene(config, (channels, height, width), tuple(classes), nothing)


def _scene(
    config: DistortionConfig,
    shape: tuple[int, int, int],
    classes: tuple[str, ...],
    others: UInt8[Tensor, "m channels height width"],
) -> Scene:
    channels, *_ = shape
    in_size = shape[1:]
    distortion = build_distortion(config, in_size)
    last = config.stages[-1] if isinstance(config, ChainConfig) else config
    if isinstance(last, VolumeConfig):
        return Volume(build_extrusion(last, in_size, distortion), channels, classes)
    if isinstance(last, AdditionConfig) and distortion is not None:
        if channels != 1 or list(classes) != [str(number) for number in range(len(classes))]:
            raise UsageError("only grey images of digits can be added", "Use mnist, qmnist or emnist-digits.")
        return Addition(distortion, classes)
    if isinstance(last, TCConfig) and distortion is not None:
        if len(others) == 1:
            raise UsageError("there is one training image, and no other to cut pieces from", "Add images.")
        room = min(*in_size, *distortion.canvas)
        if last.piece_size > room:
            raise UsageError(
                f"pieces of {last.piece_size} pixels do not fit the images and the canvas, the smallest side is {room}",
                "Lower distortion.piece_size.",
            )
        return Cluttered(distortion, build_clutter(last, in_size, distortion.canvas), others, classes)
    return Single(distortion, shape, classes)
