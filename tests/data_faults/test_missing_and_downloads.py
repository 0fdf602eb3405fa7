"""Files that are missing are named with the command that gets them; a download that goes wrong leaves none behind."""

import dataclasses
import gzip
import hashlib
import io
import re
import shlex
import socket
import urllib.request
from collections.abc import Callable
from email.message import Message
from functools import partial
from pathlib import Path
from typing import Any
from urllib.response import addinfourl

import pytest

from stn_cli.datasets import mnist
from stn_cli.datasets.idx import idx_sha256
from stn_cli.datasets.published import load_published
from stn_cli.datasets.relatives import LOADERS, RELATIVES
from tests.data_faults.conftest import IMAGES, NAMES, RAW, Stn, contents, refused, write

# ---- data that is missing, without a network or offline


@pytest.mark.parametrize("reach", ["offline", "no network"])
@pytest.mark.parametrize("dataset", ["mnist", "fashion-mnist", "kmnist", "emnist-letters", "qmnist"])
def test_missing_data_names_the_files_the_place_and_the_command(
    stn: Stn, monkeypatch: pytest.MonkeyPatch, dataset: str, reach: str
):
    def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    monkeypatch.setenv("STN_DATA", "my data")
    line = refused(stn, dataset, *(["--offline"] if reach == "offline" else []))
    files, folder = (NAMES, "MNIST") if dataset == "mnist" else (RELATIVES[dataset].files, RELATIVES[dataset].folder)
    why = "downloads are off" if reach == "offline" else "Temporary failure in name resolution"
    for part in (*files, f"my data/{folder}/raw", f"`stn train --dataset {dataset} --data-dir 'my data'`", why):
        assert part in line


def test_the_command_that_a_missing_file_names_gets_it(stn: Stn, tiny: tuple[str, ...], sent: dict[str, bytes]):
    line = refused(stn, "mnist", "--data-dir", "my data", "--offline")
    found = re.search("`stn (.*?)`", line)
    assert found is not None
    assert stn(*shlex.split(found[1]), *tiny, "--model", "cnn").code == 0
    assert contents(Path("my data/MNIST/raw")) == mnist.FILES
    assert stn("distort-dataset", "R", "--dataset", "mnist", "--data-dir", "my data", "--offline").code == 0


def test_only_the_files_that_are_missing_are_named(stn: Stn, sent: dict[str, bytes]):
    (write(RAW) / NAMES[2]).unlink()
    assert f"MNIST is not complete: {NAMES[2]} not found in {RAW} " in refused(stn, "mnist", "--offline")


# ---- downloads that go wrong

OTHER = gzip.compress(b"other", mtime=0)
WRONG: dict[str, tuple[Callable[[bytes], dict[str, Any]], str]] = {
    "cut": (lambda sent: {"body": sent[:-9], "Content_Length": str(len(sent))}, "cut after "),
    "cut, with the length of the rest": (lambda sent: {"body": sent[:-9]}, "the gzip stream ends early"),
    "empty": (lambda _: {"body": b""}, "the gzip stream ends early, after 0 bytes"),
    "web page instead": (lambda _: {"body": b"<!DOCTYPE html>"}, "expected a gzip file, found one that begins with"),
    "not found": (lambda _: {"body": b"", "status": 404}, "HTTP Error 404"),
    "server down": (lambda _: {"body": b"", "status": 503}, "HTTP Error 503"),
    "redirected into nothing": (lambda _: {"body": b"", "status": 302, "Location": "http://127.0.0.1:9/"}, "<urlopen"),
    "damaged": (lambda sent: {"body": sent[:-8] + bytes(8)}, "damaged gzip stream"),
    "other bytes": (
        lambda _: {"body": OTHER},
        f"expected sha256 {idx_sha256(IMAGES[:100])}, found {hashlib.sha256(b'other').hexdigest()}",
    ),
    "dead mirror": (lambda _: {"body": b""}, "<urlopen error [Errno "),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_download_that_goes_wrong_is_told_and_the_next_mirror_is_asked(
    stn: Stn, monkeypatch: pytest.MonkeyPatch, mirror: Any, sent: dict[str, bytes], wrong: str
):
    answer, reason = WRONG[wrong]
    for name, content in sent.items():
        mirror.put(f"bad/{name}.gz", **answer(content))
    bad = "http://127.0.0.1:9/" if wrong == "dead mirror" else f"{mirror.url}bad/"
    monkeypatch.setattr(mnist, "MIRRORS", (bad, bad))
    assert refused(stn, "mnist").count(f"{bad}{NAMES[0]}.gz: {reason}") == 2
    monkeypatch.setattr(mnist, "MIRRORS", (bad, mirror.url))
    assert stn("distort-dataset", "R", "--dataset", "mnist").code == 0
    assert contents(RAW) == mnist.FILES


def test_a_download_with_another_md5_names_both(stn: Stn, monkeypatch: pytest.MonkeyPatch, mirror: Any):
    row = RELATIVES["kmnist"]
    monkeypatch.setitem(LOADERS, "kmnist", partial(load_published, dataclasses.replace(row, mirrors=(mirror.url,))))
    mirror.put("train-images-idx3-ubyte.gz", OTHER)
    expected = row.md5["train-images-idx3-ubyte.gz"]
    assert f"expected md5 {expected}, found {hashlib.md5(OTHER).hexdigest()}" in refused(stn, "kmnist")


def test_a_download_never_leaves_https(stn: Stn, monkeypatch: pytest.MonkeyPatch, mirror: Any, sent: dict[str, bytes]):
    def redirect(_: object, request: urllib.request.Request) -> addinfourl:
        headers = Message()
        headers["Location"] = mirror.url + request.full_url.rpartition("/")[2]
        answer = addinfourl(io.BytesIO(), headers, request.full_url, 302)
        answer.msg = "Found"  # pyright: ignore[reportAttributeAccessIssue]
        return answer

    monkeypatch.setattr(urllib.request.HTTPSHandler, "https_open", redirect)
    monkeypatch.setattr(mnist, "MIRRORS", ("https://mirror.invalid/",))
    assert f"refused to leave https for {mirror.url}" in refused(stn, "mnist")
    assert mirror.requests == []


def test_a_download_that_fails_half_way_keeps_the_files_that_are_there(stn: Stn, mirror: Any, sent: dict[str, bytes]):
    del mirror.answers[f"{NAMES[2]}.gz"]
    answer = stn("distort-dataset", "R", "--dataset", "mnist")
    assert answer.code == 3
    assert f"MNIST is not complete: {NAMES[2]}, {NAMES[3]} not found" in answer.error
    assert contents(RAW) == {name: mnist.FILES[name] for name in NAMES[:2]}
    mirror.put(f"{NAMES[2]}.gz", sent[NAMES[2]])
    assert stn("distort-dataset", "R", "--dataset", "mnist").code == 0
    assert mirror.requests == [f"{name}.gz" for name in (*NAMES[:3], *NAMES[2:])]
