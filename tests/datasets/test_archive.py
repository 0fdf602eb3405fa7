import io
import os
import random
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from stn_cli.datasets import archive
from stn_cli.datasets.archive import unpack
from stn_cli.errors import DataError, ResourceError

CONTENT = bytes(range(256)) * 300
FILES = {"folder/a": CONTENT, "folder/b": b"", "c": b"c"}


def make_zip(path: Path, files: dict[str, bytes], mode: int = 0) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name, content in files.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            zipped.writestr(info, content, zipfile.ZIP_DEFLATED)
    return path


def make_tar(path: Path, files: dict[str, bytes], kind: bytes = tarfile.REGTYPE, packing: str = "") -> Path:
    with tarfile.open(path, f"w:{packing}") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.type, info.size, info.linkname = kind, len(content), "c"
            tar.addfile(info, io.BytesIO(content))
    return path


def make_zip_with_folders(path: Path, files: dict[str, bytes]) -> Path:
    return make_zip(path, {"folder/": b"", **files})


MAKERS = {
    "zip": make_zip,
    "zip with folders": make_zip_with_folders,
    "zip from unix": lambda path, files: make_zip(path, files, stat.S_IFREG | 0o644),
    "tar": make_tar,
    "tar.gz": lambda path, files: make_tar(path, files, packing="gz"),
    "tar.bz2": lambda path, files: make_tar(path, files, packing="bz2"),
    "tar.xz": lambda path, files: make_tar(path, files, packing="xz"),
}
BOTH = [make_zip, make_tar]


@pytest.fixture(params=MAKERS)
def make(request):
    return MAKERS[request.param]


