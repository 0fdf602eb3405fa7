"""Somebody's own images and labels in IDX files."""

import re
from pathlib import Path

from stn_cli.datasets.every_sixth import hold_out_every_sixth
from stn_cli.datasets.idx import label, read_idx
from stn_cli.datasets.source import Source
from stn_cli.errors import DataError

_NAME = re.compile(r"(.*?)(train|t10k|test)-(images|labels)[-.]idx\d-(?:ubyte|int)(\.gz)?")
_PARTS = (("train", "images"), ("train", "labels"), ("test", "images"), ("test", "labels"))
_MOST_CLASSES = 10_000


def is_idx_folder(folder: Path) -> bool:
    """Return whether a folder holds a file with a name as `load_idx_folder` reads them."""
    return any(_NAME.fullmatch(name) for name in _names(folder))


def load_idx_folder(folder: Path) -> Source:
    """Return the dataset whose four IDX files lie in `folder`, named as MNIST's.

    The names are `train-images-idx3-ubyte`, `train-labels-idx1-ubyte`, and the same with `t10k` or `test`; all four
    may begin with one prefix, `mine-train-images-idx3-ubyte`. A `.gz` file stands in for its missing plain file.

    Raises:
        DataError: a file is missing or damaged, there is more than one prefix, or as `load_idx_pair`.
    """
    found: dict[str, dict[tuple[str, str], Path]] = {}
    for name in sorted(_names(folder), reverse=True):  # so that the plain file comes after its .gz and replaces it
        if match := _NAME.fullmatch(name):
            prefix, split, kind, _ = match.groups()
            found.setdefault(prefix, {})["train" if split == "train" else "test", kind] = folder / name
    if len(found) > 1:
        prefixes = ", ".join(repr(prefix) for prefix in sorted(found))
        raise DataError(
            f"{folder}: expected the IDX files of one dataset, found those of {prefixes}", "Give each a folder"
        )
    files = next(iter(found.values()), {})
    missing = [f"{split}-{kind}" for split, kind in _PARTS if (split, kind) not in files]
    if missing:
        raise DataError(
            f"{folder}: expected four IDX files, found none for {', '.join(missing)}",
            "Name them as MNIST's: train-images-idx3-ubyte, train-labels-idx1-ubyte, and the same with test",
        )
    return _source(folder.resolve().name, [files[part] for part in _PARTS])


def load_idx_pair(
    images: Path, labels: Path, test_images: Path | None = None, test_labels: Path | None = None
) -> Source:
    """Return the dataset of IDX images [N, H, W] and IDX labels [N], with a test pair or with every sixth image for it.

    There are as many classes as the largest label says, named by their numbers.

    Raises:
        DataError: a file is missing or damaged, images and labels don't belong together, a label is negative or
            above 9,999, or the test images have another size.
        ValueError: only one of the two test files is given.
    """
    if (test_images is None) != (test_labels is None):
        raise ValueError("give both test files or none")
    return _source(images.stem, [file for file in (images, labels, test_images, test_labels) if file is not None])


def _source(name: str, files: list[Path]) -> Source:
    tensors = [read_idx(file) for file in files]
    largest = max((int(labels.max()) for labels in tensors[1::2] if labels.numel()), default=0)
    classes = min(max(largest, 0) + 1, _MOST_CLASSES)
    splits = [label(tensors[i], tensors[i + 1], (files[i], files[i + 1]), classes) for i in range(0, len(files), 2)]
    train, test = splits if len(splits) == 2 else hold_out_every_sixth(splits[0], files[0])
    if train.size != test.size:
        raise DataError(
            f"{files[2]}: expected images of {train.size[0]}×{train.size[1]} as in {files[0]},"
            f" found {test.size[0]}×{test.size[1]}",
            "Use files that belong together",
        )
    return Source(name=name, train=train, test=test, classes=tuple(str(number) for number in range(classes)))


def _names(folder: Path) -> list[str]:
    try:
        return [path.name for path in folder.iterdir()]
    except OSError as error:
        raise DataError(f"cannot read {folder}: {error.strerror or error}", "Give a folder of IDX files") from error
