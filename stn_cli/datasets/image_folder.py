"""Somebody's own PNG and JPEG files, one folder per class."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice, zip_longest
from pathlib import Path

import torch

from stn_cli.datasets.every_sixth import hold_out_every_sixth
from stn_cli.datasets.image_file import inspect_image, read_image
from stn_cli.datasets.source import Source, Split
from stn_cli.errors import DataError

_ENDINGS = (".png", ".jpg", ".jpeg")
_MOST_FILES = 500_000
_MOST_GIGABYTES = 4  # of all images, since they lie in memory
_LAYOUT = "Sort the images into one folder per class, or into train/<class> and test/<class>"


@dataclass(frozen=True)
class _File:
    path: Path
    target: int
    size: tuple[int, int]  # (height, width)
    grey: bool


def load_image_folder(folder: Path) -> Source:
    """Return the images of `folder`/train/<class> and `folder`/test/<class>, or of `folder`/<class> alone.

    Classes are the names of the folders, in sorted order, as in torchvision's ImageFolder. Images come one of each
    class in turn, those of a class in the order of their names: so the first few are of all classes. Hidden files and
    files that don't end in .png, .jpg or .jpeg are left alone. Without the folders train and test, every sixth image of
    each class is for the test.

    All images get the size that most of them have (of equally frequent sizes, the smallest), and one channel if all
    are grey, else three, as `read_image` does it.

    Raises:
        DataError: fewer than two classes, a class without images, a file as `inspect_image` refuses it, more than
            4 GiB of pixels in all, more than 500,000 files in a folder.
    """
    folders = [folder / "train", folder / "test"]
    if not all(os.path.isdir(each) for each in folders):
        folders = [folder]
    classes = _classes(folders[0])
    if len(folders) == 2 and (odd := sorted(set(classes) ^ set(_classes(folders[1])))):
        raise DataError(f"{folder}: expected the same classes in train and test, found {odd[0]!r} in only one", _LAYOUT)
    files = [[_File(path, target, *inspect_image(path)) for path, target in _paths(each, classes)] for each in folders]
    together = [file for part in files for file in part]
    height, width = size = _most_common(file.size for file in together)
    grey = all(file.grey for file in together)
    gigabytes = len(together) * width * height * (1 if grey else 3) / 2**30
    if gigabytes > _MOST_GIGABYTES:
        raise DataError(
            f"{folder}: expected at most {_MOST_GIGABYTES} GiB of pixels, found {gigabytes:.1f}:"
            f" {len(together)} images of {height}×{width}",
            "Make the images smaller or use fewer",
        )
    splits = [_load(part, size, grey) for part in files]
    train, test = splits if len(splits) == 2 else hold_out_every_sixth(splits[0], folder)
    return Source(name=folder.resolve().name, train=train, test=test, classes=classes)


def _classes(folder: Path) -> tuple[str, ...]:
    classes = tuple(entry.name for entry in _entries(folder) if entry.is_dir())
    if len(classes) < 2:
        raise DataError(f"{folder}: expected two or more folders, one for each class, found {len(classes)}", _LAYOUT)
    return classes


def _paths(folder: Path, classes: tuple[str, ...]) -> Iterator[tuple[Path, int]]:
    in_turn = zip_longest(*(_paths_of_class(folder / name) for name in classes))
    yield from ((path, target) for rank in in_turn for target, path in enumerate(rank) if path is not None)


def _paths_of_class(folder: Path) -> list[Path]:
    named = [entry for entry in _entries(folder) if entry.name.lower().endswith(_ENDINGS)]
    entries = [entry for entry in named if entry.is_file() or entry.is_symlink()]  # a link to nothing is an error
    if not entries:
        raise DataError(f"{folder}: expected .png, .jpg or .jpeg files, found none", _LAYOUT)
    return [Path(entry.path) for entry in entries]


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as everything:
            entries = list(islice(everything, _MOST_FILES + 1))
    except OSError as error:
        raise DataError(f"cannot read {folder}: {error.strerror or error}", "Give a folder of images") from error
    if len(entries) > _MOST_FILES:
        raise DataError(f"{folder}: expected at most {_MOST_FILES} files, found more", "Use fewer")
    return sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)


def _most_common(sizes: Iterable[tuple[int, int]]) -> tuple[int, int]:
    counts = Counter(sizes)
    return min(counts, key=lambda size: (-counts[size], size[0] * size[1], size))


def _load(files: list[_File], size: tuple[int, int], grey: bool) -> Split:
    images = torch.empty(len(files), 1 if grey else 3, *size, dtype=torch.uint8)
    for place, file in zip(images, files, strict=True):
        place.copy_(read_image(file.path, size, grey))
    return Split(images, torch.tensor([file.target for file in files]))
