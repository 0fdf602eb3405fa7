"""Published datasets of four IDX files, in torchvision's folders: found or downloaded, checked, read."""

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote

from jaxtyping import Integer
from torch import Tensor

from stn_cli.datasets.archive import unpack
from stn_cli.datasets.download import Progress, alone, fetch
from stn_cli.datasets.idx import idx_sha256, label, read_idx, write_idx
from stn_cli.datasets.source import Source, Split
from stn_cli.errors import DataError
from stn_cli.storage import sha256_of, write_bytes

_AGAIN = "Delete it and run again: it will be downloaded"
_ARCHIVE_BYTES = 1 << 30  # EMNIST's has 562 MB


@dataclass(frozen=True)
class Published:
    """One dataset: its files, where they come from, how they are known to be right, what is odd about them.

    `folder`: the files lie in `<data folder>/<folder>/raw`. `files`: training images, training labels, test images,
    test labels; of labels [N, k] the first column counts. `mirrors`: addresses, ending with a slash, below which
    `<file>.gz` or the archive lies. `sha256`: of the files as they are stored. `md5`: of `<file>.gz` or the archive,
    where no SHA-256 is published. `archive`: a zip that holds `gzip/<file>.gz`; it is kept, since it may serve other
    datasets. `first_label`: of the first class. `transposed`: the files hold every image with x and y exchanged.
    `test_rows`: from where to where the test files are the test split.
    """

    name: str
    title: str
    folder: str
    files: tuple[str, str, str, str]
    classes: tuple[str, ...]
    mirrors: tuple[str, ...]
    sha256: Mapping[str, str] = field(default_factory=dict)
    md5: Mapping[str, str] = field(default_factory=dict)
    archive: str | None = None
    first_label: int = 0
    transposed: bool = False
    test_rows: tuple[int, int | None] = (0, None)


def load_published(
    dataset: Published, data_dir: Path, *, offline: bool = False, progress: Progress | None = None
) -> Source:
    """Return a dataset from `data_dir`/<its folder>/raw; missing files are downloaded.

    A `.gz` file stands in for its missing plain file. The content of each file is checked by its SHA-256 every time.
    Where only the MD5 of the download is known, that is checked when the download arrives (and when only a `.gz`
    file is there), and the SHA-256 of the content is written to `<file>.sha256` at first use, to be checked from then
    on. In a folder that may not be written, nothing is recorded.

    Raises:
        DataError: a file is missing and cannot be downloaded (or `offline`), or is not the file that it should be.
        ResourceError: a downloaded file cannot be written.
    """
    raw = data_dir / dataset.folder / "raw"
    if _missing(dataset, raw):
        _complete(dataset, raw, offline, progress)
    train_images, train_labels, test_images, test_labels = (
        (raw / name, _read(dataset, raw, name)) for name in dataset.files
    )
    return Source(
        name=dataset.name,
        train=_split(dataset, train_images, train_labels),
        test=_split(dataset, test_images, test_labels, *dataset.test_rows),
        classes=dataset.classes,
    )


def _split(
    dataset: Published,
    images: tuple[Path, Tensor],
    labels: tuple[Path, Tensor],
    start: int = 0,
    stop: int | None = None,
) -> Split:
    numbers = labels[1][start:stop]
    split = label(
        images[1][start:stop],
        numbers[:, :1].flatten() if numbers.ndim == 2 else numbers,
        (images[0], labels[0]),
        len(dataset.classes),
        dataset.first_label,
    )
    return Split(split.images.mT.contiguous(), split.targets) if dataset.transposed else split


def _missing(dataset: Published, raw: Path) -> list[str]:
    return [name for name in dataset.files if not os.path.exists(_stored(raw, name))]


def _stored(raw: Path, name: str) -> Path:
    """Return the plain file, or the `.gz` file if that is the only one there."""
    # os.path.exists takes a folder without permission for an empty one, where Path.exists raises on Python 3.11;
    # the attempt to write there then names the permission.
    packed = raw / f"{name}.gz"
    return packed if os.path.exists(packed) and not os.path.exists(raw / name) else raw / name


