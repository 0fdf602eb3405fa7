"""The page of a table: every number beside the published one, every cell with what its runs did."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stn_cli.experiments import table_page
from stn_cli.experiments.grid import Cell, Grid, cells_of, load_grid
from stn_cli.experiments.runner import Job
from stn_cli.experiments.standing import look_at
from stn_cli.experiments.table import Table, make_table
from stn_cli.experiments.table_page import as_page
from stn_cli.training.run_folder import RunFolder

Read = Callable[[str], Any]
TINY = (
    *("train.iterations=4", "train.batch_size=8", "model.parameters=30000", "log.evaluations=2", "log.every=1"),
    *("log.images=0", "runtime.device=cpu", "runtime.precision=float32", "runtime.convolutions=library"),
)
NAME = '<b>&"'
GRID = """
title: Errors of <b>&"
source: section <b>&"
base: {data.dataset: digits}
axes:
  network: {CNN: {model: cnn}, '<b>&"': {model: st-cnn}}
  distortion: {R: {distortion: R}, P: {distortion: P}}
paper: {CNN: {R: 2.1, P: 1.0}, '<b>&"': {R: 1.2}}
"""


@pytest.fixture
def grid(tmp_path: Path) -> Grid:
    (tmp_path / "grid.yaml").write_text(GRID)
    return load_grid(str(tmp_path / "grid.yaml"))


def finish(cell: Cell, error: float) -> None:
    """Write what a finished run leaves behind, but for what its pictures are made of."""
    run = RunFolder(cell.run)
    run.path.mkdir(parents=True)
    run.write_config(cell.config)
    summary = {"test_error_percent": error, "parameters": 1234, "steps": 4, "train_seconds": 90.0}
    run.summary.write_text(json.dumps(summary | {"images_per_second": 100.0}))


def table_of(grid: Grid, folder: Path, errors: dict[tuple[str, str], tuple[float, ...]], *more: str) -> Table:
    seeds = range(max(map(len, errors.values())))
    cells = cells_of(grid, list(seeds), [*TINY, *more], folder=folder)
    for cell in cells:
        known = errors.get((cell.row, cell.column), ())
        if cell.config.seed < len(known):
            finish(cell, known[cell.config.seed])
    return make_table(grid, look_at(cells))


def body(page: Any, number: int = 0) -> dict[str, list[Any]]:
    """Return the cells of the rows of a table by their headings."""
    table = page.all("table")[number]
    return {tr.all("th")[0].text: tr.all("td") for tr in table.all("tr")[1:]}


def test_the_table_has_means_published_values_differences_and_cost(grid: Grid, tmp_path: Path, read_page: Read):
    errors = {("CNN", "R"): (2.0, 2.5, 3.3), ("CNN", "P"): (0.5, 0.7, 0.9), (NAME, "P"): (1.0,)}
    page = read_page(as_page(table_of(grid, tmp_path / "runs", errors)))
    rows = body(page)
    assert list(rows) == ["CNN", NAME]
    assert [td.text for td in rows["CNN"]] == [
        "2.60 ± 0.66(paper 2.1) ▲ +0.50",
        "0.70 ± 0.20(paper 1) ▼ −0.30",
        "1,234",
        "90 s",
    ]
    assert [td.text for td in rows[NAME]] == ["no result(paper 1.2)", "1.00 ", "1,234", "90 s"]
    assert [td.attributes.get("class") for td in rows["CNN"]] == ["above", None, None, None]
    links = [link.attributes["href"] for row in rows.values() for td in row for link in td.all("a")]
    assert links == ["#cell-0-0", "#cell-0-1", "#cell-1-1"]
    assert "above the published value in 1 of 2 cells" in page.text


def test_every_cell_has_a_section_of_its_own(grid: Grid, tmp_path: Path, read_page: Read):
    page = read_page(as_page(table_of(grid, tmp_path / "runs", {("CNN", "R"): (2.0, 2.5), (NAME, "P"): (1.0,)})))
    sections = {section.attributes["id"]: section for section in page.all("section")}
    assert [sections[f"cell-{i}-{j}"].all("h3")[0].text for i in (0, 1) for j in (0, 1)] == [
        *("CNN, R", "CNN, P", f"{NAME}, R", f"{NAME}, P")
    ]
    empty = {name for name, section in sections.items() if "There is no result yet." in section.text}
    assert empty == {"cell-0-1", "cell-1-0"}
    seeds = body(sections["cell-0-0"])
    assert {seed: [td.text for td in row] for seed, row in seeds.items()} == {
        "0": ["2.00", str(tmp_path / "runs/cnn-r-seed0")],
        "1": ["2.50", str(tmp_path / "runs/cnn-r-seed1")],
    }
    assert "1 of 2 runs are finished." in sections["cell-1-1"].text
    assert "no sound checkpoint" in sections["cell-0-0"].all("p", class_="notice")[0].text
    assert "No error was recorded." in sections["cell-0-0"].text


def test_quick_results_are_marked_and_the_published_recipe_is_not(grid: Grid, tmp_path: Path, read_page: Read):
    quick = table_of(grid, tmp_path / "quick", {("CNN", "R"): (2.0,)})
    page = read_page(as_page(quick))
    assert page.all("h1")[0].text == f"Errors of {NAME} (quick recipe)"
    assert page.all("p", class_="notice")[0].text == f"Quick results. {quick.note}"
    assert f"section {NAME}" in page.text
    paper = table_of(grid, tmp_path / "paper", {("CNN", "R"): (2.0,)}, "train.recipe=paper")
    assert not paper.is_published_recipe  # since it is shortened
    paper = replace(paper, is_published_recipe=True)
    page = read_page(as_page(paper))
    assert page.all("h1")[0].text == f"Errors of {NAME}"
    assert paper.note in [p.text for p in page.all("p")]
    assert "Quick" not in page.text


def test_trained_cells_show_curves_of_all_seeds_and_warps_of_the_first(grid: Grid, tmp_path: Path, read_page: Read):
    cells = [cell for cell in cells_of(grid, [0, 1], TINY, folder=tmp_path / "runs") if cell.column == "R"]
    for cell in cells:
        list(Job(cell.config).start())
    made = as_page(table := make_table(grid, look_at(cells)))
    assert made == as_page(table)
    page = read_page(made)
    for number, row in enumerate(["CNN", NAME]):
        (section,) = page.all("section", id=f"cell-{number}-0")
        (drawing,) = section.all("svg")
        labels = [f"seed {seed}, {split}" for seed in (0, 1) for split in ("training", "validation")]
        assert [text.text for text in drawing.all("text")][-4:] == labels
        looks = [group.attributes["class"] for group in drawing.all("g")]
        assert looks == 2 * ["series-0", "series-0", "series-1", "series-1"]  # in the drawing and in its legend
        images = section.all("img")
        assert len(images) == 10
        assert all("grid" in image.attributes["alt"] for image in images) == (row == NAME)
        assert "Test images, seed 0; " in section.text
        assert section.all("pre")[0].text == RunFolder(table.cells[row, "R"].runs[0]).config.read_text()
        assert not section.all("p", class_="notice")


def test_a_page_of_32_cells_is_small_enough_to_send(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    rows, columns = {f"n{i}": {"model": "st-cnn"} for i in range(8)}, {f"d{i}": {"distortion": "RTS"} for i in range(4)}
    axes = {"network": rows, "distortion": columns}
    (tmp_path / "large.yaml").write_text(json.dumps({"base": {"data.dataset": "digits"}, "axes": axes}))
    grid = load_grid(str(tmp_path / "large.yaml"))
    cells = cells_of(grid, [0], TINY, folder=tmp_path / "runs")
    list(Job(cells[0].config).start())
    for cell in cells[1:]:
        shutil.copytree(cells[0].run, cell.run)
        RunFolder(cell.run).write_config(cell.config)
    drawn = table_page._samples(RunFolder(cells[0].run), 0, table_page.PICTURES_BYTES // 32)
    monkeypatch.setattr(table_page, "_samples", lambda *_: drawn)  # once, for time
    content = as_page(make_table(grid, look_at(cells))).encode()
    assert content.count(b"<img ") == 320
    assert len(content) < 10_000_000
