"""A small MNIST, written or served, and what every refusal of data must keep: one line, no file changed."""

import gzip
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

from stn_cli.datasets import mnist
from stn_cli.datasets.idx import idx_sha256, write_idx
from stn_cli.storage import sha256_of

Stn = Callable[..., Any]
RAW = Path("data/MNIST/raw")
NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
IMAGES = torch.randint(256, (130, 28, 28), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
LABELS = (torch.arange(130) % 10).to(torch.uint8)
TENSORS = dict(zip(NAMES, (IMAGES[:100], LABELS[:100], IMAGES[100:], LABELS[100:]), strict=True))


def contents(folder: Path = Path()) -> dict[str, str]:
    """Return what is below a folder, without folders and locks: the SHA-256 of a file, the target of a link."""
    files = (path for path in folder.rglob("*") if path.suffix != ".lock" and (path.is_symlink() or not path.is_dir()))
    return {
        f"{path.relative_to(folder)}": os.readlink(path) if path.is_symlink() else sha256_of(path) for path in files
    }


def refused(stn: Stn, dataset: object, *options: object) -> str:
    """Give `dataset` to the commands that read one; return the line that both must say, having changed no file."""
    before, lines = contents(), set()
    for command in (["train"], ["distort-dataset", "R", "--out", "refused"]):
        answer = stn(*command, "--dataset", dataset, *options)
        assert answer.code == 3, answer.err
        assert contents() == before
        lines.add(answer.error)
    (line,) = lines
    assert re.search(r"\. [A-Z]", line), "what happened, then what to do"
    return line


def write(folder: Path, tensors: Iterable[torch.Tensor] = TENSORS.values()) -> Path:
    for name, tensor in zip(NAMES, tensors, strict=True):
        write_idx(folder / name, tensor)
    return folder


@pytest.fixture(autouse=True)
def _every_test_in_plain_surroundings(plain_surroundings: None) -> None:
    pass


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch, mirror: Any) -> dict[str, bytes]:
    """What the mirror sends for a small MNIST, by the names of its files."""
    monkeypatch.setattr(mnist, "FILES", {name: idx_sha256(tensor) for name, tensor in TENSORS.items()})
    monkeypatch.setattr(mnist, "MIRRORS", (mirror.url,))
    folder = write(Path("scratch"))
    packed = {name: gzip.compress((folder / name).read_bytes(), mtime=0) for name in NAMES}
    for name, content in packed.items():
        mirror.put(f"{name}.gz", content)
    return packed
