"""What banded products are worth: the paper's convolutions by PyTorch's library and by `banded_convolution`.

    python benchmarks/convolutions.py

Forward and backward of every stage of the CNN and of ST-CNN's localisation network at 28×28, batch 256, in bf16 and
float32; behind a transformer the image needs a gradient, else it does not. The ways take turns. Writes
results/convolutions.json.
"""

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from stn_cli.models.banded_convolution import banded_convolution
from stn_cli.training.run_folder import describe_environment
from stn_cli.training.runtime import keep_freed_memory

RESULTS = Path(__file__).parent / "results" / "convolutions.json"
BATCH = 256
ROUNDS = 15
# Name, channels, filters, side of the filters, side of the input, whether the input needs a gradient.
STAGES = (
    ("first, 64 filters, no gradient of the image", 1, 64, 9, 28, False),
    ("first, 64 filters, behind a transformer", 1, 64, 9, 28, True),
    ("first, 90 filters, behind a transformer", 1, 90, 9, 28, True),
    ("second, 64 filters", 64, 64, 7, 10, True),
    ("second, 90 filters", 90, 90, 7, 10, True),
    ("localisation, first", 1, 20, 5, 14, False),
    ("localisation, second", 20, 20, 5, 5, True),
)
WAYS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"library": conv2d, "banded": banded_convolution}


def milliseconds(way: str, images: Tensor, weight: Tensor, gradient: Tensor) -> float:
    """Return the time of one forward and backward pass."""
    began = time.perf_counter()
    WAYS[way](images, weight).backward(gradient)
    return 1000 * (time.perf_counter() - began)


def main() -> None:
    """Measure every stage in every precision and write medians and spread."""
    keep_freed_memory()
    rows: list[dict[str, object]] = []
    for precision in (torch.bfloat16, torch.float32):
        for name, channels, filters, side, size, needs_gradient in STAGES:
            out = size - side + 1
            images, weight, gradient = (
                torch.randn(shape).to(precision, memory_format=torch.channels_last)
                for shape in (
                    (BATCH, channels, size, size),
                    (filters, channels, side, side),
                    (BATCH, filters, out, out),
                )
            )
            operands = images.requires_grad_(needs_gradient), weight.requires_grad_(), gradient
            found: dict[str, list[float]] = {way: [] for way in WAYS}
            for _ in range(ROUNDS + 2):
                for way in WAYS:
                    found[way].append(milliseconds(way, *operands))
            row: dict[str, object] = {"stage": name, "precision": str(precision).removeprefix("torch.")}
            for way, times in found.items():
                settled = times[2:]
                row[way] = {"median_ms": statistics.median(settled), "min_ms": min(settled), "max_ms": max(settled)}
            rows.append(row)
            medians = [statistics.median(found[way][2:]) for way in WAYS]
            print(
                f"{row['precision']!s:9} {name:45} library {medians[0]:6.1f} ms, banded {medians[1]:6.1f} ms, "
                f"{medians[0] / medians[1]:.2f} × as fast"
            )
    record = {"batch": BATCH, "rounds": ROUNDS, "environment": describe_environment(), "rows": rows}
    RESULTS.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
