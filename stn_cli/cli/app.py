"""The command line: one command per file, put together here."""

from typing import Annotated

import typer

from stn_cli import __version__
from stn_cli.cli.bench import bench
from stn_cli.cli.config import config_app
from stn_cli.cli.demo import demo
from stn_cli.cli.distort_dataset import distort_dataset
from stn_cli.cli.eval import evaluate_run
from stn_cli.cli.listing import list_names
from stn_cli.cli.report import report_runs
from stn_cli.cli.table import make_table
from stn_cli.cli.train import train_run
from stn_cli.cli.visualize import visualize_run

app = typer.Typer(
    name="stn",
    help="Train, evaluate and explain Spatial Transformer Networks (Jaderberg et al. 2015).",
    epilog="Start with `stn demo`, or `stn train`, then `stn eval RUN` and `stn visualize RUN --serve`.",
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"stn {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Print tracebacks of errors.")] = False,
) -> None:
    """Take the options that stand before the command."""


app.command("train")(train_run)
app.command("eval")(evaluate_run)
app.command("visualize")(visualize_run)
app.command("report")(report_runs)
app.command("distort-dataset")(distort_dataset)
app.command("table")(make_table)
app.command("list")(list_names)
app.command("demo")(demo)
app.command("bench")(bench)
app.add_typer(config_app, name="config")
