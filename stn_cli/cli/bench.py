"""stn bench: how fast this machine trains which model on which distortion."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from stn_cli.cli import options

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import Console

    from stn_cli.config import RunConfig
    from stn_cli.training.speed import Speed

MODELS = "cnn,st-cnn"
DISTORTIONS = "R,RTS,P,E"
PRECISIONS = "bf16,float32"
CHOSEN_BY_OPTION = {
    "model": "--models",
    "model.name": "--models",
    "distortion": "--distortions",
    "distortion.kind": "--distortions",
    "runtime.precision": "--precisions",
}


def bench(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="[CONFIG] [KEY=VALUE]...", help="A config (see `stn list configs`) and settings."),
    ] = None,
    models: Annotated[
        str | None, typer.Option(help=f"With commas between.  [default: {MODELS}; the config's, where one is given]")
    ] = None,
    distortions: Annotated[
        str | None, typer.Option(help=f"Likewise.  [default: {DISTORTIONS}; the config's, where one is given]")
    ] = None,
    precisions: Annotated[
        str | None, typer.Option(help=f"Likewise.  [default: {PRECISIONS}; the config's, where one is given]")
    ] = None,
    dataset: Annotated[
        str, typer.Option(help="A name, a folder or an IDX file; repeated where it is smaller than a batch.")
    ] = "digits",
    device: options.Device = None,
    seconds: Annotated[
        float, typer.Option(min=0.01, max=3600, help="For each line of the table, after a warm-up.", metavar="NUMBER")
    ] = 2.0,
    data_dir: options.DataDir = None,
    offline: options.Offline = False,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Measure how fast models train here: the very steps of `stn train`, on the embedded digits.

    The % of peak are of the most operations a second that a product of square matrices, or on a CPU a loop in its
    registers, reaches in the same precision with as many threads.

    \b
    Examples:
      stn bench
      stn bench --models st-cnn --distortions R --precisions bf16 train.batch_size=256
      stn bench mnist/rts --seconds 5
      stn bench --precisions float32 runtime.threads=1 --json
    """
    said = options.overrides_from(offline, dataset=dataset, device=device, data_dir=data_dir)
    configs = configs_of(arguments or [], said, models, distortions, precisions)
    from stn_cli.cli.console import print_json, progress_bar, show_downloads, stdout_console
    from stn_cli.datasets.build import build_source
    from stn_cli.training.run_folder import describe_environment
    from stn_cli.training.runtime import keep_freed_memory
    from stn_cli.training.speed import measure_peak, measure_speed

    keep_freed_memory()
    speeds: list[Speed] = []
    with progress_bar("state") as bar:
        source = build_source(configs[0].data, show_downloads(bar))
        task = bar.add_task("measuring", total=len(configs), state="")
        for config in configs:
            bar.update(task, state=f"{_model(config)} {config.distortion.kind} {config.runtime.precision}")
            speeds.append(measure_speed(config, source, seconds))
            bar.advance(task)
        used = dict.fromkeys(speed.runtime.precision for speed in speeds)
        peaks = {precision: measure_peak(speeds[0].runtime.device, precision) for precision in used}
    report = {
        "environment": describe_environment() | {"device": str(speeds[0].runtime.device)},
        "dataset": configs[0].data.dataset,
        "batch_size": configs[0].train.batch_size,
        "seconds": seconds,
        "peak_gflop_per_second": {precision: peak / 1e9 for precision, peak in peaks.items()},
        "rows": [_row(config, speed, peaks) for config, speed in zip(configs, speeds, strict=True)],
    }
    if json:
        print_json(report)
    else:
        _show(report, stdout_console())


def configs_of(
    arguments: list[str], said: list[str], models: str | None, distortions: str | None, precisions: str | None
) -> "list[RunConfig]":
    """Return a configuration for each line of the table: every model with every distortion in every precision.

    Raises:
        UsageError: as for `stn train`, or a setting decides what an option lists.
    """
    from stn_cli.config_files import load_config
    from stn_cli.errors import UsageError

    names = [argument for argument in arguments if "=" not in argument]
    settings = [argument for argument in arguments if "=" in argument]
    if len(names) > 1:
        raise UsageError(f"one config at a time, not {' and '.join(names)}", "Write settings as key=value.")
    for setting in settings:
        key = setting.partition("=")[0].strip()
        if key in CHOSEN_BY_OPTION:
            raise UsageError(f"{setting} sets what the table lists", f"Give it with {CHOSEN_BY_OPTION[key]}.")
    name = names[0] if names else None
    lists = (("model.name", models, MODELS), ("distortion.kind", distortions, DISTORTIONS))
    lists = (*lists, ("runtime.precision", precisions, PRECISIONS))
    choices = [_choices(key, given, None if name else default) for key, given, default in lists]
    return [
        load_config(name, [*said, *model, *distortion, *precision, *settings])
        for model in choices[0]
        for distortion in choices[1]
        for precision in choices[2]
    ]


def _choices(key: str, given: str | None, default: str | None) -> "Iterable[list[str]]":
    """Return the overrides for each of the values listed; a single empty one where the config decides."""
    listed = default if given is None else given
    return [[]] if listed is None else [[f"{key}={value.strip()}"] for value in listed.split(",")]


def _model(config: "RunConfig") -> str:
    return config.model.name + (f" {config.model.transform}" if config.model.transform else "")


def _row(config: "RunConfig", speed: "Speed", peaks: dict[str, float]) -> dict[str, Any]:
    return {
        "model": config.model.name,
        "transform": config.model.transform,
        "distortion": config.distortion.kind,
        "precision": speed.runtime.precision,
        "images_per_second": speed.images_per_second._asdict(),
        "steps_per_second": 1 / speed.step_seconds.median,
        "step_milliseconds": {name: 1000 * value for name, value in speed.step_seconds._asdict().items()},
        "gflop_per_step": speed.operations / 1e9,
        "peak_percent": 100 * speed.operations_per_second / peaks[speed.runtime.precision],
        "peak_memory_bytes": speed.peak_bytes,
        "parameters": speed.parameters,
        "widths": list(speed.widths),
        "runtime": speed.runtime.reason,
    }


def _show(report: dict[str, Any], console: "Console") -> None:
    from rich.table import Table

    machine = report["environment"]
    gpu = machine["gpu"] or "no GPU"
    peaks = ", ".join(f"{name} {peak:,.0f} GFLOP/s" for name, peak in report["peak_gflop_per_second"].items())
    console.print(f"machine  {machine['cpu']}, {machine['threads']} threads; {gpu}; torch {machine['torch']}")
    console.print(f"peak     {peaks} on {machine['device']}")
    console.print(f"data     {report['dataset']}, batches of {report['batch_size']}")
    table = Table("model", "distortion", "precision")
    for heading in ("images/s", "least to most", "ms/step", "GFLOP/step", "% of peak", "memory, MB"):
        table.add_column(heading, justify="right")
    for row in report["rows"]:
        speed, memory = row["images_per_second"], row["peak_memory_bytes"]
        table.add_row(
            f"{row['model']} {row['transform'] or ''}".rstrip(),
            row["distortion"],
            row["precision"],
            f"{speed['median']:,.0f}",
            f"{speed['low']:,.0f} to {speed['high']:,.0f}",
            f"{row['step_milliseconds']['median']:,.2f}",
            f"{row['gflop_per_step']:,.2f}",
            f"{row['peak_percent']:.1f}",
            "–" if memory is None else f"{memory / 1e6:,.0f}",
        )
    console.print(table)
