"""stn visualize: run → pictures of its warps."""

from shlex import quote
from typing import Annotated

import typer

from stn_cli.cli import options


def visualize_run(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run, by folder or name.")],
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings of data and distortion.")
    ] = None,
    distortion: options.Distortion = None,
    dataset: options.Dataset = None,
    checkpoint: options.Checkpoint = "last",
    per_class: Annotated[int, typer.Option(min=1, max=100, help="Test images per class.")] = 10,
    serve: Annotated[bool, typer.Option("--serve", help="Then start TensorBoard and print its address.")] = False,
    port: Annotated[int, typer.Option(min=1, max=65535, help="First port tried.")] = 6006,
    device: options.Device = None,
    precision: options.Precision = None,
    runs_dir: options.RunsDir = None,
    data_dir: options.DataDir = None,
    offline: options.Offline = False,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Draw what a run's transformer does: input, sampling grid over it, output; as PNG and on TensorBoard.

    \b
    Examples:
      stn visualize runs/digits-r-st-cnn-affine-seed0
      stn visualize my-run --serve
      stn visualize my-run --distortion E
    """
    said = options.overrides_from(
        offline, dataset=dataset, data_dir=data_dir, distortion=distortion, device=device, precision=precision
    )
    from stn_cli.config_files import refuse_other_settings

    refuse_other_settings(settings or [], ("data", "distortion", "seed", "runtime"))
    from stn_cli.cli.console import download_bar, print_json, progress_bar, stdout_console
    from stn_cli.training.restore import open_trained
    from stn_cli.training.run_folder import find_run
    from stn_cli.visualize.board import write_warps

    with download_bar() as download:
        folder = find_run(run, runs_dir or "runs")
        trained = open_trained(folder, options.which(checkpoint), said + (settings or []), download)
    files = []
    with progress_bar() as bar:
        task = bar.add_task("drawing", total=len(trained.classes) + 1)
        for file in write_warps(trained, per_class):
            files.append(str(file))
            bar.advance(task)
    address = None
    if serve:
        from stn_cli.visualize.server import start_tensorboard

        address = start_tensorboard(folder.path, port)
    if json:
        print_json({"run": str(folder.path), "files": files, "address": address})
    else:
        console = stdout_console()
        for file in files:
            console.print(file)
        console.print(
            f"TensorBoard {address} (Ctrl-C stops it)" if address else f"next: stn visualize {quote(run)} --serve"
        )
    if serve:
        _wait_for_signal()


def _wait_for_signal() -> None:
    """Return at SIGINT or SIGTERM."""
    import sys
    import threading

    from stn_cli.training.interruption import Interruption

    sys.stdout.flush()
    with Interruption() as interruption:
        pause = threading.Event()
        while interruption.signal is None:
            pause.wait(0.2)
