"""An archive whose entries lie outside its folder, are no plain files or never end is refused before it is unpacked."""

import dataclasses
import hashlib
import re
import stat
import struct
import zipfile
from collections.abc import Callable
from copy import copy
from functools import partial
from pathlib import Path

import pytest

from stn_cli.datasets.idx import write_idx
from stn_cli.datasets.published import load_published
from stn_cli.datasets.relatives import LOADERS, RELATIVES
from tests.data_faults.conftest import TENSORS, Stn, refused


def as_kind(kind: int, packed: zipfile.ZipFile) -> None:
    info = zipfile.ZipInfo("gzip/odd")
    info.external_attr = (kind | 0o777) << 16
    packed.writestr(info, "/etc/passwd")


def bomb(packed: zipfile.ZipFile) -> None:
    """A megabyte of zeros under 2,100 names: 300 kB that unpack to more than 2 GiB."""
    packed.writestr("gzip/zeros", bytes(1 << 20))
    for number in range(2100):
        packed.filelist.append(copy(packed.filelist[-1]))
        packed.filelist[-1].filename = f"gzip/zeros {number}"


def multiplied(content: bytes, times: int) -> bytes:
    """Return a zip whose directory lists each of its entries many times."""
    end = content.rindex(b"PK\5\6")
    size, start = struct.unpack("<2I", content[end + 12 : end + 20])
    sized = content[end : end + 12] + struct.pack("<I", size * times) + content[end + 16 :]
    return content[:start] + content[start : start + size] * times + sized


HOSTILE: dict[str, tuple[Callable[[zipfile.ZipFile], object], str]] = {
    "parent": (lambda packed: packed.writestr("../x", b"x"), "the entry '../x' would lie outside its folder"),
    "parent, deeper": (lambda packed: packed.writestr("gzip/../../x", b"x"), "would lie outside its folder"),
    "absolute": (lambda packed: packed.writestr(str(Path("x").absolute()), b"x"), "would lie outside its folder"),
    "drive": (lambda packed: packed.writestr("C:/x", b"x"), "would lie outside its folder"),
    "link": (partial(as_kind, stat.S_IFLNK), "the entry 'gzip/odd' is a link, not a plain file"),
    "device": (partial(as_kind, stat.S_IFBLK), "the entry 'gzip/odd' is a device or the like, not a plain file"),
    "pipe": (partial(as_kind, stat.S_IFIFO), "the entry 'gzip/odd' is a device or the like, not a plain file"),
    "bomb": (bomb, "more than 2147483648 bytes unpacked"),
    "a million entries": (lambda _: None, "more than 100000 entries"),
}


@pytest.fixture
def archive(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Make EMNIST's archive, with something added to it, and make its MD5 the right one."""
    row, path = RELATIVES["emnist-letters"], Path("data/EMNIST/raw/gzip.zip")

    def make(add: Callable[[zipfile.ZipFile], object], times: int = 1) -> Path:
        path.parent.mkdir(parents=True)
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
            for name, tensor in zip(row.files, TENSORS.values(), strict=True):
                write_idx(Path("scratch.gz"), tensor + 1 if tensor.ndim == 1 else tensor)
                packed.write("scratch.gz", f"gzip/{name}.gz")
            add(packed)
        path.write_bytes(multiplied(path.read_bytes(), times))
        known = dataclasses.replace(row, md5={path.name: hashlib.md5(path.read_bytes()).hexdigest()})
        monkeypatch.setitem(LOADERS, row.name, partial(load_published, known))
        return path

    return make


@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_hostile_archive_is_refused_and_nothing_is_written(stn: Stn, archive: Callable[..., Path], hostile: str):
    add, reason = HOSTILE[hostile]
    path = archive(add, times=250_000 if hostile == "a million entries" else 1)
    line = refused(stn, "emnist-letters", "--offline")
    assert line.startswith(f"{path}: ")
    assert reason in line


def test_a_sound_archive_is_unpacked_and_one_with_another_md5_is_not(stn: Stn, archive: Callable[..., Path]):
    path = archive(lambda packed: packed.writestr("gzip/more", b""))
    whole = path.read_bytes()
    path.write_bytes(whole + b"x")
    assert re.match(rf"{path}: expected md5 \w{{32}}, found \w{{32}}\.", refused(stn, "emnist-letters"))
    path.write_bytes(whole)
    assert stn("distort-dataset", "R", "--dataset", "emnist-letters").code == 0
