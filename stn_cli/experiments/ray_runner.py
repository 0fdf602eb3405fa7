"""Runs on a Ray cluster: one CPU core each, and a share of a GPU where there are any, on as many machines as it has."""

import os
import shutil
import signal
import textwrap
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import Any

from stn_cli import __version__
from stn_cli.config import RunConfig
from stn_cli.datasets.download import Progress
from stn_cli.errors import ResourceError, StnError, UsageError
from stn_cli.experiments.packed import POLL
from stn_cli.experiments.ray_cluster import joined, probed, share_of_gpu
from stn_cli.experiments.ray_worker import Greeting, Order, Sent, Trainer, files_in
from stn_cli.experiments.runner import Failed, Job, RunEvent, Said, Skipped
from stn_cli.experiments.worker import GRACE
from stn_cli.training.checkpoint import newest_step
from stn_cli.training.events import Finished, Interrupted
from stn_cli.training.interruption import Interruption
from stn_cli.training.run_folder import RunFolder, create_run

LOSSES = 3  # of its worker that a run gets over
LEASE = 90.0  # seconds until a file server takes the lock from a machine that is gone; NFS's default


@dataclass(frozen=True)
class OnRay:
    """A Runner. On a CPU a run equals the same run alone on it with runtime.threads=1, bit for bit.

    `address`: of a cluster, "host:6379" or "ray://host:10001"; None starts one on this machine, which ends with the
    runs. `workers`: the most runs at once; as many as there is room for if None. `gpus`: the share of a GPU for each
    run, 0 for none; if None, a quarter where there are any and the configuration does not ask for the CPU. `overwrite`
    replaces runs of the same name; `download` is told of downloads, wherever they are.

    All machines have the same version of stn, and each finds or downloads datasets for itself. A machine that sees the
    runs folder of this one writes the runs there. From any other the files that changed are sent here when a run
    begins, after each of its checkpoints, and when it ends. A run whose worker is lost goes on from its newest
    checkpoint on another one, at most three times.
    """

    address: str | None = None
    workers: int | None = None
    gpus: float | None = None
    overwrite: bool = False
    download: Progress | None = None

    def run(self, jobs: Sequence[Job]) -> Iterator[RunEvent]:
        device = self._device({job.config.runtime.device for job in jobs})
        for threads in {job.config.runtime.threads for job in jobs} - {None, 1}:
            raise UsageError(f"runs side by side have one thread each, not {threads}", "Leave threads out.")
        with joined(self.address), probed({job.config.runs_dir for job in jobs}) as probes:
            crew = _Crew(self, share_of_gpu(self.gpus, device), probes)
            yield from crew.train([_Run(place, job, job.config) for place, job in enumerate(jobs)])

    def _device(self, asked: set[str]) -> str:
        """Return what the runs are to compute on: cpu, cuda, or auto."""
        if self.gpus is not None and not 0 <= self.gpus <= 1:
            raise UsageError(f"a run cannot have {self.gpus:g} of a GPU", "Give a share from 0 to 1.")
        given = asked if self.gpus is None else (asked - {"auto"}) | {"cuda" if self.gpus else "cpu"}
        if len(given) > 1 or "mps" in given:
            what = f"runs on Ray all compute on CPUs or all on CUDA devices, not on {' and '.join(sorted(given))}"
            raise UsageError(what, "Set runtime.device alike.")
        return given.pop() if given else "auto"


@dataclass
class _Run:
    """A job, and what has become of it so far."""

    place: int
    job: Job
    config: RunConfig
    folder: RunFolder | None = None  # once it was given to a worker; the configuration has its name
    losses: int = 0
    lock: ExitStack = field(default_factory=ExitStack)  # held for a worker that does not see the folder

    def settle(self, overwrite: bool) -> RunFolder:
        """Return its folder, made here, so that every worker finds it under the same name."""
        if self.folder is None and self.job.resume:
            self.folder = RunFolder(Path(self.config.runs_dir) / str(self.config.name))
        elif self.folder is None:
            self.folder, self.config = create_run(self.config, overwrite=overwrite)
        return self.folder

    @property
    def step(self) -> int | None:
        """The newest that is saved."""
        return None if self.folder is None else newest_step(self.folder.checkpoints)

    def let_go(self) -> None:
        """Unlock the folder, and remove one in which nothing was trained."""
        self.lock.close()
        if self.folder is not None and not self.job.resume and self.step is None:
            shutil.rmtree(self.folder.path, ignore_errors=True)  # what stays begins anew some day
            self.folder = None


