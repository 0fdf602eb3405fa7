"""`stn train`: what it prints, what it leaves behind, how it goes on."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stn_cli.config_files import load_config

Stn = Callable[..., Any]


@pytest.mark.parametrize("model", ["st-cnn", "cnn"])
def test_the_result_is_one_json_object_and_the_summary_of_the_run(runs: Path, model: str):
    printed = json.loads((runs / f"{model}.json").read_text())
    assert printed == json.loads((runs / model / "summary.json").read_text())
    assert printed["run"] == str(runs / model)
    assert (printed["model"], printed["steps"], printed["n"]) == (model, 6, 500)
    assert 0 <= printed["test_error_percent"] <= 100
    assert printed["images_per_second"] > 0
    assert abs(printed["parameters"] - 30_000) < 600
    expected = {"config.yaml", "env.json", "metrics.jsonl", "summary.json", "checkpoints", "tb"}
    assert expected <= {file.name for file in (runs / model).iterdir()}


def test_the_same_settings_give_the_same_result_and_a_taken_name_a_suffix(stn: Stn, tiny: tuple[str, ...]):
    errors = []
    for name in ("a", "a-2", "a-3"):
        result = stn("train", *tiny, "log.evaluations=1", "--model", "cnn", "--name", "a", "--json").json
        assert result["run"] == f"runs/{name}"
        errors.append((result["test_error_percent"], result["test_loss"]))
    assert len(set(errors)) == 1


def test_people_are_told_the_error_its_interval_and_what_to_type_next(stn: Stn, tiny: tuple[str, ...]):
    answer = stn("train", *tiny, "log.evaluations=2", "--model", "cnn", "--runs-dir", "a [b]/:c:", "--name", "my run")
    assert answer.code == 0
    assert re.match(
        r"test error  \d+\.\d\d %  \(95 % interval \d+\.\d\d to \d+\.\d\d, n 500\)\n"
        r"speed       [\d,]+ images/s, \d+ s\n"
        r"next        stn eval 'a \[b\]/:c:/my run'\n"
        r"            stn visualize 'a \[b\]/:c:/my run' --serve\n$",
        answer.out,
    )
    lines = answer.err.splitlines()
    assert [line.split()[0] for line in lines] == ["run", "parameters", "runtime", "step", "step"]
    assert lines[0] == "run         a [b]/:c:/my run"
    said = "cpu because it is the fastest device here; float32 as asked; steps one by one since 6 are few"
    assert lines[2] == f"runtime     {said}"
    assert "\x1b" not in answer.out + answer.err


def test_settings_options_and_config_come_to_the_runs_own_config(stn: Stn, tiny: tuple[str, ...]):
    settings = [*tiny, "log.evaluations=1", "log.images=0", "distortion.rotation=[-10, 10]", "--seed", "3"]
    answer = stn("train", "digits/r", *settings, "--model", "fcn", "--offline", "--name", "x", "--json")
    assert answer.code == 0
    config = load_config("runs/x/config.yaml")
    assert (config.model.name, config.seed, config.data.offline) == ("fcn", 3, True)
    assert config.distortion.model_dump()["rotation"] == (-10, 10)
    assert (answer.json["seed"], answer.json["model"]) == (3, "fcn")


def test_a_finished_run_says_so_keeps_its_result_and_can_be_extended(stn: Stn, runs: Path):
    shutil.copytree(runs / "cnn", "runs/cnn")
    before = json.loads(Path("runs/cnn/summary.json").read_text())
    answer = stn("train", "--resume", "cnn", "--json")
    assert answer.code == 0
    assert "finished    all 6 steps are done; for more, give --epochs or --iterations\n" in answer.err
    same = ("test_error_percent", "test_loss", "steps", "best_validation_error_percent", "train_seconds")
    assert {key: answer.json[key] for key in same} == {key: before[key] for key in same}
    answer = stn("train", "--resume", "runs/cnn", "--iterations", "9", "--json")
    assert answer.code == 0
    assert "going on    after step 6 of 9\n" in answer.err
    assert answer.json["steps"] == 9
    # What was asked for last is what the run now is: resuming it once more finds nothing left to do.
    assert "finished    all 9 steps are done" in stn("train", "--resume", "runs/cnn").err


@pytest.mark.parametrize("extra", [["mnist/r"], ["--overwrite"], ["--name", "b"]])
def test_resume_takes_no_other_config_or_name(stn: Stn, runs: Path, extra: list[str]):
    answer = stn("train", "--resume", runs / "cnn", *extra)
    assert answer.code == 2
    assert answer.error.startswith("--resume goes on with a run's own config and folder. ")


def test_overwrite_replaces_a_run_but_nothing_else(stn: Stn, tiny: tuple[str, ...]):
    arguments = ["train", *tiny, "log.evaluations=1", "--model", "cnn", "--name", "a", "--overwrite"]
    assert stn(*arguments, "--seed", "1").code == 0
    assert stn(*arguments, "--seed", "2", "--json").json["seed"] == 2
    assert [run.name for run in Path("runs").iterdir()] == ["a"]
    Path("runs/a/config.yaml").unlink()
    answer = stn(*arguments)
    assert answer.code == 2
    assert answer.error == "runs/a is no run, so it is not overwritten. Choose another --name."
    assert Path("runs/a/summary.json").exists()


def test_numbers_that_are_not_finite_stop_the_run_and_leave_a_log(stn: Stn):
    wild = ["train.learning_rate=100", "train.clip_norm=null", "train.momentum=0.99", "train.batch_size=16"]
    answer = stn("train", "--iterations", "60", *wild, "model.parameters=30000", "log.every=5", "--name", "a")
    assert answer.code == 5
    error = answer.err.splitlines()[-1]
    assert re.match(r"error: .* not finite in \d+ of .*steps \d+ to \d+\. Lower train.learning_rate ", error)
    assert "NumericsError" in Path("runs/a/crash.log").read_text()
    assert not Path("runs/a/summary.json").exists()


def on_screen(written: str) -> list[str]:
    """Return the lines a terminal shows in the end: it knows \\r, \\n, cursor up and erase line."""
    lines, row, column = [""], 0, 0
    for part in re.findall(r"\x1b\[[?\d;]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", written):
        if part == "\r":
            column = 0
        elif part == "\n":
            row, column = row + 1, 0
            lines += [""] * (row + 1 - len(lines))
        elif part.startswith("\x1b["):
            if part.endswith("A"):
                row -= int(part[2:-1] or 1)
            elif part.endswith("K"):
                lines[row] = ""
        else:
            lines[row] = lines[row][:column].ljust(column) + part + lines[row][column + len(part) :]
            column += len(part)
    return "\n".join(line.rstrip() for line in lines).rstrip().split("\n")


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_on_a_terminal_the_bar_leaves_no_trace(
    stn: Stn, tiny: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, columns: int
):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(columns))
    arguments = ["train", *tiny, "log.evaluations=3", "log.every=1", "--model", "cnn", "--name", "a", "--overwrite"]
    plain, shown = stn(*arguments), stn(*arguments, terminal=True)
    assert "training" in shown.err
    assert "training" not in plain.err
    assert " ".join(on_screen(shown.err)).split() == plain.err.split()
    if columns == 200:  # no line is broken
        assert on_screen(shown.err) == plain.err.splitlines()


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_a_terminal_without_colours_gets_none(
    stn: Stn, tiny: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, name: str, value: str
):
    monkeypatch.setenv(name, value)
    answer = stn("train", *tiny, "log.evaluations=1", "--model", "cnn", terminal=True)
    assert answer.code == 0
    assert not re.search(r"\x1b\[[\d;]*m", answer.out + answer.err)
    if value == "dumb":
        assert "\x1b" not in answer.out + answer.err
