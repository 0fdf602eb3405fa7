"""Test errors on real MNIST: CNN against ST-CNN affine, projective and TPS, quick recipe, under R, RTS, P and E.

    STN_DATA=… python benchmarks/errors.py [--epochs 12] [--seeds 1] [--distortions R,RTS,P,E] [--parallel 1]

Each run is the command `stn train mnist/<kind> --model … --transform …`, its figures are those it reports itself.
`--parallel 2` runs two at a time with one thread each: the errors stand, the speeds then mean nothing.
Finished cells are read from `--runs-dir`, so an interrupted benchmark goes on; after a change to the code, start
with an empty one. Writes results/errors.json.
"""

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from stn_cli.training.run_folder import describe_environment

RESULTS = Path(__file__).parent / "results" / "errors.json"
MODELS = (("cnn", None), ("st-cnn", "affine"), ("st-cnn", "projective"), ("st-cnn", "tps"))
PAPER = {
    "R": {None: 1.2, "affine": 0.7, "projective": 0.8, "tps": 0.7},
    "RTS": {None: 0.8, "affine": 0.5, "projective": 0.6, "tps": 0.5},
    "P": {None: 1.5, "affine": 0.8, "projective": 0.8, "tps": 0.8},
    "E": {None: 1.4, "affine": 1.2, "projective": 1.3, "tps": 1.1},
}


def run_cell(kind: str, model: str, transform: str | None, seed: int, options: argparse.Namespace) -> dict[str, object]:
    """Train one cell, or read it where it was trained before, and return its summary."""
    name = f"{kind}-{model}{f'-{transform}' if transform else ''}-{options.epochs}-seed{seed}"
    summary = Path(options.runs_dir) / name / "summary.json"
    if not summary.is_file():
        command = [sys.executable, "-m", "stn_cli", "train", f"mnist/{kind.lower()}", "--model", model]
        command += ["--transform", transform] if transform else []
        command += ["--epochs", str(options.epochs), "--seed", str(seed), "--name", name, "--overwrite"]
        command += ["--runs-dir", options.runs_dir, "--json"]
        environment = os.environ | ({"OMP_NUM_THREADS": "1"} if options.parallel > 1 else {})
        Path(options.runs_dir).mkdir(parents=True, exist_ok=True)
        with (Path(options.runs_dir) / f"{name}.log").open("w") as log:  # says why, where a cell fails
            subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL, stderr=log)
    result = json.loads(summary.read_text())
    print(f"{name:32} {result['test_error_percent']:.2f} %  {result['train_seconds']:.0f} s", flush=True)
    return result


def main() -> None:
    """Run every cell and print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--distortions", default="R,RTS,P,E")
    parser.add_argument("--parallel", type=int, default=1)
    parser.add_argument("--runs-dir", default="runs/benchmark")
    options = parser.parse_args()
    kinds = options.distortions.split(",")
    cells = [(k, m, t, s) for s in range(options.seeds) for k in kinds for m, t in MODELS]
    with ThreadPoolExecutor(options.parallel) as pool:
        results = list(pool.map(lambda cell: run_cell(*cell, options), cells))
    rows = [
        {
            "distortion": kind,
            "model": model,
            "transform": transform,
            "error_percent": [
                r["test_error_percent"]
                for c, r in zip(cells, results, strict=True)
                if c[:3] == (kind, model, transform)
            ],
            "paper": PAPER[kind][transform],
            "parameters": next(
                r["parameters"] for c, r in zip(cells, results, strict=True) if c[:3] == (kind, model, transform)
            ),
            "train_seconds": [
                round(r["train_seconds"])
                for c, r in zip(cells, results, strict=True)
                if c[:3] == (kind, model, transform)
            ],
        }
        for kind in kinds
        for model, transform in MODELS
    ]
    record = {
        "recipe": "quick",
        "epochs": options.epochs,
        "runs_at_a_time": options.parallel,
        "environment": describe_environment() | ({"threads": 1} if options.parallel > 1 else {}),
        "cells": rows,
    }
    RESULTS.write_text(json.dumps(record, indent=2) + "\n")
    print(f"\n{'model':20}" + "".join(f"{kind:>16}" for kind in kinds) + "    (error in %, the paper's in brackets)")
    for model, transform in MODELS:
        cell = {r["distortion"]: r for r in rows if (r["model"], r["transform"]) == (model, transform)}
        means = [f"{sum(cell[k]['error_percent']) / options.seeds:.2f} ({cell[k]['paper']})" for k in kinds]
        print(f"{model} {transform or '':12}".ljust(20) + "".join(f"{mean:>16}" for mean in means))


if __name__ == "__main__":
    main()
