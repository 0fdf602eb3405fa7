import errno
import hashlib
import json
import os
import resource
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from stn_cli.errors import ResourceError
from stn_cli.storage import make_folder, sha256_of, write_bytes, write_json, writing

OLD, NEW = b"old", b"new" * 1000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "state.bin"
    path.write_bytes(OLD)
    return path


@contextmanager
def full_disk(_: pytest.MonkeyPatch) -> Iterator[None]:
    """Let no file grow beyond 100 bytes, so that a real write fails."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def failing(owner: object, name: str, error: BaseException):
    @contextmanager
    def fault(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        def fail(*_: object) -> None:
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(owner, name, fail)
            yield

    return fault


def no_space() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_file_is_created_with_its_folders_and_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "state.bin"
    for content in (NEW, OLD, b""):
        write_bytes(path, content)
        assert path.read_bytes() == content
        assert os.listdir(path.parent) == [path.name]
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_a_reader_keeps_the_old_file_it_opened(path: Path) -> None:
    with path.open("rb") as reader:
        write_bytes(path, NEW)
        assert reader.read() == OLD


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(full_disk, id="write"),
        pytest.param(failing(os, "fsync", no_space()), id="fsync"),
        pytest.param(failing(os, "fchmod", no_space()), id="fchmod"),
        pytest.param(failing(Path, "replace", no_space()), id="replace"),
    ],
)
def test_a_fault_leaves_the_old_file_and_no_temporary_one(path: Path, fault, monkeypatch: pytest.MonkeyPatch) -> None:
    with fault(monkeypatch), pytest.raises(ResourceError, match="cannot write") as caught:
        write_bytes(path, NEW)
    assert str(path) in caught.value.what
    assert caught.value.fix
    assert path.read_bytes() == OLD
    assert os.listdir(path.parent) == [path.name]


def test_an_interrupt_leaves_the_old_file_and_no_temporary_one(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with failing(os, "fsync", KeyboardInterrupt())(monkeypatch), pytest.raises(KeyboardInterrupt):
        write_bytes(path, NEW)
    assert path.read_bytes() == OLD
    assert os.listdir(path.parent) == [path.name]


def test_a_folder_that_cannot_be_synced_leaves_a_whole_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with failing(os, "open", no_space())(monkeypatch), pytest.raises(ResourceError):
        write_bytes(path, NEW)
    assert path.read_bytes() in (OLD, NEW)
    assert os.listdir(path.parent) == [path.name]


def test_a_file_where_a_folder_is_needed_is_named(path: Path) -> None:
    with pytest.raises(ResourceError, match="inside"):
        write_bytes(path / "inside", NEW)
    assert path.read_bytes() == OLD


def test_a_folder_where_a_file_is_needed_stays(tmp_path: Path) -> None:
    (tmp_path / "folder" / "kept").mkdir(parents=True)
    with pytest.raises(ResourceError, match="folder"):
        write_bytes(tmp_path / "folder", NEW)
    assert os.listdir(tmp_path) == ["folder"]


@pytest.mark.parametrize("pieces", [[], [b""], [NEW], [NEW, b"", OLD, memoryview(NEW)]])
def test_pieces_become_one_file_with_its_hash(tmp_path: Path, pieces: list[bytes]) -> None:
    path, whole = tmp_path / "a" / "state.bin", b"".join(pieces)
    with writing(path) as output:
        for piece in pieces:
            output.write(piece)
        assert not path.exists()
    assert path.read_bytes() == whole
    assert (output.size, output.sha256) == (len(whole), hashlib.sha256(whole).hexdigest())
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


@pytest.mark.parametrize("error", [ValueError(), KeyboardInterrupt(), FileNotFoundError(errno.ENOENT, "elsewhere")])
def test_an_exception_in_the_block_is_kept_and_so_is_the_old_file(path: Path, error: BaseException) -> None:
    """Also an OSError of something else: it is not blamed on this file."""

    def interrupted() -> None:
        with writing(path) as output:
            output.write(NEW)
            raise error

    with pytest.raises(type(error)) as caught:
        interrupted()
    assert caught.value is error
    assert path.read_bytes() == OLD
    assert os.listdir(path.parent) == [path.name]


def test_a_disk_that_gets_full_between_pieces_leaves_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write_two() -> None:
        with writing(path) as output:
            output.write(b"x" * 90)
            with full_disk(monkeypatch):
                output.write(b"x" * 90)

    with pytest.raises(ResourceError, match="cannot write"):
        write_two()
    assert path.read_bytes() == OLD
    assert os.listdir(path.parent) == [path.name]


def test_only_what_is_durable_waits_for_the_disk(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with failing(os, "fsync", no_space())(monkeypatch):
        with writing(path, durable=False) as output:
            output.write(NEW)
        with pytest.raises(ResourceError), writing(path):
            pass
    assert path.read_bytes() == NEW


def test_a_folder_is_made_once_and_not_where_a_file_is(path: Path) -> None:
    for _ in range(2):
        make_folder(path.parent / "a" / "b")
    assert (path.parent / "a" / "b").is_dir()
    with pytest.raises(ResourceError, match="cannot write"):
        make_folder(path)


def test_json_comes_back_and_ends_with_a_newline(tmp_path: Path) -> None:
    value = {"seed": 3, "name": "naïve", "list": [1.5, None, True]}
    write_json(tmp_path / "a.json", value)
    text = (tmp_path / "a.json").read_text()
    assert json.loads(text) == value
    assert text.endswith("}\n")


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_what_is_no_json_is_refused_before_anything_is_written(path: Path, number: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"loss": number})
    assert path.read_bytes() == OLD


def test_sha256_is_that_of_the_bytes(path: Path) -> None:
    assert sha256_of(path) == hashlib.sha256(OLD).hexdigest()
