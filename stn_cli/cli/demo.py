"""stn demo: with a transformer and without, side by side."""

import os
import shutil
import sys
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stn_cli.cli import options

if TYPE_CHECKING:
    from rich.console import Console

MODELS = ("cnn", "st-cnn")


def demo(
    epochs: Annotated[str | None, typer.Option(help="Passes over the digits.", metavar="NUMBER")] = None,
    runs_dir: options.RunsDir = None,
    seed: options.Seed = None,
    device: options.Device = None,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Train a CNN and an ST-CNN affine on the embedded digits under rotation, and compare their errors.

    \b
    Examples:
      stn demo
      stn demo --epochs 5 --seed 1
    """
    from stn_cli.cli.console import print_json, stdout_console
    from stn_cli.cli.train import DEFAULT, watch
    from stn_cli.config_files import load_config
    from stn_cli.training.loop import train
    from stn_cli.training.restore import open_trained
    from stn_cli.training.run_folder import RunFolder
    from stn_cli.training.runtime import keep_freed_memory
    from stn_cli.visualize.board import write_warps

    keep_freed_memory()
    results = {}
    for model in MODELS:
        said = options.overrides_from(model=model, epochs=epochs, runs_dir=runs_dir, seed=seed, device=device)
        config = load_config(DEFAULT, [*said, f"name=demo-{model}"])
        results[model] = watch(lambda download, config=config: train(config, overwrite=True, download=download))
    run = RunFolder(Path(results["st-cnn"]["run"]))
    pictures = [str(file) for file in write_warps(open_trained(run, "last", []), per_class=10)]
    if json:
        print_json({"results": results, "pictures": pictures})
    else:
        _show(results, run.path, pictures[0], stdout_console())


def _show(results: dict[str, dict[str, Any]], run: Path, picture: str, console: "Console") -> None:
    from rich.table import Table

    table = Table("model", "test error %", "95 % interval", "parameters", "images/s", "s")
    for model, result in results.items():
        low, high = result["test_interval_percent"]
        table.add_row(
            f"{model} {result['transform'] or ''}",
            f"{result['test_error_percent']:.2f}",
            f"{low:.2f} to {high:.2f}",
            f"{result['parameters']:,}",
            f"{result['images_per_second']:,.0f}",
            f"{result['train_seconds']:.0f}",
        )
    console.print("UCI digits turned by −90° to 90°, 500 test images")
    console.print(table)
    console.print(f"picture      {picture}  (input, sampling grid, output)")
    stn = "stn" if shutil.which("stn") else os.path.relpath(Path(sys.executable).parent / "stn")
    console.print(f"TensorBoard  {stn} visualize {quote(str(run))} --serve")
    console.print(f"next         {stn} train mnist/r   (real MNIST, some minutes on a CPU; downloads 11 MB)")
