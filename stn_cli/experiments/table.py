"""Results of a grid: mean and deviation over seeds, beside what was published."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stn_cli.config import RECIPES, TrainConfig
from stn_cli.experiments.grid import Grid
from stn_cli.experiments.standing import Standing

COLLAPSED = "†"  # marks cells with a run whose transformer has run away


@dataclass(frozen=True)
class CellResult:
    """What the finished runs of one cell reached, one per seed. Errors in percent of the test set.

    `parameters`, `seconds` and `images_per_second` are of one run; the last two are means.
    """

    row: str
    column: str
    model: str
    transform: str | None
    distortion: str
    seeds: tuple[int, ...]
    errors: tuple[float, ...]
    paper: float | None
    parameters: int
    steps: int
    seconds: float
    images_per_second: float
    runs: tuple[Path, ...]
    collapsed: int  # of the runs, how many ended with a transformer that has run away

    @property
    def mean(self) -> float:
        """Mean error."""
        return statistics.fmean(self.errors)

    @property
    def sd(self) -> float | None:
        """Standard deviation of the sample; None for one seed."""
        return statistics.stdev(self.errors) if len(self.errors) > 1 else None

    @property
    def difference(self) -> float | None:
        """Mean error less the published one."""
        return None if self.paper is None else self.mean - self.paper


@dataclass(frozen=True)
class Table:
    """A grid with what is known of its cells.

    `seeds`: how many runs each cell is to have. `is_published_recipe`: whether they are trained as the paper says.
    """

    grid: Grid
    recipe: str
    length: str
    seeds: int
    cells: dict[tuple[str, str], CellResult]
    finished: int
    runs: int
    is_published_recipe: bool

    @property
    def note(self) -> str:
        """What the numbers are, in a sentence or two."""
        mark = "" if self.is_published_recipe else " These are not the paper's 150,000 iterations of 256 images."
        spread = "mean ± standard deviation" if self.seeds > 1 else "one run"
        each = f"over {self.seeds} seeds" if self.seeds > 1 else "per cell"
        collapsed = any(cell.collapsed for cell in self.cells.values())
        dagger = f" {COLLAPSED} A transformer has run away from its images." if collapsed else ""
        return (
            f"Recipe {self.recipe}, {self.length}; {spread} {each}, in brackets the paper's.{mark} "
            f"{self.finished} of {self.runs} runs are finished.{dagger}"
        )


def make_table(grid: Grid, standings: Sequence[Standing]) -> Table:
    """Return the table of what is finished."""
    groups: dict[tuple[str, str], list[Standing]] = {}
    for standing in standings:
        groups.setdefault((standing.cell.row, standing.cell.column), []).append(standing)
    cells = {key: _result(grid, group) for key, group in groups.items() if any(one.summary for one in group)}
    first = standings[0].cell.config.train
    return Table(
        grid=grid,
        recipe=first.recipe,
        length=_length(first),
        seeds=max(map(len, groups.values())),
        cells=cells,
        finished=sum(one.summary is not None for one in standings),
        runs=len(standings),
        is_published_recipe=all(getattr(first, key) == value for key, value in RECIPES["paper"].items()),
    )


def as_json(table: Table, environment: dict[str, Any]) -> dict[str, Any]:
    """Return the table as JSON values: a list of cells, and where they were computed."""
    cells = [
        {
            "row": cell.row,
            "column": cell.column,
            "model": cell.model,
            "transform": cell.transform,
            "distortion": cell.distortion,
            "seeds": list(cell.seeds),
            "errors_percent": list(cell.errors),
            "error_percent": {"mean": cell.mean, "sd": cell.sd},
            "paper": cell.paper,
            "difference": cell.difference,
            "parameters": cell.parameters,
            "steps": cell.steps,
            "train_seconds": cell.seconds,
            "images_per_second": cell.images_per_second,
            "collapsed": cell.collapsed,
            "runs": [str(run) for run in cell.runs],
        }
        for cell in table.cells.values()
    ]
    return {
        "table": table.grid.name,
        "title": table.grid.title,
        "source": table.grid.source,
        "recipe": table.recipe,
        "length": table.length,
        "as_in_the_paper": table.is_published_recipe,
        "finished": table.finished,
        "runs": table.runs,
        "environment": environment,
        "cells": cells,
    }


def _result(grid: Grid, group: Sequence[Standing]) -> CellResult:
    done = [(one, one.summary) for one in group if one.summary is not None]
    cell, summaries = done[0][0].cell, [summary for _, summary in done]
    return CellResult(
        row=cell.row,
        column=cell.column,
        model=cell.config.model.name,
        transform=cell.config.model.transform,
        distortion=cell.config.distortion.kind,
        seeds=tuple(one.cell.config.seed for one, _ in done),
        errors=tuple(summary["test_error_percent"] for summary in summaries),
        paper=grid.paper.get((cell.row, cell.column)),
        parameters=summaries[0]["parameters"],
        steps=summaries[0]["steps"],
        seconds=statistics.fmean(summary["train_seconds"] for summary in summaries),
        images_per_second=statistics.fmean(summary["images_per_second"] for summary in summaries),
        runs=tuple(one.cell.run for one, _ in done),
        collapsed=sum(bool(summary.get("collapsed")) for summary in summaries),
    )


def _length(train: TrainConfig) -> str:
    length = f"{train.iterations:,} iterations" if train.iterations else f"{train.epochs:g} epochs"
    return f"{length} of {train.batch_size} images" if train.iterations else length
