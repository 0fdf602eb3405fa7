"""The data of a run: its training stream, its frozen sets, and what the network is built for."""

from dataclasses import dataclass

import torch

from stn_cli.config import RunConfig
from stn_cli.datasets.build import build_source
from stn_cli.datasets.download import Progress
from stn_cli.datasets.loader import BatchLoader, FrozenSet, TrainingStream, hold_out
from stn_cli.datasets.source import Source
from stn_cli.distortions.build import build_distortion
from stn_cli.distortions.distortion import Distortion
from stn_cli.errors import UsageError
from stn_cli.models.build import InputSpec


@dataclass(frozen=True)
class RunData:
    """Everything a run reads. `validation` is None where nothing is held out."""

    stream: TrainingStream
    validation: FrozenSet | None
    test: FrozenSet
    classes: tuple[str, ...]
    spec: InputSpec


def prepare_data(config: RunConfig, device: torch.device, progress: Progress | None = None) -> RunData:
    """Return the data of a run, resident on the device.

    Raises:
        DataError: files are missing or damaged.
        UsageError: a batch is larger than the training set.
    """
    source = build_source(config.data, progress)
    distortion = build_distortion(config.distortion)
    train, validation = hold_out(source.train, config.data.validation, config.seed)
    if config.train.batch_size > len(train):
        raise UsageError(
            f"a batch of {config.train.batch_size} is larger than the {len(train)} training images",
            f"Set train.batch_size to {len(train)} or less.",
        )
    held_out = None
    if len(validation):
        held_out = FrozenSet(BatchLoader(validation, distortion, device), config.seed, "validation")
    return RunData(
        stream=TrainingStream(BatchLoader(train, distortion, device), config.train.batch_size, config.seed),
        validation=held_out,
        test=FrozenSet(BatchLoader(source.test, distortion, device), config.seed, "test"),
        classes=source.classes,
        spec=input_spec(source, distortion),
    )


def prepare_test(config: RunConfig, device: torch.device, progress: Progress | None = None) -> tuple[FrozenSet, Source]:
    """Return the frozen test set of a run, and the source it is from."""
    source = build_source(config.data, progress)
    loader = BatchLoader(source.test, build_distortion(config.distortion), device)
    return FrozenSet(loader, config.seed, "test"), source


def input_spec(source: Source, distortion: Distortion | None) -> InputSpec:
    """Return what a network for this source is built for; mean and deviation are the undistorted training images'."""
    height, width = source.train.size if distortion is None else distortion.canvas
    mean, std = [], []
    for channel in source.train.images.unbind(dim=1):
        counts = torch.bincount(channel.flatten(), minlength=256).double()  # exact: counts of 256 levels
        levels = torch.arange(256).double() / 255
        mean.append(float((counts * levels).sum() / counts.sum()))
        std.append(max(1e-3, float((counts * (levels - mean[-1]).square()).sum().div(counts.sum()).sqrt())))
    return InputSpec(
        channels=source.train.images.shape[1],
        height=height,
        width=width,
        classes=len(source.classes),
        mean=tuple(mean),
        std=tuple(std),
    )
