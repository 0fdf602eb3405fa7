"""Time of `stn --help`, and which heavy modules it imports: median and spread of 20 fresh processes.

    python benchmarks/startup.py

Beside it, in the same run, what a user would have without lazy imports: `python -c "import torch"`.
Writes results/startup.json.
"""

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

from stn_cli.training.run_folder import describe_environment

RESULTS = Path(__file__).parent / "results" / "startup.json"
COMMANDS = {
    "stn --help": [sys.executable, "-m", "stn_cli", "--help"],
    "stn train --help": [sys.executable, "-m", "stn_cli", "train", "--help"],
    "python -c 'import torch'": [sys.executable, "-c", "import torch"],
}
REPEATS = 20


def main() -> None:
    """Measure and write the result."""
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(REPEATS):  # interleaved, so that a slow moment of the machine meets all of them
        for name, command in COMMANDS.items():
            began = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            seconds[name].append(time.perf_counter() - began)
    rows = {
        name: {"median_s": statistics.median(values), "min_s": min(values), "max_s": max(values)}
        for name, values in seconds.items()
    }
    for name, row in rows.items():
        print(f"{name:26} {row['median_s']:.3f} s  ({row['min_s']:.3f} to {row['max_s']:.3f})")
    RESULTS.write_text(json.dumps({"repeats": REPEATS, "environment": describe_environment(), "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
