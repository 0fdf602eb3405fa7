"""What banded products and compiled kernels are worth: the paper's convolution stages in the three ways.

    python benchmarks/convolutions.py

Forward and backward of every stage of the CNN and of ST-CNN's localisation network at 28×28, batch 256, in bf16 and
float32, convolution, pooling, bias and ReLU together; behind a transformer the image needs a gradient, else it does
not. Maps lie as a stage of the same way hands them on. The ways take turns. Writes results/convolutions.json.
"""

import json
import statistics
import time
from pathlib import Path

import torch
from torch import Tensor

from stn_cli.models.convolution import Convolutions, ConvolutionStage
from stn_cli.training.run_folder import describe_environment
from stn_cli.training.runtime import keep_freed_memory

RESULTS = Path(__file__).parent / "results" / "convolutions.json"
BATCH = 256
ROUNDS = 15
# Name, channels, filters, side of the filters, pooling, side of the input, whether the input needs a gradient.
STAGES = (
    ("first, 64 filters, no gradient of the image", 1, 64, 9, 2, 28, False),
    ("first, 64 filters, behind a transformer", 1, 64, 9, 2, 28, True),
    ("first, 90 filters, behind a transformer", 1, 90, 9, 2, 28, True),
    ("second, 64 filters", 64, 64, 7, 2, 10, True),
    ("second, 90 filters", 90, 90, 7, 2, 10, True),
    ("localisation, first", 1, 20, 5, 2, 14, False),
    ("localisation, second", 20, 20, 5, 1, 5, True),
)
WAYS: tuple[Convolutions, ...] = ("library", "banded", "compiled")


def milliseconds(stage: ConvolutionStage, images: Tensor, precision: torch.dtype) -> float:
    """Return the time of one forward and backward pass."""
    began = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
        output = stage(images)
    output.backward(torch.ones_like(output))
    return 1000 * (time.perf_counter() - began)


def laid(images: Tensor, way: Convolutions) -> Tensor:
    """Return maps in memory as a stage of that way hands them on; images as they come."""
    if images.shape[1] == 1:
        return images
    if way == "compiled":
        return images.float()
    if way == "library":
        return images.contiguous(memory_format=torch.channels_last)
    return images.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2)


def main() -> None:
    """Measure every stage in every precision and write medians and spread."""
    keep_freed_memory()
    rows: list[dict[str, object]] = []
    for precision in (torch.bfloat16, torch.float32):
        for name, channels, filters, side, pool, size, needs_gradient in STAGES:
            images = torch.randn(BATCH, channels, size, size)
            stage = ConvolutionStage(channels, filters, side, pool=pool)
            if precision == torch.bfloat16:
                stage = stage.to(memory_format=torch.channels_last)
                images = images if channels == 1 else images.to(precision)
            given = {way: laid(images, way).requires_grad_(needs_gradient) for way in WAYS}
            found: dict[str, list[float]] = {way: [] for way in WAYS}
            for _ in range(ROUNDS + 2):
                for way in WAYS:
                    stage.convolutions = way
                    found[way].append(milliseconds(stage, given[way], precision))
            row: dict[str, object] = {"stage": name, "precision": str(precision).removeprefix("torch.")}
            for way, times in found.items():
                settled = times[2:]
                row[way] = {"median_ms": statistics.median(settled), "min_ms": min(settled), "max_ms": max(settled)}
            rows.append(row)
            medians = [statistics.median(found[way][2:]) for way in WAYS]
            times = ", ".join(f"{way} {median:6.2f}" for way, median in zip(WAYS, medians, strict=True))
            faster = " and ".join(f"{medians[0] / median:.1f}" for median in medians[1:])
            print(f"{row['precision']!s:9} {name:45} {times} ms: {faster} × as fast as the library")
    record = {"batch": BATCH, "rounds": ROUNDS, "environment": describe_environment(), "rows": rows}
    RESULTS.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
