"""`stn list`: every name a user may write, and every run."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stn_cli import names
from stn_cli.config_files import load_config, shipped_configs

Stn = Callable[..., Any]
KEYS = {"models": "model.name", "transforms": "model.transform", "distortions": "distortion.kind"}


def test_everything_listed_can_be_written_where_it_belongs(stn: Stn):
    listed = stn("list", "--json").json
    for kind, key in KEYS.items():
        assert [entry["name"] for entry in listed[kind]] == list(getattr(names, kind.upper()))
        for entry in listed[kind]:
            stages = ["distortion.stages=[{kind: R}, {kind: E}]"] if entry["name"] == "chain" else []
            load_config(None, [f"{key}={entry['name']}", *stages])
    assert [entry["name"] for entry in listed["datasets"]] == list(names.DATASETS)
    assert [entry["name"] for entry in listed["configs"]] == shipped_configs()
    assert listed["runs"] == []
    assert all(entry["description"] for entries in listed.values() for entry in entries)


@pytest.mark.parametrize("what", ["models", "transforms", "distortions", "datasets", "configs", "runs"])
def test_one_kind_is_a_part_of_all(stn: Stn, what: str):
    assert stn("list", what).out in stn("list").out
    assert stn("list", what, "--json").json[what] == stn("list", "--json").json[what]


def test_runs_are_listed_with_their_errors(stn: Stn, runs: Path):
    shutil.copytree(runs, "runs")
    Path("runs/cnn/summary.json").unlink()
    error = stn("eval", "st-cnn", "--json").json["error_percent"]
    assert stn("list", "runs", "--json").json["runs"] == [
        {"name": "cnn", "description": "not finished", "test_error_percent": None},
        {"name": "st-cnn", "description": f"test error {error:.2f} %", "test_error_percent": error},
    ]
    assert stn("list", "runs").out == f"runs\n  cnn     not finished\n  st-cnn  test error {error:.2f} %\n"
    assert stn("list", "runs", "--runs-dir", "elsewhere").out == "runs\n  none yet\n"


def test_an_unknown_kind_is_a_usage_error(stn: Stn):
    answer = stn("list", "modls")
    assert answer.code == 2
    assert answer.error.startswith("there is no list of 'modls'. Choose from models, ")


def test_a_damaged_summary_is_named_and_hides_no_other_run(stn, tmp_path) -> None:
    for name, text in (("sound", '{"test_error_percent": 1.5}'), ("torn", '{"test_er')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text("seed: 0\n")
        (tmp_path / name / "summary.json").write_text(text)
    result = stn("list", "runs", "--runs-dir", str(tmp_path))
    assert result.code == 0
    assert "test error 1.50 %" in result.out
    assert "torn" in result.out
    assert "damaged" in result.out
