"""Parts of pages that show one run: its learning curves, its settings and where it was computed."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from stn_cli.errors import UsageError
from stn_cli.training.run_folder import RunFolder
from stn_cli.visualize.curves import SPLITS, Curve, draw_curves, error_curves, together
from stn_cli.visualize.markup import Markup, element
from stn_cli.visualize.page import Cell, figure, folded, scrolling, table

MOST_ROWS = 100  # of the table of metrics


def curves_figure(curves: Sequence[Curve], metric: str) -> Markup:
    """Return a figure of the curves of a metric, or a line that says that there is nothing to draw."""
    title, unit = in_words(metric)
    if not _is_anything_in(curves):
        return element("p", f"No {title} was recorded.", class_="quiet")
    each = max(together(curve.points) for curve in curves)
    return figure(draw_curves(curves, title, unit), f"A point is the mean of up to {each} values." if each > 1 else "")


def curves_file(runs: Sequence[tuple[str, Iterable[Mapping[str, Any]]]]) -> bytes:
    """Return the error curves of runs, given by name and records, as an SVG file.

    Raises:
        UsageError: there is nothing to draw.
    """
    curves = error_curves(runs)
    if not _is_anything_in(curves):
        raise UsageError("no error was recorded yet", "Let the run go on, or choose another.")
    return draw_curves(curves, *in_words("error_percent"), is_file=True).encode()


def in_words(metric: str) -> tuple[str, str]:
    """Return a metric's name and its unit, as they are to be read: error_percent is ("error", " %")."""
    unit = " %" if metric.endswith("_percent") else ""
    return metric.removesuffix("_percent").replace("_", " "), unit


def metrics_table(records: Iterable[Mapping[str, Any]]) -> Markup:
    """Return the records of a metrics file by step, those of evaluations if there are too many."""
    by_step: dict[float, dict[str, float]] = {}
    evaluated: set[float] = set()
    for record in records:
        split = SPLITS.get(record["split"], record["split"])
        own = by_step.setdefault(record["step"], {})
        own |= {f"{split} {''.join(in_words(name))}": v for name, v in record.items() if name not in ("step", "split")}
        evaluated |= {record["step"]} if split == "validation" else set()
    steps = sorted(by_step) if len(by_step) <= MOST_ROWS else sorted(evaluated or by_step)
    steps = steps[:: -(-len(steps) // MOST_ROWS) or 1]
    names = list(dict.fromkeys(name for step in steps for name in by_step[step]))
    rows = ((f"{step:,.0f}", [_number(by_step[step].get(name)) for name in names]) for step in steps)
    return table("Metrics by step", ["step", *names], rows)


def settings(run: RunFolder) -> Markup:
    """Return a run's complete configuration, folded."""
    written = element("pre", run.config.read_text(encoding="utf-8"))
    return folded("Configuration", scrolling(written, "Configuration"))


def environment(run: RunFolder) -> Markup:
    """Return where a run was computed, folded, or a line that nothing tells it."""
    try:
        found = json.loads(run.environment.read_bytes())
        rows = [(str(name), [Cell("none" if value is None else str(value), "words")]) for name, value in found.items()]
    except FileNotFoundError:
        return element("p", f"The environment was not recorded: there is no {run.environment}.", class_="quiet")
    except (ValueError, AttributeError):
        return element("p", f"The environment is not known: {run.environment} is damaged.", class_="quiet")
    return folded("Environment", table("Where it was computed", ["name", Cell("value", "words")], rows))


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _is_anything_in(curves: Sequence[Curve]) -> bool:
    return any(math.isfinite(value) for curve in curves for _, value in curve.points)
