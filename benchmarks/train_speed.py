"""Images trained on per second: the well-known tutorial as users write it, the same network in our engine, the paper's.

    STN_DATA=… python benchmarks/train_speed.py [--seconds 4] [--rounds 3]

On a CUDA device where there is one, else on the CPU; what is compared computes on the same.

a. PyTorch's "Spatial Transformer Networks Tutorial" as people run it (tutorial.py): a DataLoader with two workers,
   torchvision's transforms, SGD, float32. Batches of 64, as there, and of 256.
b. The same network of our parts (a look at its answers says whether it is the same) under our engine, in the precision
   and with the convolutions that the trial takes, rotated as far. On a CUDA device also eight of them side by side,
   each in a thread and on a stream of its own.
c. The paper's ST-CNN, with 64 filters in both layers, batches of 256, R; and its share of the machine's peak in bf16.
d. The CNN, likewise.

Each case is a process of its own, with as many threads as PyTorch takes; the cases take turns. Goals: b is 8 times as
fast as a at the same batch size, c reaches 30 % of the peak. On a CUDA device: b is 50 times as fast as a, eight
together 300 times, and 150,000 steps of c, the paper's run, take a minute. Real MNIST, where STN_DATA names it; else
the embedded digits, repeated to 60,000. Writes results/train_speed.json, or results/train_speed_cuda.json.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from threading import Barrier, Lock
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tutorial import MEAN, STD, TutorialNetwork, tutorial_speed

from stn_cli.config_files import load_config
from stn_cli.datasets.build import build_source
from stn_cli.datasets.source import Source
from stn_cli.geometry.grids import affine_grid
from stn_cli.geometry.sampling import sample
from stn_cli.models.budget import count_parameters
from stn_cli.models.classifiers import convolutional_classifier
from stn_cli.models.convolution import ConvolutionStage
from stn_cli.models.grid_generators import AffineGrid
from stn_cli.models.localisation import ThetaLayer, convolutional_localisation
from stn_cli.models.network import ModelOutput
from stn_cli.training.engine import Engine, choose_engine
from stn_cli.training.optimiser import Optimiser
from stn_cli.training.run_folder import describe_environment
from stn_cli.training.runtime import Runtime, choose_runtime, keep_freed_memory
from stn_cli.training.speed import measure_peak, measure_speed, repeated_stream, time_steps
from stn_cli.training.step import TrainStep
from stn_cli.training.trial import try_out

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
ON_GPU = DEVICE.type == "cuda"
RESULTS = Path(__file__).parent / "results" / ("train_speed_cuda.json" if ON_GPU else "train_speed.json")
CASES = ("tutorial-64", "engine-64", "tutorial-256", "engine-256", "st-cnn-256", "cnn-256")
PACKED = ("packed-64", "packed-256")  # on a CUDA device
IMAGES = 60_000
TIMES_FASTER, PEAK_PERCENT = (50 if ON_GPU else 8), 30
PACKED_TIMES_FASTER, SIDE_BY_SIDE = 300, 8
RUN_STEPS, RUN_SECONDS = 150_000, 60
LOOK_EVERY = 50  # steps, as `stn train` reads its counts


class InEngine(nn.Module):
    """The same network in our parts. The cross entropy of its logits is the likelihood loss of their logarithms.

    Dropping whole channels commutes with pooling and ReLU, so it comes after them; and with images and channels having
    changed places, since the stages' maps have the images innermost in memory.
    """

    by_place = MappingProxyType({})

    def __init__(self) -> None:
        super().__init__()
        self.localisation = nn.Sequential(ConvolutionStage(1, 8, 7, pool=2), ConvolutionStage(8, 10, 5, pool=2))
        self.theta = nn.Sequential(nn.Linear(90, 32), nn.ReLU(), ThetaLayer(32, torch.tensor([1.0, 0, 0, 0, 1, 0])))
        self.conv1, self.conv2 = ConvolutionStage(1, 10, 5, pool=2), ConvolutionStage(10, 20, 5, pool=2)
        self.drop = nn.Dropout2d()
        self.fc1, self.fc2 = nn.Linear(320, 50), nn.Linear(50, 10)

    def forward(self, images: Tensor) -> ModelOutput:
        """Return what TrainStep reads."""
        images = (images - MEAN) / STD
        theta = self.theta(self.localisation(images).flatten(1)).view(-1, 2, 3)
        warped = sample(images, affine_grid(theta, (28, 28)))
        features = self.drop(self.conv2(self.conv1(warped)).transpose(0, 1)).transpose(0, 1).flatten(1)
        hidden = F.dropout(F.relu(self.fc1(features)), training=self.training)
        return ModelOutput(self.fc2(hidden).float(), ())


def same_network() -> InEngine:
    """Return our network, after a look whether with the tutorial's weights it gives the tutorial's answers."""
    theirs, ours = TutorialNetwork().eval(), InEngine().eval()
    nn.init.normal_(theirs.theta[2].weight, std=0.1)
    ours.load_state_dict(
        {name.replace("localisation.3", "localisation.1"): w for name, w in theirs.state_dict().items()}
    )
    images = torch.rand(16, 1, 28, 28)
    answers = F.log_softmax(ours(images).logits, dim=1)
    torch.testing.assert_close(answers, theirs((images - MEAN) / STD), atol=1e-4, rtol=0)
    return InEngine()


def load_source() -> Source:
    """Return MNIST where it is there, else the embedded digits as often as it takes."""
    name = "mnist" if "STN_DATA" in os.environ else "digits"
    source = build_source(load_config(None, [f"data.dataset={name}", "data.offline=true"]).data)
    return replace(source, train=source.train.at(torch.arange(IMAGES) % len(source.train)))


def tutorial_in_engine(batch_size: int) -> tuple[Engine, Runtime]:
    """Return what makes steps of the tutorial's network in our engine, and where."""
    keep_freed_memory()
    settings = ["learning_rate=0.01", "momentum=0", "nesterov=false", "weight_decay=0", "clip_norm=null"]
    config = load_config(None, [f"train.batch_size={batch_size}", *(f"train.{setting}" for setting in settings)])
    runtime = choose_runtime(config.runtime)
    stream, _ = repeated_stream(config, load_source(), runtime.device)
    network: Any = runtime.place(same_network())
    runtime = try_out(config.runtime, runtime, network, stream.batch(0))
    network = runtime.place(network).train()
    step = TrainStep(network, Optimiser(network, config.train), config.train, 10**9, runtime)
    return choose_engine(step, stream, runtime), runtime


