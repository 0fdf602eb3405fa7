"""The warps of a trained run and its errors, as PNG files and on its TensorBoard."""

from collections.abc import Iterator
from contextlib import closing
from io import BytesIO
from pathlib import Path

import torch
from PIL import Image

from stn_cli.datasets.loader import first_of_each_class
from stn_cli.errors import ResourceError
from stn_cli.storage import write_bytes
from stn_cli.training.evaluation import evaluate
from stn_cli.training.event_file import EventFile
from stn_cli.training.pictures import evaluation_pictures, warp_picture
from stn_cli.training.restore import TrainedRun
from stn_cli.training.tags import CONFUSION, MEANS, WORST

ABOUT = (
    "What the trained network does: input, sampling grid over it, output; true class → predicted class, red if wrong."
)
ABOUT_ALL = {
    WORST: ("worst", "The test images that are most surely taken for another class."),
    MEANS: ("means", "The mean of all test images of a class, before and after the warp."),
    CONFUSION: ("confusion", "Test images by true class (row) and predicted class (column)."),
}


def draw_warps(trained: TrainedRun, per_class: int) -> Iterator[tuple[str, Image.Image, str]]:
    """Yield (name, picture, what it shows): two test images of every class together, then `per_class` of each class.

    Then what there is to see of all test images: the worst errors, the class means and the confusion matrix.

    Raises:
        NumericsError: the network gives NaN or infinity.
    """
    targets, classes = trained.test.targets, trained.classes
    overview = first_of_each_class(targets, len(classes), 2 * len(classes))
    yield "overview", warp_picture(trained.network, trained.test, overview, classes, trained.runtime), ABOUT
    for label, name in enumerate(classes):
        index = torch.nonzero(targets == label)[:per_class, 0]
        if len(index):
            yield f"class-{name}", warp_picture(trained.network, trained.test, index, classes, trained.runtime), ABOUT
    evaluation = evaluate(trained.network, trained.test, len(classes), trained.runtime)
    for tag, draw in evaluation_pictures(trained.network, trained.test, evaluation, classes, trained.runtime):
        name, about = ABOUT_ALL[tag]
        yield name, draw(), about


def write_warps(trained: TrainedRun, per_class: int) -> Iterator[Path]:
    """Write the pictures as PNG into the run's plots folder and as images to its TensorBoard; yield each file.

    On TensorBoard they take the place of those of an earlier time.

    Raises:
        ResourceError: the folder cannot be written.
        NumericsError: the network gives NaN or infinity.
    """
    kind, folder = trained.config.distortion.kind, trained.run.tensorboard
    suffix = f".warps-{kind}"
    earlier = list(folder.glob(f"events.out.tfevents.*{suffix}"))
    try:
        with closing(EventFile(folder, suffix=suffix)) as board:
            for name, picture, about in draw_warps(trained, per_class):
                file = trained.run.plots / f"warps-{kind}-{name}.png"
                content = BytesIO()
                picture.save(content, "PNG")
                write_bytes(file, content.getvalue())
                board.picture(f"warps under {kind}/{name}", content.getvalue(), picture.size, trained.step, about)
                yield file
        for file in earlier:
            file.unlink(missing_ok=True)  # two may do this at once
    except OSError as error:
        raise ResourceError(
            f"cannot write {folder}: {error.strerror}", "Free some space, or mend the folder."
        ) from error
