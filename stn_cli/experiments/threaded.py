"""Runs side by side on one GPU: a thread of this process and a CUDA stream for each."""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from queue import SimpleQueue
from signal import SIGTERM
from threading import Lock, Thread

import torch

from stn_cli.datasets.download import Progress
from stn_cli.errors import UsageError
from stn_cli.experiments.runner import Failed, Job, RunEvent, Skipped
from stn_cli.training.events import Event
from stn_cli.training.interruption import Interruption
from stn_cli.training.runtime import choose_runtime

AT_ONCE = 8
MOST = 16  # PyTorch has 32 streams, and hands out the first again after the last


@dataclass(frozen=True)
class Threaded:
    """A Runner. A run beside others equals the same run alone.

    `workers`: the most runs at once, and never more than there are streams for. `overwrite` replaces runs of the same
    name; `download` is told of downloads.

    Steps that are CUDA graphs cost the host one launch for many of them, so that one process serves several runs; and
    their kernels, each too small to fill a GPU, share it. On CPUs runs would wait for each other; see `Packed`.
    """

    workers: int = AT_ONCE
    overwrite: bool = False
    download: Progress | None = None

    def run(self, jobs: Sequence[Job]) -> Iterator[RunEvent]:
        if len({job.config.runtime.threads for job in jobs}) > 1:
            raise UsageError("runs in one process have the same number of threads", "Set runtime.threads alike.")
        on_gpu = any(choose_runtime(job.config.runtime).device.type == "cuda" for job in jobs)
        shared, places = _Shared(), list(enumerate(jobs))
        threads = [
            Thread(target=self._work, args=(shared, on_gpu), daemon=True) for _ in places[: min(self.workers, MOST)]
        ]
        for item in (*places, *[None] * len(threads)):
            shared.waiting.put(item)
        with shared.interruption:
            for thread in threads:
                thread.start()
            try:
                for _ in threads:
                    yield from iter(shared.told.get, None)
            finally:  # whoever stops listening stops the runs, which are saved
                shared.interruption.signal = shared.interruption.signal or SIGTERM
                for thread in threads:
                    thread.join()

    def _work(self, shared: "_Shared", on_gpu: bool) -> None:
        """Train what is waiting, one run after another, all of them on a stream of this thread's own."""
        try:
            with torch.cuda.stream(torch.cuda.Stream()) if on_gpu else nullcontext():
                for place, job in iter(shared.waiting.get, None):
                    for event in self._events(job, shared):
                        shared.told.put(RunEvent(place, event))
        finally:
            shared.told.put(None)

    def _events(self, job: Job, shared: "_Shared") -> Iterator[Event | Failed | Skipped]:
        interruption = shared.interruption
        try:
            # One after another, since making a network borrows PyTorch's global generator.
            with shared.beginning:
                if interruption.signal is not None:
                    yield Skipped(interruption.signal)
                    return
                events = job.start(overwrite=self.overwrite, download=self.download, signals=interruption)
                first = next(events)
            yield first
            yield from events
        except Exception as error:  # whatever stops one run is told, and the others go on
            yield Failed(error)


@dataclass(frozen=True)
class _Shared:
    """What the threads have in common; None ends a queue for one of them, or of one."""

    waiting: "SimpleQueue[tuple[int, Job] | None]" = field(default_factory=SimpleQueue)
    told: "SimpleQueue[RunEvent | None]" = field(default_factory=SimpleQueue)
    beginning: Lock = field(default_factory=Lock)
    interruption: Interruption = field(default_factory=Interruption)
