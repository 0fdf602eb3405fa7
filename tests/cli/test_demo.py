"""`stn demo`: with a transformer and without, side by side."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

Stn = Callable[..., Any]
MODELS = ("cnn", "st-cnn")


def test_both_errors_stand_side_by_side_with_pictures_and_what_comes_next(stn: Stn, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "40")
    shown = stn("demo", "--epochs", 1, "--runs-dir", "runs here")
    assert shown.code == 0
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in shown.out.splitlines() if line[0] == "│"]
    assert [row[0] for row in rows] == ["cnn", "st-cnn affine"]
    assert all(0 <= float(row[1]) <= 100 for row in rows)
    assert re.search(r"^picture      runs here/demo-st-cnn/plots/warps-R-overview.png ", shown.out, re.MULTILINE)
    assert re.search(r"^TensorBoard  \S*stn visualize 'runs here/demo-st-cnn' --serve$", shown.out, re.MULTILINE)
    assert re.search(r"^next         \S*stn train mnist/r ", shown.out, re.MULTILINE)
    assert Path("runs here/demo-st-cnn/plots/warps-R-overview.png").is_file()
    board = EventAccumulator("runs here/demo-st-cnn/tb").Reload().Tags()
    assert {"pictures/1 test images", "warps under R/overview"} <= set(board["images"])
    for row, model in zip(rows, MODELS, strict=True):
        summary = json.loads(Path(f"runs here/demo-{model}/summary.json").read_text())
        assert row[1] == f"{summary['test_error_percent']:.2f}"
        assert (summary["dataset"], summary["distortion"], summary["n"]) == ("digits", "R", 500)


def test_the_demo_comes_as_one_json_object_and_replaces_the_one_before(stn: Stn, monkeypatch: pytest.MonkeyPatch):
    Path("small.yaml").write_text("model: {parameters: 20000}\nlog: {evaluations: 1, images: 0}\n")
    monkeypatch.setattr("stn_cli.cli.train.DEFAULT", "small.yaml")
    for _ in range(2):
        told = stn("demo", "--epochs", 0.1, "--json")
        assert told.code == 0
    assert sorted(run.name for run in Path("runs").iterdir()) == ["demo-cnn", "demo-st-cnn"]
    assert list(told.json) == ["results", "pictures"]
    assert all(Path(file).is_file() for file in told.json["pictures"])
    for model in MODELS:
        assert told.json["results"][model] == json.loads(Path(f"runs/demo-{model}/summary.json").read_text())
