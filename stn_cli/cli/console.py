"""How commands speak: results on stdout, everything else on stderr, bars only on a terminal."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from shutil import get_terminal_size
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

Download = Callable[[int, int | None], None]


def print_json(value: Any) -> None:
    """Print a result as one JSON object on stdout."""
    print(json.dumps(value))


def stdout_console() -> "Console":
    """Return the console for results: coloured on a terminal, plain elsewhere; lines are never broken, only tables fit.

    A table takes what it needs off a terminal, and 80 columns on a narrower one: squeezed, it would lose its numbers.
    """
    width = max(80, get_terminal_size().columns) if sys.stdout.isatty() else 10_000
    return _console(stderr=False, width=width, soft_wrap=True)


def stderr_console() -> "Console":
    """Return the console for everything that is not the result."""
    return _console(stderr=True, soft_wrap=not sys.stderr.isatty())


def _console(**options: Any) -> "Console":
    from rich.console import Console

    # No markup: [x] and :x: are parts of names here.
    return Console(markup=False, emoji=False, highlight=False, **options)


@contextmanager
def progress_bar(*columns: str) -> Iterator["Progress"]:
    """Show bars on stderr while something long runs; nothing off a terminal.

    `columns`: names of the task's fields to show after the bar.
    """
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    console = stderr_console()
    description = TextColumn("{task.description}", markup=False)
    fields = [TextColumn("{task.fields[" + name + "]}", markup=False) for name in columns]
    shown = sys.stderr.isatty() and not console.is_dumb_terminal  # FORCE_COLOR makes no terminal
    layout = (description, BarColumn(), TaskProgressColumn(), *fields, TimeRemainingColumn())
    with Progress(*layout, console=console, transient=True, disable=not shown) as progress:
        yield progress


@contextmanager
def download_bar() -> Iterator[Download]:
    """Yield a callable that shows (bytes so far, bytes in all) as a bar, once it is first called."""
    with progress_bar() as bar:
        yield show_downloads(bar)


def show_downloads(bar: "Progress") -> Download:
    """Return a callable that shows (bytes so far, bytes in all) among the bars: two displays would tear each other."""
    tasks: list[Any] = []

    def show(done: int, total: int | None) -> None:
        if not tasks:
            tasks.append(bar.add_task("downloading", total=total, state=""))
        bar.update(tasks[0], completed=done, total=total, visible=done != total)

    return show
