"""`stn eval`: the same numbers as training found, and others where other images are asked for."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Stn = Callable[..., Any]


@pytest.mark.parametrize("model", ["st-cnn", "cnn"])
def test_evaluation_finds_what_training_found(stn: Stn, runs: Path, model: str):
    trained = json.loads((runs / model / "summary.json").read_text())
    answer = stn("eval", runs / model, "--json")
    assert (answer.code, answer.err) == (0, "")
    found = answer.json
    assert found["error_percent"] == trained["test_error_percent"]
    assert found["interval_percent"] == trained["test_interval_percent"]
    assert found["loss"] == trained["test_loss"]
    assert (found["n"], found["parameters"], found["step"]) == (500, trained["parameters"], 6)
    counts = found["confusion"]
    assert sum(map(sum, counts)) == 500
    wrong = 500 - sum(counts[i][i] for i in range(10))
    assert found["error_percent"] == 100 * wrong / 500
    errors = [100 * (sum(row) - row[i]) / sum(row) for i, row in enumerate(counts)]
    assert list(found["class_errors_percent"].values()) == errors


def test_a_run_is_found_by_path_and_by_name(stn: Stn, runs: Path, monkeypatch: pytest.MonkeyPatch):
    by_path, by_name = stn("eval", runs / "cnn", "--json"), stn("eval", "cnn", "--runs-dir", runs, "--json")
    monkeypatch.chdir(runs.parent)
    assert (
        by_path.json["error_percent"]
        == by_name.json["error_percent"]
        == stn("eval", "cnn", "--json").json["error_percent"]
    )
    assert stn("eval", "runs/cnn").code == 0


def test_another_distortion_or_seed_gives_other_images_and_the_same_ones_every_time(stn: Stn, runs: Path):
    losses = {}
    for settings in (
        (),
        ("--distortion", "e"),
        ("--distortion", "none"),
        ("--seed", "7"),
        ("distortion.rotation=[9,9]",),
    ):
        first, again = (stn("eval", runs / "cnn", *settings, "--json").json for _ in range(2))
        assert first == again
        losses[settings] = first["loss"]
    assert len(set(losses.values())) == len(losses)


def test_the_best_checkpoint_is_evaluated_when_asked_for(stn: Stn, runs: Path):
    found = stn("eval", runs / "st-cnn", "--checkpoint", "best", "--json").json
    assert found["checkpoint"] == "best"
    assert found["step"] in (3, 6)


def test_people_see_the_error_and_the_confusion_whole_on_any_width(
    stn: Stn, runs: Path, monkeypatch: pytest.MonkeyPatch
):
    found = stn("eval", runs / "cnn", "--json").json
    plain = stn("eval", runs / "cnn")
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("TERM", "dumb")
    narrow = stn("eval", runs / "cnn", terminal=True)
    assert narrow.out == stn("eval", runs / "cnn").out == plain.out
    assert f"test error  {found['error_percent']:.2f} %" in plain.out
    assert f"{runs / 'cnn'} (last, step 6)\n" in plain.out
    rows = [line.split("│")[1:-1] for line in plain.out.splitlines() if line.startswith("│")]
    assert [[int(cell.replace("·", "0")) for cell in row[1:-1]] for row in rows] == found["confusion"]
    ascii_only = stn("eval", runs / "cnn", encoding="ascii")
    assert ascii_only.code == 0
    assert ascii_only.out.isascii()
    assert f"test error  {found['error_percent']:.2f} %" in ascii_only.out
