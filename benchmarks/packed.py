"""What packing is worth: two runs side by side on two cores, against one after the other with two threads each.

    python benchmarks/packed.py [--iterations 400] [--rounds 3]

The default of `stn train` (ST-CNN affine, 120k parameters, embedded digits under R, batch 128) by the command line,
seeds 0 and 1: `--seeds 0,1` against two commands with runtime.threads=2, all held to the same two cores. Precision and
convolutions are what each way finds fastest for itself, as users have it.
Wall seconds hold everything, importing torch too; images per second hold the training steps alone. The two ways take
turns; the record has the median of each and the ratio of the medians. Writes results/packed.json.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from stn_cli.training.run_folder import describe_environment

RESULTS = Path(__file__).parent / "results" / "packed.json"
BATCH = 128


def stn(*arguments: str) -> dict[str, Any]:
    """Run the command and return what it prints; the number of threads is left to it."""
    surroundings = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    call = [sys.executable, "-m", "stn_cli", "train", *arguments, "--json"]
    return json.loads(subprocess.run(call, check=True, capture_output=True, env=surroundings).stdout)


def measure(packed: bool, iterations: int) -> dict[str, float]:
    """Train seeds 0 and 1 and return wall seconds and images per second of both together."""
    with tempfile.TemporaryDirectory() as runs:
        settings = ["--iterations", str(iterations), "--device", "cpu", "--runs-dir", runs]
        settings += [f"train.batch_size={BATCH}"]
        began = time.perf_counter()
        if packed:
            seconds = max(run["train_seconds"] for run in stn(*settings, "--seeds", "0,1")["runs"])
        else:
            results = [stn(*settings, "--seed", seed, "runtime.threads=2") for seed in ("0", "1")]
            seconds = sum(run["train_seconds"] for run in results)
        wall = time.perf_counter() - began
    return {"wall_seconds": wall, "images_per_second": 2 * iterations * BATCH / seconds}


def main() -> None:
    """Measure both ways in turn and write medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iterations", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
    ways: dict[str, list[dict[str, float]]] = {"in turn, two threads": [], "packed, one thread each": []}
    for _ in range(options.rounds):
        for way, found in ways.items():
            found.append(measure(way.startswith("packed"), options.iterations))
    medians = {
        way: {key: statistics.median(one[key] for one in found) for key in found[0]} for way, found in ways.items()
    }
    turn, packed = medians.values()
    ratios = {
        "wall": turn["wall_seconds"] / packed["wall_seconds"],
        "images_per_second": packed["images_per_second"] / turn["images_per_second"],
    }
    for way, row in medians.items():
        print(f"{way:24} {row['wall_seconds']:6.1f} s  {row['images_per_second']:8,.0f} images/s")
    print(f"packed is faster by      {ratios['wall']:6.2f} ×  {ratios['images_per_second']:8.2f} ×")
    record = {"iterations": options.iterations, "environment": describe_environment(), "rounds": ways}
    RESULTS.write_text(json.dumps(record | {"medians": medians, "ratios": ratios}, indent=2) + "\n")


if __name__ == "__main__":
    main()
