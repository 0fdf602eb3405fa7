"""How runs stand, and the table that they make."""

import csv
import io
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from stn_cli.errors import UsageError
from stn_cli.experiments.grid import Cell, Grid, cells_of, load_grid
from stn_cli.experiments.runner import Job
from stn_cli.experiments.standing import look_at
from stn_cli.experiments.table import as_json, make_table
from stn_cli.experiments.table_page import as_page
from stn_cli.experiments.table_text import as_csv, as_markdown
from stn_cli.training.checkpoint import read_newest
from stn_cli.training.run_folder import RunFolder
from stn_cli.training.step import TrainStep

TINY = (
    "train.iterations=6",
    "train.batch_size=16",
    "model.parameters=30000",
    "log.evaluations=2",
    "log.images=0",
    "runtime.device=cpu",
    "runtime.precision=float32",
    "runtime.convolutions=library",
)
GRID = """
title: Errors
source: section 9
base: {data.dataset: digits}
axes:
  network: {FCN: {model: fcn}, ST-FCN: {model: st-fcn}}
  distortion: {R: {distortion: R}, P: {distortion: P}}
paper: {FCN: {R: 2.1}, ST-FCN: {R: 1.2, P: 1.5}}
"""


@pytest.fixture
def grid(tmp_path: Path) -> Grid:
    (tmp_path / "grid.yaml").write_text(GRID)
    return load_grid(str(tmp_path / "grid.yaml"))


def cells(
    grid: Grid, folder: Path, *overrides: str, seeds: tuple[int, ...] = (0,), only: str | None = None
) -> list[Cell]:
    return cells_of(grid, seeds, [*TINY, *overrides], only=only, folder=folder)


def finish(cell: Cell, error: float, seconds: float = 60.0, collapsed: Sequence[str] = ()) -> None:
    """Write what a finished run leaves behind."""
    run = RunFolder(cell.run)
    run.path.mkdir(parents=True)
    run.write_config(cell.config)
    summary = {"test_error_percent": error, "parameters": 1234, "steps": 6, "train_seconds": seconds}
    run.summary.write_text(json.dumps(summary | {"images_per_second": 100.0, "collapsed": list(collapsed)}))


