"""stn eval: run → errors."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from stn_cli.cli import options

if TYPE_CHECKING:
    from stn_cli.training.evaluation import Evaluation


def evaluate_run(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run, by folder or name.")],
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings of data and distortion.")
    ] = None,
    distortion: options.Distortion = None,
    dataset: options.Dataset = None,
    checkpoint: options.Checkpoint = "last",
    seed: options.Seed = None,
    device: options.Device = None,
    precision: options.Precision = None,
    runs_dir: options.RunsDir = None,
    data_dir: options.DataDir = None,
    offline: options.Offline = False,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Evaluate a run on the test set, under its own distortion or another.

    \b
    Examples:
      stn eval runs/digits-r-st-cnn-affine-seed0
      stn eval my-run --distortion E --json
      stn eval my-run distortion.rotation=[-180,180]
    """
    said = options.overrides_from(
        offline,
        dataset=dataset,
        data_dir=data_dir,
        distortion=distortion,
        seed=seed,
        device=device,
        precision=precision,
    )
    from stn_cli.config_files import refuse_other_settings

    refuse_other_settings(settings or [], ("data", "distortion", "seed", "runtime"))
    from stn_cli.cli.console import download_bar, print_json, stdout_console
    from stn_cli.models.budget import count_parameters
    from stn_cli.training.evaluation import evaluate
    from stn_cli.training.restore import open_trained
    from stn_cli.training.run_folder import find_run
    from stn_cli.training.runtime import keep_freed_memory

    keep_freed_memory()
    with download_bar() as download:
        folder = find_run(run, runs_dir or "runs")
        trained = open_trained(folder, options.which(checkpoint), said + (settings or []), download)
    result = evaluate(trained.network, trained.test, len(trained.classes), trained.runtime)
    report = {
        "run": str(folder.path),
        "checkpoint": checkpoint,
        "step": trained.step,
        "dataset": trained.config.data.dataset,
        "distortion": trained.config.distortion.model_dump(mode="json"),
        "seed": trained.config.seed,
        "error_percent": result.error_percent,
        "interval_percent": list(result.interval_percent),
        "loss": result.loss,
        "outside_percent": result.outside_percent,
        "n": result.n,
        "parameters": count_parameters(trained.network),
        "precision": trained.runtime.precision,
        "device": str(trained.runtime.device),
        "class_errors_percent": dict(zip(trained.classes, result.class_errors_percent, strict=True)),
        "confusion": result.confusion.tolist(),
    }
    if json:
        print_json(report)
    else:
        _show(report, result, trained.classes, stdout_console())


def _show(report: dict[str, Any], result: "Evaluation", classes: tuple[str, ...], console: Any) -> None:
    from rich.table import Table

    low, high = result.interval_percent
    console.print(f"run         {report['run']} ({report['checkpoint']}, step {report['step']:,})")
    console.print(f"data        {report['dataset']} under {report['distortion']['kind']}, seed {report['seed']}")
    console.print(f"test error  {result.error_percent:.2f} %  (95 % interval {low:.2f} to {high:.2f}, n {result.n:,})")
    console.print(f"parameters  {report['parameters']:,}")
    if result.outside_percent is not None:
        console.print(f"outside     {result.outside_percent:.1f} % of the transformer's samples lie outside the image")
    table = Table(title="confusion: true class by row, predicted class by column", title_justify="left")
    table.add_column("true")
    for name in classes:
        table.add_column(name, justify="right")
    table.add_column("error %", justify="right")
    for name, row, error in zip(classes, report["confusion"], result.class_errors_percent, strict=True):
        counts = [str(count) if count else "·" for count in row]
        table.add_row(name, *counts, "–" if error is None else f"{error:.2f}")
    console.print(table)
