"""Grids of runs, such as the paper's tables: YAML → rows × columns × seeds of configurations."""

import os
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from stn_cli.config import RECIPES, RunConfig
from stn_cli.config_files import config_folder, load_config, read_settings
from stn_cli.config_problems import ConfigError, nearest
from stn_cli.errors import UsageError

KEYS = {"title", "source", "base", "recipes", "axes", "paper"}


@dataclass(frozen=True)
class Grid:
    """What a table is made of. `rows` and `columns`: the overrides that each name stands for, in their order.

    `axes`: the names of the two. `base`: overrides of every run. `recipes`: more of those, by the recipe of the runs
    that they are for. `paper`: published errors in percent by (row, column).
    """

    name: str
    title: str
    source: str
    base: tuple[str, ...]
    recipes: dict[str, tuple[str, ...]]
    axes: tuple[str, str]
    rows: dict[str, tuple[str, ...]]
    columns: dict[str, tuple[str, ...]]
    paper: dict[tuple[str, str], float]


@dataclass(frozen=True)
class Cell:
    """One run of a grid. The configuration has the run's name and folder."""

    row: str
    column: str
    config: RunConfig

    @property
    def run(self) -> Path:
        """The run's folder."""
        return Path(self.config.runs_dir) / str(self.config.name)


def shipped_grids() -> list[str]:
    """Return the names of the shipped grids, sorted."""
    return sorted(path.stem for path in (config_folder() / "tables").glob("*.yaml"))


def load_grid(name: str) -> Grid:
    """Return a grid, given by shipped name or as a YAML file.

    Raises:
        UsageError: there is neither such a file nor such a grid.
        ConfigError: the file is no grid.
    """
    shipped = shipped_grids()
    file = config_folder() / "tables" / f"{name}.yaml" if name in shipped else Path(name)
    if not os.path.isfile(file):  # unlike Path.is_file, False also for names no file can have
        raise UsageError(f"there is no table {name!r}, neither a file nor a shipped one", nearest(name, shipped))
    found = read_settings(file)
    if unknown := sorted(found.keys() - KEYS):
        raise ConfigError([f"{file}: unknown key {key}. {nearest(key, sorted(KEYS))}" for key in unknown])
    axes = _mapping(file, "axes", found.get("axes"))
    if len(axes) != 2:
        raise ConfigError([f"{file}: axes has {len(axes)} axes. Write two, the rows and the columns."])
    rows, columns = (_choices(file, name, axis) for name, axis in axes.items())
    paper = _published(file, found.get("paper") or {}, rows, columns)
    base = _overrides(_mapping(file, "base", found.get("base") or {}))
    recipes = _mapping(file, "recipes", found.get("recipes") or {})
    if unknown := sorted(recipes.keys() - RECIPES.keys()):
        raise ConfigError([f"{file}: recipes names {key}. {nearest(key, sorted(RECIPES))}" for key in unknown])
    of_recipes = {key: _overrides(_mapping(file, f"recipes.{key}", given)) for key, given in recipes.items()}
    first, second = axes
    title, source = (str(found.get(key) or "") for key in ("title", "source"))
    return Grid(file.stem, title or file.stem, source, base, of_recipes, (first, second), rows, columns, paper)


def cells_of(
    grid: Grid, seeds: Sequence[int], overrides: Sequence[str], *, only: str | None = None, folder: Path
) -> list[Cell]:
    """Return the runs of a grid, seed by seed, so that all of the table has numbers soon.

    `overrides`: of every run; those of the axes come later. `only`: "model=st-cnn distortion=R": runs of which all
    this is true. An axis may be named, network=CNN, or model, transform or distortion. `folder`: where the runs lie.

    Raises:
        ConfigError: settings of the grid are unknown or out of range.
        UsageError: `only` is no such condition, or is true of no run.
    """
    wanted = _conditions(grid, only) if only else {}
    cells: list[Cell] = []
    problems: dict[str, None] = {}
    for seed in seeds:
        for row, of_row in grid.rows.items():
            for column, of_column in grid.columns.items():
                name = f"{slug(row)}-{slug(column)}-seed{seed}"
                own = [f"name={name}", f"runs_dir={folder}", f"seed={seed}"]
                try:
                    config = _config(grid, [*overrides, *of_row, *of_column, *own])
                except ConfigError as error:
                    problems |= dict.fromkeys(f"{grid.name}, {row}, {column}: {problem}" for problem in error.problems)
                    continue
                cells.append(Cell(row, column, config))
    if problems:
        raise ConfigError(list(problems))
    chosen = [cell for cell in cells if all(_is(cell, grid, key, value) for key, value in wanted.items())]
    if not chosen:
        raise UsageError(f"no run of {grid.name} is {only}", f"Rows are {', '.join(grid.rows)}.")
    return chosen


