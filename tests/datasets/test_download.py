import gzip
import hashlib
import io
import subprocess
import sys
import threading
import urllib.request
from email.message import Message
from pathlib import Path
from urllib.response import addinfourl

import pytest
from filelock import FileLock

from stn_cli.datasets import download
from stn_cli.datasets.download import fetch
from stn_cli.errors import DataError, ResourceError

CONTENT = bytes(range(256)) * 1000
PACKED = gzip.compress(CONTENT, mtime=0)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
MD5 = hashlib.md5(PACKED).hexdigest()
DEAD = "http://127.0.0.1:9/file.gz"  # the discard port, which nothing listens to


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


def test_file_arrives_unpacked_and_alone(mirror, tmp_path):
    seen = []
    fetch(tmp_path / "new" / "file", [mirror.put("file.gz", PACKED)], SHA256, lambda *step: seen.append(step))
    assert (tmp_path / "new" / "file").read_bytes() == CONTENT
    assert names(tmp_path / "new") == ["file"]
    assert seen == sorted(seen)
    assert seen[-1] == (len(PACKED), len(PACKED))


def test_length_may_be_unknown(mirror, tmp_path):
    url = mirror.put("file.gz", PACKED)
    del mirror.answers["file.gz"][1]["Content-Length"]
    seen = []
    fetch(tmp_path / "file", [url], SHA256, lambda *step: seen.append(step))
    assert seen[-1] == (len(PACKED), None)


def test_md5_is_that_of_the_file_as_it_is_sent(mirror, tmp_path):
    url = mirror.put("file.gz", PACKED)
    with pytest.raises(DataError, match=f"expected md5 {hashlib.md5(CONTENT).hexdigest()}, found {MD5}"):
        fetch(tmp_path / "file", [url], None, md5=hashlib.md5(CONTENT).hexdigest())
    assert names(tmp_path) == []
    fetch(tmp_path / "file", [url], None, md5=MD5)
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_file_that_is_sent_as_it_is_stored(mirror, tmp_path):
    url = mirror.put("file.gz", PACKED)
    with pytest.raises(DataError, match=f"larger than {len(PACKED) - 1} bytes"):
        fetch(tmp_path / "file.gz", [url], None, md5=MD5, gzipped=False, limit=len(PACKED) - 1)
    fetch(tmp_path / "file.gz", [url], None, md5=MD5, gzipped=False, limit=len(PACKED))
    assert (tmp_path / "file.gz").read_bytes() == PACKED


def wrong_answers(mirror) -> dict[str, tuple[str, str]]:
    """name → (address, the reason that must be given)"""
    other = gzip.compress(b"other", mtime=0)
    return {
        "dead": (DEAD, "Connection refused"),
        "404": (mirror.url + "absent.gz", "HTTP Error 404"),
        "html": (mirror.put("html.gz", b"<!DOCTYPE html>"), "expected a gzip file, found one that begins with b'<!DOC"),
        "empty": (mirror.put("empty.gz", b""), "ends early, after 0 bytes"),
        "cut": (mirror.put("cut.gz", PACKED[:-9], Content_Length=str(len(PACKED))), "cut after"),
        "short": (mirror.put("short.gz", PACKED[:-9]), "ends early"),
        "damaged": (mirror.put("damaged.gz", PACKED[:-8] + bytes(8)), "damaged gzip stream"),
        "hash": (
            mirror.put("hash.gz", other),
            f"expected sha256 {SHA256}, found {hashlib.sha256(b'other').hexdigest()}",
        ),
        "nowhere": (mirror.put("nowhere.gz", b"", status=302, Location="http://[half/"), "Invalid IPv6 URL"),
        "port": ("http://127.0.0.1:x/file.gz", "nonnumeric port"),
    }


WRONG = ["dead", "404", "html", "empty", "cut", "short", "damaged", "hash", "nowhere", "port"]


@pytest.mark.parametrize("name", WRONG)
def test_next_mirror_is_tried(mirror, tmp_path, name):
    fetch(tmp_path / "file", [wrong_answers(mirror)[name][0], mirror.put("file.gz", PACKED)], SHA256)
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert names(tmp_path) == ["file"]


def test_all_failures_are_told_with_their_reasons(mirror, tmp_path):
    answers = wrong_answers(mirror)
    assert list(answers) == WRONG
    with pytest.raises(DataError) as caught:
        fetch(tmp_path / "file", [url for url, _ in answers.values()], SHA256)
    for (url, reason), told in zip(answers.values(), caught.value.what.split("; "), strict=True):
        assert f"{url}: " in told
        assert reason in told
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == []


