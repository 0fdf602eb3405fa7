"""Images distorted per second, ours beside torchvision's and kornia's, and the memory of writing a distorted MNIST.

    STN_DATA=… python benchmarks/distortions.py [--seconds 1] [--rounds 5]

R, RTS, P and E with their default settings, on the CPU. Every contestant has its digits in memory and makes float
batches in 0..1 (exact bytes: of bytes), with a draw for every image unless its name says otherwise:

ours                 gather → float → draw → apply, as a training step does
ours, exact bytes    gather → draw → render, as `stn distort-dataset` does: the same bytes on every machine
torchvision, PIL     transforms.v2 on PIL images, one process per core, without the cost of handing images back
torchvision, tensor  transforms.v2 called on one tensor after the other: on a batch it draws once
torchvision, one warp per batch   what that would give; another augmentation, for information
kornia               its augmentations on batches, `same_on_batch=False`

They take turns, all of them in every round, after a warm-up; reported are the median, the least and the most of the
rounds. All processes keep freed memory. Goals are judged by the better batch size of each: 256 fits the processor's
caches, 1024 does not.
The alternatives cannot draw just what we draw; DIFFERENCES says where, and what is left out is work they are spared.

Then the wall time and the peak resident memory of `stn distort-dataset` over the whole of MNIST, a process of its own
for each distortion. Without STN_DATA that part is left out and the images are noise.
Writes results/distortions.json. Takes about five minutes on two cores.
"""

import argparse
import gc
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np
import torch
from kornia.augmentation import RandomAffine, RandomPerspective, RandomRotation, RandomThinPlateSpline
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import v2

from stn_cli.config_files import load_config
from stn_cli.datasets.mnist import load_mnist
from stn_cli.distortions.build import build_distortion
from stn_cli.distortions.distortion import Parameters
from stn_cli.randomness import named_generator
from stn_cli.training.run_folder import describe_environment
from stn_cli.training.runtime import keep_freed_memory

RESULTS = Path(__file__).parent / "results" / "distortions.json"
SIDE = 28
CANVAS = {"R": 28, "RTS": 42, "P": 28, "E": 28}
BATCHES = (256, 1024)
PICTURES = 4096  # PIL images in each worker process
WARM_UP_SECONDS = 0.3
FEWEST_PER_SECOND = {"R": 300_000, "RTS": 300_000, "P": 300_000, "E": 100_000}
TIMES_KORNIA = {"R": 1, "RTS": 1, "P": 1, "E": 5}
MOST_BYTES = 1.5e9

PLACE = 0.183  # of 42 pixels: the room of a digit of the mean scale, (42 − 0.95 · 28) / 2 pixels
CORNERS = 0.62  # of half of 28 pixels: uniform to ±8.7, a standard deviation of 5
SMOOTH, ALPHA = 4.0, 47.0  # of noise with the correlation and the standard deviation, 1.17 pixels, of our splines
DIFFERENCES = {
    "R": "none",
    "RTS": "the place does not depend on the scale, so large digits may lie partly outside; torchvision's in whole "
    "pixels; the images are laid on the 42×42 canvas before the measurement",
    "P": "no scale; corners uniform with the same root mean square, torchvision's inwards only and in whole pixels",
    "E": "no scale; kornia: 5 control points instead of 16, uniform with the same standard deviation; torchvision: not "
    "a spline but noise blurred to the same size and smoothness",
}

Step = Callable[[], Tensor]
Measurement = Callable[[float], float]  # seconds → images per second


def alternatives(kind: str) -> tuple[v2.Transform, nn.Module]:
    """Return what users of torchvision and of kornia would take for a distortion."""
    line, turn, half = v2.InterpolationMode.BILINEAR, (-45.0, 45.0), SIDE / 2
    match kind:
        case "R":
            return v2.RandomRotation((-90.0, 90.0), line), RandomRotation(90.0, p=1.0)
        case "RTS":
            place, scale = (PLACE, PLACE), (0.7, 1.2)
            return v2.RandomAffine(turn, place, scale, interpolation=line), RandomAffine(turn, place, scale, p=1.0)
        case "P":
            theirs = RandomPerspective(CORNERS, p=1.0, sampling_method="area_preserving")
            return v2.RandomPerspective(CORNERS, p=1.0, interpolation=line), theirs
    return v2.ElasticTransform(ALPHA, SMOOTH, line), RandomThinPlateSpline(1.5 * 3**0.5 / half, p=1.0)


