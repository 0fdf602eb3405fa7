"""IDX, the file format of MNIST: a magic number, the dimensions as big-endian 32-bit integers, the values.

Read and written are the two kinds of value that datasets of images use: unsigned bytes, and 32-bit integers for labels.
"""

import gzip
import hashlib
import math
import struct
import zlib
from collections.abc import Sequence
from io import BufferedReader
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Integer, Shaped
from torch import Tensor

from stn_cli.datasets.source import Split
from stn_cli.errors import DataError
from stn_cli.storage import write_bytes

_KINDS = {0x08: (torch.uint8, "u1"), 0x0C: (torch.int32, ">i4")}  # IDX's code → in memory, in the file
_GZIP_MAGIC = b"\x1f\x8b"
_DEFLATE_RATIO = 1032  # zlib's technical details: no deflate stream holds more than 1032 times its own size
_FIX = "Replace it by a sound copy"


def read_idx(path: Path) -> Integer[Tensor, "..."]:
    """Read an IDX file of unsigned bytes (as uint8) or 32-bit integers (as int32) with 1 to 4 dimensions.

    A `.gz` path may hold gzip or plain content, any other path plain content only. The file must end exactly where
    its dimensions say; dimensions larger than the file are refused before memory is taken.

    Raises:
        DataError: the file is missing, cut, too long, of another kind, or damaged inside its gzip stream.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            if path.suffix != ".gz" or file.read(2) != _GZIP_MAGIC:
                file.seek(0)
                return _read(file, path, size)
            file.seek(0)
            with gzip.GzipFile(fileobj=file) as unpacked:
                return _read(unpacked, path, size * _DEFLATE_RATIO)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path}: expected one whole gzip stream, found damage: {error}", _FIX) from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}", _FIX) from error


def write_idx(path: Path, tensor: Shaped[Tensor, "..."]) -> None:
    """Write a uint8 or int32 tensor with 1 to 4 dimensions as IDX, atomically.

    A `.gz` path is compressed, without a date.

    Raises:
        ValueError: another dtype or number of dimensions.
        ResourceError: the file cannot be written.
    """
    content = b"".join((idx_header(tensor.dtype, tensor.shape), _values(tensor)))
    write_bytes(path, gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)


def idx_header(dtype: torch.dtype, shape: Sequence[int]) -> bytes:
    """Return what stands before the values in an IDX file of uint8 or int32 with 1 to 4 dimensions.

    Raises:
        ValueError: another dtype or number of dimensions.
    """
    if not 1 <= len(shape) <= 4:
        raise ValueError(f"IDX holds 1 to 4 dimensions, not {len(shape)}")
    return struct.pack(f">HBB{len(shape)}I", 0, _kind(dtype)[0], len(shape), *shape)


def idx_sha256(tensor: Integer[Tensor, "..."]) -> str:
    """Return the SHA-256 of the plain IDX file that holds `tensor`: for a tensor just read, that of its file."""
    digest = hashlib.sha256(idx_header(tensor.dtype, tensor.shape))
    digest.update(_values(tensor))
    return digest.hexdigest()


def read_labelled(images_path: Path, labels_path: Path, classes: int) -> Split:
    """Read grey images, IDX [N, H, W], and their labels, IDX [N], each label in 0..`classes` - 1.

    Raises:
        DataError: as `read_idx` and `label`.
    """
    return label(read_idx(images_path), read_idx(labels_path), (images_path, labels_path), classes)


def label(
    images: Integer[Tensor, "..."],
    labels: Integer[Tensor, "..."],
    paths: tuple[Path, Path],
    classes: int,
    first: int = 0,
) -> Split:
    """Join grey images [N, H, W] with their labels [N], each in `first`..`first` + `classes` - 1, to targets from 0.

    `paths`: the files of both, to be named in errors.

    Raises:
        DataError: no images, other dimensions, counts that differ, labels out of range.
    """
    images_path, labels_path = paths
    if images.dtype != torch.uint8 or images.ndim != 3 or images.numel() == 0:
        raise DataError(
            f"{images_path}: expected images [N, H, W], found the shape {list(images.shape)} of {images.dtype}", _FIX
        )
    if list(labels.shape) != [len(images)]:
        raise DataError(
            f"{labels_path}: expected {len(images)} labels, one for each image in {images_path},"
            f" found the shape {list(labels.shape)}",
            "Use two files that belong together",
        )
    targets = labels.long() - first
    wrong = ((targets < 0) | (targets >= classes)).nonzero().flatten()
    if len(wrong):
        at = int(wrong[0])
        raise DataError(
            f"{labels_path}: expected labels in {first}..{first + classes - 1}, found {len(wrong)} of {len(labels)}"
            f" outside, the first is {int(labels[at])} at index {at}",
            _FIX,
        )
    return Split(images.unsqueeze(1), targets)


def _read(file: BufferedReader | gzip.GzipFile, path: Path, at_most: int) -> Tensor:
    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in _KINDS or magic[3] not in (1, 2, 3, 4):
        found = magic.hex(" ") or "an empty file"
        raise DataError(f"{path}: expected the IDX magic 00 00 08 01 (08 or 0c, 01 to 04), found {found}", _FIX)
    dtype, stored = _KINDS[magic[2]]
    dimensions = file.read(4 * magic[3])
    if len(dimensions) < 4 * magic[3]:
        raise DataError(f"{path}: expected {4 * magic[3]} bytes of dimensions, found {len(dimensions)}", _FIX)
    shape = struct.unpack(f">{magic[3]}I", dimensions)
    expected, most = math.prod(shape) * dtype.itemsize, at_most - 4 - len(dimensions)
    if expected > most:
        raise DataError(f"{path}: expected {expected} bytes of values for {list(shape)}, found at most {most}", _FIX)
    values = torch.empty(expected // dtype.itemsize, dtype=dtype).numpy()
    found = file.readinto(values.view(np.uint8).data)
    if found != expected or file.read(1):  # reading past the end also makes gzip check its CRC
        more = "more" if found == expected else found
        raise DataError(f"{path}: expected {expected} bytes of values for {list(shape)}, found {more}", _FIX)
    return torch.from_numpy(values.view(stored).astype(values.dtype, copy=False)).view(shape)


def _values(tensor: Tensor) -> memoryview:
    values = tensor.cpu().flatten().numpy()
    return values.astype(_kind(tensor.dtype)[1], copy=False).view(np.uint8).data


def _kind(dtype: torch.dtype) -> tuple[int, str]:
    for code, (known, stored) in _KINDS.items():
        if dtype == known:
            return code, stored
    raise ValueError(f"IDX is written from torch.uint8 or torch.int32, not {dtype}")