def _complete(dataset: Published, raw: Path, offline: bool, progress: Progress | None) -> None:
    if dataset.archive is None:
        for name in _missing(dataset, raw):
            _download(dataset, raw / name, f"{name}.gz", offline, progress)
            if name not in dataset.sha256:
                _record(raw / name, sha256_of(raw / name))
        return
    archive = raw / dataset.archive
    if os.path.exists(archive):
        _check_md5(archive, dataset.md5[archive.name])
    else:
        _download(dataset, archive, archive.name, offline, progress)
    with alone(raw / dataset.name):
        missing = _missing(dataset, raw)
        packed = {name: raw / f".{name}.gz" for name in missing}  # hidden: no stand-in, since it goes again
        unpack(archive, {f"gzip/{name}.gz": path for name, path in packed.items()})
        for name, path in packed.items():
            tensor = read_idx(path)
            path.unlink()  # first, so that a run that is killed here unpacks again, and leaves nothing behind
            write_idx(raw / name, tensor)  # the same bytes as in the gzip stream: IDX leaves nothing to choose
            _record(raw / name, idx_sha256(tensor))


def _download(dataset: Published, path: Path, sent: str, offline: bool, progress: Progress | None) -> None:
    try:
        if offline:
            raise DataError("downloads are off")
        archived = sent == dataset.archive
        fetch(
            path,
            [f"{mirror}{sent}" for mirror in dataset.mirrors],
            dataset.sha256.get(path.name),
            progress,
            md5=dataset.md5.get(sent),
            gzipped=not archived,
            limit=_ARCHIVE_BYTES if archived else None,
        )
    except DataError as error:
        raw = path.parent
        files = "four files" if dataset.archive is None else f"four files or {dataset.archive}"
        raise DataError(
            f"{dataset.title} is not complete: {', '.join(_missing(dataset, raw))} not found in {raw} (nor with .gz),"
            f" and {error.what}",
            f"Run `stn train --dataset {dataset.name} --data-dir {quote(str(raw.parent.parent))}` with a network, or"
            f" copy the {files} into {raw}, or use `--dataset digits`, which needs no download",
        ) from error


def _read(dataset: Published, raw: Path, name: str) -> Integer[Tensor, "..."]:
    path = _stored(raw, name)
    expected = dataset.sha256.get(name) or _recorded(raw / name)
    if expected is None and path.suffix == ".gz" and path.name in dataset.md5:
        _check_md5(path, dataset.md5[path.name])
    try:
        tensor = read_idx(path)
    except DataError as error:
        raise DataError(error.what, _AGAIN) from error
    found = idx_sha256(tensor)
    if expected is None:
        _record(raw / name, found)
    elif found != expected:
        raise DataError(f"{path}: expected sha256 {expected}, found {found}", _AGAIN)
    return tensor


def _check_md5(path: Path, expected: str) -> None:
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}", _AGAIN) from error
    if found != expected:
        raise DataError(f"{path}: expected md5 {expected}, found {found}", _AGAIN)


def _record(file: Path, sha256: str) -> None:
    """Write the SHA-256 beside a file, as `sha256sum --check` reads it."""
    if os.access(file.parent, os.W_OK):
        write_bytes(file.with_name(f"{file.name}.sha256"), f"{sha256}  {file.name}\n".encode())


def _recorded(file: Path) -> str | None:
    record = file.with_name(f"{file.name}.sha256")
    try:
        content = record.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DataError(f"cannot read {record}: {error.strerror or error}", "Delete it and run again") from error
    if not re.match(rb"[0-9a-f]{64}\s", content):
        raise DataError(f"{record}: expected a SHA-256, found {content[:64]!r}", "Delete it and run again")
    return content[:64].decode()
