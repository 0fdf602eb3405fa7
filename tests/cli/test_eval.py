"""`stn eval`: the same numbers as training found, and others where other images are asked for."""

import csv
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stn_cli.training.undoing import Undoing

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


def test_undoing_tells_how_far_the_transformer_undoes_the_distortion(stn: Stn, tmp_path: Path, tiny: tuple[str, ...]):
    assert stn("train", *tiny, "train.localisation_rate=0", "--name", "still").code == 0  # it stays the identity
    plain = stn("eval", "still", "--json").json
    found = stn("eval", "still", "--undoing", "--json").json
    (one,) = found.pop("undoing")
    assert found == plain
    assert (one["transformer"], one["digit"], one["n"], one["measured"]) == ("input", "", 500, 500)
    rotation, scale = one["spreads"]["rotation"], one["spreads"]["scale"]
    assert rotation["before"] == pytest.approx(54, abs=3)  # uniform over −90° to 90°
    assert rotation["undone"] == pytest.approx(0, abs=1e-3)
    assert scale["undone"] is None
    people = stn("eval", "still", "--undoing")
    assert (people.code, people.err) == (0, "")
    assert people.out.startswith(stn("eval", "still").out)
    assert "transformer at input, measured on 500 of 500 samples\n" in people.out
    assert f"│ rotation ° │  {rotation['before']:.2f} │ {rotation['after']:.2f} │" in people.out
    assert stn("eval", "still", "--undoing", encoding="ascii").out.isascii()


def test_undoing_by_a_transformer_that_fled_is_told(stn: Stn, runs: Path, monkeypatch: pytest.MonkeyPatch):
    fled = Undoing("input", "", 500, 0, pose={}, spreads={}, residuals={}, turned=None, corners=None)
    monkeypatch.setattr("stn_cli.training.undoing.measure_undoing", lambda *_: [fled])
    answer = stn("eval", runs / "st-cnn", "--undoing")
    said = "transformer at input, measured on 0 of 500 samples\nno sample shows enough of its digit\n"
    assert answer.out.endswith(said)


def test_undoing_of_several_transformers_and_digits(stn: Stn, tiny: tuple[str, ...]):
    several = ("--distortion", "addition", "--model", "fcn", "model.transformers=[[{}, {transform: tps}]]")
    still = ("model.parameters=240000", "train.localisation_rate=0")
    assert stn("train", *tiny, *several, *still, "--name", "two").code == 0
    found = stn("eval", "two", "--undoing", "--json").json["undoing"]
    pairs = [(one["digit"], one["transformer"]) for one in found]
    assert pairs == [(digit, f"input.{k}") for digit in ("first", "second") for k in (0, 1)]
    best = min(found[:2], key=lambda one: one["corners"][1])["transformer"]
    assert f"the first digit is undone best by the transformer at {best}\n" in stn("eval", "two", "--undoing").out


def test_what_has_nothing_to_undo_is_told(stn: Stn, runs: Path):
    assert "no transformer stands before the first convolution" in stn("eval", runs / "cnn", "--undoing").error
    answer = stn("eval", runs / "st-cnn", "--distortion", "none", "--undoing")
    assert (answer.code, answer.error) == (
        2,
        "the images are not distorted, so there is nothing to undo. Choose a --distortion.",
    )


def test_a_sweep_is_a_table_and_files_in_the_runs_plots(stn: Stn, runs: Path):
    cnn = shutil.copytree(runs / "cnn", "cnn")
    answer = stn("eval", cnn, "--sweep", "rotation", "--steps", 3)
    assert (answer.code, answer.err) == (0, "")
    files = [Path(cnn) / "plots" / f"sweep-rotation.{form}" for form in ("csv", "svg", "png")]
    assert answer.out.splitlines()[-3:] == [str(file) for file in files]
    rows = list(csv.DictReader(io.StringIO(files[0].read_text(encoding="utf-8"))))
    assert [(row["run"], float(row["strength"])) for row in rows] == [("cnn", -180), ("cnn", 0), ("cnn", 180)]
    upright = stn("eval", cnn, "--distortion", "none", "--json").json
    low, high = upright["interval_percent"]
    assert f"│          0 │ {upright['error_percent']:.2f} ({low:.2f} to {high:.2f}) │" in answer.out
    assert "cnn was trained on rotations of -90 to 90 °\n" in answer.out
    found = stn("eval", cnn, "--sweep", "rotation", "--steps", 3, "--json").json
    assert found["files"] == [str(file) for file in files]
    (run,) = found["runs"]
    assert (found["sweep"], found["unit"], run["model"], run["trained_on"]) == ("rotation", "°", "cnn", [-90, 90])
    assert [str(point["error_percent"]) for point in run["points"]] == [row["error_percent"] for row in rows]
    assert run["points"][1]["error_percent"] == upright["error_percent"]


def test_a_sweep_compares_runs_and_heeds_range_settings_and_folder(stn: Stn, runs: Path):
    arguments = ("eval", "st-cnn", "data.validation=0", "cnn", "--sweep", "noise", "--range", 0, 0.5, "--steps", 2)
    found = stn(*arguments, "--runs-dir", runs, "--out", "compared", "--json").json
    assert [run["run"] for run in found["runs"]] == ["st-cnn", "cnn"]
    assert [point["strength"] for point in found["runs"][1]["points"]] == [0, 0.5]
    assert found["files"] == [f"compared/sweep-noise.{form}" for form in ("csv", "svg", "png")]
    assert all(Path(file).is_file() for file in found["files"])
    other = stn(*arguments, "--runs-dir", runs, "--out", "compared", "--seed", 4, "--json").json
    first, second = ([run["points"][1]["error_percent"] for run in one["runs"]] for one in (found, other))
    assert first != second


def test_runs_of_one_name_go_by_their_folders(stn: Stn, runs: Path, tmp_path: Path):
    copied = tmp_path / "elsewhere" / "cnn"
    shutil.copytree(runs / "cnn", copied)
    found = stn("eval", runs / "cnn", copied, "--sweep", "scale", "--steps", 2, "--out", tmp_path, "--json").json
    assert [run["run"] for run in found["runs"]] == [str(runs / "cnn"), str(copied)]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--sweep", "blur"], "--sweep has no choice 'blur'. Choose from rotation, scale, shift, noise."),
        (["--steps", 3], "--steps is for a sweep. Give --sweep too: rotation, scale, shift, noise."),
        (["--range", 0, 1], "--range is for a sweep"),
        (["--out", "a"], "--out is for a sweep"),
        (["--undoing", "--sweep", "noise"], "--undoing and --sweep are two measurements. Give one of them."),
        (["st-cnn"], "'st-cnn' is no setting, and only a sweep takes several runs. Write key=value, or give --sweep."),
        (["--sweep", "noise", "--range", 1, 0], "--range 1 0 is none for noise."),
        (["--sweep", "noise", "model.name=fcn"], "model.name=fcn changes nothing here."),
    ],
)
def test_what_makes_no_sense_is_refused(stn: Stn, runs: Path, arguments: list[Any], complaint: str):
    answer = stn("eval", runs / "cnn", *arguments)
    assert answer.code == 2
    assert answer.error.startswith(complaint)


def test_a_second_run_that_is_none_is_told(stn: Stn, runs: Path):
    answer = stn("eval", runs / "cnn", "nothing", "--sweep", "noise")
    assert (answer.code, "there is no run 'nothing'" in answer.error) == (4, True)
