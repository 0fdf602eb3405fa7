"""stn train: configuration → run."""

import os
import time
from contextlib import suppress
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stn_cli.cli import options

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from stn_cli.cli.console import Download
    from stn_cli.training.events import Event
    from stn_cli.training.trace import Traced

DEFAULT = "digits/r"
SAY_EVERY = 30.0  # seconds between two lines of progress where there is no terminal for a bar


def train_run(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="[CONFIG] [KEY=VALUE]...", help="A config (see `stn list configs`) and settings."),
    ] = None,
    dataset: options.Dataset = None,
    distortion: options.Distortion = None,
    model: options.Model = None,
    transform: options.Transform = None,
    epochs: options.Epochs = None,
    iterations: options.Iterations = None,
    recipe: options.Recipe = None,
    seed: options.Seed = None,
    device: options.Device = None,
    precision: options.Precision = None,
    name: Annotated[str | None, typer.Option(help="Of the run's folder.  [default: made from the settings]")] = None,
    runs_dir: options.RunsDir = None,
    data_dir: options.DataDir = None,
    offline: options.Offline = False,
    resume: Annotated[str | None, typer.Option(help="Go on with a run, by folder or name.", metavar="RUN")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a run of the same name.")] = False,
    seeds: Annotated[
        str | None, typer.Option(help="Several runs, side by side: 0,1,2 or 0-4.", metavar="SEEDS")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1, help="The most of them at once.  [default: one per CPU core, or 8 on a GPU]", metavar="NUMBER"
        ),
    ] = None,
    profile: Annotated[
        bool, typer.Option("--profile", help="Write a trace of ten steps, for Perfetto, to the run's folder.")
    ] = False,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Train a network and evaluate it on the test set.

    Without a config: ST-CNN affine on the embedded digits under rotation.

    \b
    Examples:
      stn train
      stn train mnist/r --transform tps
      stn train mnist/rts --model cnn --seed 1
      stn train mnist/r --seeds 0-4
      stn train mnist/e train.batch_size=64 distortion.canvas=42
      stn train 'model.transformers=[{at: input, transform: tps}, {at: conv2}]'
      stn train --resume runs/digits-r-st-cnn-affine-seed0
      stn train mnist/r --epochs 1 --profile
      torchrun --nproc-per-node 2 -m stn_cli train mnist/r
    """
    from stn_cli.errors import UsageError

    if epochs is not None and iterations is not None:
        raise UsageError("--epochs and --iterations are two lengths of one run", "Give one of them.")
    if resume is not None and (overwrite or name is not None or any("=" not in a for a in arguments or [])):
        raise UsageError(
            "--resume goes on with a run's own config and folder", "Leave the config, --name and --overwrite out."
        )
    if seeds is not None and (seed is not None or resume is not None):
        raise UsageError("--seeds begins new runs, one per seed", "Leave --seed and --resume out.")
    if seeds is None and workers is not None:
        raise UsageError("--workers is for several runs", "Give --seeds too.")
    if seeds is not None and profile:
        raise UsageError("--profile is for a single run", "Leave --seeds out.")
    said = options.overrides_from(
        offline,
        recipe=recipe,
        dataset=dataset,
        data_dir=data_dir,
        distortion=distortion,
        model=model,
        transform=transform,
        epochs=epochs,
        iterations=iterations,
        seed=seed,
        device=device,
        precision=precision,
        name=name,
        runs_dir=runs_dir,
    )
    from stn_cli.cli.console import print_json, stdout_console
    from stn_cli.compiled.compiler import begin
    from stn_cli.config_files import load_config
    from stn_cli.experiments.choose import may_have_gpu

    if seeds is not None:
        from stn_cli.cli.seeds import configs_of, parse_seeds, train_seeds

        configs = configs_of(parse_seeds(seeds), *split_arguments(arguments or [], said))
        train_seeds(configs, workers, overwrite=overwrite, json=json)
        return
    # Before torch is imported, which takes two seconds: a typo is answered at once.
    config = load_config(*split_arguments(arguments or [], said)) if resume is None else None
    if config is not None and _may_compile(config) and not may_have_gpu():
        begin()  # beside the import of torch
    from stn_cli.training.loop import train
    from stn_cli.training.runtime import keep_freed_memory
    from stn_cli.training.trace import traced

    keep_freed_memory()

    def start(download: "Download") -> "Iterable[Event]":
        if config is not None:
            return train(config, overwrite=overwrite, download=download, stepwise=profile)
        return _resume(str(resume), runs_dir or "runs", said + (arguments or []), download, stepwise=profile)

    summary = watch((lambda download: traced(start(download))) if profile else start)
    if json:
        print_json(summary)
    else:
        _show(summary, stdout_console())


def watch(start: "Callable[[Download], Iterable[Event | Traced]]") -> dict[str, Any]:
    """Show a run's events as they come and return its summary.

    `start`: begins the run; it is given what shows its downloads.

    Raises:
        typer.Exit: the run was interrupted, the code is 128 + the signal's number; or this process only followed it.
    """
    from stn_cli.cli.console import progress_bar, show_downloads
    from stn_cli.cli.faults import write_crash_log
    from stn_cli.training.events import Collapsed, Finished, Followed, Interrupted, Started, Trained, Validated
    from stn_cli.training.trace import Traced

    run, task, said = None, None, time.monotonic()
    with progress_bar("state") as bar:
        err = bar.console  # lines of another console would land in the bar
        try:
            for event in start(show_downloads(bar)):
                match event:
                    case Started(run=run):
                        _announce(event, err)
                        task = bar.add_task("training", total=event.total, completed=event.step, state="")
                    case Trained() if task is not None:
                        state = f"loss {event.loss:.3f}  error {event.error_percent:.2f} %"
                        speed = f"{event.images_per_second:,.0f} images/s"
                        bar.update(task, completed=event.step, state=f"{state}  {speed}")
                        if bar.disable and time.monotonic() - said > SAY_EVERY:
                            err.print(f"step {event.step:>7,}  {state}  {speed}")
                            said = time.monotonic()
                    case Validated():
                        err.print(f"step {event.step:>7,}  validation error {event.error_percent:.2f} %")
                    case Collapsed() | Traced():
                        _tell(event, err)
                    case Interrupted():
                        err.print(
                            f"saved at step {event.step:,}. Go on with: stn train --resume {quote(str(event.run))}"
                        )
                        raise typer.Exit(128 + event.signal)
                    case Finished(summary=summary):
                        return summary
                    case Followed():  # rank 0 says the rest
                        raise typer.Exit(128 + event.signal if event.signal else 0)
        except typer.Exit:
            raise
        except Exception as error:
            if run is not None:
                with suppress(OSError):  # on a full disk the error itself says more than the loss of its traceback
                    write_crash_log(run, error)
            raise
    raise AssertionError("a run ends with Finished or Interrupted")


def _tell(event: Any, console: Any) -> None:
    """Say where a trace lies, or which transformers have run away from their images and what was or can be done."""
    if not hasattr(event, "faults"):
        console.print(f"trace       {event.path}  (to be opened at https://ui.perfetto.dev)")
        return
    for fault in event.faults:
        console.print(f"warning: step {event.step:,}: {fault}")
    if event.back_to is not None:
        console.print(f"back to the weights of step {event.back_to:,}, localisation at a tenth of its rate")
    else:
        console.print("lower train.localisation_rate, or set train.bounds_penalty=1 or train.roll_back=true")


def split_arguments(arguments: list[str], said: list[str]) -> tuple[str | None, list[str]]:
    """Return the config's name and all overrides; without a config, the digits train by their shipped one."""
    from stn_cli.errors import UsageError

    names = [argument for argument in arguments if "=" not in argument]
    overrides = said + [argument for argument in arguments if "=" in argument]
    if len(names) > 1:
        raise UsageError(f"one config at a time, not {' and '.join(names)}", "Write settings as key=value.")
    if names:
        return names[0], overrides
    other_data = any(o.startswith("data.dataset=") and o.lower() != "data.dataset=digits" for o in overrides)
    return (None if other_data else DEFAULT), overrides


