"""How the warps of a few test images came about in training."""

from collections.abc import Iterator

import torch
from torch import Tensor

from stn_cli.training.look import look_at_images
from stn_cli.training.restore import TrainedRun
from stn_cli.training.warp_history import WarpHistory
from stn_cli.visualize.animation import Frame, draw_frame

IMAGES = 4
MOVES, MOST_BETWEEN = 40, 4  # frames in which something moves, about, and those from one evaluation to the next
MILLISECONDS, FIRST, LAST = 100, 800, 2500


def training_frames(trained: TrainedRun, history: WarpHistory) -> Iterator[Frame]:
    """Yield the frames of a training: from the identity, where transformers begin, through every evaluation.

    Between evaluations θ goes in equal steps; what was read in an image is that of the evaluation before. Transformers
    inside the network are shown on the feature maps of the trained one, since the weights of the time are not kept.
    """
    images, true = history.images[:IMAGES] / 255, history.targets[:IMAGES].tolist()
    thetas = {name: torch.cat([_identity(trained, name, own), own])[:, :IMAGES] for name, own in history.thetas.items()}
    steps, records = (0, *history.steps), len(history.steps)
    between = max(1, min(MOST_BETWEEN, MOVES // records))
    for k in range(records * between + 1):
        before, part = divmod(k, between)
        after, share = min(before + 1, records), part / between
        at = {name: own[before].lerp(own[after], share) for name, own in thetas.items()}
        look = look_at_images(trained.network, images, trained.runtime, at)
        predicted = history.predicted[before - 1, :IMAGES].tolist() if before else true
        names = [(trained.classes[t], trained.classes[p]) for t, p in zip(true, predicted, strict=True)]
        captions = [f"{t} read as {p}" if before else t for t, p in names]
        title = f"step {steps[before] + share * (steps[after] - steps[before]):,.0f} of {steps[-1]:,}"
        picture = draw_frame(images, look, captions, [t != p for t, p in names], title)
        yield Frame(picture, FIRST if k == 0 else LAST if before == records else MILLISECONDS)


def _identity(trained: TrainedRun, name: str, theta: Tensor) -> Tensor:
    """Return the θ that a transformer begins with, like one record of its history."""
    for place in trained.network.by_place.values():
        if name in place.names:
            generator = place.transformers[place.names.index(name)].grid_generator
            return generator.identity.expand_as(theta[:1])
    raise KeyError(name)
