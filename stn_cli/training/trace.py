"""A trace of a few training steps, which opens in Perfetto (https://ui.perfetto.dev)."""

import gzip
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.profiler import ProfilerAction, profile

from stn_cli.storage import write_bytes
from stn_cli.training.events import Event, Started
from stn_cli.training.optimiser import after_each_update

WARM_UP = 20  # steps before the trace, in which memory is taken and kernels are chosen
STEPS = 10  # in the trace


@dataclass(frozen=True)
class Traced:
    """A trace has been written."""

    path: Path


def traced(events: Iterable[Event]) -> Iterator[Event | Traced]:
    """Pass the events of a run on, and write a trace of ten of its steps to `profile/trace.json.gz` in its folder.

    Fewer steps where fewer are left to do, none where none are. What is computed stays the same, bit for bit. Steps
    that are recorded and replayed are not seen one by one: the run has to be `stepwise`.

    Raises:
        ResourceError: the trace cannot be written.
    """
    run = iter(events)
    for event in run:
        yield event
        if isinstance(event, Started) and event.step < event.total:
            with tracing(event.run / "profile" / "trace.json.gz", event.total - event.step) as written:
                for later in run:
                    while written:
                        yield Traced(written.pop())
                    yield later


@contextmanager
def tracing(path: Path, ahead: int) -> Iterator[list[Path]]:
    """Trace steps made inside the block, each of which ends with an update; yield a list to hold the path.

    `ahead`: how many steps will come. The trace is written when its last step is done, or when the block ends early.
    """
    if not torch.cuda.is_available():
        os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # or the profiler tells stderr that there is no GPU
    steps = min(STEPS, ahead)
    first = min(WARM_UP, ahead - steps)
    written: list[Path] = []

    def action(step: int) -> ProfilerAction:
        if step == first + steps - 1:
            return ProfilerAction.RECORD_AND_SAVE
        if step < first - 1 or step >= first + steps:
            return ProfilerAction.NONE
        return ProfilerAction.WARMUP if step < first else ProfilerAction.RECORD

    def write(profiler: profile) -> None:
        with tempfile.TemporaryDirectory() as folder:
            plain = Path(folder) / "trace.json"
            profiler.export_chrome_trace(str(plain))
            write_bytes(path, gzip.compress(plain.read_bytes()))
        written.append(path)

    profiler = profile(schedule=action, on_trace_ready=write, record_shapes=True, acc_events=True)
    with profiler, after_each_update(profiler.step):
        yield written