class _Worker:
    """A process of the cluster, whether it is there yet or not, and the run it is busy with."""

    def __init__(self, gpus: float, probes: dict[str, Path]) -> None:
        import ray

        options = {"num_cpus": 1, "num_gpus": gpus, "max_concurrency": 2}  # a thread to hear it, another to stop it
        try:
            self.actor: Any = ray.remote(Trainer).options(**options).remote()
        except ImportError as error:  # through ray://, where the cluster looks at it at once
            raise _not_installed(str(error)) from error
        data, device = os.environ.get("STN_DATA"), "cuda" if gpus else "cpu"
        self.reply: Any = self.actor.greet.remote(Path.cwd(), data, probes, device)
        self.greeting: Greeting | None = None
        self.run: _Run | None = None


class _Crew:
    """The workers, and the runs that wait for one."""

    def __init__(self, settings: OnRay, gpus: float, probes: dict[str, Path]) -> None:
        self._settings, self._gpus, self._probes = settings, gpus, probes
        self._waiting: deque[_Run] = deque()
        self._workers: list[_Worker] = []
        self._precision: str | None = None  # what `auto` comes to where the first worker is, for all
        self._stopped_by: int | None = None

    def train(self, runs: Sequence[_Run]) -> Iterator[RunEvent]:
        self._waiting.extend(runs)
        try:
            with Interruption() as interruption:
                while self._waiting or self._busy:
                    if interruption.signal is not None and self._stopped_by is None:
                        self._stop(interruption.signal)
                        yield from map(self._unfinished, self._waiting)
                        self._waiting.clear()
                    yield from self._assign()
                    for worker in self._answered():
                        yield from self._hear(worker)
        finally:
            if self._stopped_by is None:
                self._stop(signal.SIGTERM)
            until = time.monotonic() + GRACE
            while self._busy and time.monotonic() < until:
                for worker in self._answered():
                    self._hear(worker)  # nobody listens, but what it sends is kept
            for worker in self._workers.copy():
                self._dismiss(worker)

    @property
    def _busy(self) -> list[_Worker]:
        return [worker for worker in self._workers if worker.run is not None]

    def _stop(self, number: int) -> None:
        self._stopped_by = number
        for worker in self._busy:
            worker.actor.stop.remote(number)

    def _assign(self) -> Iterator[RunEvent]:
        """Give runs to workers that have none, and see that there are as many workers as there is use for."""
        for worker in [worker for worker in self._workers if worker.run is None]:
            if not self._waiting:
                self._dismiss(worker)
            elif worker.greeting is not None:
                run = self._waiting.popleft()
                try:
                    worker.reply = worker.actor.begin.remote(self._order(run, worker.greeting))
                    worker.run = run
                except (StnError, OSError) as error:
                    run.let_go()
                    yield RunEvent(run.place, Failed(error))
        wanted = len(self._waiting) + len(self._busy)
        while len(self._workers) < min(self._settings.workers or wanted, wanted):
            self._workers.append(_Worker(self._gpus, self._probes))

    def _order(self, run: _Run, greeting: Greeting) -> Order:
        folder, runtime = run.settle(self._settings.overwrite), run.config.runtime
        precision = self._precision if runtime.precision == "auto" else runtime.precision
        chosen = {"threads": 1, "device": "cuda" if self._gpus else "cpu", "precision": precision}
        config = run.config.model_copy(update={"runtime": runtime.model_copy(update=chosen)})
        if config.runs_dir in greeting.sees:
            return Order(config, None, LEASE if run.losses else 0.0)
        run.lock.enter_context(folder.lock())
        return Order(config, {name: (folder.path / name).read_bytes() for name in files_in(folder.path)})

    def _answered(self) -> list[_Worker]:
        """Return the workers that have something to tell, waiting a moment for the first."""
        import ray

        replies = {worker.reply: worker for worker in self._workers if worker.reply is not None}
        if not replies or not ray.wait(list(replies), timeout=POLL)[0]:
            return []
        return [replies[reply] for reply in ray.wait(list(replies), num_returns=len(replies), timeout=0)[0]]

    def _hear(self, worker: _Worker) -> list[RunEvent]:
        """Return what a worker tells, or what its death means."""
        import ray
        from ray.exceptions import RayError, RayTaskError

        reply, worker.reply = worker.reply, None
        events: list[RunEvent] = []
        try:
            for message in ray.get(reply):
                if isinstance(message, Greeting):
                    self._welcome(worker, message)
                elif worker.run is not None and worker.run.folder is not None:
                    events += self._take(worker, worker.run, worker.run.folder.path, message)
            if worker.run is not None:
                worker.reply = worker.actor.hear.remote()
        except RayTaskError as error:  # what it was asked to do raised the cause
            events += self._fail(worker, error.cause if isinstance(error.cause, Exception) else error)
        except RayError as error:
            events += self._lose(worker, error)
        except (StnError, OSError) as error:  # what it sent cannot be kept
            events += self._fail(worker, error)
        return events

    def _welcome(self, worker: _Worker, greeting: Greeting) -> None:
        if greeting.version != __version__:
            what = f"{greeting.host} has stn {greeting.version}, this machine has {__version__}"
            raise ResourceError(what, "Install the same version on all machines of the cluster.")
        self._precision = self._precision or greeting.precision
        worker.greeting = greeting

    def _take(self, worker: _Worker, run: _Run, folder: Path, message: Any) -> list[RunEvent]:
        if isinstance(message, Sent):
            message.land(folder)
            return []
        if isinstance(message, tuple):
            if self._settings.download is not None:
                self._settings.download(*message)
            return []
        if isinstance(message, Finished | Interrupted | Failed):
            worker.run = None
            run.let_go()
        return [RunEvent(run.place, message)]

    def _dismiss(self, worker: _Worker) -> _Run | None:
        """End a worker; return the run that it leaves behind."""
        import ray

        self._workers.remove(worker)
        ray.kill(worker.actor)
        if worker.run is not None:
            worker.run.lock.close()
        return worker.run

    def _fail(self, worker: _Worker, error: Exception) -> list[RunEvent]:
        """Return the end of a run that another worker would not train either."""
        run = self._dismiss(worker) or (self._waiting.popleft() if self._waiting else None)
        if run is None:
            return []
        run.let_go()
        return [RunEvent(run.place, Failed(error))]

    def _lose(self, worker: _Worker, error: Exception) -> list[RunEvent]:
        """Return what the loss of a worker means for its run, or for one that waited for it."""
        where = "its worker" if worker.greeting is None else f"its worker on {worker.greeting.host}"
        reason = str(error).strip().splitlines()[-1].partition(" Some common causes")[0]
        what = f"{where} was lost: {textwrap.shorten(reason, 300)}"
        if "creation task" in str(error):
            return self._fail(worker, _not_installed(reason))
        run = self._dismiss(worker) or (self._waiting.popleft() if self._waiting else None)
        if run is None:
            return []
        run.losses += 1
        if self._stopped_by is not None:
            return [self._unfinished(run)]
        if run.losses <= LOSSES:
            self._waiting.appendleft(run)
            how = "it begins again" if run.step is None else f"it goes on from step {run.step:,}"
            return [RunEvent(run.place, Said(f"{what}; {how}"))]
        again = "Train it again"
        if run.folder is not None and run.step is not None:
            again = f"Go on with `stn train --resume {quote(str(run.folder.path))}`"
        run.let_go()
        failure = ResourceError(
            f"{what}, for the {run.losses}th time", f"{again}; if memory ran out, with fewer at once."
        )
        return [RunEvent(run.place, Failed(failure))]

    def _unfinished(self, run: _Run) -> RunEvent:
        """Return the end of a run that nobody trains when a signal has come."""
        number, step = self._stopped_by or 0, run.step
        run.let_go()
        if run.folder is None or step is None:
            return RunEvent(run.place, Skipped(number))
        return RunEvent(run.place, Interrupted(run.folder.path, number, step))


def _not_installed(reason: str) -> ResourceError:
    fix = f"Install stn-cli {__version__} on all machines of the cluster."
    return ResourceError(f"the cluster cannot load stn: {reason}", fix)