def repeating(step: Step, shape: tuple[int, ...]) -> Measurement:
    """Return a measurement of a step that hands out a float or byte batch of this shape."""

    def images_per_second(seconds: float) -> float:
        began, steps, batch = time.perf_counter(), 0, torch.empty(0)
        while (elapsed := time.perf_counter() - began) < seconds or not steps:
            batch = step()
            steps += 1
        if batch.shape != shape:
            raise RuntimeError(f"a batch of {tuple(batch.shape)} where {shape} was wanted")
        return shape[0] * steps / elapsed

    return images_per_second


def gathers(images: Tensor, n: int) -> Iterator[Tensor]:
    """Yield batches of bytes in random order, without end."""
    order = torch.randperm(len(images), generator=named_generator(0, "order"))
    for index in itertools.cycle(order.split(n)[: len(images) // n]):
        yield images[index]


def in_this_process(kind: str, images: Tensor) -> dict[tuple[str, int], Measurement]:
    """Return the measurements of one distortion by (contestant, batch size)."""
    distortion = build_distortion(load_config(None, [f"distortion={kind}"]).distortion, (SIDE, SIDE))
    assert distortion is not None
    (transform, augmentation), canvas = alternatives(kind), CANVAS[kind]
    laid_out = nn.functional.pad(images, [(canvas - SIDE) // 2] * 4)

    def ours(warp: Callable[[Tensor, Parameters], Tensor], n: int) -> Step:
        stream, steps = gathers(images, n), itertools.count()
        return lambda: warp(next(stream), distortion.draw(n, named_generator(0, "distortion", next(steps))))

    def apply(batch: Tensor, parameters: Parameters) -> Tensor:
        return distortion.apply(batch / 255, parameters)

    def theirs(function: Callable[[Tensor], Tensor], n: int) -> Step:
        stream = gathers(laid_out, n)
        return lambda: function(next(stream) / 255)

    def each_image(batch: Tensor) -> Tensor:
        return torch.stack([transform(image) for image in batch])

    small, large = BATCHES
    steps = {
        ("ours", small): ours(apply, small),
        ("ours", large): ours(apply, large),
        ("ours, exact bytes", large): ours(distortion.render, large),
        ("torchvision, tensor", small): theirs(each_image, small),
        ("torchvision, one warp per batch", small): theirs(transform, small),
        ("kornia", small): theirs(augmentation, small),
        ("kornia", large): theirs(augmentation, large),
    }
    return {(name, n): repeating(step, (n, 1, canvas, canvas)) for (name, n), step in steps.items()}


class Worker:
    """What a process of the pool holds: PIL images by the side of their canvas, and a barrier to start together."""

    pictures: dict[int, list[Image.Image]]
    barrier: Barrier


def start_worker(images: np.ndarray, barrier: Barrier) -> None:
    """Prepare a process of the pool."""
    torch.set_num_threads(1)
    keep_freed_memory()
    Worker.barrier = barrier
    Worker.pictures = {}
    for side in set(CANVAS.values()):
        room = (side - SIDE) // 2
        Worker.pictures[side] = [Image.fromarray(np.pad(image, room)) for image in images]


def measure_pictures(kind: str, seconds: float) -> float:
    """Return the images per second of this process, while all the others do the same."""
    n, side = BATCHES[0], CANVAS[kind]
    transform = v2.Compose([alternatives(kind)[0], v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)])
    pictures = itertools.cycle(Worker.pictures[side])
    Worker.barrier.wait(timeout=60)
    return repeating(lambda: torch.stack([transform(next(pictures)) for _ in range(n)]), (n, 1, side, side))(seconds)


def measure_speeds(images: Tensor, rounds: int, seconds: float) -> list[dict[str, Any]]:
    """Let all contestants take turns and return one row for each."""
    processes, spawn = os.cpu_count() or 1, get_context("spawn")
    prepared = images[:PICTURES, 0].numpy(), spawn.Barrier(processes)
    with ProcessPoolExecutor(processes, spawn, start_worker, prepared) as pool:

        def on_pictures(kind: str) -> Measurement:
            return lambda seconds: sum(pool.map(measure_pictures, [kind] * processes, [seconds] * processes))

        contestants: dict[tuple[str, str, int], Measurement] = {}
        for kind in CANVAS:
            contestants |= {(kind, *key): measure for key, measure in in_this_process(kind, images).items()}
            contestants[kind, "torchvision, PIL", BATCHES[0]] = on_pictures(kind)
        for measure in contestants.values():
            measure(WARM_UP_SECONDS)
        gc.collect()
        found: dict[tuple[str, str, int], list[float]] = {key: [] for key in contestants}
        for _ in range(rounds):
            for key, measure in contestants.items():
                found[key].append(measure(seconds))
    ours = {kind: statistics.median(found[kind, "ours", BATCHES[0]]) for kind in CANVAS}
    return [
        {
            "distortion": kind,
            "contestant": name,
            "batch": n,
            "median_per_s": round(statistics.median(rates)),
            "min_per_s": round(min(rates)),
            "max_per_s": round(max(rates)),
            "ours_at_256_is_times": round(ours[kind] / statistics.median(rates), 2),
        }
        for (kind, name, n), rates in found.items()
    ]


# In a small process of its own: the peak that a child reports includes its parent's at the fork.
MEASURE_CHILD = """
import resource, subprocess, sys, time
began = time.perf_counter()
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
unit = 1 if sys.platform == "darwin" else 1024
print(time.perf_counter() - began, unit * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def measure_writing(kind: str) -> dict[str, Any]:
    """Return the wall time and the peak memory of one `stn distort-dataset` over MNIST."""
    with tempfile.TemporaryDirectory() as folder:
        stn = [sys.executable, "-m", "stn_cli", "distort-dataset", kind, "--dataset", "mnist", "--offline"]
        command = [sys.executable, "-c", MEASURE_CHILD, *stn, "--out", str(Path(folder) / kind)]
        seconds, peak = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split()
    return {"distortion": kind, "seconds": round(float(seconds), 2), "peak_bytes": int(peak)}


def judge(speeds: list[dict[str, Any]], writing: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return every goal with what was found; met is None where nothing was measured."""
    goals: list[dict[str, Any]] = []
    for kind in CANVAS:
        rates = {
            name: [r["median_per_s"] for r in speeds if (r["distortion"], r["contestant"]) == (kind, name)]
            for name in ("ours", "kornia")
        }
        ours, least, times = max(rates["ours"]), FEWEST_PER_SECOND[kind], TIMES_KORNIA[kind]
        ratio = ours / max(rates["kornia"])
        goals.append({"goal": f"{kind}: at least {least:,} images/s", "found": f"{ours:,}", "met": ours >= least})
        goals.append({"goal": f"{kind}: over {times} × kornia", "found": f"{ratio:.2f} ×", "met": ratio > times})
    peak = max((row["peak_bytes"] for row in writing), default=None)
    found, met = ("not measured", None) if peak is None else (f"{peak / 1e9:.2f} GB", peak < MOST_BYTES)
    return [*goals, {"goal": f"writing MNIST: peak under {MOST_BYTES / 1e9} GB", "found": found, "met": met}]


def show(speeds: list[dict[str, Any]], writing: list[dict[str, Any]], goals: list[dict[str, Any]]) -> None:
    """Print the tables."""
    print(f"{'':4} {'contestant':32} {'batch':>5} {'images/s':>10} {'least':>10} {'most':>10}   ours at 256 is")
    for row in speeds:
        rates = " ".join(f"{row[key]:>10,}" for key in ("median_per_s", "min_per_s", "max_per_s"))
        ratio = f"{row['ours_at_256_is_times']:8.2f} × this"
        print(f"{row['distortion']:4} {row['contestant']:32} {row['batch']:5} {rates}   {ratio}")
    for row in writing:
        print(f"{row['distortion']:4} writing MNIST: {row['seconds']:.1f} s, peak {row['peak_bytes'] / 1e9:.2f} GB")
    for goal in goals:
        verdict = {True: "met", False: "NOT MET", None: "unknown"}[goal["met"]]
        print(f"{verdict:8} {goal['goal']}: {goal['found']}")


def main() -> None:
    """Measure speeds, then memory, and write both with the goals."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1.0, help="per contestant and round")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    keep_freed_memory()
    data = os.environ.get("STN_DATA")
    if data:
        images = load_mnist(Path(data), offline=True).train.images
    else:
        print("STN_DATA is not set: images are noise, and the memory of writing MNIST is not measured.")
        images = torch.randint(0, 256, (60_000, 1, SIDE, SIDE), generator=named_generator(0, "noise")).to(torch.uint8)
    speeds = measure_speeds(images, options.rounds, options.seconds)
    writing = [measure_writing(kind) for kind in CANVAS] if data else []
    goals = judge(speeds, writing)
    show(speeds, writing, goals)
    record = {
        "rounds": options.rounds,
        "seconds": options.seconds,
        "processes": os.cpu_count(),
        "images": "mnist" if data else "noise",
        "environment": describe_environment(),
        "differences": DIFFERENCES,
        "speeds": speeds,
        "writing": writing,
        "goals": goals,
    }
    RESULTS.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
