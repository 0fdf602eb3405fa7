"""stn distort-dataset: dataset → folder of distorted images with their true parameters."""

from shlex import quote
from typing import Annotated

import typer

from stn_cli.cli import options


def distort_dataset(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="R, RTS, P or E.")],
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings of the distortion.")
    ] = None,
    dataset: Annotated[str, typer.Option(help="A name (see `stn list datasets`), or a folder of images.")] = "digits",
    out: Annotated[str | None, typer.Option(help="Folder to write.  [default: data/<dataset>-<kind>]")] = None,
    seed: options.Seed = None,
    data_dir: options.DataDir = None,
    offline: options.Offline = False,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Write both splits of a dataset, distorted once and for all, with their true parameters.

    IDX files as torchvision.datasets.MNIST reads them, parameters as safetensors, a manifest and a preview PNG.

    \b
    Examples:
      stn distort-dataset R
      stn distort-dataset RTS --dataset mnist --out data/mnist-rts --seed 1
      stn distort-dataset E distortion.control_point_sigma=3
    """
    from stn_cli.config_files import load_config, refuse_other_settings

    refuse_other_settings(settings or [], ("data", "distortion", "seed"))
    said = options.overrides_from(offline, dataset=dataset, data_dir=data_dir, distortion=kind, seed=seed)
    config = load_config(None, said + (settings or []))
    from pathlib import Path

    from stn_cli.cli.console import download_bar, print_json, progress_bar, stdout_console
    from stn_cli.datasets.build import build_source
    from stn_cli.datasets.distorted import MANIFEST, PREVIEW, Recipe, read_manifest, write_distorted
    from stn_cli.distortions.build import build_distortion
    from stn_cli.errors import UsageError

    distortion = build_distortion(config.distortion)
    if distortion is None:
        raise UsageError("none distorts nothing", "Choose from R, RTS, P, E.")
    folder = Path(out or f"data/{Path(config.data.dataset).name}-{config.distortion.kind.lower()}")
    with download_bar() as download:
        source = build_source(config.data, download)
    recipe = Recipe(config.data.dataset, config.distortion.model_dump(mode="json"), config.seed)
    with progress_bar() as bar:
        task = bar.add_task(f"distorting {source.name}", total=None)
        for done, total in write_distorted(source, distortion, recipe, folder):
            bar.update(task, completed=done, total=total)
    if json:
        print_json({"out": str(folder), **read_manifest(folder)})
    else:
        console = stdout_console()
        console.print(f"{folder}/MNIST/raw  for torchvision.datasets.MNIST({str(folder)!r})")
        console.print(f"{folder / MANIFEST}")
        console.print(f"{folder / PREVIEW}")
        console.print(f"next: stn train --dataset {quote(str(folder))}")
