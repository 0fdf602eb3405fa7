"""`stn visualize`: pictures as files, on TensorBoard, and served on the loopback."""

import json
import re
import shutil
import signal
import subprocess
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from stn_cli.visualize import own_image, turning

pytestmark = pytest.mark.xdist_group("board")  # servers take the first port that is free

Stn = Callable[..., Any]


def on_board(run: Path) -> set[str]:
    """Return the tags of the images on a run's TensorBoard."""
    return set(EventAccumulator(str(run / "tb")).Reload().Tags()["images"])


@pytest.mark.parametrize("model", ["st-cnn", "cnn"])
def test_pictures_are_files_and_on_the_board(stn: Stn, runs: Path, monkeypatch: pytest.MonkeyPatch, model: str):
    monkeypatch.setattr(turning, "FRAMES", 2)  # which are tested elsewhere
    shutil.copytree(runs / model, "run")
    run = Path("run")
    images = on_board(run)
    assert "pictures/1 test images" in images

    answer = stn("visualize", "run", "--per-class", 2, "--json")
    assert (answer.code, answer.err) == (0, "")
    names = ["overview", *(f"class-{digit}" for digit in range(10))]
    names += ["worst", "means", "confusion"] if model == "st-cnn" else ["worst", "confusion"]
    moving, curves = ["turning.gif"], ["error", "loss"]
    if model == "st-cnn":
        moving += ["training.gif"]
        curves += [f"warp-{name}" for name in ("outside", "scale", "theta", "angle", "shift")]
    others = [f"run/plots/{name}" for name in (*moving, *(f"curves-{name}.svg" for name in curves))]
    assert answer.json == {
        "run": "run",
        "files": [*(f"run/plots/warps-R-{name}.png" for name in names), *others],
        "address": None,
    }
    for file in answer.json["files"][: len(names) + len(moving)]:
        with Image.open(file) as picture:
            assert picture.format == Path(file).suffix[1:].upper()
            assert min(picture.size) >= 28
            assert max(picture.size) <= 4000
    assert on_board(run) == {*images, *(f"warps under R/{name}" for name in names)}

    plain = stn("visualize", "run", "--per-class", 2, "--distortion", "none")
    assert plain.code == 0
    assert plain.out.splitlines() == [
        *(f"run/plots/warps-none-{n}.png" for n in names),
        *others,
        "next: stn visualize run --serve",
    ]
    assert {file.name for file in (run / "plots").iterdir()} == {
        *(f"warps-{kind}-{name}.png" for kind in ("R", "none") for name in names),
        *(Path(other).name for other in others),
    }


def test_an_image_of_ones_own_is_read_and_shown(stn: Stn, runs: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(own_image, "MOVES", 2)  # frames are tested elsewhere
    shutil.copytree(runs / "st-cnn", "run")
    Path("b").mkdir()
    stroke = Image.new("RGB", (60, 90), "white")
    stroke.paste("black", (26, 20, 34, 70))
    for name in ("a.png", "b/a.png"):
        stroke.save(name)
    answer = stn("visualize", "run", "--image", "a.png", "--image", "b/a.png", "--json")
    assert (answer.code, answer.err) == (0, "")
    one, other = answer.json["images"]
    assert (one["image"], other["image"]) == ("a.png", "b/a.png")
    assert one["files"] == ["run/plots/own-a.png", "run/plots/own-a.gif"]
    assert other["files"] == ["run/plots/own-a-2.png", "run/plots/own-a-2.gif"]
    assert one["predictions"] == other["predictions"]
    assert len(one["predictions"]) == 3
    assert one["hint"].endswith("try --invert")
    assert not Path("run/plots/warps-R-overview.png").exists()

    plain = stn("visualize", "run", "--image", "a.png", "--invert")
    assert plain.code == 0
    assert plain.err == ""
    assert plain.out.splitlines()[1:] == [
        "  taken as   90×60 to 28×28, grey, inverted",
        "  run/plots/own-a.png",
        "  run/plots/own-a.gif",
        "next: stn visualize run --serve",
    ]
    assert re.fullmatch(r"a\.png  (\d: \d+\.\d %(, )?){3}", plain.out.splitlines()[0])
    assert stn("visualize", "run", "--image", "a.png").err == f"hint: a.png: {one['hint']}\n"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--image", "missing.png"], 3, "there is no image missing.png. Check its name."),
        (["--invert"], 2, "--invert is for --image. Give an image, or leave it out."),
        (["--image", "a.png", "--pdf"], 2, "--pdf is for the curves, which --image leaves out. Leave one of them out."),
    ],
)
def test_what_cannot_be_shown_is_one_line(stn: Stn, runs: Path, arguments: list[str], code: int, said: str):
    shutil.copytree(runs / "st-cnn", "run")
    answer = stn("visualize", "run", *arguments)
    assert (answer.code, answer.error) == (code, said)
    assert not Path("run/plots").exists()


def test_the_plots_folder_in_the_way_is_a_clear_error(stn: Stn, runs: Path):
    shutil.copytree(runs / "cnn", "run")
    Path("run/plots").write_text("not a folder")
    answer = stn("visualize", "run")
    assert answer.code == 6
    assert answer.error.startswith("cannot write run/plots/curves-error.svg: ")


def address_of(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if found := re.search(r"http://127\.0\.0\.1:\d+/", line):
            return found[0]
    raise AssertionError(process.communicate()[1])


def test_two_boards_at_once_are_served_on_two_ports_and_stop_when_told(start: Callable[..., Any], runs: Path):
    shutil.copytree(runs / "cnn", "run")
    served = [start("visualize", "run", "--per-class", 1, "--serve", *json_) for json_ in ([], ["--json"])]
    addresses = [address_of(process) for process in served]
    assert len(set(addresses)) == 2
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for address in addresses:
        with opener.open(address, timeout=30) as page:
            assert page.status == 200
        with opener.open(f"{address}data/plugin/images/tags", timeout=30) as tags:
            assert "warps under R/overview" in json.loads(tags.read())["tb"]
    for process, number in zip(served, (signal.SIGINT, signal.SIGTERM), strict=True):
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0
        assert "Traceback" not in out + err
