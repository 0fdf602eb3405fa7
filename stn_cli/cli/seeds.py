"""stn train --seeds: one configuration trained from several seeds, and the mean of their errors."""

import os
import re
import statistics
from contextlib import closing
from typing import TYPE_CHECKING, Any

import typer

from stn_cli.config_files import load_config
from stn_cli.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from stn_cli.config import RunConfig

MOST_SEEDS = 1000  # a slip of the finger, 0-1000000, should not make a million folders


def parse_seeds(text: str) -> list[int]:
    """Return the seeds of "0,1,2" or "0-4" or a mixture, in the order given.

    Raises:
        UsageError: it is none of these, or names a seed twice, or too many.
    """
    fix = "Write seeds as 0,1,2 or 0-4."
    matches = [re.fullmatch(r"([0-9]{1,10})(?:-([0-9]{1,10}))?", part.strip()) for part in text.split(",")]
    ranges = [range(int(match[1]), int(match[2] or match[1]) + 1) for match in matches if match]
    if len(ranges) < len(matches) or not all(ranges):
        raise UsageError(f"--seeds cannot be {text!r}", fix)
    if sum(map(len, ranges)) > MOST_SEEDS:
        raise UsageError(f"--seeds {text} names more than {MOST_SEEDS:,} seeds", fix)
    seeds = [seed for part in ranges for seed in part]
    twice = {seed for seed in seeds if seeds.count(seed) > 1}
    if twice:
        raise UsageError(f"--seeds {text} names seed {min(twice)} twice", fix)
    return seeds


def configs_of(seeds: "Sequence[int]", name: str | None, overrides: "Sequence[str]") -> "list[RunConfig]":
    """Return a configuration per seed, its name with the seed at its end if it has one.

    Raises:
        UsageError: the config, the overrides or a seed are wrong.
    """
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise UsageError("--seeds trains runs of one process each", "Leave torchrun out.")
    if any(override.partition("=")[0].strip() == "seed" for override in overrides):
        raise UsageError("--seeds and a seed exclude each other", "Give one of them.")
    config = load_config(name, [*overrides, f"seed={max(seeds)}"])
    named = {seed: config.name and f"{config.name}-seed{seed}" for seed in seeds}
    return [config.model_copy(update={"seed": seed, "name": named[seed]}) for seed in seeds]


def train_seeds(configs: "Sequence[RunConfig]", workers: int | None, *, overwrite: bool, json: bool) -> None:
    """Train the configurations, as many at once as the machine has room for, and print their results and the mean.

    Raises:
        typer.Exit: the runs were interrupted; the code is 128 + the signal's number.
        Exception: the first that stopped a run, after the results of the other runs have been printed.
    """
    from stn_cli.cli.console import print_json, progress_bar, show_downloads, stdout_console
    from stn_cli.cli.runs_board import RunsBoard
    from stn_cli.experiments.choose import choose_runner
    from stn_cli.experiments.runner import Job

    with progress_bar("state") as bar:
        config = configs[0].runtime
        runner, why = choose_runner(config, workers, overwrite=overwrite, download=show_downloads(bar))
        bar.console.print(f"{len(configs)} runs, {why}")
        board = RunsBoard([f"seed {config.seed}" for config in configs], bar)
        with closing(runner.run([Job(config) for config in configs])) as events:  # pyright: ignore[reportArgumentType] - a runner's iterator is a generator
            board.show(events)
    if board.stopped_by is not None:
        raise typer.Exit(128 + board.stopped_by)
    summaries = [summary for _, summary in sorted(board.summaries.items())]
    if json and summaries:
        print_json({"runs": summaries, "error_percent": statistics_of(summaries)})
    elif not json:
        _print(summaries, stdout_console())
    if board.failures:
        raise next(iter(board.failures.values()))


def statistics_of(summaries: "Sequence[dict[str, Any]]") -> dict[str, Any]:
    """Return n, mean and standard deviation (of the sample, so divided by n − 1; None for one run) of test errors."""
    errors = [summary["test_error_percent"] for summary in summaries]
    deviation = statistics.stdev(errors) if len(errors) > 1 else None
    return {"mean": statistics.fmean(errors), "sd": deviation, "n": len(errors)}


def _print(summaries: "Sequence[dict[str, Any]]", console: "Console") -> None:
    for summary in summaries:
        low, high = summary["test_interval_percent"]
        interval = f"95 % interval {low:.2f} to {high:.2f}, n {summary['n']:,}"
        console.print(
            f"seed {summary['seed']:<5}  {summary['test_error_percent']:.2f} %  ({interval})  {summary['run']}"
        )
    if len(summaries) > 1:
        found = statistics_of(summaries)
        spread = f"mean ± standard deviation over {found['n']} seeds"
        console.print(f"test error  {found['mean']:.2f} ± {found['sd']:.2f} %  ({spread})")
