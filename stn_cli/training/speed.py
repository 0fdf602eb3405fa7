"""How fast a configuration trains on this machine, and how near that comes to what the machine can do."""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from stn_cli.compiled.compiler import why_not
from stn_cli.compiled.operators import multiply_adds, pairs
from stn_cli.config import RunConfig
from stn_cli.datasets.build import build_scene
from stn_cli.datasets.loader import BatchLoader, TrainingStream, hold_out
from stn_cli.datasets.source import Source, Split
from stn_cli.models.budget import count_parameters, layer_widths
from stn_cli.models.build import InputSpec, build_model
from stn_cli.models.network import Network
from stn_cli.training.data import input_spec
from stn_cli.training.engine import Engine, choose_engine
from stn_cli.training.optimiser import Optimiser
from stn_cli.training.peak_memory import PeakMemory
from stn_cli.training.runtime import Runtime, choose_runtime
from stn_cli.training.schedule import total_steps
from stn_cli.training.step import TrainStep
from stn_cli.training.trial import try_out

BLOCKS = 5  # of steps, each timed as a whole
SIDES = (1024, 2048, 4096)  # of the square matrices whose product is the machine's peak
PEAK_SECONDS = 0.3  # for each of them; a product that would take three times as long is left out
ROUNDS = 100_000  # in registers at a time: some 20 ms
DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16}


class Spread(NamedTuple):
    """Median, least and most of several measurements."""

    median: float
    low: float
    high: float


def spread_of(values: Sequence[float]) -> Spread:
    """Return the median and the range of some values."""
    return Spread(statistics.median(values), min(values), max(values))


@dataclass(frozen=True)
class Speed:
    """What was measured of a configuration.

    `seconds`: per step, a value for each block of steps. `operations`: floating point operations of a step, as
    `count_operations` counts them. `peak_bytes`: the most memory in use; None where the system does not tell.
    """

    seconds: tuple[float, ...]
    batch_size: int
    operations: int
    peak_bytes: int | None
    parameters: int
    widths: tuple[int, ...]
    runtime: Runtime

    @property
    def step_seconds(self) -> Spread:
        """Seconds per step."""
        return spread_of(self.seconds)

    @property
    def images_per_second(self) -> Spread:
        """Images trained on per second."""
        return spread_of([self.batch_size / seconds for seconds in self.seconds])

    @property
    def operations_per_second(self) -> float:
        """At the median step."""
        return self.operations / self.step_seconds.median


def measure_speed(config: RunConfig, source: Source, seconds: float) -> Speed:
    """Train on a source for about `seconds` after a warm-up, as a run does, and return how fast that was.

    Raises:
        StnError: as `train`, about the configuration or the device.
    """
    runtime = choose_runtime(config.runtime)
    stream, spec = repeated_stream(config, source, runtime.device)
    network = runtime.place(build_model(config.model, spec, config.seed))
    runtime = try_out(config.runtime, runtime, network, stream.batch(0))
    network = runtime.place(network).train()
    total = total_steps(config, stream.steps_per_epoch)
    step = TrainStep(network, Optimiser(network, config.train), config.train, total, runtime)
    memory = PeakMemory(runtime.device)
    # A fast machine goes beyond the end of the schedule in the time; the cosine swings back then.
    times = time_steps(choose_engine(step, stream, runtime), runtime.device, seconds)
    peak = memory.bytes()
    batch_size = config.train.batch_size
    return Speed(
        seconds=tuple(times),
        batch_size=batch_size,
        operations=batch_size * count_operations(network, stream.batch(0).images[:1]),
        peak_bytes=peak,
        parameters=count_parameters(network),
        widths=layer_widths(network.classifier),
        runtime=runtime,
    )


