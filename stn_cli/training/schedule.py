"""How long a run is, and when it is evaluated."""

import math
from bisect import bisect_right
from collections.abc import Sequence

from stn_cli.config import RunConfig


def total_steps(config: RunConfig, steps_per_epoch: int) -> int:
    """Return the number of steps of a run."""
    return config.train.iterations or math.ceil((config.train.epochs or 0) * steps_per_epoch)


def evaluation_steps(config: RunConfig, total: int) -> set[int]:
    """Return the numbers of steps after which a run of `total` is evaluated: evenly spaced, the last at its end."""
    evaluations = config.log.evaluations
    return {round(total * (i + 1) / evaluations) for i in range(evaluations)} - {0}


def next_look(done: int, every: int, evaluate_at: Sequence[int]) -> int:
    """Return the number of steps after which somebody looks next: at a reading, or at an evaluation.

    `every`: steps between two readings. `evaluate_at`: `evaluation_steps` in their order, the last of them to come.
    """
    return min((done // every + 1) * every, evaluate_at[bisect_right(evaluate_at, done)])
