"""`stn distort-dataset`: a folder that others read, that trains, and that comes out the same every time."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torchvision.datasets import MNIST

from stn_cli.config import DataConfig
from stn_cli.datasets.build import build_source
from stn_cli.datasets.distorted import read_manifest
from stn_cli.storage import sha256_of

Stn = Callable[..., Any]


@pytest.fixture(scope="module")
def folder(stn: Stn, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("distorted") / "digits r"
    answer = stn("distort-dataset", "r", "--seed", 3, "--out", folder)
    assert answer.code == 0
    lines = answer.out.splitlines()
    assert lines[1:] == [f"{folder}/manifest.json", f"{folder}/preview.png", f"next: stn train --dataset '{folder}'"]
    assert answer.err == ""
    return folder


def test_torchvision_reads_the_same_images(folder: Path):
    source = build_source(DataConfig(dataset=str(folder)))  # pyright: ignore[reportCallIssue]
    for split, train in ((source.train, True), (source.test, False)):
        theirs = MNIST(str(folder), train=train)
        assert torch.equal(theirs.data, split.images[:, 0])
        assert torch.equal(theirs.targets, split.targets)
    assert source.train.size == (28, 28)
    assert source.test.images.float().std() > 10
    with Image.open(folder / "preview.png") as preview:
        assert min(preview.size) > 100


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(stn: Stn, folder: Path):
    assert stn("distort-dataset", "R", "--seed", 3, "--out", "again").code == 0
    assert stn("distort-dataset", "R", "--seed", 4, "--out", "other").code == 0
    files = sorted(file.relative_to(folder) for file in folder.rglob("[!.]*") if file.is_file())
    assert len(files) == 8
    assert all(sha256_of(folder / file) == sha256_of(Path("again") / file) for file in files)
    differ = {file.name for file in files if sha256_of(folder / file) != sha256_of(Path("other") / file)}
    assert differ >= {"train-images-idx3-ubyte", "t10k-images-idx3-ubyte", "manifest.json", "preview.png"}
    assert not differ & {"train-labels-idx1-ubyte", "t10k-labels-idx1-ubyte"}


def test_json_says_what_was_written_and_where(stn: Stn):
    answer = stn("distort-dataset", "E", "distortion.control_point_sigma=3", "--json")
    assert (answer.code, answer.err) == (0, "")
    assert answer.json == {"out": "data/digits-e", **read_manifest(Path("data/digits-e"))}
    assert answer.json["distortion"]["control_point_sigma"] == 3
    assert answer.json["images"] == {"train": 1297, "test": 500}


def test_a_folder_trains_and_is_evaluated_without_being_distorted_again(stn: Stn, folder: Path, tiny: tuple[str, ...]):
    answer = stn("train", "--dataset", folder, *tiny, "log.evaluations=1", "--model", "cnn", "--name", "a", "--json")
    assert answer.code == 0
    assert (answer.json["dataset"], answer.json["distortion"]) == (str(folder), "none")
    evaluated = stn("eval", "a", "--json").json
    assert evaluated["error_percent"] == answer.json["test_error_percent"]
    assert stn("visualize", "a", "--per-class", 1).code == 0


def test_evaluating_on_a_folder_is_evaluating_under_the_distortion_it_was_made_with(stn: Stn, folder: Path, runs: Path):
    fly = stn("eval", runs / "cnn", "--seed", 3, "--json").json
    stored = stn("eval", runs / "cnn", "--dataset", folder, "--json").json
    assert stored["distortion"] == {"kind": "none"}
    assert stored["loss"] == pytest.approx(fly["loss"], abs=0.01)  # the folder's pixels are rounded to bytes
    assert abs(stored["error_percent"] - fly["error_percent"]) <= 1


@pytest.mark.parametrize(
    ("arguments", "code", "error"),
    [
        (["RR"], 2, "distortion.kind=RR: distortion.kind has no choice RR. Did you mean R?"),
        (["none"], 2, "none distorts nothing. Choose from R, RTS, P, E."),
        (["R", "distortion.rotaton=[0,1]"], 2, "distortion.rotaton=[0,1]: unknown setting distortion.rotaton. Did you"),
        (["R", "--dataset", "nowhere"], 3, "'nowhere' is neither a dataset nor a folder. See `stn list datasets`"),
        (["R", "--out", "file"], 2, "file is a file. Choose a folder with --out."),
        (["R", "--out", "file/x"], 6, "cannot write file/x/"),
        (["R", "--out", "full"], 2, "full holds other files (thesis.tex). Choose an empty folder with --out."),
    ],
)
def test_what_cannot_be_written_is_said_and_nothing_is_touched(stn: Stn, arguments: list[str], code: int, error: str):
    Path("file").write_text("kept")
    Path("full").mkdir()
    Path("full/thesis.tex").write_text("kept")
    answer = stn("distort-dataset", *arguments)
    assert answer.code == code
    assert answer.error.startswith(error)
    assert {str(path) for path in Path().rglob("*")} == {"file", "full", "full/thesis.tex"}
