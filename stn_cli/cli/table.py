"""stn table: a grid of runs, such as a table of the paper, → its numbers."""

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stn_cli.cli import options
from stn_cli.cli.seeds import parse_seeds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from stn_cli.experiments.grid import Cell, Grid
    from stn_cli.experiments.standing import Standing
    from stn_cli.experiments.table import Table

RUNNERS = ("auto", "in-turn", "packed", "ray")
FILES = ("table.md", "table.csv", "table.json", "table.html")


def make_table(
    name: Annotated[str, typer.Argument(metavar="NAME", help="table1, tc, addition, or a YAML file of your own.")],
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings of every run.")
    ] = None,
    recipe: options.Recipe = None,
    seeds: Annotated[str, typer.Option(help="0,1,2 or 0-2: runs of each cell.")] = "0",
    epochs: options.Epochs = None,
    iterations: options.Iterations = None,
    only: Annotated[
        str | None, typer.Option(help="Runs of which this is true: 'model=st-cnn distortion=R'.", metavar="CONDITIONS")
    ] = None,
    status: Annotated[bool, typer.Option("--status", help="Train nothing; show what is done.")] = False,
    runner: Annotated[str, typer.Option(help=f"{', '.join(RUNNERS)}: what trains the runs.")] = "auto",
    workers: Annotated[int | None, typer.Option(min=1, help="The most runs at once.")] = None,
    address: Annotated[
        str | None, typer.Option(help="Of a Ray cluster, with --runner ray.  [default: one on this machine]")
    ] = None,
    device: options.Device = None,
    precision: options.Precision = None,
    data_dir: options.DataDir = None,
    offline: options.Offline = False,
    runs_dir: Annotated[
        str | None, typer.Option(help="Where the runs lie.  [default: runs/<table>-<recipe>]", metavar="DIR")
    ] = None,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Train every cell of a table, several seeds each, and show it beside the published numbers.

    What is finished is not trained again, what was interrupted goes on: the folders of the runs are all the state.
    The table lies there too, as Markdown, CSV, JSON and a page for browsers.

    \b
    Examples:
      stn table table1 --iterations 1000
      stn table table1 --recipe paper --seeds 0-2
      stn table table1 --only 'model=st-cnn distortion=R' --seeds 0-4
      stn table addition --status
      stn table my-grid.yaml model.parameters=200000
    """
    from stn_cli.config_files import refuse_other_settings
    from stn_cli.errors import UsageError

    if epochs is not None and iterations is not None:
        raise UsageError("--epochs and --iterations are two lengths of one run", "Give one of them.")
    if runner not in RUNNERS:
        raise UsageError(f"--runner has no choice {runner!r}", f"Choose from {', '.join(RUNNERS)}.")
    if address is not None and runner != "ray":
        raise UsageError("--address is that of a Ray cluster", "Give --runner ray too.")
    refuse_other_settings(settings or [], ("data", "distortion", "model", "train", "runtime", "log"))
    said = options.overrides_from(
        offline,
        recipe=recipe,
        data_dir=data_dir,
        epochs=epochs,
        iterations=iterations,
        device=device,
        precision=precision,
    )
    from stn_cli.experiments.grid import cells_of, load_grid

    grid = load_grid(name)
    length = [f"{value}{unit}" for value, unit in ((epochs, "epochs"), (iterations, "it")) if value is not None]
    folder = Path(runs_dir or "runs/" + "-".join([grid.name, (recipe or "quick").lower(), *length]))
    if (recipe or "").lower() == "paper":
        said = ["data.validation=0", *said]  # the paper trains on all of the images
    cells = cells_of(grid, parse_seeds(seeds), [*said, *(settings or [])], only=only, folder=folder)
    from stn_cli.cli.console import print_json, stdout_console
    from stn_cli.experiments.standing import look_at
    from stn_cli.experiments.table import as_json
    from stn_cli.experiments.table import make_table as tabulate
    from stn_cli.training.run_folder import describe_environment

    failures, stopped_by = {}, None
    if not status:
        failures, stopped_by = _train(look_at(cells), runner, workers, address)
    standings = look_at(cells)
    table = tabulate(grid, standings)
    if table.finished:
        _write(folder, table, describe_environment())
    if json:
        print_json(as_json(table, describe_environment()) | {"state": _counts(standings)})
    else:
        _show(table, standings, folder, stdout_console())
    if stopped_by is not None:
        raise typer.Exit(128 + stopped_by)
    if failures:
        raise next(iter(failures.values()))


def _train(
    standings: "Sequence[Standing]", runner: str, workers: int | None, address: str | None
) -> tuple[dict[int, Exception], int | None]:
    """Train what is not finished; return what failed, and the signal that stopped it."""
    waiting = [standing for standing in standings if standing.state != "finished"]
    if not waiting:
        return {}, None
    from stn_cli.cli.console import progress_bar, show_downloads
    from stn_cli.cli.runs_board import RunsBoard
    from stn_cli.experiments.choose import choose_runner
    from stn_cli.experiments.runner import Job

    with progress_bar("state") as bar:
        config = waiting[0].cell.config.runtime
        # A run that was killed before its first checkpoint has left a folder of no use.
        settings = {"kind": runner, "address": address, "overwrite": True, "download": show_downloads(bar)}
        chosen, why = choose_runner(config, workers, **settings)
        finished = len(standings) - len(waiting)
        bar.console.print(f"{len(waiting)} runs, {why}" + (f"; {finished} are finished" if finished else ""))
        board = RunsBoard([_label(standing.cell) for standing in waiting], bar)
        jobs = [Job(standing.cell.config, resume=standing.state == "begun") for standing in waiting]
        with closing(chosen.run(jobs)) as events:  # pyright: ignore[reportArgumentType] - a runner's iterator is a generator
            board.show(events)
    return board.failures, board.stopped_by


def _label(cell: "Cell") -> str:
    return f"{cell.row}, {cell.column}, seed {cell.config.seed}"


def _write(folder: Path, table: "Table", environment: dict[str, Any]) -> None:
    """Write the table beside its runs, in every form."""
    import json

    from stn_cli.experiments.table import as_json
    from stn_cli.experiments.table_page import as_page
    from stn_cli.experiments.table_text import as_csv, as_markdown
    from stn_cli.storage import write_bytes

    contents = (
        as_markdown(table),
        as_csv(table),
        json.dumps(as_json(table, environment), indent=2) + "\n",
        as_page(table),
    )
    for file, content in zip(FILES, contents, strict=True):
        write_bytes(folder / file, content.encode())


def _counts(standings: "Sequence[Standing]") -> dict[str, int]:
    return {state: sum(one.state == state for one in standings) for state in ("finished", "begun", "waiting")}


def _show(table: "Table", standings: "Sequence[Standing]", folder: Path, console: "Console") -> None:
    from rich.table import Table as Drawn

    from stn_cli.experiments.table_text import shown

    grid: Grid = table.grid
    counts = _counts(standings)
    drawn = Drawn(title=grid.title, caption=table.note, title_justify="left", caption_justify="left")
    drawn.add_column(grid.axes[0])
    for column in grid.columns:
        drawn.add_column(column, justify="right")
    for row in grid.rows:
        drawn.add_row(row, *(shown(table.cells.get((row, column))) for column in grid.columns))
    console.print(drawn)
    for standing in standings:
        if standing.state == "begun":
            console.print(f"begun     {standing.cell.run}, saved at step {standing.step:,}")
    console.print("runs      " + ", ".join(f"{count} {state}" for state, count in counts.items()))
    if table.finished:
        console.print(f"files     {folder}/" + ", ".join(FILES))
