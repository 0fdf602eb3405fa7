"""stn eval --undoing: a run → how far its transformers undo the distortion."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from stn_cli.training.restore import TrainedRun
    from stn_cli.training.undoing import Undoing

# The units that quantities are shown in, and how many of them make one of those that are measured in.
UNITS = {"rotation": ("°", 1), "scale": ("%", 100), "shift": ("px", 1), "stretch": ("", 1)}


def measure(trained: "TrainedRun") -> "list[Undoing]":
    """Return what the transformers of a run make of each digit, with a bar meanwhile.

    Raises:
        UsageError: the run has no transformer that sees images, or the images are not distorted.
    """
    from stn_cli.cli.console import progress_bar
    from stn_cli.training.undoing import find_truth, measure_undoing

    truth = find_truth(trained.test, trained.config.data.dataset)
    with progress_bar() as bar:
        task = bar.add_task("looking at warps", total=len(trained.test))

        def show(done: int, _total: int) -> None:
            bar.update(task, completed=done)

        return measure_undoing(trained.network, trained.test, truth, trained.runtime, show)


def show_undoing(measured: "Sequence[Undoing]", console: "Console") -> None:
    """Print what was measured, and where there are several digits, which transformer took charge of which."""
    for one in measured:
        _show(one, console)
    for digit in dict.fromkeys(one.digit for one in measured if one.digit):
        ends = {one.transformer: one.corners[1] for one in measured if one.digit == digit and one.corners}
        if len(ends) > 1:
            console.print(f"the {digit} digit is undone best by the transformer at {min(ends, key=ends.__getitem__)}")


def _show(one: "Undoing", console: "Console") -> None:
    from rich.table import Table

    whose = f", {one.digit} digit" if one.digit else ""
    console.print(f"\ntransformer at {one.transformer}{whose}, measured on {one.measured:,} of {one.n:,} samples")
    if one.corners is None:
        console.print("no sample shows enough of its digit")
        return
    pose, before, after = one.pose, *one.corners
    console.print(
        f"pose        {pose['rotation']:z.1f}° clockwise, {pose['scale']:.2f} times as large, centre at "
        f"{pose['x']:z.1f}, {pose['y']:z.1f} px; the median digit stands {one.turned:z.1f}° from upright"
    )
    console.print(f"corners     {before:.1f} px from where that pose has them before, {after:.1f} px after (medians)")
    table = Table(title="standard deviations, and the share of the variance that is undone", title_justify="left")
    for column in ("", "before", "after", "within class", "undone %", "within class %", "median distance from pose"):
        table.add_column(column, justify="right" if column else "left")
    for quantity, spread in one.spreads.items():
        unit, factor = UNITS[quantity]
        deviations = [spread.before, spread.after, spread.within, None, None, one.residuals[quantity]]
        shown = ["–" if value is None else f"{factor * value:z.2f}" for value in deviations]
        shown[3:5] = ["–" if share is None else f"{100 * share:.1f}" for share in (spread.undone, spread.undone_within)]
        table.add_row(f"{quantity} {unit}".rstrip(), *shown)
    console.print(table)
