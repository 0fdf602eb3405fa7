"""Grids: YAML → configurations of runs."""

from pathlib import Path

import pytest

from stn_cli.config_problems import ConfigError
from stn_cli.errors import UsageError
from stn_cli.experiments.grid import cells_of, load_grid, shipped_grids, slug

GRID = """
title: A title
base: {data.dataset: digits, train.epochs: 1}
axes:
  network:
    CNN: {model: cnn}
    TPS twice: {model: fcn, model.transformers: [[{transform: tps}, {transform: affine}]]}
  distortion:
    R: {distortion: R}
    T 40: {distortion: T, distortion.canvas: 40}
paper:
  CNN: {R: 1.5}
"""


def written(tmp_path: Path, text: str = GRID) -> str:
    file = tmp_path / "mine.yaml"
    file.write_text(text, encoding="utf-8")
    return str(file)


@pytest.mark.parametrize(("name", "runs"), [("table1", 32), ("tc", 4), ("addition", 8)])
def test_shipped_grids_are_whole(name: str, runs: int) -> None:
    grid = load_grid(name)
    cells = cells_of(grid, [0], ["train.recipe=paper"], folder=Path("runs"))
    assert len(cells) == len({cell.run for cell in cells}) == runs
    assert {(cell.row, cell.column) for cell in cells} == grid.paper.keys()
    assert {cell.config.train.iterations for cell in cells} == {150_000}
    assert name in shipped_grids()


def test_table_1_has_the_papers_numbers() -> None:
    paper = load_grid("table1").paper
    assert [paper["ST-CNN TPS", kind] for kind in ("R", "RTS", "P", "E")] == [0.7, 0.5, 0.8, 1.1]
    assert [paper["FCN", kind] for kind in ("R", "RTS", "P", "E")] == [2.1, 5.2, 3.1, 3.2]


def test_every_cell_is_base_row_column_and_seed(tmp_path: Path) -> None:
    grid = load_grid(written(tmp_path))
    assert (grid.name, grid.title, grid.axes, grid.paper) == (
        "mine",
        "A title",
        ("network", "distortion"),
        {("CNN", "R"): 1.5},
    )
    cells = cells_of(grid, [3, 1], ["train.batch_size=32"], folder=tmp_path)
    assert [(cell.row, cell.column, cell.config.seed) for cell in cells[:5]] == [
        ("CNN", "R", 3),
        ("CNN", "T 40", 3),
        ("TPS twice", "R", 3),
        ("TPS twice", "T 40", 3),
        ("CNN", "R", 1),
    ]
    last = cells[-1]
    assert last.run == tmp_path / "tps-twice-t-40-seed1"
    assert last.config.distortion.canvas == 40  # pyright: ignore[reportAttributeAccessIssue]
    assert [one.transform for one in last.config.model.steps[0]] == ["tps", "affine"]
    assert {cell.config.train.batch_size for cell in cells} == {32}
    assert {cell.config.train.epochs for cell in cells} == {1.0}


def test_settings_of_a_recipe_are_for_its_runs_alone_and_can_be_overridden(tmp_path: Path) -> None:
    recipes = "recipes: {quick: {train.epochs: 7, train.localisation_rate: 0.5}}\naxes:"
    grid = load_grid(written(tmp_path, GRID.replace("axes:", recipes)))
    quick, longer, paper = (
        cells_of(grid, [0], overrides, folder=tmp_path)[0].config.train
        for overrides in ([], ["train.iterations=9"], ["train.recipe=paper"])
    )
    assert (quick.epochs, quick.localisation_rate) == (7, 0.5)
    assert (longer.epochs, longer.iterations, longer.localisation_rate) == (None, 9, 0.5)
    assert (paper.iterations, paper.localisation_rate) == (150_000, 1.0)


@pytest.mark.parametrize(
    ("only", "names"),
    [
        ("model=cnn", ["cnn-r", "cnn-t-40"]),
        ("network=TPS twice", ["tps-twice-r", "tps-twice-t-40"]),
        ("network=tps twice distortion=r", ["tps-twice-r"]),
        ("distortion=T", ["cnn-t-40", "tps-twice-t-40"]),
        ("distortion=t 40 model=cnn", ["cnn-t-40"]),
    ],
)
def test_only_some_cells(tmp_path: Path, only: str, names: list[str]) -> None:
    cells = cells_of(load_grid(written(tmp_path)), [0], [], only=only, folder=tmp_path)
    assert [cell.run.name.removesuffix("-seed0") for cell in cells] == names


@pytest.mark.parametrize(
    ("only", "message"),
    [
        ("model", "cannot be 'model'"),
        ("modle=cnn", "Did you mean model?"),
        ("model=st-fcn", "Rows are CNN, TPS twice"),
        ("x model=cnn", "cannot be"),
    ],
)
def test_conditions_that_are_none(tmp_path: Path, only: str, message: str) -> None:
    with pytest.raises(UsageError, match=message.replace("?", r"\?")):
        cells_of(load_grid(written(tmp_path)), [0], [], only=only, folder=tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("axes:", "axis:"), r"unknown key axis\. Did you mean axes\?"),
        (
            ("  distortion:\n    R: {distortion: R}\n    T 40: {distortion: T, distortion.canvas: 40}\n", ""),
            "has 1 axes",
        ),
        (("paper:", "recipes: {quik: {train.epochs: 3}}\npaper:"), r"recipes names quik. Did you mean quick\?"),
        (("paper:", "recipes: {quick: 3}\npaper:"), "recipes.quick is no section"),
        (("R: 1.5", "R: good"), r"paper\.CNN\.R is good"),
        (("R: 1.5", "P: 1.5"), "CNN, P, which is no cell"),
        (("T 40:", "R!:"), "differ in punctuation only"),
        (("base: {data.dataset: digits, train.epochs: 1}", "base: 3"), "base is no section"),
        (("title: A title", "title: A title\ntitle: B"), "title stands twice"),
    ],
)
def test_files_that_are_no_grids(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    assert change[0] in GRID
    with pytest.raises(ConfigError, match=message):
        load_grid(written(tmp_path, GRID.replace(*change)))


def test_settings_that_do_not_fit_name_their_cells(tmp_path: Path) -> None:
    grid = load_grid(written(tmp_path, GRID.replace("{model: cnn}", "{model: cnm}")))
    with pytest.raises(ConfigError, match=r"mine, CNN, R: .*no choice cnm\. Did you mean cnn\?") as found:
        cells_of(grid, [0, 1], [], folder=tmp_path)
    assert len(found.value.problems) == 2


def test_there_is_no_such_grid() -> None:
    with pytest.raises(UsageError, match=r"Did you mean table1\?"):
        load_grid("table2")


@pytest.mark.parametrize(
    ("name", "folder"), [("2×ST-FCN affine", "2x-st-fcn-affine"), ("ä/../b", "a-b"), ("*", "x"), ("R", "r")]
)
def test_names_of_folders(name: str, folder: str) -> None:
    assert slug(name) == folder
