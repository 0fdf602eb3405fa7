"""How the warps of a few test images have come about: θ at evaluations, kept small in the run's folder.

Checkpoints of all evaluations would be megabytes each; these are 32 numbers at most for each image and transformer.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from stn_cli.datasets.loader import FrozenSet, first_of_each_class
from stn_cli.errors import CheckpointError, ResourceError
from stn_cli.geometry.sampling import to_bytes
from stn_cli.models.network import Network
from stn_cli.training.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from stn_cli.training.look import look_at_images
from stn_cli.training.run_folder import RunFolder
from stn_cli.training.runtime import Runtime

MOST_IMAGES = 8
MOST_RECORDS = 64  # of evaluations; where there are more, every second is dropped


@dataclass(frozen=True)
class WarpHistory:
    """θ of every transformer, by its name, and the predicted classes, after `steps` steps each; of `targets` images."""

    images: UInt8[Tensor, "n channels height width"]
    targets: Int64[Tensor, "n"]
    steps: tuple[int, ...]
    thetas: dict[str, Float[Tensor, "records n parameters"]]
    predicted: Int64[Tensor, "records n"]


def history_file(run: RunFolder) -> Path:
    """Return where the history of a run lies."""
    return run.path / "warps.safetensors"


def record_warps(run: RunFolder, network: Network, test: FrozenSet, classes: int, runtime: Runtime, step: int) -> None:
    """Add what transformers do to fixed test images after `step` steps; records of later steps are dropped.

    The history is a view on the run and no part of its result: what cannot be written is a warning.
    """
    if not network.places:
        return
    batch = test.take(first_of_each_class(test.targets, classes, MOST_IMAGES))
    look = look_at_images(network, batch.images, runtime)
    predicted, before = torch.tensor([look.predicted]), None
    thetas = {name: theta[None] for name, theta in look.thetas.items()}
    log, file = logging.getLogger("stn"), history_file(run)
    try:
        before = read_history(run)
    except CheckpointError as error:
        log.warning("%s; the history of warps begins anew", error.what)
    steps = (step,)
    if before is not None:
        kept = sum(earlier < step for earlier in before.steps)
        steps = (*before.steps[:kept], step)
        thetas = {name: torch.cat([before.thetas[name][:kept], theta]) for name, theta in thetas.items()}
        predicted = torch.cat([before.predicted[:kept], predicted])
    every = 2 if len(steps) > MOST_RECORDS else 1
    tensors = {f"theta.{name}": theta[::every] for name, theta in thetas.items()}
    tensors |= {"images": to_bytes(255 * batch.images), "targets": batch.targets, "predicted": predicted[::every]}
    try:
        # Not durable: waiting for the disk takes two thirds of the time, and what is lost with the power is a view.
        write_checkpoint(file, Checkpoint(tensors, {"steps": list(steps[::every])}), durable=False)
    except ResourceError as error:
        log.warning("%s; training goes on without a history of warps", error.what)


def read_history(run: RunFolder) -> WarpHistory | None:
    """Return the history of a run's warps, None where none was recorded.

    Raises:
        CheckpointError: the file is damaged.
    """
    if not history_file(run).is_file():
        return None
    found = read_checkpoint(history_file(run))
    images, targets, predicted = (found.tensors[name] for name in ("images", "targets", "predicted"))
    return WarpHistory(images, targets, tuple(found.state["steps"]), found.part("theta."), predicted)
