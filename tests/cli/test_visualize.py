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

Stn = Callable[..., Any]


def on_board(run: Path) -> tuple[set[str], set[str]]:
    """Return the tags of the images and of the scalars on a run's TensorBoard."""
    tags = EventAccumulator(str(run / "tb")).Reload().Tags()
    return set(tags["images"]), set(tags["scalars"])


@pytest.mark.parametrize("model", ["st-cnn", "cnn"])
def test_pictures_are_files_and_on_the_board(stn: Stn, runs: Path, model: str):
    shutil.copytree(runs / model, "run")
    run = Path("run")
    images, scalars = on_board(run)
    assert images == {"test images"}
    measured = {f"train/{name}" for name in ("loss", "error_percent", "gradient_norm", "learning_rate")}
    assert measured | {"validation/loss", "validation/error_percent", "train/images_per_second"} <= scalars

    answer = stn("visualize", "run", "--per-class", 2, "--json")
    assert (answer.code, answer.err) == (0, "")
    names = ["overview", *(f"class-{digit}" for digit in range(10))]
    assert answer.json == {
        "run": "run",
        "files": [f"run/plots/warps-R-{name}.png" for name in names],
        "address": None,
    }
    for file in answer.json["files"]:
        with Image.open(file) as picture:
            assert picture.format == "PNG"
            assert min(picture.size) >= 28
            assert max(picture.size) <= 4000
    assert on_board(run)[0] == {"test images", *(f"warps under R/{name}" for name in names)}

    plain = stn("visualize", "run", "--per-class", 2, "--distortion", "none")
    assert plain.code == 0
    assert plain.out.splitlines() == [
        *(f"run/plots/warps-none-{n}.png" for n in names),
        "next: stn visualize run --serve",
    ]
    assert {file.name for file in (run / "plots").iterdir()} == {
        f"warps-{kind}-{name}.png" for kind in ("R", "none") for name in names
    }


def test_the_plots_folder_in_the_way_is_a_clear_error(stn: Stn, runs: Path):
    shutil.copytree(runs / "cnn", "run")
    Path("run/plots").write_text("not a folder")
    answer = stn("visualize", "run")
    assert answer.code == 6
    assert answer.error.startswith("cannot write run/plots/warps-R-overview.png: ")


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
        out, err = process.communicate(timeout=10)
        assert process.returncode == 0
        assert "Traceback" not in out + err
