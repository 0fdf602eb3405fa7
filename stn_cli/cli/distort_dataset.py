"""stn distort-dataset: dataset → folder of distorted images with their true parameters."""

import os
import re
from contextlib import closing
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from stn_cli.cli import options
from stn_cli.cli.stoppable import Stoppable
from stn_cli.names import DATASETS, FORMATS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from stn_cli.config import RunConfig

Range = tuple[float, float]
CHOICE = "Choose from R, RTS, P, E, T, TC, addition, volume."


def distort_dataset(
    kind: Annotated[
        str | None, typer.Argument(metavar="KIND", help="R, RTS, P, E, T, TC, addition or volume.", show_default=False)
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings of the distortion.")
    ] = None,
    dataset: Annotated[
        str, typer.Option(help="A name (see `stn list datasets`), a folder of images, or an IDX file of images.")
    ] = "digits",
    labels: Annotated[str | None, typer.Option(help="IDX file of labels, for an IDX file of images.")] = None,
    out: Annotated[str | None, typer.Option(help="Folder to write.  [default: data/<dataset>-<kind>]")] = None,
    seed: options.Seed = None,
    compose: Annotated[
        list[str] | None, typer.Option(metavar="KIND", help="Distort further; again for more. {kind: E, scale: [1, 1]}")
    ] = None,
    file_format: Annotated[
        str | None, typer.Option("--format", help=f"{', '.join(FORMATS)}.  [default: the first that fits]")
    ] = None,
    copies: Annotated[int, typer.Option(min=1, max=10_000, help="Distortions of every image.")] = 1,
    limit: Annotated[int | None, typer.Option(min=1, help="Only so many images of each split.")] = None,
    verify: Annotated[
        str | None, typer.Option(metavar="DIR", help="Check a folder that was written, and stop.")
    ] = None,
    rotation: Annotated[
        Range | None, typer.Option(help="R, RTS, addition, volume: degrees.", metavar="LOW HIGH")
    ] = None,
    scale: Annotated[Range | None, typer.Option(help="RTS, P, E, addition.", metavar="LOW HIGH")] = None,
    corner_sigma: Annotated[float | None, typer.Option(help="P: pixels.", metavar="NUMBER")] = None,
    control_point_sigma: Annotated[float | None, typer.Option(help="E: pixels.", metavar="NUMBER")] = None,
    pieces: Annotated[int | None, typer.Option(help="TC: of other digits.", metavar="NUMBER")] = None,
    piece_size: Annotated[int | None, typer.Option(help="TC: side in pixels.", metavar="NUMBER")] = None,
    depth: Annotated[float | None, typer.Option(help="volume: of the digit, in voxels.", metavar="NUMBER")] = None,
    canvas: Annotated[int | None, typer.Option(help="Side of the distorted image in pixels.", metavar="NUMBER")] = None,
    data_dir: options.DataDir = None,
    offline: options.Offline = False,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Write both splits of a dataset, distorted once and for all, with their true parameters.

    The same seed gives the same bytes on every machine. Grey images become IDX files as torchvision.datasets.MNIST
    reads them, colour PNG folders. Ranges are the paper's unless given.

    \b
    Examples:
      stn distort-dataset R
      stn distort-dataset RTS --dataset mnist --out data/mnist-rts --seed 1
      stn distort-dataset E --control-point-sigma 3 --copies 5
      stn distort-dataset R --rotation -180 180 --compose E --compose TC
      stn distort-dataset TC --canvas 84 --pieces 16 --format png
      stn distort-dataset --verify data/mnist-rts
    """
    if verify is not None:
        with Stoppable("stopped before all files were checked."):
            _verify(Path(verify), json)
        return
    given: dict[str, float | Range | None] = {
        "rotation": rotation,
        "scale": scale,
        "corner_sigma": corner_sigma,
        "control_point_sigma": control_point_sigma,
        "pieces": pieces,
        "piece_size": piece_size,
        "depth": depth,
        "canvas": canvas,
    }
    ranges = {name: value for name, value in given.items() if value is not None}
    settings, compose = settings or [], compose or []
    with Stoppable("stopped. Run the same command again: it begins anew and ends with the same bytes.") as stop:
        from stn_cli.cli.wording import in_words_of_options
        from stn_cli.config_files import load_config, refuse_other_settings

        refuse_other_settings(settings, ("data", "distortion", "seed"))
        kind = _only_kind(kind, settings, ranges)
        said = options.overrides_from(offline, dataset=dataset, labels=labels, data_dir=data_dir, seed=seed)
        made = [f"distortion.{name}={_written(value)}" for name, value in ranges.items()]
        said += _distortion(kind, made + settings, compose)
        with in_words_of_options(_names(given, settings, compose), [each for each in said if each not in settings]):
            config = load_config(None, said)
            _refuse_idle_labels(config)
            _write(config, stop, file_format, copies=copies, limit=limit, out=out, json=json)


def _write(
    config: "RunConfig",
    stop: Stoppable,
    file_format: str | None,
    *,
    copies: int,
    limit: int | None,
    out: str | None,
    json: bool,
) -> None:
    """Write the folder and say what it holds, and who reads it."""
    from stn_cli.cli.console import download_bar, print_json, progress_bar, stdout_console
    from stn_cli.datasets.build import build_scene, build_source
    from stn_cli.datasets.distorted import PREVIEW, Recipe, choose_format, write_distorted
    from stn_cli.datasets.manifest import MANIFEST, read_manifest
    from stn_cli.training.runtime import keep_freed_memory

    stop.cleans_up = True
    keep_freed_memory()
    with download_bar() as download:
        source = build_source(config.data, download)
    scene = build_scene(config.distortion, source)
    recipe = Recipe(
        dataset=source.name,
        distortion=config.distortion.model_dump(mode="json"),
        seed=config.seed,
        format=choose_format(file_format, scene),
        copies=copies,
        limit=limit,
    )
    kinds = [stage.kind for stage in getattr(config.distortion, "stages", [config.distortion])]
    folder = Path(out or f"data/{Path(config.data.dataset).name}-{'-'.join(kinds).lower()}")
    writing = write_distorted(source, scene, recipe, folder)
    with progress_bar() as bar, closing(writing):  # pyright: ignore[reportArgumentType] - its iterator is a generator
        task = bar.add_task(f"distorting {source.name}", total=None)
        for done, total in writing:
            bar.update(task, completed=done, total=total)
    if json:
        print_json({"out": str(folder), **read_manifest(folder)})
        return
    console = stdout_console()
    if recipe.format == "idx" and len(scene.shape) == 3:
        console.print(f"{folder}/MNIST/raw  for torchvision.datasets.MNIST({str(folder)!r})")
    elif recipe.format == "png":
        arguments = repr(str(folder / "train")) + (", allow_empty=True" if _has_an_empty_class(folder) else "")
        console.print(f"{folder}/train  for torchvision.datasets.ImageFolder({arguments}), and test")
    else:
        console.print(f"{folder}  {recipe.format}, samples of {'×'.join(map(str, scene.shape))}")
    console.print(f"{folder / MANIFEST}")
    console.print(f"{folder / PREVIEW}")
    if len(scene.shape) == 3:
        console.print(f"next: stn train --dataset {quote(str(folder))}")


def _has_an_empty_class(folder: Path) -> bool:
    return not all(any(each.iterdir()) for split in ("train", "test") for each in (folder / split).iterdir())


def _only_kind(kind: str | None, settings: "Sequence[str]", ranges: "Iterable[str]") -> str:
    """Return the kind of distortion.

    Raises:
        UsageError: there is none, or a second one among the settings, or it has no such range.
    """
    from stn_cli.config_distortion import DistortionConfig
    from stn_cli.errors import UsageError

    if kind is None or "=" in kind:
        raise UsageError("no kind of distortion is given", CHOICE)
    if kind.lower() == "none":
        raise UsageError("none distorts nothing", CHOICE)
    for setting in settings:
        if setting.partition("=")[0].strip() in ("distortion", "distortion.kind"):
            raise UsageError(f"{kind} and {setting} are two kinds of distortion", "Give one, and more with --compose.")
    kinds = {each.model_fields["kind"].default.lower(): each for each in get_args(get_args(DistortionConfig)[0])}
    own = kinds[kind.lower()].model_fields if kind.lower() in kinds else ranges  # of another kind the config tells
    if foreign := [_option(name) for name in ranges if name not in own]:
        taken = ", ".join(_option(name) for name in own if name not in ("kind", "stages"))
        raise UsageError(f"{kind} takes no {' and no '.join(foreign)}", f"It takes {taken}." if taken else "")
    return kind


def _refuse_idle_labels(config: "RunConfig") -> None:
    """Refuse labels for what brings its own."""
    from stn_cli.errors import UsageError

    dataset = config.data.dataset
    if config.data.labels is not None and (dataset in DATASETS or os.path.isdir(dataset)):
        raise UsageError(f"{dataset} has labels of its own", "Leave --labels out; it is for an IDX file of images.")


def _names(ranges: "Iterable[str]", settings: "Sequence[str]", compose: "Sequence[str]") -> dict[str, str]:
    """Return what settings are called on this command line, but for those that were given as settings."""
    from stn_cli.config_problems import shown

    typed = [setting.partition("=")[0].strip() for setting in settings]
    names = {options.KEYS[name]: _option(name) for name in ("dataset", "labels", "data_dir", "seed")}
    names |= {"distortion.kind": "KIND"} | {f"distortion.{name}": _option(name) for name in ranges}
    names = {name: called for name, called in names.items() if name not in typed}
    if not compose:
        return names
    first = names | {name: name for name in typed}
    stages = {name.replace("distortion.", "distortion.stages.0."): called for name, called in first.items()}
    for number, stage in enumerate(compose, 1):
        words = re.findall(r"\w+", stage)
        stages |= {f"distortion.stages.{number}.{word}": f"{word} of --compose {shown(stage)}" for word in words}
        stages |= {f"distortion.stages.{number}.kind": "--compose"}
    last = {f"distortion.{name}": f"{name} of --compose {shown(compose[-1])}" for name in ranges}
    return names | last | stages | {"distortion.stages": "--compose", "distortion:": "--compose:"}


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _distortion(kind: str, settings: list[str], compose: list[str]) -> list[str]:
    """Return the overrides for one kind with its settings, or for a chain of which it is the first."""
    if not compose:
        return [f"distortion.kind={kind}", *settings]
    own = [setting for setting in settings if setting.startswith("distortion.")]
    first = ", ".join(
        [f"kind: {kind}", *(": ".join(setting.removeprefix("distortion.").split("=", 1)) for setting in own)]
    )
    stages = [f"{{{first}}}", *(stage if stage.startswith("{") else f"{{kind: {stage}}}" for stage in compose)]
    others = [setting for setting in settings if setting not in own]
    return ["distortion.kind=chain", f"distortion.stages=[{', '.join(stages)}]", *others]


def _written(value: float | Range) -> str:
    return f"[{value[0]}, {value[1]}]" if isinstance(value, tuple) else str(value)


def _verify(folder: Path, json: bool) -> None:
    # Nothing here imports torch: the check of a folder takes less time than that.
    from stn_cli.cli.console import print_json, stdout_console
    from stn_cli.datasets.manifest import verify
    from stn_cli.errors import DataError

    if not os.path.isdir(folder):
        raise DataError(f"there is no folder {folder}", "Give one that `stn distort-dataset` wrote.")
    found = verify(folder)
    if json:
        print_json({"folder": str(folder), "files": found.files, "bytes": found.bytes})
    else:
        stdout_console().print(f"{folder}: {found.files:,} files, {found.bytes / 1e6:.1f} MB, all as they were written")
