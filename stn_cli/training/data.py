"""The data of a run: its training stream, its frozen sets, and what the network is built for."""

from dataclasses import dataclass

import torch

from stn_cli.config import RunConfig
from stn_cli.datasets.build import build_scene, build_source
from stn_cli.datasets.download import Progress
from stn_cli.datasets.loader import BatchLoader, FrozenSet, TrainingStream, hold_out
from stn_cli.datasets.scene import Scene
from stn_cli.datasets.source import Source
from stn_cli.errors import UsageError
from stn_cli.models.build import InputSpec
from stn_cli.training.distributed import ALONE, Ranks


@dataclass(frozen=True)
class RunData:
    """Everything a run reads. `validation` is None where nothing is held out."""

    stream: TrainingStream
    validation: FrozenSet | None
    test: FrozenSet
    classes: tuple[str, ...]
    spec: InputSpec


def prepare_data(
    config: RunConfig, device: torch.device, progress: Progress | None = None, ranks: Ranks = ALONE
) -> RunData:
    """Return the data of a run, resident on the device. Its stream makes this rank's rows of every batch.

    Raises:
        DataError: files are missing or damaged.
        UsageError: a batch is larger than the training set or smaller than the number of ranks, or as `build_scene` and
            `input_spec`.
    """
    if config.train.batch_size < ranks.size:  # unequal shares are weighted by their size; an empty one has no loss
        raise UsageError(
            f"a batch of {config.train.batch_size} cannot be shared among {ranks.size} processes",
            f"Set train.batch_size to {ranks.size} or more, or start fewer processes.",
        )
    source = build_source(config.data, progress)
    scene = build_scene(config.distortion, source)
    rest, held_out = hold_out(len(source.train), config.data.validation, config.seed)
    if config.train.batch_size > len(rest):
        raise UsageError(
            f"a batch of {config.train.batch_size} is larger than the {len(rest)} training images",
            f"Set train.batch_size to {len(rest)} or less.",
        )
    train = BatchLoader(source.train.at(rest), scene, device, own=rest)
    validation = BatchLoader(source.train.at(held_out), scene, device, own=held_out)
    return RunData(
        stream=TrainingStream(train, config.train.batch_size, config.seed, ranks.rows(config.train.batch_size)),
        validation=FrozenSet(validation, config.seed, f"validation{source.lineage}") if len(held_out) else None,
        test=_frozen_test(source, scene, device, config.seed),
        classes=scene.classes,
        spec=input_spec(source, scene),
    )


def prepare_test(
    config: RunConfig, device: torch.device, progress: Progress | None = None
) -> tuple[FrozenSet, InputSpec]:
    """Return the frozen test set of a run, and what a network for it is built for."""
    source = build_source(config.data, progress)
    scene = build_scene(config.distortion, source)
    return _frozen_test(source, scene, device, config.seed), input_spec(source, scene)


def _frozen_test(source: Source, scene: Scene, device: torch.device, seed: int) -> FrozenSet:
    return FrozenSet(BatchLoader(source.test, scene, device), seed, f"test{source.lineage}")


def input_spec(source: Source, scene: Scene) -> InputSpec:
    """Return what a network for these scenes is built for; mean and deviation are the undistorted training images'.

    Raises:
        UsageError: the scenes are volumes, which no network here takes.
    """
    if len(scene.shape) != 3:
        raise UsageError("there is no network for volumes", "Choose another distortion.")
    channels, height, width = scene.shape
    mean, std = [], []
    for channel in source.train.images.unbind(dim=1):
        counts = torch.bincount(channel.flatten(), minlength=256).double()  # exact: counts of 256 levels
        levels = torch.arange(256).double() / 255
        mean.append(float((counts * levels).sum() / counts.sum()))
        std.append(max(1e-3, float((counts * (levels - mean[-1]).square()).sum().div(counts.sum()).sqrt())))
    times = channels // len(mean)  # an addition has a channel for each of its digits
    return InputSpec(
        channels=channels,
        height=height,
        width=width,
        classes=len(scene.classes),
        mean=tuple(mean * times),
        std=tuple(std * times),
    )
