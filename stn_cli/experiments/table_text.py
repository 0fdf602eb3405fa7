"""A table of results as Markdown and as CSV."""

import csv
import io

from stn_cli.experiments.table import COLLAPSED, CellResult, Table


def shown(cell: CellResult | None) -> str:
    """Return a cell as people read it: "1.18 ± 0.05 (0.7)", the paper's value in brackets, "–" without a result."""
    if cell is None:
        return "–"
    deviation = "" if cell.sd is None else f" ± {cell.sd:.2f}"
    mark = COLLAPSED if cell.collapsed else ""
    return f"{cell.mean:.2f}{mark}{deviation}" + ("" if cell.paper is None else f" ({cell.paper:g})")


def as_markdown(table: Table) -> str:
    """Return the table as Markdown, what it is above it, cost below."""
    grid = table.grid
    lines = [f"**{grid.title}** ({grid.source}). {table.note}" if grid.source else f"**{grid.title}**. {table.note}"]
    lines += ["", "| " + " | ".join([grid.axes[0], *grid.columns, "parameters", "minutes per run"]) + " |"]
    lines.append("|---|" + "---:|" * (len(grid.columns) + 2))
    for row in grid.rows:
        cells = [table.cells.get((row, column)) for column in grid.columns]
        known = [cell for cell in cells if cell is not None]
        parameters = _span([cell.parameters for cell in known], "{:,.0f}")
        minutes = _span([cell.seconds / 60 for cell in known], "{:.1f}")
        lines.append("| " + " | ".join([row, *map(shown, cells), parameters, minutes]) + " |")
    return "\n".join(lines) + "\n"


def as_csv(table: Table) -> str:
    """Return the table as CSV, one line per cell with a result."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    facts = ["model", "transform", "distortion", "recipe", "length"]
    found = ["seeds", "error_percent", "sd", "paper", "difference", "parameters", "steps"]
    writer.writerow([*table.grid.axes, *facts, *found, "train_seconds", "images_per_second"])
    for cell in table.cells.values():
        facts = [cell.row, cell.column, cell.model, cell.transform, cell.distortion, table.recipe, table.length]
        found = [len(cell.seeds), cell.mean, cell.sd, cell.paper, cell.difference, cell.parameters, cell.steps]
        writer.writerow([*facts, *found, cell.seconds, cell.images_per_second])
    return text.getvalue()


def _span(values: list[float] | list[int], form: str) -> str:
    """Return one value, or the lowest and the highest where they read differently."""
    ends = list(dict.fromkeys(form.format(value) for value in (min(values), max(values)))) if values else []
    return "–".join(ends)
