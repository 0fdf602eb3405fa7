"""stn list: what there is to choose from."""

from typing import Annotated, Any

import typer

from stn_cli.cli import options

KINDS = ("models", "transforms", "distortions", "datasets", "configs", "runs")
MEANING = {
    "fcn": "two hidden fully connected layers",
    "cnn": "two convolutions with max-pooling",
    "st-fcn": "a spatial transformer, then the FCN",
    "st-cnn": "a spatial transformer, then the CNN",
    "attention": "scale and translation, 3 parameters",
    "similarity": "rotation, scale and translation, 4 parameters",
    "affine": "any affine map, 6 parameters",
    "projective": "any homography, 8 parameters",
    "tps": "a thin plate spline with 16 control points, 32 parameters",
    "none": "images as they are",
    "R": "rotation, −90° to 90°",
    "RTS": "rotation −45° to 45°, scale 0.7 to 1.2, a random place in 42×42",
    "P": "projective: scale 0.75 to 1, corners moved by N(0, 5 px)",
    "E": "elastic: scale 0.75 to 1, 16 control points moved by N(0, 1.5 px)",
    "T": "a random place in 84×84",
    "TC": "a random place in 60×60, among six 6×6 pieces of other digits",
    "addition": "two digits, each under RTS in a channel of its own; the class is their sum",
    "volume": "an extruded digit at a random place in 60×60×60",
    "chain": "several of these one after another, `distortion.stages=[{kind: R}, {kind: E}]`",
    "digits": "UCI handwritten digits, 1,797 images of 10 classes, embedded",
    "mnist": "MNIST, 60,000 + 10,000 images of 10 classes; like all below downloaded at first use",
    "fashion-mnist": "clothes, 60,000 + 10,000, 10 classes",
    "kmnist": "cursive hiragana, 60,000 + 10,000, 10 classes",
    "emnist-balanced": "digits and letters, 112,800 + 18,800, 47 classes (one download of 562 MB for all emnist-*)",
    "emnist-byclass": "digits and letters, 697,932 + 116,323, 62 classes",
    "emnist-bymerge": "the same images, 47 classes",
    "emnist-letters": "letters, 124,800 + 20,800, 26 classes",
    "emnist-digits": "digits, 240,000 + 40,000, 10 classes",
    "emnist-mnist": "digits, 60,000 + 10,000, 10 classes",
    "qmnist": "MNIST's digits prepared anew, 60,000 + MNIST's 10,000 test digits",
    "qmnist-50k": "the same training images, and the 50,000 test digits that MNIST left out",
}


def list_names(
    what: Annotated[str | None, typer.Argument(help=f"{', '.join(KINDS)}.  [default: all]")] = None,
    runs_dir: options.RunsDir = None,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """List models, transforms, distortions, datasets, configs and runs.

    \b
    Examples:
      stn list
      stn list configs
      stn list runs --json
    """
    from stn_cli.errors import UsageError

    if what is not None and what not in KINDS:
        raise UsageError(f"there is no list of {what!r}", f"Choose from {', '.join(KINDS)}.")
    from stn_cli.cli.console import print_json, stdout_console

    listed = {kind: _entries(kind, runs_dir or "runs") for kind in ([what] if what else KINDS)}
    if json:
        print_json(listed)
        return
    console = stdout_console()
    for kind, entries in listed.items():
        console.print(kind, style="bold")
        width = max((len(entry["name"]) for entry in entries), default=0)
        for entry in entries:
            console.print(f"  {entry['name']:<{width}}  {entry['description']}".rstrip(), markup=False)
        if not entries:
            console.print("  none yet")


def _entries(kind: str, runs_dir: str) -> list[dict[str, Any]]:
    from stn_cli import names

    if kind == "configs":
        return _configs()
    if kind == "runs":
        return _runs(runs_dir)
    return [{"name": name, "description": MEANING[name]} for name in getattr(names, kind.upper())]


def _configs() -> list[dict[str, Any]]:
    from stn_cli.config_files import find_config, shipped_configs

    entries = []
    for name in shipped_configs():
        first = find_config(name).read_text(encoding="utf-8").splitlines()[0]
        entries.append({"name": name, "description": first.removeprefix("#").strip()})
    return entries


def _runs(runs_dir: str) -> list[dict[str, Any]]:
    from stn_cli.errors import CheckpointError
    from stn_cli.training.run_folder import list_runs

    entries = []
    for run in list_runs(runs_dir):
        error = None
        try:
            summary = run.read_summary()
        except CheckpointError as fault:
            description = str(fault)
        else:
            error = summary and summary["test_error_percent"]
            description = "not finished" if error is None else f"test error {error:.2f} %"
        entries.append({"name": run.path.name, "description": description, "test_error_percent": error})
    return entries
