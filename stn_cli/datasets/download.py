"""Fetch one file from the first mirror that gives the right bytes."""

import hashlib
import os
import urllib.request
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit

from filelock import FileLock, Timeout

from stn_cli.errors import DataError, ResourceError

Progress = Callable[[int, int | None], None]
"""Called with the bytes received so far and the bytes to come in all, None where the mirror doesn't say."""

_BLOCK_BYTES = 1 << 16
_LIMIT_BYTES = 200 << 20  # four times MNIST's largest file; stops a bomb or an endless answer
_READ_SECONDS = 30
_LOCK_SECONDS = 600


class _MirrorError(Exception):
    """Why one mirror did not give the file."""


def fetch(
    path: Path,
    urls: Sequence[str],
    sha256: str | None,
    progress: Progress | None = None,
    *,
    md5: str | None = None,
    gzipped: bool = True,
    limit: int | None = None,
) -> None:
    """Download a file and store it, unpacked if `gzipped`, at `path`, which appears only when its checksums are right.

    The mirrors `urls` are tried in turn. Until then the content stands in `<path>.partial`. Of several processes
    one downloads and the others wait for it; a file that exists already is left as it is.

    Args:
        path: where the file goes; its folder is created.
        urls: addresses of the file. A redirect from https to anything else is refused.
        sha256: hexadecimal, of the file as it is stored; None where nobody has published it.
        progress: called after each block.
        md5: hexadecimal, of the file as it is sent.
        gzipped: whether the file is sent as a gzip stream, to be unpacked.
        limit: the most bytes to accept, packed or unpacked; 200 MiB unless said otherwise.

    Raises:
        DataError: no mirror gave the file; names the reason for each.
        ResourceError: the folder cannot be written, or another process holds the lock for too long.
    """
    with alone(path):
        if not path.exists():
            _fetch_from_any(path, urls, (sha256, md5), progress, gzipped, limit or _LIMIT_BYTES)


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Let one process at a time make the file `path`; creates its folder.

    Raises:
        ResourceError: the folder cannot be written, or another process holds the lock for too long.
    """
    lock = path.with_name(f".{path.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock, timeout=_LOCK_SECONDS):
            yield
    except Timeout as error:
        what = f"another process has held {lock} for {_LOCK_SECONDS} seconds"
        raise ResourceError(what, "Wait for it or end it, then run again") from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise ResourceError(f"cannot write {path}: {reason}", "Free some space or choose another folder") from error


def _fetch_from_any(
    path: Path,
    urls: Sequence[str],
    expected: tuple[str | None, str | None],
    progress: Progress | None,
    gzipped: bool,
    limit: int,
) -> None:
    partial = path.with_name(f"{path.name}.partial")
    faults: list[str] = []
    for url in urls:
        sent = hashlib.md5(usedforsecurity=False)
        try:
            blocks = _limited(_receive(url, progress), limit, sent.update)
            stored = _store(partial, _unpack(blocks, limit) if gzipped else blocks)
            for kind, wanted, found in zip(("sha256", "md5"), expected, (stored, sent.hexdigest()), strict=True):
                if wanted not in (None, found):
                    raise _MirrorError(f"expected {kind} {wanted}, found {found}")
            partial.replace(path)
            return
        except _MirrorError as fault:
            faults.append(f"{url}: {fault}")
        finally:
            partial.unlink(missing_ok=True)
    raise DataError(f"cannot download {path.name}: {'; '.join(faults)}", "Check the network and run again")


def _store(path: Path, blocks: Iterable[bytes]) -> str:
    """Write the blocks through to the disk and return their SHA-256."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for block in blocks:
            file.write(block)
            digest.update(block)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def _limited(blocks: Iterable[bytes], limit: int, see: Callable[[bytes], None]) -> Iterator[bytes]:
    size = 0
    for block in blocks:
        size += len(block)
        if size > limit:
            raise _MirrorError(f"larger than {limit} bytes")
        see(block)
        yield block


def _unpack(blocks: Iterable[bytes], limit: int) -> Iterator[bytes]:
    unpacker = zlib.decompressobj(wbits=31)  # 31: a gzip stream, its CRC checked
    received = size = 0
    for block in blocks:
        if received == 0 and not block.startswith(b"\x1f\x8b"):
            raise _MirrorError(f"expected a gzip file, found one that begins with {block[:15]!r}")
        try:
            content = unpacker.decompress(block, limit + 1 - size)
        except zlib.error as error:
            raise _MirrorError(f"damaged gzip stream: {error}") from error
        received += len(block)
        size += len(content)
        if size > limit:
            raise _MirrorError(f"larger than {limit} bytes")
        yield content
        if unpacker.eof:
            return
    raise _MirrorError(f"the gzip stream ends early, after {received} bytes")


def _receive(url: str, progress: Progress | None) -> Iterator[bytes]:
    opener = urllib.request.build_opener(_SecureRedirects)
    with _mirror_faults():
        response = opener.open(url, timeout=_READ_SECONDS)
    with response:
        total, received = response.length, 0
        while block := _read_block(response):
            received += len(block)
            if progress is not None:
                progress(received, total)
            yield block
    if total is not None and received < total:
        raise _MirrorError(f"cut after {received} of {total} bytes")


def _read_block(response: HTTPResponse) -> bytes:
    with _mirror_faults():
        return response.read(_BLOCK_BYTES)


@contextmanager
def _mirror_faults() -> Iterator[None]:
    try:
        yield
    except (OSError, HTTPException, ValueError) as error:  # ValueError: a redirect to an address that is none
        raise _MirrorError(str(error) or type(error).__name__) from error


class _SecureRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req, fp, code, msg, headers, newurl):
        if req.type == "https" and urlsplit(newurl).scheme != "https":
            raise HTTPError(req.full_url, code, f"refused to leave https for {newurl}", headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)
