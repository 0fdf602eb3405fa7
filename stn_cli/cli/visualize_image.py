"""stn visualize --image: images of the user's own → what a run reads in them, and what its transformers do."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stn_cli.training.restore import TrainedRun


def visualize_images(trained: "TrainedRun", images: Sequence[Path], *, invert: bool) -> list[dict[str, Any]]:
    """Write a picture and a film of each image into the run's plots folder; return what there is to say of each.

    Raises:
        DataError: an image cannot be read, or shows nothing.
        UsageError: the run takes no single images.
        ResourceError: the folder cannot be written.
    """
    from stn_cli.cli.console import progress_bar
    from stn_cli.training.look import look_at_images
    from stn_cli.visualize.own_image import fit_image, likeliest, write_own

    fitted = [fit_image(image, trained, invert=invert) for image in images]  # all of them, before anything is written
    told: list[dict[str, Any]] = []
    with progress_bar() as bar:
        for number, own in enumerate(bar.track(fitted, description="drawing")):
            namesakes = sum(earlier.file.stem == own.file.stem for earlier in fitted[:number])
            name = f"own-{own.file.stem}" + (f"-{namesakes + 1}" if namesakes else "")
            look = look_at_images(trained.network, own.pixels, trained.runtime)
            files = write_own(own, look, trained, name)
            found = [{"class": name, "probability": share} for name, share in likeliest(look, trained.classes)]
            told.append({"image": str(own.file), "fitted": own.fitted, "hint": own.hint, "predictions": found})
            told[-1]["files"] = [str(file) for file in files]
    return told


def show_images(told: Sequence[dict[str, Any]]) -> None:
    """Print what was read in each image."""
    from stn_cli.cli.console import stderr_console, stdout_console

    console = stdout_console()
    for one in told:
        read = ", ".join(f"{found['class']}: {100 * found['probability']:.1f} %" for found in one["predictions"])
        console.print(f"{one['image']}  {read}")
        console.print(f"  taken as   {one['fitted']}")
        for file in one["files"]:
            console.print(f"  {file}")
        if one["hint"] is not None:
            stderr_console().print(f"hint: {one['image']}: {one['hint']}")
