"""The warps of a trained run, as PNG files and on its TensorBoard."""

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import torch
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from stn_cli.datasets.loader import first_of_each_class
from stn_cli.drawing.pixels import to_tensor
from stn_cli.storage import write_bytes
from stn_cli.training.pictures import warp_picture
from stn_cli.training.restore import TrainedRun


def draw_warps(trained: TrainedRun, per_class: int) -> Iterator[tuple[str, Image.Image]]:
    """Yield (name, picture): two test images of every class together, then `per_class` of each class."""
    targets, classes = trained.test.targets, trained.classes
    overview = first_of_each_class(targets, len(classes), 2 * len(classes))
    yield "overview", warp_picture(trained.network, trained.test, overview, classes, trained.runtime)
    for label, name in enumerate(classes):
        index = torch.nonzero(targets == label)[:per_class, 0]
        if len(index):
            yield f"class-{name}", warp_picture(trained.network, trained.test, index, classes, trained.runtime)


def write_warps(trained: TrainedRun, per_class: int) -> Iterator[Path]:
    """Write the pictures as PNG into the run's plots folder and as images to its TensorBoard; yield each file.

    Raises:
        ResourceError: the folder cannot be written.
    """
    kind = trained.config.distortion.kind
    writer = SummaryWriter(str(trained.run.tensorboard))
    try:
        for name, picture in draw_warps(trained, per_class):
            file = trained.run.plots / f"warps-{kind}-{name}.png"
            content = BytesIO()
            picture.save(content, "PNG")
            write_bytes(file, content.getvalue())
            writer.add_image(f"warps under {kind}/{name}", to_tensor(picture), trained.step)
            yield file
    finally:
        writer.close()
