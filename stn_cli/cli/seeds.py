"""stn train --seeds: one configuration trained from several seeds, and the mean of their errors."""

import os
import re
import statistics
import time
from contextlib import closing, suppress
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

import typer

from stn_cli.config_files import load_config
from stn_cli.errors import StnError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.console import Console
    from rich.progress import Progress

    from stn_cli.config import RunConfig
    from stn_cli.experiments.runner import RunEvent

MOST_SEEDS = 1000  # a slip of the finger, 0-1000000, should not make a million folders
SAY_EVERY = 30.0  # seconds between two lines of progress of a run where there is no terminal for bars


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
    from stn_cli.experiments.choose import choose_runner

    with progress_bar("state") as bar:
        config = configs[0].runtime
        runner, why = choose_runner(config, workers, overwrite=overwrite, download=show_downloads(bar))
        bar.console.print(f"{len(configs)} runs, {why}")
        board = _Board([config.seed for config in configs], bar)
        with closing(runner.run(configs)) as events:  # pyright: ignore[reportArgumentType] - a runner's iterator is a generator
            board.show(events)
    if board.stopped_by is not None:
        raise typer.Exit(128 + board.stopped_by)
    summaries = [board.summaries[seed] for seed in board.seeds if seed in board.summaries]
    if json and summaries:
        print_json({"runs": summaries, "error_percent": statistics_of(summaries)})
    elif not json:
        _print(summaries, stdout_console())
    if board.failures:
        raise board.failures[0]


def statistics_of(summaries: "Sequence[dict[str, Any]]") -> dict[str, Any]:
    """Return n, mean and standard deviation (of the sample, so divided by n − 1; None for one run) of test errors."""
    errors = [summary["test_error_percent"] for summary in summaries]
    deviation = statistics.stdev(errors) if len(errors) > 1 else None
    return {"mean": statistics.fmean(errors), "sd": deviation, "n": len(errors)}


class _Board:
    """Shows what several runs do, a bar for each that is going on, and remembers how they ended."""

    def __init__(self, seeds: "Sequence[int]", bar: "Progress") -> None:
        self.seeds = seeds
        self.summaries: dict[int, dict[str, Any]] = {}
        self.failures: list[Exception] = []
        self.stopped_by: int | None = None
        self._bar = bar
        self._tasks: dict[int, Any] = {}
        self._runs: dict[int, Path] = {}
        self._said: dict[int, float] = {}

    def show(self, events: "Iterable[RunEvent]") -> None:
        from stn_cli.experiments.runner import Failed, Said, Skipped
        from stn_cli.training.events import Finished, Interrupted, Started, Trained, Validated

        for happened in events:
            seed, event = self.seeds[happened.place], happened.event
            match event:
                case Started():
                    self._begin(seed, event)
                case Trained():
                    self._progress(seed, event)
                case Validated():
                    pass  # a dozen per run; metrics.jsonl has them
                case Said():
                    self._say(seed, event.line)
                case Finished():
                    self.summaries[seed] = event.summary
                    self._end(seed, f"test error {event.summary['test_error_percent']:.2f} %")
                case Interrupted():
                    self.stopped_by = event.signal
                    resume = f"stn train --resume {quote(str(event.run))}"
                    self._end(seed, f"saved at step {event.step:,}. Go on with: {resume}")
                case Skipped():
                    self.stopped_by = event.signal
                    self._end(seed, "not begun")
                case Failed():
                    self._fail(seed, event.error)

    def _say(self, seed: int, text: str) -> None:
        self._bar.console.print(f"seed {seed:<5}  {text}")

    def _begin(self, seed: int, event: Any) -> None:
        if not self._runs:
            widths = "-".join(map(str, event.widths))
            self._bar.console.print(f"parameters  {event.parameters:,} (classifier {widths})")
            self._bar.console.print(f"runtime     {event.runtime.reason}")
        self._runs[seed], self._said[seed] = event.run, time.monotonic()
        self._tasks[seed] = self._bar.add_task(f"seed {seed}", total=event.total, completed=event.step, state="")
        self._say(seed, str(event.run))

    def _progress(self, seed: int, event: Any) -> None:
        state = f"loss {event.loss:.3f}  error {event.error_percent:.2f} %  {event.images_per_second:,.0f} images/s"
        self._bar.update(self._tasks[seed], completed=event.step, state=state)
        if self._bar.disable and time.monotonic() - self._said[seed] > SAY_EVERY:
            self._say(seed, f"step {event.step:>7,}  {state}")
            self._said[seed] = time.monotonic()

    def _end(self, seed: int, text: str) -> None:
        if seed in self._tasks:
            self._bar.remove_task(self._tasks.pop(seed))
        self._say(seed, text)

    def _fail(self, seed: int, error: Exception) -> None:
        from stn_cli.cli.faults import write_crash_log

        self.failures.append(error)
        what = str(error) if isinstance(error, StnError) else f"{type(error).__name__}: {error}"
        self._end(seed, f"failed: {' '.join(what.split())}")
        if seed in self._runs:
            with suppress(OSError):  # on a full disk the error itself says more than the loss of its traceback
                write_crash_log(self._runs[seed], error)


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
