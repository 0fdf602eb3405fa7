"""A table of results as one HTML page: every cell leads to its curves, sample warps, seeds and cost."""

from collections.abc import Callable, Iterable, Iterator, Sequence

from stn_cli.datasets.loader import first_of_each_class
from stn_cli.errors import StnError
from stn_cli.experiments.table import COLLAPSED, CellResult, Table
from stn_cli.training.logger import read_metrics
from stn_cli.training.restore import open_trained
from stn_cli.training.run_folder import RunFolder
from stn_cli.visualize.curves import Curve, learning_curves
from stn_cli.visualize.markup import Markup, element, joined
from stn_cli.visualize.page import Cell, duration, facts, figures, notice, page
from stn_cli.visualize.page import table as html_table
from stn_cli.visualize.run_parts import curves_figure, environment, settings
from stn_cli.visualize.samples import samples

TOP = "table"  # the name of its place on the page
SAMPLES = 10  # test images per cell
PICTURES_BYTES = 6_000_000  # of all cells together, so that a page stays under 10 MB
CELL_BYTES = 150_000  # the most of one cell's
# A page is also made where a GPU has trained, or where the data is not; it says what it therefore cannot show.
ANYWHERE = ["runtime.device=auto", "runtime.steps=auto", "data.offline=true"]


def as_page(table: Table) -> str:
    """Return the table as an HTML document; draws test images with the newest weights of each cell's first run."""
    grid = table.grid
    title = grid.title if table.is_published_recipe else f"{grid.title} ({table.recipe} recipe)"
    most_bytes = min(CELL_BYTES, PICTURES_BYTES // max(1, len(table.cells)))
    parts = [element("p", f"Source of the published values: {grid.source}.")] if grid.source else []
    mark = element("strong", f"{table.recipe.capitalize()} results. ")
    parts.append(element("p", table.note) if table.is_published_recipe else notice(mark, table.note))
    parts += [_matrix(table), *_finding(table.cells.values())]
    for i, row in enumerate(grid.rows):
        parts.append(element("h2", row))
        for j, column in enumerate(grid.columns):
            cell = table.cells.get((row, column))
            content = [element("p", "There is no result yet.")] if cell is None else _details(table, cell, most_bytes)
            heading = element("h3", f"{row}, {column}")
            parts.append(element("section", heading, *content, id=_identity(i, j)))
    return page(title, *parts)


def _matrix(table: Table) -> Markup:
    grid = table.grid
    rows: list[tuple[str, list[str | Cell]]] = []
    for i, row in enumerate(grid.rows):
        known = [cell for (of_row, _), cell in table.cells.items() if of_row == row]
        cells = [_linked(table, row, column, _identity(i, j)) for j, column in enumerate(grid.columns)]
        parameters = [f"{count:,}" for count in sorted(cell.parameters for cell in known)]
        times = [duration(seconds) for seconds in sorted(cell.seconds for cell in known)]
        rows.append((row, [*cells, _span(parameters), _span(times)]))
    caption = "Test error in %, below it the published value and the difference; ▲ on a shaded ground: above it, ▼: not"
    drawn = html_table(caption, [grid.axes[0], *grid.columns, "parameters", "time per run"], rows)
    return element("section", drawn, id=TOP, aria_label="Results")


def _linked(table: Table, row: str, column: str, identity: str) -> Cell:
    cell, paper = table.cells.get((row, column)), table.grid.paper.get((row, column))
    published = "" if paper is None else f"(paper {paper:g})"
    if cell is None:
        return Cell(joined(["no result", element("small", published)]), "nothing")
    compared = "" if cell.difference is None else _compared(cell.difference)
    link = element("a", _mean(cell), href=f"#{identity}")
    content = joined([link, element("small", published), " ", element("small", compared)])
    return Cell(content, "above" if (cell.difference or 0) > 0 else None)


def _finding(cells: Iterable[CellResult]) -> Iterator[Markup]:
    differences = [cell.difference for cell in cells if cell.difference is not None]
    above = sum(difference > 0 for difference in differences)
    if differences:
        yield element("p", f"The mean is above the published value in {above} of {len(differences)} cells.")


def _details(table: Table, cell: CellResult, most_bytes: int) -> Iterator[Markup]:
    known = {"mean error": f"{_mean(cell)} %"}
    if cell.paper is not None and cell.difference is not None:
        known |= {"published": f"{cell.paper:g} %", "difference": _compared(cell.difference)}
    yield facts(
        known
        | {
            "recipe": f"{table.recipe}, {table.length}",
            "learnable parameters": f"{cell.parameters:,}",
            "steps": f"{cell.steps:,}",
            "time per run": duration(cell.seconds),
            "images/s": f"{cell.images_per_second:,.0f}",
        }
    )
    if len(cell.seeds) < table.seeds:
        yield element("p", f"{len(cell.seeds)} of {table.seeds} runs are finished.")
    runs = zip(cell.seeds, cell.errors, cell.runs, strict=True)
    rows = ((str(seed), [f"{error:.2f}", Cell(str(run), "words")]) for seed, error, run in runs)
    yield figures(
        _or_why_not(lambda: curves_figure(_curves(cell), "error_percent")),
        html_table("Runs", ["seed", "test error %", Cell("folder", "words")], rows),
    )
    first = RunFolder(cell.runs[0])
    yield _or_why_not(lambda: _samples(first, cell.seeds[0], most_bytes))
    yield settings(first)
    yield environment(first)
    yield element("p", element("a", "Back to the table", href=f"#{TOP}"))


def _curves(cell: CellResult) -> list[Curve]:
    """Return the training and validation errors of every seed."""
    return [
        curve
        for number, (seed, run) in enumerate(zip(cell.seeds, cell.runs, strict=True))
        for curve in learning_curves(read_metrics(RunFolder(run).metrics), "error_percent", f"seed {seed}", number)
    ]


def _samples(run: RunFolder, seed: int, most_bytes: int) -> Markup:
    trained = open_trained(run, "last", ANYWHERE)
    index = first_of_each_class(trained.test.targets, len(trained.classes), SAMPLES)
    return samples(trained, index, f"Test images, seed {seed}", most_bytes)


def _or_why_not(part: Callable[[], Markup]) -> Markup:
    try:
        return part()
    except StnError as error:
        return notice("Not shown: ", str(error))


def _mean(cell: CellResult) -> str:
    mean = f"{cell.mean:.2f}{COLLAPSED if cell.collapsed else ''}"
    return mean if cell.sd is None else f"{mean} ± {cell.sd:.2f}"


def _compared(difference: float) -> str:
    sign = "+" if difference > 0 else "\N{MINUS SIGN}"
    return f"{'▲' if difference > 0 else '▼'} {sign}{abs(difference):.2f}"


def _span(values: Sequence[str]) -> str:
    """Return one value, or the first and the last where they read differently."""
    return " – ".join(dict.fromkeys([values[0], values[-1]])) if values else "–"


def _identity(row: int, column: int) -> str:
    return f"cell-{row}-{column}"
