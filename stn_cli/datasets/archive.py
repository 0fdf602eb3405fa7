"""Members of zip and tar archives, unpacked under guard: a downloaded archive is input like any other."""

import bz2
import gzip
import lzma
import mmap
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PureWindowsPath
from typing import IO, Any, cast

from stn_cli.errors import DataError, StnError
from stn_cli.storage import write_bytes

_ENTRIES = 100_000
_BYTES = 2 << 30  # unpacked, all entries together
_BLOCK_BYTES = 1 << 16  # read at once; a tar entry's header is read at once too, so this bounds it
_FIX = "Replace it by a sound copy"
_OTHER = "a device or the like"
_TAR_PACKINGS = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
_UNIX_KINDS = {0: "file", stat.S_IFREG: "file", stat.S_IFDIR: "folder", stat.S_IFLNK: "a link"}  # 0: zipped elsewhere
_TAR_KINDS = {
    tarfile.REGTYPE: "file",
    tarfile.AREGTYPE: "file",
    tarfile.DIRTYPE: "folder",
    tarfile.LNKTYPE: "a link",
    tarfile.SYMTYPE: "a link",
}


@dataclass(frozen=True)
class _Entry:
    name: str
    size: int
    kind: str  # "file", "folder", or what it is instead
    open: Callable[[], Any]


def unpack(archive: Path, wanted: Mapping[str, Path]) -> None:
    """Unpack the members `wanted`, name in the archive → file, from a zip or tar (plain, gzip, bzip2 or xz).

    Each file appears whole or not at all, and only at the path given for it: no name in the archive is ever used as
    a path. Before the first byte is written every entry is looked at, and the whole archive is refused for one that
    would lie outside a folder (`../x`, `/x`, `C:x`), is a link or a device, is encrypted or is there twice, for more
    than 100,000 entries, or for more than 2 GiB in all. A member is held in memory while it is unpacked.

    Raises:
        DataError: the archive is missing, damaged, refused as above, or lacks a member.
        ResourceError: a file cannot be written.
    """
    with _faults_of(archive), archive.open("rb") as file, _entries_of(archive, file) as entries:
        found = _checked(archive, entries)
        missing = [name for name in wanted if name not in found]
        if missing:
            raise DataError(f"{archive}: expected a file {missing[0]!r}, found none ({len(found)} others)", _FIX)
        for name, entry in found.items():
            if name in wanted:
                with entry.open() as member:
                    write_bytes(wanted[name], b"".join(iter(partial(member.read, _BLOCK_BYTES), b"")))


def _checked(archive: Path, entries: Iterator[_Entry]) -> dict[str, _Entry]:
    """Return the files by name, or refuse the archive."""
    files: dict[str, _Entry] = {}
    total = 0
    for count, entry in enumerate(entries, start=1):
        path = PureWindowsPath(entry.name)  # knows both slashes and drives, so it is the stricter one
        if path.anchor or ".." in path.parts:
            raise DataError(f"{archive}: the entry {entry.name!r} would lie outside its folder", _FIX)
        if entry.kind not in ("file", "folder"):
            raise DataError(f"{archive}: the entry {entry.name!r} is {entry.kind}, not a plain file", _FIX)
        if entry.name in files:
            raise DataError(f"{archive}: the entry {entry.name!r} is there twice", _FIX)
        total += entry.size
        if entry.size < 0 or total > _BYTES:
            raise DataError(f"{archive}: more than {_BYTES} bytes unpacked, counted up to {entry.name!r}", _FIX)
        if count > _ENTRIES:
            raise DataError(f"{archive}: more than {_ENTRIES} entries", _FIX)
        if entry.kind == "file":
            files[entry.name] = entry
    return files


@contextmanager
def _entries_of(archive: Path, file: IO[bytes]) -> Iterator[Iterator[_Entry]]:
    head = file.read(6)
    file.seek(0)
    if head.startswith(b"PK"):
        _refuse_many_entries(archive, file)
        with zipfile.ZipFile(file) as zipped:
            yield (_Entry(i.filename, i.file_size, _zip_kind(i), partial(zipped.open, i)) for i in zipped.infolist())
    else:
        packing = next((opener for magic, opener in _TAR_PACKINGS.items() if head.startswith(magic)), None)
        stream = _Bounded(cast(IO[bytes], packing(file)) if packing else file)
        with tarfile.open(fileobj=cast(IO[bytes], stream), mode="r:") as tar:
            yield _tar_entries(tar, stream)


def _tar_entries(tar: tarfile.TarFile, stream: "_Bounded") -> Iterator[_Entry]:
    for info in tar:
        yield _Entry(info.name, info.size, _TAR_KINDS.get(info.type, _OTHER), partial(tar.extractfile, info))
    while stream.read(_BLOCK_BYTES):  # to its end, where gzip checks its CRC
        pass


def _refuse_many_entries(archive: Path, file: IO[bytes]) -> None:
    """Count a zip's entries by the signature that each has, before ZipFile makes objects of all of them at once."""
    place = -1
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for _ in range(_ENTRIES + 1):
            place = content.find(b"PK\x01\x02", place + 1)
            if place < 0:
                return
    raise DataError(f"{archive}: more than {_ENTRIES} entries", _FIX)


def _zip_kind(info: zipfile.ZipInfo) -> str:
    if info.flag_bits & 1:
        return "encrypted"
    return "folder" if info.is_dir() else _UNIX_KINDS.get(stat.S_IFMT(info.external_attr >> 16), _OTHER)


class _Bounded:
    """A stream of which tarfile can neither take a long header into memory nor unpack much more than the limit."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.tell = file.tell

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _BLOCK_BYTES:
            raise tarfile.ReadError(f"a header of {size} bytes")
        self._refuse_beyond(self.tell() + size)
        return self._file.read(size)

    def seek(self, place: int) -> int:
        self._refuse_beyond(place)
        return self._file.seek(place)

    def _refuse_beyond(self, place: int) -> None:
        if place > 2 * _BYTES + (1 << 20):  # the headers and the padding of all entries have room in the other half
            raise tarfile.ReadError(f"more than {_BYTES} bytes unpacked")


@contextmanager
def _faults_of(archive: Path) -> Iterator[None]:
    """Turn what the standard library raises for a damaged archive into an error that names it."""
    try:
        yield
    except StnError:
        raise
    except OSError as error:  # gzip and bz2 raise it too, for damaged streams
        raise DataError(f"cannot read {archive}: {error.strerror or error}", _FIX) from error
    except Exception as error:  # BadZipFile, TarError, zlib.error, EOFError, IndexError for an empty name, and more
        raise DataError(f"{archive}: expected a sound zip or tar archive, found damage: {error}", _FIX) from error
