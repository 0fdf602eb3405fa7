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
from stn_cli.storage import sha256_of, write_bytes, write_json

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
