"""The moving pictures of a run, as files."""

import logging
from collections.abc import Iterator
from pathlib import Path

from stn_cli.errors import CheckpointError
from stn_cli.storage import write_bytes
from stn_cli.training.restore import TrainedRun
from stn_cli.training.warp_history import read_history
from stn_cli.visualize.animation import as_gif
from stn_cli.visualize.training_film import training_frames
from stn_cli.visualize.turning import turning_frames


def write_films(trained: TrainedRun) -> Iterator[Path]:
    """Write what there is to see of a run in motion into its plots folder; yield each file.

    `turning.gif`: test images that turn through a circle. `training.gif`: how the warps came about, where there are any
    and the run has recorded them.

    Raises:
        ResourceError: the folder cannot be written.
    """
    file = trained.run.plots / "turning.gif"
    write_bytes(file, as_gif(list(turning_frames(trained))))
    yield file
    try:
        history = read_history(trained.run)
    except CheckpointError as error:
        logging.getLogger("stn").warning("%s; there is no film of the training", error.what)
        return
    if history is not None:
        file = trained.run.plots / "training.gif"
        write_bytes(file, as_gif(list(training_frames(trained, history))))
        yield file
