"""What computes fastest here: a short trial of precisions and convolutions before the first step."""

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from stn_cli.compiled.compiler import why_not
from stn_cli.config import RuntimeConfig
from stn_cli.datasets.loader import Batch
from stn_cli.models.convolution import Convolutions, ConvolutionStage, stages_of
from stn_cli.models.network import Network
from stn_cli.training.runtime import Runtime, has_fast_bf16

IMAGES = 128  # of the batch: with half as many, what is small decides
LEAST, MOST = 2, 6  # turns after one to warm up; the shortest counts, since whatever else the machine does only adds
ENOUGH = 0.04  # seconds for more turns than the least


def try_out(settings: RuntimeConfig, runtime: Runtime, network: Network, batch: Batch) -> Runtime:
    """Return the runtime with what was left to be chosen, `auto`, chosen by measurement.

    On CPUs every convolution stage takes the fastest of PyTorch's library, banded products and compiled kernels, in
    each precision; then the precision with the shorter step wins. It takes about a second. Elsewhere nothing is
    measured.

    Measurements vary, so two runs may choose differently between ways that are equally fast, and then differ in their
    last bits: the choice becomes part of a run's settings, and whoever goes on with the run keeps it.
    The network, on its device, stays as it is.
    """
    if runtime.device.type != "cpu" or "auto" not in (settings.precision, settings.convolutions):
        return runtime
    precisions = [runtime.precision]
    if settings.precision == "auto" and has_fast_bf16(runtime.device):
        precisions = ["bf16", "float32"]
    ways: tuple[Convolutions, ...] = ("library", "banded", "compiled")
    missing = why_not() if settings.convolutions == "auto" and stages_of(network) else None
    if missing is not None:
        ways = ways[:2]
    small = Batch(batch.images[:IMAGES], batch.targets[:IMAGES])
    tried: list[tuple[float, Runtime]] = []
    for precision in precisions:
        candidate = replace(runtime, precision=precision)
        copied = candidate.place(copy.deepcopy(network).train())
        if settings.convolutions == "auto":
            candidate = replace(
                candidate, convolutions=",".join(_fastest_ways(copied, small, candidate, ways)) or "library"
            )
        took = _milliseconds([lambda n=copied, c=candidate: _step(n, small, c)])
        tried.append((took[0], candidate))
    tried.sort(key=lambda one: one[0])
    fastest = tried[0][1]
    took = ", ".join(f"{one.precision} {milliseconds:.0f} ms" for milliseconds, one in tried)
    without = "" if missing is None else f"; no compiled convolutions, since {missing}"
    where, steps = runtime.reason.partition(";")[0], "".join(runtime.reason.partition("; steps")[1:])
    what = f"{fastest.precision}, convolutions {fastest.convolutions}"
    return replace(
        fastest, reason=f"{where}; {what}, since a step of {len(small.targets)} images takes {took}{without}{steps}"
    )


def _fastest_ways(network: Network, batch: Batch, runtime: Runtime, ways: Sequence[Convolutions]) -> list[Convolutions]:
    """Let every stage compute in the way that is fastest for what it sees, and return the ways.

    What they see is as stages of the last way lay it, which mostly wins; the others are to be faster although they lay
    it anew.
    """
    seen: dict[ConvolutionStage, Tensor] = {}

    def note(stage: ConvolutionStage, given: tuple[Tensor]) -> None:
        seen[stage] = given[0]

    stages = stages_of(network)
    for stage in stages:
        stage.convolutions = ways[-1]
    hooks = [stage.register_forward_pre_hook(note) for stage in stages]
    _step(network, batch, runtime)
    for hook in hooks:
        hook.remove()
    for stage in stages:
        images = seen[stage].detach().requires_grad_(seen[stage].requires_grad)

        def there_and_back(way: Convolutions, stage: ConvolutionStage = stage, images: Tensor = images) -> None:
            stage.convolutions = way
            with runtime.autocast():
                output = stage(images)
            # backward(gradient) would import sympy first, half a second of each start
            (output * torch.ones_like(output)).sum().backward()

        times = _milliseconds([partial(there_and_back, way) for way in ways])
        stage.convolutions = ways[times.index(min(times))]
    return [stage.convolutions for stage in stages]


def _step(network: Network, batch: Batch, runtime: Runtime) -> None:
    images = batch.images.contiguous(memory_format=runtime.memory_format)
    with runtime.autocast():
        loss = cross_entropy(network(images).logits, batch.targets)
    network.zero_grad()
    loss.backward()


def _milliseconds(ways: Sequence[Callable[[], None]]) -> list[float]:
    """Return how long each of several ways takes; they take turns, so that a slow moment is one of all."""
    times: list[list[float]] = [[] for _ in ways]
    for turn in range(1 + MOST):
        for way, found in zip(ways, times, strict=True):
            began = time.perf_counter()
            way()
            found.append(1000 * (time.perf_counter() - began))
        if turn >= LEAST and sum(map(sum, times)) > 1000 * ENOUGH:
            break
    return [min(found[1:]) for found in times]
