"""Runs side by side on one machine: a process per CPU core, one thread each."""

import os
import signal
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import wait
from pathlib import Path
from shlex import quote
from typing import Any

from stn_cli.datasets.download import Progress
from stn_cli.errors import ResourceError, UsageError
from stn_cli.experiments.runner import Failed, Job, RunEvent, Said, Skipped
from stn_cli.experiments.worker import GRACE, main
from stn_cli.names import RANK_VARIABLES
from stn_cli.training.events import Finished, Interrupted, Started
from stn_cli.training.interruption import Interruption

POLL = 0.1  # seconds between two looks whether a signal came


def usable_cores() -> int:
    """Return how many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Packed:
    """A Runner. A run packed beside others equals the same one alone, with its settings and on one thread, bit for bit.

    `workers`: the most runs at once, and never more than there are cores. `overwrite` replaces runs of the same name;
    `download` is told of downloads.

    A process serves many runs, since importing torch takes it two seconds; one that dies is replaced.
    """

    workers: int | None = None
    overwrite: bool = False
    download: Progress | None = None

    def run(self, jobs: Sequence[Job]) -> Iterator[RunEvent]:
        waiting = deque(enumerate([_on_one_thread(job) for job in jobs]))
        at_once = min(self.workers or usable_cores(), usable_cores())
        crew: list[_Worker] = []
        told = False
        try:
            with Interruption() as interruption:
                while waiting or crew:
                    stopped_by = interruption.signal
                    if stopped_by is not None and not told:
                        told = True  # once: a second signal would stop them before they have saved
                        for worker in crew:
                            worker.process.send_signal(stopped_by)
                        yield from (RunEvent(place, Skipped(stopped_by)) for place, _ in waiting)
                        waiting.clear()
                    for worker in [worker for worker in crew if not worker.busy]:
                        if waiting and worker.process.poll() is None:
                            worker.begin(*waiting.popleft(), self.overwrite)
                        else:
                            crew.remove(worker)
                            worker.end()
                    while waiting and len(crew) < at_once:
                        crew.append(_Worker())
                        crew[-1].begin(*waiting.popleft(), self.overwrite)
                    wait([worker.connection for worker in crew], POLL)
                    for worker in crew:
                        yield from worker.hear(stopped_by, self.download)
        finally:
            for worker in crew:
                worker.connection.close()  # all, before the first is waited for
            for worker in crew:
                worker.end()


class _Worker:
    """A process that trains, and the run it is busy with."""

    def __init__(self) -> None:
        self.connection, theirs = Pipe()
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the process
        self._heard = 0  # bytes of it
        self._place: int | None = None
        self._run: Path | None = None  # since it started
        with theirs:
            call = f"import sys; sys.path[:] = {sys.path}; from {main.__module__} import main; main({theirs.fileno()})"
            self.process = subprocess.Popen(
                [sys.executable, "-c", call],
                env=_surroundings(),
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=self._stderr,
                stderr=self._stderr,
                process_group=0,  # or a terminal's Ctrl-C would reach it beside the signal from here
            )

    @property
    def busy(self) -> bool:
        return self._place is not None

    def begin(self, place: int, job: Job, overwrite: bool) -> None:
        self._place, self._run = place, None
        with suppress(OSError):  # it has just died; `hear` will find the end of the connection
            self.connection.send((job, overwrite))

    def hear(self, stopped_by: int | None, download: Progress | None) -> Iterator[RunEvent]:
        """Yield what is new about its run, if anything is."""
        if self._place is None or not self.connection.poll():
            return
        place, message = self._place, self._receive(stopped_by)
        if isinstance(message, Started):
            self._run = message.run
        if isinstance(message, Finished | Interrupted | Failed | Skipped):
            self._place = None
        for line in self._said():
            yield RunEvent(place, Said(line))
        if not isinstance(message, tuple):
            yield RunEvent(place, message)
        elif download is not None:
            download(*message)

    def end(self) -> None:
        """Let the process go: where the connection ends, it stops what it does and saves it."""
        self.connection.close()
        try:
            self.process.wait(2 * GRACE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._stderr.close()

    def _receive(self, stopped_by: int | None) -> Any:
        """Return the next message, or what the death of the process means for the run."""
        try:
            return self.connection.recv()
        except (EOFError, OSError):
            code = self.process.wait()
        if stopped_by is not None and self._run is None:
            return Skipped(stopped_by)  # the signal came before there was anything to save
        how = f"was killed by signal {-code}, {signal.strsignal(-code)}" if code < 0 else f"ended with code {code}"
        again = "Train it again" if self._run is None else f"Go on with `stn train --resume {quote(str(self._run))}`"
        return Failed(ResourceError(f"the process of a run {how}", f"{again}; if memory ran out, with fewer at once."))

    def _said(self) -> list[str]:
        text = os.pread(self._stderr.fileno(), 1 << 20, self._heard)
        self._heard += len(text)
        return text.decode(errors="replace").splitlines()


def _surroundings() -> dict[str, str]:
    """Return the environment of a worker: one thread, said before torch is imported, and no rank of anything."""
    inherited = {name: value for name, value in os.environ.items() if name not in RANK_VARIABLES}
    return inherited | {"OMP_NUM_THREADS": "1"}


def _on_one_thread(job: Job) -> Job:
    runtime = job.config.runtime
    if runtime.threads not in (None, 1):
        raise UsageError(f"runs side by side have one thread each, not {runtime.threads}", "Leave threads out.")
    if runtime.device not in ("auto", "cpu"):  # refused before anything begins, where it is not there
        from stn_cli.training.runtime import choose_runtime

        choose_runtime(runtime)
    return job.with_runtime(threads=1)