def repeated_stream(config: RunConfig, source: Source, device: torch.device) -> tuple[TrainingStream, InputSpec]:
    """Return the training stream of a run on a source, and what a network for it is built for.

    The batches are those of `prepare_data`, which also reads the source and draws the frozen sets. A source with fewer
    images than a batch, which a run refuses, is repeated.
    """
    train, batch_size = source.train, config.train.batch_size
    scene = build_scene(config.distortion, source)
    rest, _ = hold_out(len(train), config.data.validation, config.seed)
    if len(rest) < batch_size:
        copies = math.ceil(2 * batch_size / len(train))  # enough, since half of them at most is held out
        train = Split(train.images.repeat(copies, 1, 1, 1), train.targets.repeat(copies))
        rest, _ = hold_out(len(train), config.data.validation, config.seed)
    loader = BatchLoader(train.at(rest), scene, device, own=rest % len(source.train))
    return TrainingStream(loader, batch_size, config.seed), input_spec(source, scene)


def time_steps(engine: Engine, device: torch.device, seconds: float) -> list[float]:
    """Return the seconds per step of several blocks, which take about `seconds` together, after a warm-up."""
    done, at_once = 0, 1  # steps between two looks at the clock

    def block(length: float) -> float:
        nonlocal done
        before, began, elapsed = done, time.perf_counter(), 0.0
        while elapsed < length or done == before:
            until = done + at_once
            while done < until:
                done += engine.advance(done, until - done)
            synchronise(device)
            elapsed = time.perf_counter() - began
        return elapsed / (done - before)

    block(0)
    settled = block(seconds / 4)
    if device.type != "cpu":  # there a look waits for all that is queued, so one for a block
        at_once = max(1, round(seconds / BLOCKS / settled))
    return [block(seconds / BLOCKS) for _ in range(BLOCKS)]


def synchronise(device: torch.device) -> None:
    """Wait until the device has done all it was told to."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def count_operations(network: Network, images: Float[Tensor, "n channels height width"]) -> int:
    """Return the floating point operations of a training step on `images`, forward and backward.

    Counted from the shapes of convolutions and fully connected layers: two (multiply, add) for each weight and each
    place it is used at, once for the output, once for the gradient of the weights, and once for that of the input where
    one is needed. So it does not depend on how a kernel computes them: products with the zeros of a banded matrix do
    not count.
    """
    total = 0

    def add(layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        nonlocal total
        assert isinstance(layer, nn.Conv2d | nn.Linear)
        (given,) = inputs
        if isinstance(layer, nn.Conv2d):  # a stage's own output is pooled
            output = layer._conv_forward(given.to("meta"), layer.weight.to("meta"), None)
        passes = 1 + layer.weight.requires_grad + given.requires_grad
        total += passes * 2 * output.numel() * layer.weight[0].numel()

    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(add) for layer in layers]
    try:
        network(images)
    finally:
        for hook in hooks:
            hook.remove()
    return total


def measure_peak(device: torch.device, precision: str) -> float:
    """Return the most floating point operations per second that are found, with as many threads as everything else.

    The fastest product of square matrices by PyTorch; on a CPU with compiled kernels also multiplications and additions
    in registers, since the library's products are far from what some processors can do.
    `precision`: "float32" or "bf16".
    """
    best, repeats = 0.0, 1 if device.type == "cpu" else 20
    for side in SIDES:
        operations = 2 * side**3
        if best and operations / best > 3 * PEAK_SECONDS:
            break
        left, right = (torch.randn(side, side).to(device, DTYPES[precision]) for _ in range(2))
        product = left @ right

        def multiply(left: Tensor = left, right: Tensor = right, product: Tensor = product) -> int:
            for _ in range(repeats):
                torch.mm(left, right, out=product)
            synchronise(device)
            return repeats * 2 * len(left) ** 3

        synchronise(device)
        best = max(best, _most_per_second(multiply))
    if device.type == "cpu" and why_not() is None and (precision == "float32" or pairs()):
        best = max(best, _most_per_second(lambda: multiply_adds(ROUNDS, paired=precision == "bf16")))
    return best


def _most_per_second(work: Callable[[], int]) -> float:
    """Return the most that is done in a second of work that says how much it does."""
    best, until = 0.0, time.perf_counter() + PEAK_SECONDS
    while (began := time.perf_counter()) < until:
        best = max(best, work() / (time.perf_counter() - began))
    return best
