"""stn eval --sweep: runs → errors against the strength of one distortion, as a table and as files."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from stn_cli.training.restore import TrainedRun
    from stn_cli.training.sweep import SweepCurve


def sweep_runs(
    runs: "Sequence[TrainedRun]",
    kind: str,
    steps: int | None,
    bounds: tuple[float, float] | None,
    out: str | None,
    *,
    json: bool,
) -> None:
    """Evaluate runs at every strength; write the files into `out`, or the first run's plots; print the errors.

    Raises:
        UsageError: the strengths make no sense, or a run's test images were distorted before.
    """
    from stn_cli.cli.console import print_json, progress_bar, stdout_console
    from stn_cli.training.sweep import KINDS, SweepCurve, strengths_of, sweep, trained_on
    from stn_cli.visualize.sweep_plot import write_sweep

    strengths = strengths_of(kind, runs, steps, bounds)
    names = [one.run.path.resolve().name for one in runs]
    if len(set(names)) < len(names):  # of different folders of runs
        names = [str(one.run.path) for one in runs]
    curves: list[SweepCurve] = []
    with progress_bar() as bar:
        for name, one in zip(names, runs, strict=True):
            found = bar.track(sweep(one, kind, strengths), len(strengths), description=name)
            curves.append(SweepCurve(name, one.config.model.label, kind, trained_on(one, kind), tuple(found)))
    files = write_sweep(curves, Path(out) if out is not None else runs[0].run.plots)
    if json:
        found = {"sweep": kind, "unit": KINDS[kind].unit, "runs": [_as_json(curve) for curve in curves]}
        print_json(found | {"files": [str(file) for file in files]})
        return
    console = stdout_console()
    _show(curves, KINDS[kind].unit, console)
    for file in files:
        console.print(file)


def _as_json(curve: "SweepCurve") -> dict[str, Any]:
    points = [
        {
            "strength": point.strength,
            "error_percent": point.error_percent,
            "interval_percent": list(point.interval_percent),
            "wrong": point.wrong,
            "n": point.n,
        }
        for point in curve.points
    ]
    return {"run": curve.run, "model": curve.model, "trained_on": curve.trained, "points": points}


def _show(curves: "Sequence[SweepCurve]", unit: str, console: "Console") -> None:
    from rich.table import Table

    kind = curves[0].kind
    table = Table(title="test error in %, with its 95 % interval", title_justify="left")
    table.add_column(f"{kind} {unit}".rstrip(), justify="right")
    for curve in curves:
        table.add_column(f"{curve.run} ({curve.model})", justify="right")
    for points in zip(*(curve.points for curve in curves), strict=True):
        intervals = [point.interval_percent for point in points]
        errors = [
            f"{point.error_percent:.2f} ({low:.2f} to {high:.2f})"
            for point, (low, high) in zip(points, intervals, strict=True)
        ]
        table.add_row(f"{points[0].strength:.4g}", *errors)
    console.print(table)
    for curve in curves:
        if curve.trained is not None:
            low, high = curve.trained
            console.print(f"{curve.run} was trained on {kind}s of {low:.3g} to {high:.3g} {unit}".rstrip())
