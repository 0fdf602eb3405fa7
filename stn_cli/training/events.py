"""What a training run tells whoever watches it, who may do so without torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Started:
    """The run has its folder; training begins after `step` of `total` steps. `runtime`: how it computes, and why."""

    run: Path
    parameters: int
    widths: tuple[int, ...]
    step: int
    total: int
    runtime: str


@dataclass(frozen=True)
class Trained:
    """Means over the steps since the last such event."""

    step: int
    loss: float
    error_percent: float
    images_per_second: float


@dataclass(frozen=True)
class Validated:
    """An evaluation on the held-out training images."""

    step: int
    error_percent: float


@dataclass(frozen=True)
class Collapsed:
    """Transformers have run away from their images: a line for each. `back_to`: the step whose weights are back."""

    step: int
    faults: tuple[str, ...]
    back_to: int | None = None


@dataclass(frozen=True)
class Finished:
    """The end; `summary` is what summary.json holds."""

    summary: dict[str, Any]


@dataclass(frozen=True)
class Interrupted:
    """A signal came; everything up to `step` is saved."""

    run: Path
    signal: int
    step: int


@dataclass(frozen=True)
class Followed:
    """The end of a process that computed a share of the run; rank 0 tells the rest. `signal`: what came, or 0."""

    signal: int


Event = Started | Trained | Validated | Collapsed | Finished | Interrupted | Followed
