"""stn eval: run → errors."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stn_cli.cli import options
from stn_cli.errors import UsageError
from stn_cli.names import SWEEPS

if TYPE_CHECKING:
    from rich.console import Console

    from stn_cli.training.evaluation import Evaluation
    from stn_cli.training.restore import TrainedRun


def evaluate_run(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run, by folder or name.")],
    settings: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Settings of data and distortion; with --sweep also more runs."),
    ] = None,
    undoing: Annotated[
        bool, typer.Option("--undoing", help="Also measure how far the transformer undoes the distortion.")
    ] = False,
    sweep: Annotated[
        str | None, typer.Option(help=f"{', '.join(SWEEPS)}: error against its strength.", metavar="KIND")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="With --sweep: how many strengths.")] = None,
    bounds: Annotated[
        tuple[float, float] | None, typer.Option("--range", help="With --sweep: of strengths.", metavar="LOW HIGH")
    ] = None,
    out: Annotated[
        str | None, typer.Option(help="With --sweep: folder for its files.  [default: <RUN>/plots]", metavar="DIR")
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

    --undoing compares the learned warps with what was truly done to the images. --sweep distorts all test images
    alike and in no other way, from one strength to the next, and writes CSV, SVG and PNG; several runs are compared.

    \b
    Examples:
      stn eval runs/digits-r-st-cnn-affine-seed0
      stn eval my-run --distortion E --json
      stn eval my-run distortion.rotation=[-180,180]
      stn eval my-run --undoing
      stn eval my-run my-cnn --sweep rotation
      stn eval my-run --sweep noise --range 0 0.5 --steps 6
    """
    others = [word for word in settings or [] if "=" not in word]
    _refuse_idle(undoing, sweep, others, {"--steps": steps, "--range": bounds, "--out": out})
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

    own = [word for word in settings or [] if "=" in word]
    refuse_other_settings(own, ("data", "distortion", "seed", "runtime"))
    from stn_cli.cli.console import download_bar
    from stn_cli.training.restore import open_trained
    from stn_cli.training.run_folder import find_run
    from stn_cli.training.runtime import keep_freed_memory

    keep_freed_memory()
    with download_bar() as download:
        folders = [find_run(name, runs_dir or "runs") for name in (run, *others)]
        opened = [open_trained(folder, options.which(checkpoint), said + own, download) for folder in folders]
    if sweep is not None:
        from stn_cli.cli.eval_sweep import sweep_runs

        sweep_runs(opened, sweep, steps, bounds, out, json=json)
    else:
        _evaluate(opened[0], checkpoint, undoing=undoing, json=json)


def _refuse_idle(undoing: bool, sweep: str | None, others: list[str], options: dict[str, Any]) -> None:
    """Refuse what would not be heeded. `options`: those of sweeps."""
    if sweep is None:
        given = [name for name, value in options.items() if value is not None]
        if given:
            raise UsageError(f"{given[0]} is for a sweep", f"Give --sweep too: {', '.join(SWEEPS)}.")
        if others:
            raise UsageError(
                f"{others[0]!r} is no setting, and only a sweep takes several runs", "Write key=value, or give --sweep."
            )
    elif undoing:
        raise UsageError("--undoing and --sweep are two measurements", "Give one of them.")
    elif sweep not in SWEEPS:
        raise UsageError(f"--sweep has no choice {sweep!r}", f"Choose from {', '.join(SWEEPS)}.")


def _evaluate(trained: "TrainedRun", checkpoint: str, *, undoing: bool, json: bool) -> None:
    from stn_cli.cli.console import print_json, stdout_console
    from stn_cli.cli.eval_undoing import measure, show_undoing
    from stn_cli.models.budget import count_parameters
    from stn_cli.training.evaluation import evaluate

    measured = measure(trained) if undoing else []
    result = evaluate(trained.network, trained.test, len(trained.classes), trained.runtime)
    report = {
        "run": str(trained.run.path),
        "checkpoint": checkpoint,
        "step": trained.step,
        "dataset": trained.config.data.dataset,
        "distortion": trained.config.distortion.model_dump(mode="json"),
        "seed": trained.config.seed,
        "error_percent": result.error_percent,
        "interval_percent": list(result.interval_percent),
        "loss": result.loss,
        "outside_percent": result.outside_percent,
        "outside_percents": result.outside_percents,
        "n": result.n,
        "parameters": count_parameters(trained.network),
        "precision": trained.runtime.precision,
        "device": str(trained.runtime.device),
        "class_errors_percent": dict(zip(trained.classes, result.class_errors_percent, strict=True)),
        "confusion": result.confusion.tolist(),
    }
    if undoing:
        report["undoing"] = [asdict(one) for one in measured]
    if json:
        print_json(report)
        return
    console = stdout_console()
    _show(report, result, trained.classes, console)
    show_undoing(measured, console)


def _show(report: dict[str, Any], result: "Evaluation", classes: tuple[str, ...], console: "Console") -> None:
    from rich.table import Table

    low, high = result.interval_percent
    console.print(f"run         {report['run']} ({report['checkpoint']}, step {report['step']:,})")
    console.print(f"data        {report['dataset']} under {report['distortion']['kind']}, seed {report['seed']}")
    console.print(f"test error  {result.error_percent:.2f} %  (95 % interval {low:.2f} to {high:.2f}, n {result.n:,})")
    console.print(f"parameters  {report['parameters']:,}")
    for name, percent in result.outside_percents.items():
        console.print(f"outside     {percent:.1f} % of the samples of the transformer at {name} lie outside its map")
    table = Table(title="confusion: true class by row, predicted class by column", title_justify="left")
    table.add_column("true")
    for name in classes:
        table.add_column(name, justify="right")
    table.add_column("error %", justify="right")
    for name, row, error in zip(classes, report["confusion"], result.class_errors_percent, strict=True):
        counts = [str(count) if count else "·" for count in row]
        table.add_row(name, *counts, "–" if error is None else f"{error:.2f}")
    console.print(table)