def _may_compile(config: Any) -> bool:
    """Return whether a run will look for compiled kernels: FCNs have no convolutions, several processes no trial."""
    ways, fully_connected = config.runtime.convolutions, config.model.name == "fcn"
    alone = os.environ.get("WORLD_SIZE", "1") == "1"
    return not fully_connected and ("compiled" in ways or (ways == "auto" and alone))


def _resume(
    name: str, runs_dir: str, overrides: list[str], download: "Download", *, stepwise: bool
) -> "Iterable[Event]":
    from stn_cli.cli.console import stderr_console
    from stn_cli.training.loop import train
    from stn_cli.training.restore import open_to_resume
    from stn_cli.training.run_folder import find_run

    run = find_run(name, runs_dir)
    config, checkpoint, passed = open_to_resume(run, overrides)
    for line in passed:
        stderr_console().print(f"warning: {line}; going on from an older checkpoint")
    return train(config, resume=(run, checkpoint), download=download, stepwise=stepwise)


def _announce(event: Any, console: Any) -> None:
    widths = "-".join(map(str, event.widths))
    console.print(f"run         {event.run}")
    console.print(f"parameters  {event.parameters:,} (classifier {widths})")
    console.print(f"runtime     {event.runtime}")
    if event.step == event.total:
        console.print(f"finished    all {event.total:,} steps are done; for more, give --epochs or --iterations")
    elif event.step:
        console.print(f"going on    after step {event.step:,} of {event.total:,}")


def _show(summary: dict[str, Any], console: Any) -> None:
    low, high = summary["test_interval_percent"]
    interval = f"95 % interval {low:.2f} to {high:.2f}, n {summary['n']:,}"
    console.print(f"test error  {summary['test_error_percent']:.2f} %  ({interval})")
    console.print(f"speed       {summary['images_per_second']:,.0f} images/s, {summary['train_seconds']:.0f} s")
    console.print(f"next        stn eval {quote(summary['run'])}")
    console.print(f"            stn visualize {quote(summary['run'])} --serve")
