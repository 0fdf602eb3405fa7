"""`stn distort-dataset`: a folder that others read, that trains, and that comes out the same every time."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torchvision.datasets import MNIST, ImageFolder

from stn_cli.config import DataConfig
from stn_cli.datasets.build import build_source
from stn_cli.datasets.idx import write_idx
from stn_cli.datasets.manifest import read_manifest
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
        (["RR"], 2, "KIND has no choice RR. Did you mean R?"),
        (["none"], 2, "none distorts nothing. Choose from R, RTS, P, E, T, TC, addition, volume."),
        ([], 2, "no kind of distortion is given. Choose from R, RTS, P, E, T, TC, addition, volume."),
        (
            ["distortion.kind=E"],
            2,
            "no kind of distortion is given. Choose from R, RTS, P, E, T, TC, addition, volume.",
        ),
        (["R", "distortion.kind=E"], 2, "R and distortion.kind=E are two kinds of distortion. Give one, and more with"),
        (["R", "distortion=E"], 2, "R and distortion=E are two kinds of distortion. Give one, and more"),
        (["R", "distortion={kind: E}"], 2, "R and distortion={kind: E} are two kinds of distortion. Give one, and "),
        (["R", "--compose", "Q"], 2, "--compose has no choice Q. Did you mean R or P or E or T?"),
        (["TC", "--compose", "R"], 2, "--compose: TC can only be the last of a chain."),
        (["R", "--compose", "{kind: E, scale: [0, 1]}"], 2, "scale of --compose {kind: E, scale: [0, 1]} is 0: input"),
        (["R", "--compose", "{kind: E, sgma: 3}"], 2, "unknown setting sgma of --compose {kind: E, sgma: 3}. Choose"),
        (["R", "--compose", "{kind: TC, piece_size: 40}"], 2, "pieces of 40 pixels do not fit the images and the can"),
        (["R", "--rotation", "10", "-10"], 2, "--rotation: the lower bound 10 lies above the upper bound -10."),
        (["R", "--rotation", "1", "0", "--compose", "E"], 2, "--rotation: the lower bound 1 lies above the"),
        (["R", "--canvas", "3"], 2, "--canvas is 3: input should be greater than or equal to 8. Allowed: from 8"),
        (["R", "--seed", "-1"], 2, "--seed is -1: input should be greater than or equal to 0."),
        (["R", "--pieces", "3"], 2, "R takes no --pieces. It takes --canvas, --rotation."),
        (["R", "--copies", "0"], 2, "invalid value for '--copies'"),
        (["R", "--format", "tiff"], 2, "there is no format 'tiff'. Choose from idx, png, safetensors."),
        (
            ["addition", "--format", "idx"],
            2,
            "IDX files hold one channel, these samples have 2. Choose from safetensors",
        ),
        (
            ["TC", "--piece-size", "40"],
            2,
            "pieces of 40 pixels do not fit the images and the canvas, the smallest side is 28. Lower --piece-size.",
        ),
        (
            ["TC", "distortion.piece_size=40"],
            2,
            "pieces of 40 pixels do not fit the images and the canvas, the smallest side is 28. Lower distortion.p",
        ),
        (["--verify", "nowhere"], 3, "there is no folder nowhere. Give one that `stn distort-dataset` wrote."),
        (["--verify", "full"], 3, "full has no manifest.json, so it was not finished."),
        (["R", "distortion.rotaton=[0,1]"], 2, "distortion.rotaton=[0,1]: unknown setting distortion.rotaton. Did you"),
        (["R", "distortion.rotaton=[0,1]", "--compose", "E"], 2, "unknown setting distortion.rotaton. Did you"),
        (["R", "--labels", "file"], 2, "digits has labels of its own. Leave --labels out; it is for an IDX file of i"),
        (["R", "--dataset", "full", "--labels", "file"], 2, "full has labels of its own. Leave --labels out"),
        (["R", "--dataset", "nowhere"], 3, "'nowhere' is neither a dataset nor a folder. See `stn list datasets`"),
        (["R", "--dataset", "file"], 3, "file needs a file of labels. Give it with --labels FILE."),
        (["R", "--out", "file"], 2, "file is a file. Choose a folder with --out."),
        (["R", "--out", "file/x"], 6, "cannot write file/x/"),
        (["R", "--out", "full"], 2, "full holds other files (thesis.tex). Choose an empty folder with --out."),
        (["R", "--out", "my-seed"], 2, "my-seed holds other files (seed). Choose an empty folder with --out."),
    ],
)
def test_what_cannot_be_written_is_said_and_nothing_is_touched(stn: Stn, arguments: list[str], code: int, error: str):
    Path("file").write_text("kept")
    Path("full").mkdir()
    Path("full/thesis.tex").write_text("kept")
    Path("my-seed/seed").mkdir(parents=True)
    there = {str(path) for path in Path().rglob("*")}
    answer = stn("distort-dataset", *arguments)
    assert answer.code == code
    assert answer.error.startswith(error)
    assert {str(path) for path in Path().rglob("*")} == there


def test_all_that_is_wrong_is_said_in_the_words_of_the_command_line(stn: Stn):
    answer = stn("distort-dataset", "volume", "--canvas", 3, "--depth", 0, "--seed", "x")
    assert answer.code == 2
    starts = ["error: --seed is x: ", "error: --canvas is 3: ", "error: --depth is 0.0: "]
    assert all(line.startswith(start) for line, start in zip(answer.err.splitlines(), starts, strict=True))


def test_ranges_are_options_and_settings_and_kinds_are_chained(stn: Stn):
    option = stn("distort-dataset", "R", "--rotation", "-180", "180", "--limit", 3, "--out", "a", "--json").json
    setting = stn("distort-dataset", "R", "distortion.rotation=[-180,180]", "--limit", 3, "--out", "b", "--json").json
    assert option["distortion"]["rotation"] == [-180, 180]
    assert option["sha256"] == setting["sha256"]
    chain = ("--compose", "E", "--compose", "{kind: TC, pieces: 2}")
    answer = stn("distort-dataset", "R", "--rotation", "-9", "9", *chain, "--limit", 30, "--json")
    assert answer.json["out"] == "data/digits-r-e-tc"
    kinds = [(stage["kind"], stage.get("rotation")) for stage in answer.json["distortion"]["stages"]]
    assert kinds == [("R", [-9, 9]), ("E", None), ("TC", None)]
    assert answer.json["sample_shape"] == [1, 60, 60]
    assert stn("train", "--dataset", "data/digits-r-e-tc", "--iterations", 2, "train.batch_size=8").code == 0


def test_a_folder_is_verified_and_every_fault_is_a_line(stn: Stn, folder: Path):
    assert stn("distort-dataset", "--verify", folder).out.endswith("MB, all as they were written\n")
    found = stn("distort-dataset", "--verify", folder, "--json").json
    assert (found["folder"], found["files"]) == (str(folder), 7)
    shutil.copytree(folder, "copy")
    Path("copy/parameters-test.safetensors").unlink()
    Path("copy/MNIST/raw/t10k-labels-idx1-ubyte").write_bytes(b"")
    Path("copy/notes.txt").write_text("mine")
    answer = stn("distort-dataset", "--verify", "copy")
    assert (answer.code, answer.out) == (3, "")
    lines = answer.err.splitlines()
    assert len(lines) == 3
    assert all(line.startswith("error: copy/") for line in lines)


@pytest.mark.parametrize("kind", ["T", "TC", "addition"])
def test_every_kind_of_image_trains_from_a_folder_and_without_one(stn: Stn, tiny: tuple[str, ...], kind: str):
    assert stn("distort-dataset", kind, "--out", "a").code == 0
    for name, data in (("folder", ("--dataset", "a")), ("fly", ("--distortion", kind))):
        settings = (*tiny, "model.parameters=150000", "log.evaluations=1", "--transform", "attention")
        answer = stn("train", *data, *settings, "--name", name, "--json")
        assert answer.code == 0, answer.err
    stored, fly = (stn("eval", name, "--dataset", "a", "--json").json for name in ("folder", "fly"))
    assert len(stored["confusion"]) == len(fly["confusion"]) == (19 if kind == "addition" else 10)
    again = stn("eval", "fly", "--json").json
    assert fly["loss"] == pytest.approx(again["loss"], abs=0.01)  # the folder's pixels are rounded to bytes
    assert stn("visualize", "fly", "--per-class", 1).code == 0


def test_volumes_are_written_and_no_network_takes_them(stn: Stn):
    answer = stn("distort-dataset", "volume", "--limit", 5, "--canvas", 32, "--rotation", "-20", "20", "--out", "a")
    assert answer.code == 0
    assert "samples of 1×32×32×32" in answer.out
    for data in (("--dataset", "a"), ("--distortion", "volume")):
        answer = stn("train", *data, "--iterations", 2)
        assert answer.code in (2, 3)
        assert "volumes" in answer.error


def test_the_first_images_of_a_folder_are_of_all_classes_as_far_as_they_go(stn: Stn):
    levels = torch.arange(12 * 8 * 9).remainder(251).view(12, 8, 9).to(torch.uint8)
    for number, image in enumerate(levels.repeat(2, 1, 1).numpy()):
        path = Path("mine", ("a", "b", "c")[number // 8], f"{number:02}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    whole = stn("distort-dataset", "R", "--dataset", "mine", "--format", "png", "--out", "whole")
    few = stn("distort-dataset", "R", "--dataset", "mine", "--format", "png", "--limit", 3, "--out", "few")
    assert "torchvision.datasets.ImageFolder('few/train'), and test\n" in few.out
    assert "ImageFolder('whole/train'), and test\n" in whole.out
    for split in ("train", "test"):
        files = {path.relative_to("few") for path in Path("few", split).rglob("*.png")}
        assert len(files) == len(ImageFolder(f"few/{split}")) == 3
        assert all(sha256_of("few" / path) == sha256_of("whole" / path) for path in files)
    fewer = stn("distort-dataset", "R", "--dataset", "mine", "--format", "png", "--limit", 2, "--out", "fewer")
    assert "torchvision.datasets.ImageFolder('fewer/train', allow_empty=True), and test\n" in fewer.out
    assert len(ImageFolder("fewer/train", allow_empty=True)) == 2


def test_a_pair_of_idx_files_is_a_dataset(stn: Stn):
    generator = torch.Generator().manual_seed(0)
    write_idx(Path("my-images-idx3"), torch.randint(256, (60, 20, 24), generator=generator, dtype=torch.uint8))
    write_idx(Path("my-labels-idx1"), torch.arange(60).remainder(3).to(torch.uint8))
    Path("other").write_bytes(Path("my-labels-idx1").read_bytes())
    found = stn("distort-dataset", "R", "--dataset", "my-images-idx3", "--out", "a", "--json").json
    assert (found["sample_shape"], found["images"]) == ([1, 20, 24], {"train": 51, "test": 9})
    named = stn("distort-dataset", "R", "--dataset", "my-images-idx3", "--labels", "other", "--out", "b", "--json").json
    assert named["sha256"] == found["sha256"]
    Path("my-labels-idx1").unlink()
    assert stn("distort-dataset", "R", "--dataset", "my-images-idx3").error.startswith("my-images-idx3 needs a file of")
