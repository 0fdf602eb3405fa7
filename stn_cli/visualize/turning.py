"""Test images that turn through a full circle, and what the network does to them on the way."""

from collections.abc import Iterator

import torch
from jaxtyping import Int64
from torch import Tensor

from stn_cli.datasets.loader import Batch, first_of_each_class
from stn_cli.training.look import look_at_images
from stn_cli.training.restore import TrainedRun
from stn_cli.training.sweep import parameters_at, varied_scene
from stn_cli.visualize.animation import Frame, draw_frame

IMAGES = 4
FRAMES, MILLISECONDS = 36, 110  # 10° each, a circle in 4 s; 60 frames are 1.5 MB
CANDIDATES = 20  # images, of different classes, that those to be shown are chosen from


def turned(trained: TrainedRun, index: Int64[Tensor, "n"], degrees: float) -> Batch:
    """Return test images in the middle of the canvas, not distorted but turned clockwise by an angle."""
    parameters = {name: value[index] for name, value in parameters_at(trained, "rotation", degrees).items()}
    loader = trained.test.loader
    return loader.under(varied_scene(loader.scene, "rotation")).gather(index, parameters)


def images_to_turn(trained: TrainedRun) -> Int64[Tensor, "n"]:
    """Return the test images, each of another class, that differ most from themselves upside down: a 4, not a 0."""
    found = first_of_each_class(trained.test.targets, len(trained.classes), CANDIDATES)
    found = found[trained.test.targets[found].diff(prepend=torch.tensor([-1])) != 0]
    upright, over = (turned(trained, found, degrees).images for degrees in (0.0, 180.0))
    change = (upright - over).abs().flatten(1).mean(dim=1).cpu()
    return found[change.argsort(descending=True, stable=True)[:IMAGES].sort().values]


def turning_frames(trained: TrainedRun) -> Iterator[Frame]:
    """Yield the frames of images that turn, each with its sampling grid, its output and what is read in it."""
    index = images_to_turn(trained)
    for k in range(FRAMES):
        degrees = 360 * k / FRAMES
        batch = turned(trained, index, degrees)
        look = look_at_images(trained.network, batch.images, trained.runtime)
        true = batch.targets.tolist()
        captions = [
            f"{trained.classes[t]} read as {trained.classes[p]}, {100 * s:.0f} %"
            for t, p, s in zip(true, look.predicted, look.sure, strict=True)
        ]
        wrong = [t != p for t, p in zip(true, look.predicted, strict=True)]
        yield Frame(draw_frame(batch.images.cpu(), look, captions, wrong, f"turned by {degrees:.0f}°"), MILLISECONDS)