def engine_speed(batch_size: int, seconds: float) -> tuple[float, str]:
    """Return images per second of the tutorial's network in our engine, and why it computes how it does."""
    engine, runtime = tutorial_in_engine(batch_size)
    return batch_size / statistics.median(time_steps(engine, runtime.device, seconds)), runtime.reason


def packed_speed(batch_size: int, seconds: float) -> float:
    """Return images per second of several of these networks together, a thread for each."""
    one_at_a_time, all_ready = Lock(), Barrier(SIDE_BY_SIDE, timeout=300)

    def work(_: int) -> tuple[int, float, float]:
        with torch.cuda.stream(torch.cuda.Stream()) if ON_GPU else nullcontext():
            with one_at_a_time:
                engine, done = tutorial_in_engine(batch_size)[0], 0
            all_ready.wait()
            began = time.perf_counter()
            while time.perf_counter() - began < seconds:
                until = done + LOOK_EVERY
                while done < until:
                    done += engine.advance(done, until - done)
                if ON_GPU:
                    torch.cuda.current_stream().synchronize()
            return done, began, time.perf_counter()

    with ThreadPoolExecutor(SIDE_BY_SIDE) as threads:
        steps, began, ended = zip(*threads.map(work, range(SIDE_BY_SIDE)), strict=True)
    return sum(steps) * batch_size / (max(ended) - min(began))