def everything_below(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_wanted_members_arrive_and_no_others(make, tmp_path):
    packed = make(tmp_path / "packed", FILES)
    unpack(packed, {"folder/a": tmp_path / "out" / "mine", "folder/b": tmp_path / "out" / "b"})
    assert everything_below(tmp_path / "out") == {"mine": CONTENT, "b": b""}


def test_missing_member_is_named(make, tmp_path):
    with pytest.raises(DataError, match=r"packed: expected a file 'folder/d', found none \(3 others\)"):
        unpack(make(tmp_path / "packed", FILES), {"c": tmp_path / "c", "folder/d": tmp_path / "d"})
    assert not (tmp_path / "c").exists()


NAMES = ["../x", "a/../../x", "/x", "//x", "..", "C:x", "C:/x", "..\\x", "\\x", "a\\..\\..\\x", "\\\\host\\x"]


@pytest.mark.parametrize("make", BOTH)
@pytest.mark.parametrize("name", NAMES)
def test_name_outside_the_folder_is_refused(make, tmp_path, name):
    packed = make(tmp_path / "packed", {**FILES, name: b"evil"})
    with pytest.raises(DataError, match="would lie outside its folder") as caught:
        unpack(packed, {"c": tmp_path / "in" / "c"})
    assert repr(name) in caught.value.what
    assert everything_below(tmp_path).keys() == {"packed"}


ODD_KINDS = {
    "symlink in a tar": (lambda path: make_tar(path, {"odd": b""}, tarfile.SYMTYPE), "a link"),
    "hard link in a tar": (lambda path: make_tar(path, {"odd": b""}, tarfile.LNKTYPE), "a link"),
    "device in a tar": (lambda path: make_tar(path, {"odd": b""}, tarfile.CHRTYPE), "a device"),
    "pipe in a tar": (lambda path: make_tar(path, {"odd": b""}, tarfile.FIFOTYPE), "a device"),
    "symlink in a zip": (lambda path: make_zip(path, {"odd": b"c"}, stat.S_IFLNK | 0o777), "a link"),
    "device in a zip": (lambda path: make_zip(path, {"odd": b""}, stat.S_IFBLK), "a device"),
}


@pytest.mark.parametrize("name", ODD_KINDS)
def test_what_is_no_file_is_refused(tmp_path, name):
    make_odd, kind = ODD_KINDS[name]
    with pytest.raises(DataError, match=f"the entry 'odd' is {kind}.*, not a plain file"):
        unpack(make_odd(tmp_path / "packed"), {"odd": tmp_path / "odd"})
    assert not os.path.lexists(tmp_path / "odd")


def test_encrypted_entry_is_refused(tmp_path):
    content = bytearray(make_zip(tmp_path / "packed", {"c": b"c"}).read_bytes())
    for signature, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        content[content.index(signature) + flags] |= 1
    (tmp_path / "packed").write_bytes(content)
    with pytest.raises(DataError, match="the entry 'c' is encrypted"):
        unpack(tmp_path / "packed", {"c": tmp_path / "c"})


def test_entry_that_is_there_twice_is_refused(tmp_path):
    with tarfile.open(tmp_path / "packed", "w") as tar:
        for content in (b"one", b"two"):
            info = tarfile.TarInfo("c")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    with pytest.raises(DataError, match="the entry 'c' is there twice"):
        unpack(tmp_path / "packed", {"c": tmp_path / "c"})


def test_bomb_is_refused_before_it_is_unpacked(make, tmp_path, monkeypatch):
    packed = make(tmp_path / "packed", {"a": bytes(60_000), "b": bytes(60_000)})
    monkeypatch.setattr(archive, "_BYTES", 119_999)
    with pytest.raises(DataError, match="more than 119999 bytes unpacked, counted up to 'b'"):
        unpack(packed, {"a": tmp_path / "a"})
    assert not (tmp_path / "a").exists()
    monkeypatch.setattr(archive, "_BYTES", 120_000)
    unpack(packed, {"a": tmp_path / "a"})


def test_too_many_entries_are_refused(make, tmp_path, monkeypatch):
    packed = make(tmp_path / "packed", {f"folder/{number}": b"" for number in range(19)} | {"c": b""})
    monkeypatch.setattr(archive, "_ENTRIES", 19)
    with pytest.raises(DataError, match="more than 19 entries"):
        unpack(packed, {"c": tmp_path / "c"})


def test_zip_with_many_entries_is_refused_before_its_directory_is_read(tmp_path, monkeypatch):
    packed = make_zip(tmp_path / "packed", {str(number): b"" for number in range(20)})
    monkeypatch.setattr(archive, "_ENTRIES", 19)
    monkeypatch.setattr(zipfile, "ZipFile", lambda *_: pytest.fail("the directory was read"))
    with pytest.raises(DataError, match="more than 19 entries"):
        unpack(packed, {"0": tmp_path / "0"})


def test_long_tar_header_is_refused_before_it_is_read(tmp_path):
    info = tarfile.TarInfo("c")
    info.pax_headers = {"comment": "x" * (1 << 20)}
    with tarfile.open(tmp_path / "packed", "w:gz", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(info, io.BytesIO())
    with pytest.raises(DataError, match=r"a header of \d{7} bytes"):
        unpack(tmp_path / "packed", {"c": tmp_path / "c"})


def test_what_is_no_archive_is_named(tmp_path):
    for content in (b"", b"PK", b"<!DOCTYPE html>", b"\x1f\x8b", b"BZh", bytes(10)):
        (tmp_path / "packed").write_bytes(content)
        with pytest.raises(DataError, match="packed"):
            unpack(tmp_path / "packed", {"c": tmp_path / "c"})
    with pytest.raises(DataError, match=r"cannot read .*absent: No such file"):
        unpack(tmp_path / "absent", {})


def test_damage_never_passes(make, tmp_path):
    """Every damaged archive is refused, or gives what was packed; nothing else is ever written."""
    packed, out = make(tmp_path / "packed", FILES), tmp_path / "out"
    whole, draw = packed.read_bytes(), random.Random(0)
    refused = 0
    for _ in range(150):
        damaged = bytearray(whole[: draw.choice([len(whole), draw.randrange(len(whole))])])
        for _ in range(draw.randrange(1, 4)):
            damaged[draw.randrange(len(damaged))] ^= 1 << draw.randrange(8) if damaged else 0
        packed.write_bytes(damaged)
        try:
            unpack(packed, {"folder/a": out / "a", "c": out / "c"})
        except DataError:
            refused += 1
        if make is not make_tar:  # a plain tar has checksums for its headers alone
            assert everything_below(out).items() <= {("a", CONTENT), ("c", b"c")}
        assert {path.name for path in tmp_path.iterdir()} <= {"packed", "out"}
    assert refused > 50


def test_folder_that_cannot_be_written_is_no_fault_of_the_archive(tmp_path):
    (tmp_path / "occupied").touch()
    with pytest.raises(ResourceError, match=r"cannot write .*occupied/c"):
        unpack(make_zip(tmp_path / "packed", FILES), {"c": tmp_path / "occupied" / "c"})
