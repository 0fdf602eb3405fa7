"""Files that are either the old one or the new one, never half of each."""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Any

from stn_cli.errors import ResourceError


class Output:
    """A file that is being written: `write` adds to its end, `size` and `sha256` tell of all that was written."""

    def __init__(self, path: Path, file: FileIO) -> None:
        self._path, self._file, self._digest = path, file, hashlib.sha256()
        self.size = 0

    def write(self, content: bytes | memoryview) -> None:
        """Add bytes to the end of the file.

        Raises:
            ResourceError: the disk is full.
        """
        left = memoryview(content).cast("B")
        self._digest.update(left)
        self.size += len(left)
        with _blamed_on(self._path):
            while left:
                left = left[self._file.write(left) :]  # Linux takes at most 2 GiB at once

    @property
    def sha256(self) -> str:
        """The hexadecimal SHA-256 of what was written so far."""
        return self._digest.hexdigest()


@contextmanager
def writing(path: Path, *, durable: bool = True) -> Iterator[Output]:
    """Write a file piece by piece; where the block ends without an exception, it replaces `path` atomically.

    Until then it is a temporary file beside `path`, `.<name>.<random>.tmp`. If `durable`, it outlives a loss of power
    from the end of the block on (fsync of file and folder); otherwise it may then be found empty or cut.

    Raises:
        ResourceError: the disk is full, or the folder cannot be written. The old file is then untouched.
    """
    temporary = None
    try:
        with _blamed_on(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
            temporary = Path(name)
        with os.fdopen(descriptor, "wb", buffering=0) as file:
            yield Output(path, file)
            with _blamed_on(path):
                if durable:
                    os.fsync(file.fileno())
                os.fchmod(file.fileno(), 0o644)  # mkstemp makes 0600; a run is meant to be shared
                file.close()  # here, since a network's file system may say only now that its disk is full
        with _blamed_on(path):
            temporary.replace(path)
            if durable:
                _fsync_folder(path.parent)
    except BaseException:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise


def write_bytes(path: Path, content: bytes) -> None:
    """Replace `path` by `content` atomically and durably, as `writing` does.

    Raises:
        ResourceError: the disk is full, or the folder cannot be written. The old file is then untouched.
    """
    with writing(path) as output:
        output.write(content)


def make_folder(path: Path) -> None:
    """Make a folder and those above it, where they are not there.

    Raises:
        ResourceError: one of them cannot be made.
    """
    with _blamed_on(path):
        path.mkdir(parents=True, exist_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically. NaN and infinity are refused: they are not JSON."""
    write_bytes(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def sha256_of(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _blamed_on(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise ResourceError(f"cannot write {path}: {reason}", "Free some space or choose another folder.") from error


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