def _config(grid: Grid, overrides: list[str]) -> RunConfig:
    """Return the configuration of a run. A length that is asked for, or another recipe's, is instead of the grid's."""
    recipe, has_length = _recipe([*grid.base, *overrides]), _without_length(overrides) != overrides
    base = _without_length(grid.base) if has_length or recipe != _recipe(grid.base) else grid.base
    of_recipe = grid.recipes.get(recipe, ())
    return load_config(None, [*base, *(_without_length(of_recipe) if has_length else of_recipe), *overrides])


def _recipe(overrides: Sequence[str]) -> str:
    said = [value for key, _, value in (one.partition("=") for one in overrides) if key == "train.recipe"]
    return said[-1].lower() if said else "quick"


def _without_length(overrides: Sequence[str]) -> list[str]:
    return [one for one in overrides if not one.startswith(("train.epochs=", "train.iterations="))]


def slug(name: str) -> str:
    """Return a name as it may stand in a folder's: "2×ST-FCN affine" is "2x-st-fcn-affine"."""
    plain = unicodedata.normalize("NFKD", name.lower().replace("×", "x-")).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-") or "x"


def _conditions(grid: Grid, only: str) -> dict[str, str]:
    """Return what `only` asks for, by key. A value with spaces is quoted by the next key: network=ST-CNN TPS."""
    keys = [*grid.axes, "model", "transform", "distortion"]
    found = re.split(r"(?:^|\s+)(\w+)=", only)
    given = dict(zip(found[1::2], (value.strip().lower() for value in found[2::2]), strict=True))
    if found[0].strip() or not given:
        raise UsageError(f"--only cannot be {only!r}", "Write it as 'model=st-cnn distortion=R'.")
    for key in given:
        if key not in keys:
            raise UsageError(f"--only knows no {key!r}", nearest(key, list(dict.fromkeys(keys))))
    return given


def _is(cell: Cell, grid: Grid, key: str, value: str) -> bool:
    names = dict(zip(grid.axes, (cell.row, cell.column), strict=True))
    model = cell.config.model
    facts = {"model": model.name, "transform": model.transform or "", "distortion": cell.config.distortion.kind}
    return value in {str(known[key]).lower() for known in (names, facts) if key in known}


def _mapping(file: Path, name: str, found: Any) -> dict[str, Any]:
    if not isinstance(found, dict):
        raise ConfigError([f"{file}: {name} is no section of settings. Write key: value lines below it."])
    return found


def _choices(file: Path, axis: str, found: Any) -> dict[str, tuple[str, ...]]:
    choices = _mapping(file, f"axes.{axis}", found)
    if len({slug(name) for name in choices}) < len(choices) or not choices:
        raise ConfigError([f"{file}: axes.{axis} has no names, or some that differ in punctuation only. Rename them."])
    return {name: _overrides(_mapping(file, f"axes.{axis}.{name}", chosen)) for name, chosen in choices.items()}


def _published(file: Path, found: Any, rows: Sequence[str] | Any, columns: Any) -> dict[tuple[str, str], float]:
    paper: dict[tuple[str, str], float] = {}
    for row, values in _mapping(file, "paper", found).items():
        for column, value in _mapping(file, f"paper.{row}", values).items():
            if row not in rows or column not in columns:
                raise ConfigError(
                    [f"{file}: paper names {row}, {column}, which is no cell. Use the names of the axes."]
                )
            try:
                paper[row, column] = float(value)
            except (TypeError, ValueError) as error:
                raise ConfigError([f"{file}: paper.{row}.{column} is {value}. Write the error in percent."]) from error
    return paper


def _overrides(settings: dict[str, Any]) -> tuple[str, ...]:
    """Return settings with dotted keys as overrides of a configuration."""
    return tuple(f"{key}={_written(value)}" for key, value in settings.items())


def _written(value: Any) -> str:
    if isinstance(value, dict | list):
        return yaml.safe_dump(value, default_flow_style=True, width=10**6, allow_unicode=True).strip()
    return "null" if value is None else str(value)
