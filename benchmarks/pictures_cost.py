"""What TensorBoard's pictures cost: a training run with all of them on, against one with none.

    STN_DATA=DIR python benchmarks/pictures_cost.py [--config mnist/r] [--pairs 5] [KEY=VALUE ...]

The same run, seed 0, in pairs of which now the one, now the other comes first. Shorter ones are comparable where
evaluations are as dense: `train.epochs=3 log.evaluations=3` of the 12 and 12 of mnist/r. Numbers, histograms and the
table of runs are on in both; `log.images=0` leaves out the pictures.
Wall seconds hold everything from the first step to the summary: training, evaluations, and whatever of the drawing is
not done beside them. CPU seconds hold the same of all threads, and what neighbours on the machine do changes them less.
The record has the pairs and the medians of their ratios. Writes results/pictures_cost.json.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from stn_cli.training.run_folder import describe_environment

RESULTS = Path(__file__).parent / "results" / "pictures_cost.json"
WAYS = {"with pictures": (), "without": ("log.images=0",)}


def measure(arguments: list[str]) -> dict[str, Any]:
    """Train and return wall and CPU seconds of the whole course, and the bytes of its events."""
    script = (
        "import json, sys, time\n"
        "from pathlib import Path\n"
        "from stn_cli.config_files import load_config\n"
        "from stn_cli.training.loop import train\n"
        "from stn_cli.training.runtime import keep_freed_memory\n"
        "keep_freed_memory()\n"
        "stream = train(load_config(sys.argv[1], sys.argv[2:]))\n"
        "run = next(stream).run\n"
        "began, busy = time.perf_counter(), time.process_time()\n"
        "summary = list(stream)[-1].summary\n"
        "seconds, busy = time.perf_counter() - began, time.process_time() - busy\n"
        "size = sum(file.stat().st_size for file in Path(run).glob('tb/*'))\n"
        "print(json.dumps({'seconds': seconds, 'cpu_seconds': busy, 'event_bytes': size}))\n"
    )
    with tempfile.TemporaryDirectory() as runs:
        call = [sys.executable, "-c", script, *arguments, f"runs_dir={runs}"]
        return json.loads(subprocess.run(call, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    """Measure pairs in alternation and write the median of their ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="mnist/r")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("settings", nargs="*", help="key=value for both")
    options = parser.parse_args()
    # What is fastest is measured anew by each run otherwise, and may come out otherwise.
    fixed = ["runtime.precision=float32", "runtime.convolutions=library"]
    said = [options.config, *fixed, *options.settings]
    pairs: list[dict[str, Any]] = []
    for number in range(options.pairs):
        order = list(WAYS) if number % 2 == 0 else list(WAYS)[::-1]
        pair = {way: measure([*said, *WAYS[way]]) for way in order}
        pairs.append({way: pair[way] for way in WAYS})
        print(f"pair {number + 1}: " + ", ".join(f"{way} {pair[way]['seconds']:.2f} s" for way in WAYS))
    slower = {
        kind: 100 * (statistics.median(pair["with pictures"][kind] / pair["without"][kind] for pair in pairs) - 1)
        for kind in ("seconds", "cpu_seconds")
    }
    print(f"with all pictures {slower['seconds']:+.2f} % (CPU {slower['cpu_seconds']:+.2f} %; {len(pairs)} pairs)")
    record = {
        "measured": time.strftime("%Y-%m-%d"),
        "config": options.config,
        "settings": said[1:],
        "environment": describe_environment(),
        "slower_percent": slower,
        "pairs": pairs,
    }
    RESULTS.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