def paper_speed(model: str, batch_size: int, seconds: float) -> dict[str, Any]:
    """Return the speed of a network with 64 filters in both layers, and its share of the peak."""
    keep_freed_memory()
    parameters = count_parameters(convolutional_classifier(1, (28, 28), 10, (64, 64)))
    if model == "st-cnn":
        parameters += count_parameters(convolutional_localisation(1, (28, 28), AffineGrid((28, 28)).identity))
    settings = [f"model.name={model}", f"model.parameters={parameters}", f"train.batch_size={batch_size}"]
    speed = measure_speed(load_config(None, settings), load_source(), seconds)
    assert speed.widths[:2] == (64, 64), speed.widths
    peak = measure_peak(speed.runtime.device, "bf16")
    return {
        "images_per_second": speed.images_per_second.median,
        "run_seconds": RUN_STEPS * speed.step_seconds.median,
        "gflop_per_step": speed.operations / 1e9,
        "peak_gflop_per_second": peak / 1e9,
        "peak_percent": 100 * speed.operations_per_second / peak,
        "runtime": speed.runtime.reason,
    }


def measure(case: str, seconds: float) -> dict[str, Any]:
    """Measure one case in this process."""
    kind, _, size = case.rpartition("-")
    if kind == "tutorial":
        return {"images_per_second": tutorial_speed(int(size), seconds, DEVICE, load_source)}
    if kind == "packed":
        return {"images_per_second": packed_speed(int(size), seconds)}
    if kind == "engine":
        speed, reason = engine_speed(int(size), seconds)
        return {"images_per_second": speed, "runtime": reason}
    return paper_speed(kind, int(size), seconds)


def spread(values: list[float]) -> dict[str, float]:
    """Return what the result holds of some rounds."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def main() -> None:
    """Run the cases in turn, print and write what they reach."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--case", choices=CASES + PACKED, help="measure one case here and print it")
    options = parser.parse_args()
    if options.case:
        print(json.dumps(measure(options.case, options.seconds)))
        return
    cases = CASES + PACKED if ON_GPU else CASES
    rounds: dict[str, list[dict[str, Any]]] = {case: [] for case in cases}
    for _ in range(options.rounds):
        for case in cases:
            command = [sys.executable, __file__, "--seconds", str(options.seconds), "--case", case]
            answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            rounds[case].append(json.loads(answer))
    speeds = {case: spread([found["images_per_second"] for found in rounds[case]]) for case in cases}
    shares = {c: spread([found["peak_percent"] for found in rounds[c]]) for c in ("st-cnn-256", "cnn-256")}
    for case, speed in speeds.items():
        share = f"{shares[case]['median']:5.1f} % of the bf16 peak" if case in shares else ""
        print(f"{case:13} {speed['median']:8,.0f} images/s  ({speed['min']:,.0f} to {speed['max']:,.0f})  {share}")
    kinds = {"engine": TIMES_FASTER} | ({"packed": PACKED_TIMES_FASTER} if ON_GPU else {})
    reached = {
        f"{kind} / tutorial, batch {size}": (
            speeds[f"{kind}-{size}"]["median"] / speeds[f"tutorial-{size}"]["median"],
            n,
        )
        for size in (64, 256)
        for kind, n in kinds.items()
    } | {"ST-CNN, % of the bf16 peak": (shares["st-cnn-256"]["median"], PEAK_PERCENT)}
    if ON_GPU:
        run = statistics.median(found["run_seconds"] for found in rounds["st-cnn-256"])
        print(f"{RUN_STEPS:,} steps of the ST-CNN: {run:.0f} s")
        reached["ST-CNN, paper's runs a minute"] = (RUN_SECONDS / run, 1)
    goals = [
        {"what": what, "found": found, "goal": goal, "met": found >= goal} for what, (found, goal) in reached.items()
    ]
    for goal in goals:
        print(f"{goal['what']:28} {goal['found']:5.1f}  goal {goal['goal']}: {'met' if goal['met'] else 'not met'}")
    record = {
        "seconds": options.seconds,
        "data": "mnist" if "STN_DATA" in os.environ else "digits, repeated",
        "environment": describe_environment(),
        "goals": goals,
        "images_per_second": speeds,
        "peak_percent": shares,
        "rounds": rounds,
    }
    RESULTS.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
