"""How far the runs of a grid have come. Their folders are all there is to know it from."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from stn_cli.errors import CheckpointError, UsageError
from stn_cli.experiments.grid import Cell
from stn_cli.training.checkpoint import newest_step
from stn_cli.training.restore import flat_settings
from stn_cli.training.run_folder import RunFolder

# What may differ between what is asked for and what was trained: it is chosen by machine, or changes no number.
ELSEWHERE = ("name", "runs_dir", "data.data_dir", "data.offline", "runtime", "log")


@dataclass(frozen=True)
class Standing:
    """A run of a grid and how it stands: finished with a summary, begun and saved at a step, or waiting to begin."""

    cell: Cell
    state: Literal["finished", "begun", "waiting"]
    step: int = 0
    summary: dict[str, Any] | None = None


def look_at(cells: Sequence[Cell]) -> list[Standing]:
    """Return how every run stands.

    Raises:
        UsageError: a run's folder holds one with other settings; nothing is mixed.
    """
    return [_look_at(cell) for cell in cells]


def _look_at(cell: Cell) -> Standing:
    run = RunFolder(cell.run)
    if not run.config.is_file():
        return Standing(cell, "waiting")
    found, asked = (flat_settings(config.model_dump(mode="json")) for config in (run.read_config(), cell.config))
    differing = [
        f"{key} {found.get(key)}, not {asked.get(key)}"
        for key in sorted(found.keys() | asked.keys())
        if found.get(key) != asked.get(key) and not key.startswith(ELSEWHERE)
    ]
    if differing:
        raise UsageError(
            f"{run.path} was trained with other settings ({', '.join(differing)})", "Choose another --runs-dir."
        )
    step = newest_step(run.checkpoints)
    try:
        summary = run.read_summary()
    except CheckpointError:
        summary = None  # going on with the run writes it again
    if summary is not None:
        return Standing(cell, "finished", step or 0, summary)
    return Standing(cell, "waiting" if step is None else "begun", step or 0)
