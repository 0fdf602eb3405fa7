"""What keeping freed memory is worth: the step of CNN and ST-CNN with glibc's defaults and with `keep_freed_memory`.

    python benchmarks/memory.py [--steps 60]

Each case is a process of its own; the cases take turns, three times each. Synthetic images of 28×28, batch 128,
400k parameters, R, the machine's own precision. Writes results/memory.json.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

from stn_cli.config_files import load_config
from stn_cli.datasets.build import build_scene
from stn_cli.datasets.loader import BatchLoader, TrainingStream
from stn_cli.datasets.source import Source, Split
from stn_cli.models.build import InputSpec, build_model
from stn_cli.training.optimiser import Optimiser
from stn_cli.training.run_folder import describe_environment
from stn_cli.training.runtime import choose_runtime, keep_freed_memory
from stn_cli.training.step import TrainStep

RESULTS = Path(__file__).parent / "results" / "memory.json"
WARM_UP = 10
ROUNDS = 3


def median_step_ms(model: str, keep: bool, steps: int) -> float:
    """Return the median time of a training step in this process."""
    if keep:
        keep_freed_memory()
    config = load_config(None, [f"model.name={model}"])
    runtime = choose_runtime(config.runtime)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (4096, 1, 28, 28), generator=generator, dtype=torch.uint8)
    split = Split(images, torch.randint(0, 10, (4096,), generator=generator))
    scene = build_scene(config.distortion, Source("noise", split, split, tuple("0123456789")))
    loader = BatchLoader(split, scene, runtime.device, own=torch.arange(len(split)))
    stream = TrainingStream(loader, config.train.batch_size, 0)
    network = build_model(config.model, InputSpec(1, 28, 28, 10, (0.5,), (0.3,)), 0)
    network = runtime.place(network)
    step = TrainStep(network, Optimiser(network, config.train), config.train, steps + WARM_UP, runtime)
    times: list[float] = []
    for i in range(steps + WARM_UP):
        began = time.perf_counter()
        step(stream.batch(i), i)
        times.append(1000 * (time.perf_counter() - began))
    return statistics.median(times[WARM_UP:])


def main() -> None:
    """Run every case in turn and write medians and spread."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--case", nargs=2, metavar=("MODEL", "KEEP"), help="measure one case here and print it")
    options = parser.parse_args()
    if options.case:
        print(median_step_ms(options.case[0], options.case[1] == "kept", options.steps))
        return
    cases = [(model, kind) for model in ("cnn", "st-cnn") for kind in ("default", "kept")]
    found: dict[tuple[str, str], list[float]] = {case: [] for case in cases}
    for _ in range(ROUNDS):
        for case in cases:
            command = [sys.executable, __file__, "--steps", str(options.steps), "--case", *case]
            found[case].append(float(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    rows = [
        {"model": m, "memory": k, "median_ms": statistics.median(v), "min_ms": min(v), "max_ms": max(v)}
        for (m, k), v in found.items()
    ]
    for row in rows:
        spread = f"{row['min_ms']:.1f} to {row['max_ms']:.1f}"
        print(f"{row['model']:8} {row['memory']:8} {row['median_ms']:6.1f} ms  ({spread})")
    record = {"steps": options.steps, "rounds": ROUNDS, "environment": describe_environment(), "rows": rows}
    RESULTS.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