def test_runs_wait_begin_and_finish(grid: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (cell,) = cells(grid, tmp_path / "runs", only="model=fcn distortion=R")
    assert [one.state for one in look_at([cell])] == ["waiting"]
    do = TrainStep.__call__

    def stop_at_4(self: TrainStep, batch: Any, step: int) -> None:
        if step == 4:
            raise KeyError("stop")
        do(self, batch, step)

    with monkeypatch.context() as patch:
        patch.setattr(TrainStep, "__call__", stop_at_4)
        with pytest.raises(KeyError):
            list(Job(cell.config).start())
    (begun,) = look_at([cell])
    assert (begun.state, begun.step, begun.summary) == ("begun", 3, None)
    list(Job(cell.config, resume=True).start())
    (done,) = look_at([cell])
    assert done.state == "finished"
    assert done.summary is not None
    assert done.summary["steps"] == 6

    (alone,) = cells(grid, tmp_path / "alone", only="model=fcn distortion=R")
    list(Job(alone.config).start())
    assert look_at([alone])[0].summary["test_error_percent"] == done.summary["test_error_percent"]  # pyright: ignore[reportOptionalSubscript]
    found, expected = (read_newest(RunFolder(one.run).checkpoints)[0].tensors for one in (cell, alone))
    assert all(found[name].equal(expected[name]) for name in expected)


def test_a_run_without_a_sound_checkpoint_begins_anew(grid: Grid, tmp_path: Path) -> None:
    (cell,) = cells(grid, tmp_path / "runs", only="model=fcn distortion=R")
    list(Job(cell.config).start())
    run = RunFolder(cell.run)
    first = read_newest(run.checkpoints)[0]
    run.summary.unlink()
    for file in run.checkpoints.iterdir():
        file.write_bytes(b"x")
    assert look_at([cell])[0].state == "begun"
    list(Job(cell.config, resume=True).start())
    again = read_newest(run.checkpoints)[0]
    assert all(again.tensors[name].equal(first.tensors[name]) for name in first.tensors)


def test_a_run_with_other_settings_is_not_mixed_in(grid: Grid, tmp_path: Path) -> None:
    for cell in cells(grid, tmp_path):
        finish(cell, 1.0)
    assert {one.state for one in look_at(cells(grid, tmp_path, "runtime.threads=1", "log.every=3"))} == {"finished"}
    with pytest.raises(UsageError, match=r"train\.batch_size 16, not 8\)\. Choose another --runs-dir"):
        look_at(cells(grid, tmp_path, "train.batch_size=8"))


def test_means_deviations_and_differences(grid: Grid, tmp_path: Path) -> None:
    errors = {("FCN", "R"): (2.0, 2.5, 3.3), ("ST-FCN", "R"): (1.0, 1.25)}
    for cell in (all_cells := cells(grid, tmp_path, seeds=(0, 1, 2))):
        known = errors.get((cell.row, cell.column), ())
        if cell.config.seed < len(known):
            finish(cell, known[cell.config.seed], 60.0 * (1 + cell.config.seed))
    table = make_table(grid, look_at(all_cells))
    assert (table.finished, table.runs, table.seeds) == (5, 12, 3)
    assert table.cells.keys() == errors.keys()
    found = table.cells["FCN", "R"]
    assert (found.seeds, found.mean, found.sd) == (
        (0, 1, 2),
        statistics.fmean(errors["FCN", "R"]),
        statistics.stdev(errors["FCN", "R"]),
    )
    assert found.difference == pytest.approx(2.6 - 2.1)
    assert found.seconds == 120
    assert "quick" in table.note
    assert "not the paper's 150,000 iterations" in table.note
    assert "5 of 12 runs are finished" in table.note


def test_the_table_in_every_form(grid: Grid, tmp_path: Path) -> None:
    for cell in (all_cells := cells(grid, tmp_path)):
        if cell.column == "R":
            finish(cell, {"FCN": 2.0, "ST-FCN": 1.254}[cell.row])
    table = make_table(grid, look_at(all_cells))
    lines = as_markdown(table).splitlines()
    assert lines[0].startswith("**Errors** (section 9). Recipe quick, 6 iterations of 16 images; one run per cell")
    assert lines[2:] == [
        "| network | R | P | parameters | minutes per run |",
        "|---|---:|---:|---:|---:|",
        "| FCN | 2.00 (2.1) | – | 1,234 | 1.0 |",
        "| ST-FCN | 1.25 (1.2) | – | 1,234 | 1.0 |",
    ]
    rows = list(csv.DictReader(io.StringIO(as_csv(table))))
    assert [(row["network"], row["distortion"], row["error_percent"], row["sd"], row["paper"]) for row in rows] == [
        ("FCN", "R", "2.0", "", "2.1"),
        ("ST-FCN", "R", "1.254", "", "1.2"),
    ]
    values = json.loads(json.dumps(as_json(table, {"cpu": "x"})))
    assert values["cells"][1] | {"runs": []} == {
        "row": "ST-FCN",
        "column": "R",
        "model": "st-fcn",
        "transform": "affine",
        "distortion": "R",
        "seeds": [0],
        "errors_percent": [1.254],
        "error_percent": {"mean": 1.254, "sd": None},
        "paper": 1.2,
        "difference": pytest.approx(0.054),
        "parameters": 1234,
        "steps": 6,
        "train_seconds": 60.0,
        "images_per_second": 100.0,
        "collapsed": 0,
        "runs": [],
    }
    assert values["as_in_the_paper"] is False


def test_a_published_recipe_bears_no_mark(grid: Grid, tmp_path: Path) -> None:
    chosen = cells_of(grid, [0], ["train.recipe=paper"], folder=tmp_path)
    note = make_table(grid, look_at(chosen)).note
    assert "paper, 150,000 iterations of 256 images" in note
    assert "These are not" not in note
    shortened = cells_of(grid, [0], ["train.recipe=paper", "train.iterations=1000"], folder=tmp_path)
    assert "These are not the paper's" in make_table(grid, look_at(shortened)).note


def test_cells_whose_transformer_has_run_away_are_marked(grid: Grid, tmp_path: Path) -> None:
    for cell in (all_cells := cells(grid, tmp_path)):
        finish(cell, 2.0, collapsed=["transformer input has collapsed"] if cell.row == "ST-FCN" else [])
    table = make_table(grid, look_at(all_cells))
    lines = as_markdown(table).splitlines()
    assert "† A transformer has run away" in lines[0]
    assert lines[4:6] == [
        "| FCN | 2.00 (2.1) | 2.00 | 1,234 | 1.0 |",
        "| ST-FCN | 2.00† (1.2) | 2.00† (1.5) | 1,234 | 1.0 |",
    ]
    assert as_page(table).count("2.00†") >= 2
