"""Options that several commands share, and how they become overrides of the configuration."""

from typing import TYPE_CHECKING, Annotated

import typer

from stn_cli.names import DEVICES, DISTORTIONS, MODELS, PRECISIONS, RECIPES, TRANSFORMS

Dataset = Annotated[
    str | None, typer.Option(help="A name (see `stn list datasets`), a folder of images, or an IDX file of images.")
]
Distortion = Annotated[str | None, typer.Option(help=f"{', '.join(DISTORTIONS)}.")]
Model = Annotated[str | None, typer.Option(help=f"{', '.join(MODELS)}.")]
Transform = Annotated[str | None, typer.Option(help=f"{', '.join(TRANSFORMS)}.")]
Epochs = Annotated[str | None, typer.Option(help="Passes over the training images.", metavar="NUMBER")]
Iterations = Annotated[str | None, typer.Option(help="Steps, instead of epochs.", metavar="NUMBER")]
Recipe = Annotated[str | None, typer.Option(help=f"{', '.join(RECIPES)}: schedule and optimiser.")]
Seed = Annotated[str | None, typer.Option(help="Of weights, order and distortions.", metavar="NUMBER")]
Device = Annotated[str | None, typer.Option(help=f"{', '.join(DEVICES)}.")]
Precision = Annotated[str | None, typer.Option(help=f"{', '.join(PRECISIONS)}; geometry is always float32.")]
DataDir = Annotated[str | None, typer.Option(help="Where datasets lie; else STN_DATA, else ./data.", metavar="DIR")]
Offline = Annotated[bool, typer.Option("--offline", help="Never download.")]
RunsDir = Annotated[str | None, typer.Option(help="Where runs lie.  [default: runs]", metavar="DIR")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON, alone, on stdout.")]
Debug = Annotated[bool, typer.Option("--debug", help="Print tracebacks of errors.")]
Checkpoint = Annotated[str, typer.Option(help="last, or best on the validation images.")]

if TYPE_CHECKING:
    from stn_cli.training.restore import Which

KEYS = {
    "name": "name",
    "runs_dir": "runs_dir",
    "seed": "seed",
    "dataset": "data.dataset",
    "labels": "data.labels",
    "data_dir": "data.data_dir",
    "distortion": "distortion.kind",
    "model": "model.name",
    "transform": "model.transform",
    "recipe": "train.recipe",
    "epochs": "train.epochs",
    "iterations": "train.iterations",
    "device": "runtime.device",
    "precision": "runtime.precision",
}


def overrides_from(offline: bool = False, **options: str | None) -> list[str]:
    """Return the overrides that a command's options stand for; options that were not given say nothing."""
    said = [f"{KEYS[name]}={value}" for name, value in options.items() if value is not None]
    return [*said, "data.offline=true"] if offline else said


def which(checkpoint: str) -> "Which":
    """Return the checkpoint that --checkpoint names.

    Raises:
        UsageError: it is neither last nor best.
    """
    if checkpoint in ("last", "best"):
        return checkpoint
    from stn_cli.errors import UsageError

    raise UsageError(f"--checkpoint has no choice {checkpoint!r}", "Choose from last, best.")