def test_bomb_is_stopped(mirror, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "_LIMIT_BYTES", len(CONTENT) - 1)
    with pytest.raises(DataError, match=f"larger than {len(CONTENT) - 1} bytes"):
        fetch(tmp_path / "file", [mirror.put("file.gz", PACKED)], SHA256)
    monkeypatch.setattr(download, "_LIMIT_BYTES", len(CONTENT))
    fetch(tmp_path / "file", [mirror.url + "file.gz"], SHA256)


def test_redirect_is_followed(mirror, tmp_path):
    mirror.put("file.gz", PACKED)
    fetch(tmp_path / "file", [mirror.put("old.gz", b"", status=302, Location="/file.gz")], SHA256)
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_redirect_from_https_to_http_is_refused(mirror, tmp_path, monkeypatch):
    target = mirror.put("file.gz", PACKED)

    def redirect(_handler, request):
        headers = Message()
        headers["Location"] = target
        answer = addinfourl(io.BytesIO(), headers, request.full_url, 302)
        answer.msg = "Found"
        return answer

    monkeypatch.setattr(urllib.request.HTTPSHandler, "https_open", redirect)
    with pytest.raises(DataError, match=f"refused to leave https for {target}"):
        fetch(tmp_path / "file", ["https://mirror.invalid/file.gz"], SHA256)
    assert mirror.requests == []


def test_silent_mirror_is_given_up(mirror, tmp_path, monkeypatch):
    release = threading.Event()
    mirror.before_answer = release.wait
    monkeypatch.setattr(download, "_READ_SECONDS", 0.1)
    with pytest.raises(DataError, match="timed out"):
        fetch(tmp_path / "file", [mirror.put("file.gz", PACKED)], SHA256)
    release.set()


def test_file_that_is_there_is_left_as_it_is(mirror, tmp_path):
    (tmp_path / "file").write_bytes(b"mine")
    fetch(tmp_path / "file", [mirror.put("file.gz", PACKED)], SHA256)
    assert (tmp_path / "file").read_bytes() == b"mine"
    assert mirror.requests == []


def test_folder_that_cannot_be_written_is_no_fault_of_the_mirror(mirror, tmp_path):
    (tmp_path / "occupied").touch()
    with pytest.raises(ResourceError, match=r"cannot write .*occupied/file: "):
        fetch(tmp_path / "occupied" / "file", [mirror.put("file.gz", PACKED)], SHA256)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_full_disk_is_no_fault_of_the_mirror(mirror, tmp_path):
    (tmp_path / "file.partial").symlink_to("/dev/full")
    with pytest.raises(ResourceError, match=r"cannot write .*file: No space left on device"):
        fetch(tmp_path / "file", [mirror.put("file.gz", PACKED)], SHA256)
    assert names(tmp_path) == []


def test_lock_that_is_never_freed_is_named(mirror, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "_LOCK_SECONDS", 0.01)
    lock = tmp_path / ".file.lock"
    with FileLock(lock), pytest.raises(ResourceError, match=f"another process has held {lock} "):
        fetch(tmp_path / "file", [mirror.put("file.gz", PACKED)], SHA256)


def start_fetching(path, url) -> subprocess.Popen:
    code = """
import sys
from pathlib import Path
from stn_cli.datasets.download import fetch
print("ready", flush=True)
fetch(Path(sys.argv[1]), [sys.argv[2]], sys.argv[3])
"""
    command = [sys.executable, "-W", "error", "-c", code, str(path), url, SHA256]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_two_processes_at_once_download_once(mirror, tmp_path):
    asked, release = threading.Event(), threading.Event()
    mirror.before_answer = lambda: (asked.set(), release.wait())
    url = mirror.put("file.gz", PACKED)
    with start_fetching(tmp_path / "file", url) as first:
        assert asked.wait(60)
        with start_fetching(tmp_path / "file", url) as second:
            assert second.stdout.readline() == "ready\n"
            release.set()
    assert (first.returncode, second.returncode) == (0, 0)
    assert mirror.requests == ["file.gz"]
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert names(tmp_path) == ["file"]


def test_killed_download_hinders_nobody(mirror, tmp_path):
    asked, release = threading.Event(), threading.Event()
    mirror.before_answer = lambda: (asked.set(), release.wait())
    url = mirror.put("file.gz", PACKED)
    with start_fetching(tmp_path / "file", url) as process:
        assert asked.wait(60)
        process.kill()
    release.set()
    assert names(tmp_path) == ["file.partial"]
    fetch(tmp_path / "file", [url], SHA256)
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert names(tmp_path) == ["file"]
