"""From a run's folder back to its network."""

import logging
from dataclasses import dataclass
from typing import Any, Literal

from stn_cli.config import RunConfig
from stn_cli.datasets.download import Progress
from stn_cli.datasets.loader import FrozenSet
from stn_cli.errors import CheckpointError, UsageError
from stn_cli.models.build import InputSpec, build_model
from stn_cli.models.network import Network
from stn_cli.training.checkpoint import Checkpoint, load_network, read_checkpoint, read_newest
from stn_cli.training.data import prepare_test
from stn_cli.training.run_folder import RunFolder
from stn_cli.training.runtime import Runtime, choose_runtime

Which = Literal["last", "best"]

# What may differ between a run and its continuation: how long, where, and what is written meanwhile.
CONTINUABLE = (
    "name",
    "runs_dir",
    "data.data_dir",
    "data.offline",
    "train.epochs",
    "train.iterations",
    "runtime",
    "log",
)


@dataclass(frozen=True)
class TrainedRun:
    """A run's network with the weights of a checkpoint, and the test set it is looked at with."""

    run: RunFolder
    config: RunConfig
    network: Network
    classes: tuple[str, ...]
    step: int
    test: FrozenSet
    runtime: Runtime


def open_trained(run: RunFolder, which: Which, overrides: list[str], download: Progress | None = None) -> TrainedRun:
    """Return a run's network, on the device and in evaluation mode, with its own test set or another.

    `overrides`: settings of the data, the distortion, the seed of its frozen draw, or the runtime.

    Raises:
        CheckpointError: there is no sound checkpoint, or it belongs to another network.
        UsageError: the test images have another size or other classes than the network was built for.
    """
    config = run.read_config(overrides)
    runtime = choose_runtime(config.runtime)
    checkpoint, passed = (read_checkpoint(run.best), []) if which == "best" else read_newest(run.checkpoints)
    for line in passed:
        logging.getLogger("stn").warning("%s; an older checkpoint is taken", line)
    state = checkpoint.state
    spec = InputSpec(**state["spec"] | {"mean": tuple(state["spec"]["mean"]), "std": tuple(state["spec"]["std"])})
    network = build_model(config.model, spec, config.seed)
    load_network(network, checkpoint.part("network."), run.checkpoints)
    network = runtime.place(network).eval()
    test, found = prepare_test(config, runtime.device, download)
    if (found.channels, found.size) != (spec.channels, spec.size):
        raise UsageError(
            f"{run.path} takes images of {_shape(spec)}, {config.data.dataset} under {config.distortion.kind} gives "
            f"{_shape(found)}",
            "Choose another distortion."
            if config.distortion.kind == "none"
            else f"Choose another distortion, or set distortion.canvas={spec.height}.",
        )
    if found.classes != spec.classes:
        raise UsageError(
            f"{run.path} knows {spec.classes} classes, {config.data.dataset} has {found.classes}",
            "Choose another --dataset.",
        )
    return TrainedRun(run, config, network, tuple(state["classes"]), state["step"], test, runtime)


def open_to_resume(run: RunFolder, overrides: list[str]) -> tuple[RunConfig, Checkpoint, list[str]]:
    """Return how a run goes on: its configuration, its newest sound checkpoint, and lines about unsound ones.

    Raises:
        CheckpointError: an override changes what a continuation must keep, or there is no sound checkpoint.
    """
    before, config = run.read_config(), run.read_config(overrides)
    old, new = flat_settings(before.model_dump(mode="json")), flat_settings(config.model_dump(mode="json"))
    differing = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
    fixed = [key for key in differing if not key.startswith(CONTINUABLE)]
    if fixed:
        shown = ", ".join(f"{key} {old.get(key)} → {new.get(key)}" for key in fixed)
        raise CheckpointError(f"{run.path} cannot go on with other settings ({shown})", "Train a new run with them.")
    checkpoint, passed = read_newest(run.checkpoints)
    return config, checkpoint, passed


def _shape(spec: InputSpec) -> str:
    return f"{spec.channels}×{spec.height}×{spec.width}"


def flat_settings(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings by their full keys, "train.batch_size"."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flat_settings(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat
