"""IDX, the file format of MNIST: a magic number, the dimensions as big-endian 32-bit integers, the values."""

import gzip
import hashlib
import math
import struct
import zlib
from collections.abc import Sequence
from io import BufferedReader
from pathlib import Path

import torch
from jaxtyping import Shaped, UInt8
from torch import Tensor

from stn_cli.datasets.source import Split
from stn_cli.errors import DataError
from stn_cli.storage import write_bytes

_GZIP_MAGIC = b"\x1f\x8b"
_DEFLATE_RATIO = 1032  # zlib's technical details: no deflate stream holds more than 1032 times its own size
_FIX = "Replace it by a sound copy"


def read_idx(path: Path) -> UInt8[Tensor, "..."]:
    """Read an IDX file of unsigned bytes with 1 to 4 dimensions.

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
    """Write a uint8 tensor with 1 to 4 dimensions as IDX, atomically; a `.gz` path is compressed, without a date.

    Raises:
        ValueError: another dtype or number of dimensions.
        ResourceError: the file cannot be written.
    """
    content = b"".join((_header(tensor.shape), _values(tensor)))
    write_bytes(path, gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)


def idx_sha256(tensor: UInt8[Tensor, "..."]) -> str:
    """Return the SHA-256 of the plain IDX file that holds `tensor`: for a tensor just read, that of its file."""
    digest = hashlib.sha256(_header(tensor.shape))
    digest.update(_values(tensor))
    return digest.hexdigest()


def read_labelled(images_path: Path, labels_path: Path, classes: int) -> Split:
    """Read grey images, IDX [N, H, W], and their labels, IDX [N], each label in 0..`classes` - 1.

    Raises:
        DataError: as `read_idx`, or no images, other dimensions, counts that differ, labels out of range.
    """
    images, labels = read_idx(images_path), read_idx(labels_path)
    if images.ndim != 3 or images.numel() == 0:
        raise DataError(f"{images_path}: expected images [N, H, W], found the shape {list(images.shape)}", _FIX)
    if list(labels.shape) != [len(images)]:
        raise DataError(
            f"{labels_path}: expected {len(images)} labels, one for each image in {images_path},"
            f" found the shape {list(labels.shape)}",
            "Use two files that belong together",
        )
    targets = labels.long()
    wrong = (targets >= classes).nonzero().flatten()
    if len(wrong):
        first = int(wrong[0])
        raise DataError(
            f"{labels_path}: expected labels in 0..{classes - 1}, found {len(wrong)} of {len(labels)} outside,"
            f" the first is {int(targets[first])} at index {first}",
            _FIX,
        )
    return Split(images.unsqueeze(1), targets)


def _read(file: BufferedReader | gzip.GzipFile, path: Path, at_most: int) -> Tensor:
    magic = file.read(4)
    if len(magic) < 4 or magic[:3] != b"\0\0\x08" or magic[3] not in (1, 2, 3, 4):
        found = magic.hex(" ") or "an empty file"
        raise DataError(f"{path}: expected the IDX magic 00 00 08 01 (up to 04), found {found}", _FIX)
    dimensions = file.read(4 * magic[3])
    if len(dimensions) < 4 * magic[3]:
        raise DataError(f"{path}: expected {4 * magic[3]} bytes of dimensions, found {len(dimensions)}", _FIX)
    shape = struct.unpack(f">{magic[3]}I", dimensions)
    expected, most = math.prod(shape), at_most - 4 - len(dimensions)
    if expected > most:
        raise DataError(f"{path}: expected {expected} bytes of values for {list(shape)}, found at most {most}", _FIX)
    values = torch.empty(expected, dtype=torch.uint8)
    found = file.readinto(values.numpy().data)
    if found != expected or file.read(1):  # reading past the end also makes gzip check its CRC
        more = "more" if found == expected else found
        raise DataError(f"{path}: expected {expected} bytes of values for {list(shape)}, found {more}", _FIX)
    return values.view(shape)


def _header(shape: Sequence[int]) -> bytes:
    if not 1 <= len(shape) <= 4:
        raise ValueError(f"IDX holds 1 to 4 dimensions, not {len(shape)}")
    return struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape)


def _values(tensor: Tensor) -> memoryview:
    if tensor.dtype != torch.uint8:
        raise ValueError(f"IDX of unsigned bytes holds torch.uint8, not {tensor.dtype}")
    return tensor.cpu().flatten().numpy().data
