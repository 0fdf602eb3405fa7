"""The manifest of a folder of distorted images: what is in it, with the hash of every file and of the manifest itself.

It knows nothing of images, so that a folder is checked without loading torch.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stn_cli.errors import DataError
from stn_cli.storage import write_json

MANIFEST = "manifest.json"  # written last, so its presence means complete
UNFINISHED = "unfinished.json"  # the recipe, while the folder is being written
SCHEMA = 2
AGAIN = "Remove the folder, then run `stn distort-dataset` again."

_KEYS = {"dataset", "distortion", "seed", "classes", "sha256", "format", "images", "sample_shape", "manifest_sha256"}
# An empty part, "." or "..", a slash at either end, a backslash, a drive of Windows.
_LEADS_OUT = re.compile(r"(?:^|/)\.{0,2}(?:/|\Z)|\\|^[A-Za-z]:")
_SHOWN = 10  # faults in one message
_BLOCK_BYTES = 1 << 18  # read at once


@dataclass(frozen=True)
class Verified:
    """What `verify` found sound: the number of files that the manifest names, and their bytes."""

    files: int
    bytes: int


class DamagedFolderError(DataError):
    """Everything that is wrong with a folder: `faults` has one line for each, the message the first ten."""

    def __init__(self, faults: Sequence[str], fix: str) -> None:
        self.faults = tuple(faults)
        more = [f"and {len(faults) - _SHOWN} more"] if len(faults) > _SHOWN else []
        super().__init__("\n".join([*faults[:_SHOWN], *more]), fix)


def write_manifest(folder: Path, content: Mapping[str, Any]) -> None:
    """Write the manifest, with the hash of itself as "manifest_sha256", atomically.

    `content`: JSON with the keys "schema", "dataset", "distortion", "seed", "classes", "format", "images",
    "sample_shape" and "sha256", which maps each file, relative to the folder and with slashes, to its hash.

    Raises:
        ResourceError: the file cannot be written.
    """
    plain = json.loads(json.dumps(content))  # as it is read back: keys are text, which sorts unlike numbers
    write_json(folder / MANIFEST, {**plain, "manifest_sha256": _own_hash(plain)})


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of a folder.

    Raises:
        DataError: it is missing, no JSON, of another schema, lacks a key, was changed after it was written, or names
            a file outside of the folder.
    """
    file = folder / MANIFEST
    try:
        manifest = dict(json.loads(file.read_bytes()))
        own_hash = _own_hash(manifest)
    except FileNotFoundError as error:
        raise DataError(
            f"{folder} has no {MANIFEST}, so it was not finished", "Run `stn distort-dataset` again."
        ) from error
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror}", "Check its permissions.") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise DataError(f"{file} is no manifest: {error}", AGAIN) from error
    schema = manifest.get("schema")
    if type(schema) is not int:
        raise DataError(f"{file} is no manifest: it has no schema", AGAIN)
    if schema != SCHEMA:
        fix = "Upgrade stn." if schema > SCHEMA else "Write it again."
        raise DataError(f"{file} has schema {schema}, this stn reads {SCHEMA}", fix)
    if lacking := _KEYS - set(manifest):
        raise DataError(f"{file} lacks {', '.join(sorted(lacking))}", AGAIN)
    if manifest["manifest_sha256"] != own_hash or not isinstance(manifest["sha256"], dict):
        raise DataError(f"{file} was edited or damaged: its own sha256 is not the one that it names", AGAIN)
    for name in manifest["sha256"]:
        if _LEADS_OUT.search(name) or not name.isprintable():
            raise DataError(f"{file} names a file outside of its folder: {name!r}", AGAIN)
    return manifest


def verify(folder: Path) -> Verified:
    """Check that a folder holds what its manifest says, byte for byte, and nothing else.

    Besides, there may be hidden files (locks, temporary files), empty folders, and the file `UNFINISHED`: a run that
    was killed just before it removed that one has left a complete folder.

    Raises:
        DamagedFolderError: files are missing, changed, unreadable, links, or not named in the manifest.
        DataError: as `read_manifest`.
    """
    expected: dict[str, str] = read_manifest(folder)["sha256"]
    present, faults, foreign = [], {}, {}
    for name, fault in _walk(str(folder)):
        if fault:
            faults[name] = fault
        elif name in expected:
            present.append(name)
        elif name not in (MANIFEST, UNFINISHED) and not name.rpartition("/")[2].startswith("."):
            foreign[name] = f"is not named in {MANIFEST}"
    faults |= dict.fromkeys(expected.keys() - present - faults.keys(), "is missing")
    size = 0
    for name in present:
        found, length = _hash(f"{folder}/{name}")
        size += length
        if found != expected[name]:
            faults[name] = f"is not what was written: sha256 {expected[name]}, found {found}"
    if faults or foreign:
        lines = [
            f"{_shown(folder, name)} {fault}" for each in (faults, foreign) for name, fault in sorted(each.items())
        ]
        raise DamagedFolderError(lines, AGAIN if faults else "Move it elsewhere.")
    return Verified(len(expected), size)


def _own_hash(manifest: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in manifest.items() if key != "manifest_sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _shown(folder: Path, name: str) -> str:
    """Return the path of a file for a message, quoted where its name would break the line."""
    return str(folder / name) if name.isprintable() else repr(str(folder / name))


def _walk(folder: str) -> Iterator[tuple[str, str]]:
    """Yield every file below a folder, relative to it, with what is wrong with its kind ("" for a plain file)."""
    folders = [""]
    while folders:
        below = folders.pop()
        try:
            with os.scandir(os.path.join(folder, below)) as found:
                entries = list(found)
        except OSError as error:
            yield below, f"cannot be read: {error.strerror}"
            continue
        for entry in entries:
            name = f"{below}/{entry.name}" if below else entry.name
            if entry.is_dir(follow_symlinks=False):
                folders.append(name)
            elif entry.is_symlink():
                yield name, "is a link, which may lead anywhere"
            else:
                yield name, "" if entry.is_file(follow_symlinks=False) else "is no plain file"


def _hash(path: str) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            while block := os.read(descriptor, _BLOCK_BYTES):
                digest.update(block)
                size += len(block)
        finally:
            os.close(descriptor)
    except OSError as error:
        return f"nothing that can be read: {error.strerror}", size
    return digest.hexdigest(), size
