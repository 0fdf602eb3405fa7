"""stn report: runs → one HTML page, or their curves as SVG."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stn_cli.cli import options

if TYPE_CHECKING:
    from stn_cli.training.run_folder import RunFolder
    from stn_cli.visualize.report import RunReport

PAGES, DRAWING = (".html", ".htm"), ".svg"


def report_runs(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Runs, by folder or name.")],
    out: Annotated[
        Path | None,
        typer.Option(
            help="The page, .html; with .svg the error curves alone.  "
            "[default: report.html, in the run's folder if it is one]",
            metavar="FILE",
            show_default=False,
        ),
    ] = None,
    device: options.Device = None,
    runs_dir: options.RunsDir = None,
    data_dir: options.DataDir = None,
    offline: options.Offline = False,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Write a page about runs: results, curves, warps, mistakes, settings; of several, how they compare.

    The page is one file that needs no network. What cannot be shown, of an unfinished run or without its data, is said.

    \b
    Examples:
      stn report runs/digits-r-st-cnn-affine-seed0
      stn report my-run another --out comparison.html
      stn report my-run another --out curves.svg
    """
    from stn_cli.errors import UsageError

    if out is not None and out.suffix.lower() not in (*PAGES, DRAWING):
        raise UsageError(f"--out cannot be {str(out)!r}", "End its name with .html, or with .svg for the curves alone.")
    from stn_cli.cli.console import print_json, stdout_console
    from stn_cli.storage import write_bytes
    from stn_cli.training.run_folder import find_run

    folders = [find_run(name, runs_dir or "runs") for name in runs]
    file = out or (folders[0].path / "report.html" if len(folders) == 1 else Path("report.html"))
    if file.suffix.lower() == DRAWING:
        content, told = _drawn(folders), [{"run": str(folder.path)} for folder in folders]
    else:
        reports = _look_at(folders, options.overrides_from(offline, data_dir=data_dir, device=device))
        from stn_cli.visualize.report_page import report_page

        content, told = report_page(reports).encode(), [_told(report) for report in reports]
    write_bytes(file, content)
    if json:
        print_json({"file": str(file), "bytes": len(content), "runs": told})
        return
    console = stdout_console()
    console.print(f"{file}  {len(content) / 1e6:.2f} MB")
    for run in told:
        for line in run.get("missing", ()):
            console.print(f"not shown of {run['run']}: {line}")


def _look_at(folders: "list[RunFolder]", overrides: list[str]) -> "list[RunReport]":
    from stn_cli.cli.console import progress_bar, show_downloads
    from stn_cli.training.runtime import keep_freed_memory
    from stn_cli.visualize.report import look_at

    keep_freed_memory()
    reports = []
    with progress_bar() as bar:
        task, download = bar.add_task("evaluating", total=len(folders)), show_downloads(bar)
        for folder in folders:
            reports.append(look_at(folder, overrides, among=len(folders), download=download))
            bar.advance(task)
    return reports


def _drawn(folders: "list[RunFolder]") -> bytes:
    from stn_cli.training.logger import read_metrics
    from stn_cli.visualize.run_parts import curves_file

    return curves_file([(folder.path.resolve().name, read_metrics(folder.metrics)) for folder in folders])


def _told(report: "RunReport") -> dict[str, Any]:
    interval = report.interval_percent
    return {
        "run": str(report.run.path),
        "finished": report.summary is not None,
        "step": report.step,
        "error_percent": report.error_percent,
        "interval_percent": None if interval is None else list(interval),
        "parameters": report.parameters,
        "missing": list(report.missing),
    }
