"""stn visualize: run → pictures of its warps, still and moving, and its curves."""

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from stn_cli.cli import options

if TYPE_CHECKING:
    from stn_cli.training.restore import TrainedRun


def visualize_run(
    run: Annotated[
        str | None, typer.Argument(metavar="RUN", help="A run, by folder or name; none with --serve for all of them.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings of data and distortion.")
    ] = None,
    distortion: options.Distortion = None,
    dataset: options.Dataset = None,
    checkpoint: options.Checkpoint = "last",
    per_class: Annotated[int, typer.Option(min=1, max=100, help="Test images per class.")] = 10,
    image: Annotated[
        list[Path] | None,
        typer.Option("--image", help="An image of your own, PNG or JPEG, instead; several times too.", metavar="FILE"),
    ] = None,
    invert: Annotated[bool, typer.Option("--invert", help="The image is dark on bright.")] = False,
    pdf: Annotated[bool, typer.Option("--pdf", help="Curves as PDF too, not as SVG alone.")] = False,
    serve: Annotated[bool, typer.Option("--serve", help="Then start TensorBoard and open a browser.")] = False,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open one, where there is one.")] = True,
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

    So too the worst errors, the mean images of classes and the confusion matrix. Test images that turn and the warps
    over the training are GIFs, the curves SVG. With --image, what the run reads in an image of your own instead, and
    the way from the identity to its warp.

    \b
    Examples:
      stn visualize runs/digits-r-st-cnn-affine-seed0
      stn visualize my-run --serve
      stn visualize --serve
      stn visualize my-run --distortion E
      stn visualize my-run --image my.png --invert
    """
    said = options.overrides_from(
        offline, dataset=dataset, data_dir=data_dir, distortion=distortion, device=device, precision=precision
    )
    from stn_cli.config_files import refuse_other_settings
    from stn_cli.errors import UsageError

    refuse_other_settings(settings or [], ("data", "distortion", "seed", "runtime"))
    if run is None:
        if serve and (image or invert or pdf or distortion or dataset or device or precision):
            raise UsageError("--serve without a RUN draws nothing", "Name a RUN, or leave the other options out.")
        _serve_all(Path(runs_dir or "runs"), port, serve=serve, browser=browser, json=json)
        return
    from stn_cli.cli.console import download_bar, print_json, stdout_console
    from stn_cli.cli.visualize_image import show_images, visualize_images
    from stn_cli.training.restore import open_trained
    from stn_cli.training.run_folder import find_run

    if invert and not image:
        raise UsageError("--invert is for --image", "Give an image, or leave it out.")
    if pdf and image:
        raise UsageError("--pdf is for the curves, which --image leaves out", "Leave one of them out.")
    with download_bar() as download:
        folder = find_run(run, runs_dir or "runs")
        trained = open_trained(folder, options.which(checkpoint), said + (settings or []), download)
    images = visualize_images(trained, image, invert=invert) if image else []
    files = [] if image else _draw(trained, per_class, pdf=pdf)
    address = None
    if serve:
        from stn_cli.visualize.server import start_tensorboard

        address = start_tensorboard(folder.path, port)
    if json:
        result = {"images": images} if image else {"files": files}
        print_json({"run": str(folder.path), **result, "address": address})
    else:
        console = stdout_console()
        show_images(images)
        for file in files:
            console.print(file)
        console.print(
            f"TensorBoard {address} (Ctrl-C stops it)" if address else f"next: stn visualize {quote(run)} --serve"
        )
    if address is not None:
        _show_until_signal(address, browser=browser and not json)


def _draw(trained: "TrainedRun", per_class: int, *, pdf: bool) -> list[str]:
    """Write all pictures, films and curves of a run; return the files."""
    from stn_cli.cli.console import progress_bar
    from stn_cli.training.logger import read_metrics
    from stn_cli.visualize.board import write_warps
    from stn_cli.visualize.curve_files import write_curves
    from stn_cli.visualize.films import write_films

    run, files = trained.run, list[str]()
    curves = write_curves(read_metrics(run.metrics), run.plots, pdf=pdf)  # first, since it may ask for fpdf2
    with progress_bar() as bar:
        task = bar.add_task("drawing", total=len(trained.classes) + 6)
        for written in (write_warps(trained, per_class), write_films(trained)):
            for file in written:
                files.append(str(file))
                bar.advance(task)
    return [*files, *map(str, curves)]


def _serve_all(runs: Path, port: int, *, serve: bool, browser: bool, json: bool) -> None:
    """Start TensorBoard on all runs in a folder, side by side."""
    from stn_cli.cli.console import print_json, stdout_console
    from stn_cli.errors import CheckpointError, UsageError

    if not serve:
        raise UsageError("there is no RUN to draw", "Name one (see `stn list runs`), or add --serve to look at all.")
    from stn_cli.training.run_folder import list_runs
    from stn_cli.visualize.server import start_tensorboard

    if not list_runs(str(runs)):
        raise CheckpointError(f"there is no run in {runs}", "Begin one with `stn train`, or give --runs-dir.")
    address = start_tensorboard(runs, port)
    if json:
        print_json({"runs_dir": str(runs), "address": address})
    else:
        stdout_console().print(f"TensorBoard {address} (Ctrl-C stops it)")
    _show_until_signal(address, browser=browser and not json)


def _show_until_signal(address: str, *, browser: bool) -> None:
    """Open a browser, if wanted, and return at SIGINT or SIGTERM."""
    import sys
    import threading

    from stn_cli.training.interruption import Interruption
    from stn_cli.visualize.server import open_browser

    sys.stdout.flush()
    with Interruption() as interruption:
        if browser:
            open_browser(address)
        pause = threading.Event()
        while interruption.signal is None:
            pause.wait(0.2)
