"""`stn table`: all of a grid, what stops it, and that it goes on."""

import json
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stn_cli.training.checkpoint import read_newest

pytestmark = pytest.mark.xdist_group("cores")  # which the processes of packed runs claim

Stn = Callable[..., Any]
GRID = """
title: Errors on digits
base: {data.dataset: digits, train.batch_size: 16, model.parameters: 30000}
axes:
  network: {FCN: {model: fcn}, ST-FCN: {model: st-fcn}}
  distortion: {R: {distortion: R}, P: {distortion: P}}
paper: {FCN: {R: 2.1}}
"""
SMALL = (
    "--device",
    "cpu",
    "--precision",
    "float32",
    "runtime.convolutions=library",
    "log.evaluations=2",
    "log.images=4",
)


@pytest.fixture(autouse=True)
def grid(tmp_path: Path, plain_surroundings: None) -> None:
    (tmp_path / "grid.yaml").write_text(GRID)


def weights(folder: Path) -> dict[str, bytes]:
    return {
        f"{checkpoints.parent.name} {name}": tensor.numpy().tobytes()
        for checkpoints in sorted(folder.glob("*/checkpoints"))
        for name, tensor in read_newest(checkpoints)[0].tensors.items()
    }


def numbers(answer: dict[str, Any]) -> list[Any]:
    return [(cell["row"], cell["column"], cell["seeds"], cell["errors_percent"]) for cell in answer["cells"]]


def test_every_cell_is_trained_once(stn: Stn) -> None:
    call = ("table", "grid.yaml", "--seeds", "0,1", "--iterations", "6", *SMALL, "--json")
    before = stn(*call, "--status").json
    assert (before["cells"], before["state"]) == ([], {"finished": 0, "begun": 0, "waiting": 8})
    assert not Path("runs").exists()
    first = stn(*call)
    assert first.code == 0, first.err
    found = first.json
    assert (found["finished"], found["runs"], found["recipe"], len(found["cells"])) == (8, 8, "quick", 4)
    assert found["cells"][0] | {"errors_percent": 0} == found["cells"][0] | {
        "errors_percent": 0,
        "row": "FCN",
        "column": "R",
        "seeds": [0, 1],
        "paper": 2.1,
        "steps": 6,
    }
    folder = Path("runs/grid-quick-6it")
    trained = {file: file.stat().st_mtime_ns for file in folder.rglob("*.safetensors")}
    assert len(trained) >= 8
    again = stn(*call)
    assert again.json == found
    assert "runs, " not in again.err
    assert {file: file.stat().st_mtime_ns for file in folder.rglob("*.safetensors")} == trained
    shown = stn(*call[:-1])
    assert shown.code == 0
    assert re.search(r"ST-FCN.* \d+\.\d\d ± \d+\.\d\d ", shown.out)
    assert "8 finished, 0 begun, 0 waiting" in shown.out
    assert json.loads((folder / "table.json").read_text())["cells"] == found["cells"]
    assert (folder / "table.md").read_text().startswith("**Errors on digits**. Recipe quick")
    assert (folder / "table.csv").read_text().count("\n") == 5
    assert "<title>Errors on digits" in (folder / "table.html").read_text()


def test_a_table_that_was_stopped_ends_with_the_numbers_of_one_that_was_not(
    stn: Stn, start: Callable[..., Any]
) -> None:
    call = ["table", "grid.yaml", "--iterations", "400", *SMALL, "--only", "distortion=R", "log.every=100"]
    whole = stn(*call, "--runs-dir", "whole", "--json").json
    for number in (signal.SIGKILL, signal.SIGINT):
        folder = number.name
        process = start(*call, "--runs-dir", folder)
        while True:
            line = process.stderr.readline()
            assert line, "it ended before a run began"
            if "FCN, R, seed 0" in line:  # or ST-FCN, whichever begins first
                break
        process.send_signal(number)
        rest = process.communicate(timeout=60)[1]
        assert process.returncode == (130 if number == signal.SIGINT else -number)
        if number == signal.SIGINT:
            assert "Go on with" in rest or "not begun" in rest
        assert not list(Path(folder).glob("*/summary.json"))
        resumed = stn(*call, "--runs-dir", folder, "--json").json
        assert numbers(resumed) == numbers(whole)
        assert weights(Path(folder)) == weights(Path("whole"))


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["table3"], "there is no table 'table3', neither a file nor a shipped one. Did you mean table1?"),
        (["table1", "--epochs", "1", "--iterations", "2"], "--epochs and --iterations are two lengths of one run"),
        (["table1", "--runner", "slurm"], "--runner has no choice 'slurm'. Choose from auto, in-turn, packed, ray."),
        (["table1", "--address", "auto"], "--address is that of a Ray cluster. Give --runner ray too."),
        (["table1", "seed=3"], "seed=3 changes nothing here."),
        (["table1", "--only", "model=st-cnm"], "no run of table1 is model=st-cnm. Rows are FCN, CNN, "),
        (["table1", "--recipe", "qick"], "table1, FCN, R: train.recipe=qick: "),
    ],
)
def test_what_makes_no_sense_is_refused(stn: Stn, arguments: list[str], what: str) -> None:
    answer = stn("table", *arguments)
    assert answer.code == 2
    assert answer.err.splitlines()[0].startswith(f"error: {what}")
    assert not Path("runs").exists()


def test_a_cell_that_fails_leaves_the_others_their_numbers(stn: Stn) -> None:
    call = ("table", "grid.yaml", "--iterations", "6", *SMALL, "--only", "distortion=R", "--runs-dir", "runs")
    Path("runs/fcn-r-seed0").mkdir(parents=True)
    Path("runs/fcn-r-seed0/checkpoints").write_text("in the way")
    answer = stn(*call)
    assert answer.code != 0
    assert "FCN, R, seed 0" in answer.err
    assert re.search(r"│ ST-FCN +│ +\d", answer.out)
    assert "1 finished" in answer.out
