"""The process of runs on a Ray cluster: what it trains, tells and sends back."""

import os
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path, PureWindowsPath
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

from stn_cli import __version__
from stn_cli.config import RunConfig, RuntimeConfig
from stn_cli.errors import DataError, ResourceError, StnError
from stn_cli.experiments.runner import Failed, Job, Said
from stn_cli.experiments.worker import portable
from stn_cli.storage import write_bytes, write_json
from stn_cli.training.checkpoint import newest_step
from stn_cli.training.events import Event, Finished, Interrupted, Started
from stn_cli.training.interruption import Interruption
from stn_cli.training.run_folder import RunFolder
from stn_cli.training.runtime import choose_runtime, keep_freed_memory

LISTEN = 1.0  # seconds that `hear` waits for something to tell


@dataclass(frozen=True)
class Greeting:
    """Where a process runs, with which stn, what precision `auto` comes to there, and which runs folders it sees."""

    host: str
    version: str
    precision: str
    sees: frozenset[str]


@dataclass(frozen=True)
class Order:
    """A run to be trained, in the folder that its configuration names, or from the newest checkpoint in there.

    `files`: what is in that folder, by name, where the process does not see it; None where it does. `patience`: seconds
    to wait for the lock of the folder.
    """

    config: RunConfig
    files: dict[str, bytes] | None
    patience: float = 0.0


@dataclass(frozen=True)
class Sent:
    """A file of a run whose folder the process does not see. `content`: None when it is there no more."""

    name: str  # inside the run's folder, with slashes
    content: bytes | None

    def land(self, run: Path) -> None:
        """Make the same of the file in the real folder of the run, atomically.

        Raises:
            DataError: it would lie elsewhere.
            ResourceError: it cannot be written.
        """
        path = PureWindowsPath(self.name)  # knows both slashes and drives, so it is the stricter one
        if path.anchor or ".." in path.parts:
            raise DataError(f"a worker sent {self.name!r}, which would lie outside {run}", "Train it again.")
        if self.content is None:
            (run / self.name).unlink(missing_ok=True)
        else:
            write_bytes(run / self.name, self.content)


class Trainer:
    """A Ray actor that trains one run after another. What happens is fetched from it by `hear`."""

    def __init__(self) -> None:
        keep_freed_memory()
        self._told: SimpleQueue[Any] = SimpleQueue()
        self._signals = Interruption()
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the process
        self._heard = 0  # bytes of it
        os.dup2(self._stderr.fileno(), 2)

    def greet(self, home: Path, data: str | None, probes: dict[str, Path], device: str) -> list[Greeting]:
        """Settle in, as `settle_in` does, and tell what is seen from there.

        `probes`: a file in each runs folder, under a name that no other folder has.

        Raises:
            ResourceError: there is no such device here.
        """
        settle_in(home, data)
        precision = choose_runtime(RuntimeConfig.model_validate({"device": device})).precision
        sees = frozenset(folder for folder, probe in probes.items() if probe.is_file())
        return [Greeting(socket.gethostname(), __version__, precision, sees)]

    def begin(self, order: Order) -> list[Any]:
        """Begin a run, and return what `hear` does."""
        Thread(target=self._train, args=(order,), daemon=True).start()
        return self.hear()

    def hear(self) -> list[Any]:
        """Return what has happened since the last call, as soon as something has.

        Events, Failed, Said, Sent, and pairs of bytes downloaded and to come.
        """
        messages: list[Any] = []
        with suppress(Empty):
            messages.append(self._told.get(timeout=LISTEN))
            while not isinstance(messages[-1], Sent):  # one file at a time, however many wait
                messages.append(self._told.get_nowait())
        return [*map(Said, self._said()), *messages]

    def stop(self, signal: int) -> None:
        """Let the run save and end as if this signal had come."""
        self._signals.signal = signal

    def _train(self, order: Order) -> None:
        try:
            if order.files is None:
                for event in self._events(order.config, order.patience):
                    self._told.put(event)
            else:
                with tempfile.TemporaryDirectory(prefix="stn-") as folder:
                    copy = _Copy(Path(folder), order.config, order.files)
                    for message in copy.sent_back(self._events(copy.config)):
                        self._told.put(message)
        except Exception as error:  # whatever stops one run is told, and the next one is taken
            self._told.put(Failed(portable(error)))

    def _events(self, config: RunConfig, patience: float = 0.0) -> Iterator[Event]:
        run = RunFolder(Path(config.runs_dir) / str(config.name))
        wait_for_lock(run, patience)
        job = Job(config, resume=newest_step(run.checkpoints) is not None)
        return job.start(
            overwrite=True,  # of a folder that was made for this very run
            download=lambda done, total: self._told.put((done, total)),
            signals=self._signals,
        )

    def _said(self) -> list[str]:
        text = os.pread(self._stderr.fileno(), 1 << 20, self._heard)
        self._heard += len(text)
        return text.decode(errors="replace").splitlines()


def settle_in(home: Path, data: str | None) -> None:
    """Go to the folder `home` and take `data` for STN_DATA, as whoever asked for the runs has it, if they are here.

    Otherwise relative paths begin where Ray was started, and STN_DATA is what it was there.
    """
    with suppress(OSError):
        os.chdir(home)
    if data and Path(data).is_dir():
        os.environ["STN_DATA"] = data


def files_in(run: Path) -> dict[str, tuple[int, int]]:
    """Return size and time of the files in a run's folder by name, the summary last; hidden ones are none of it."""
    names = [path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file() and path.name[0] != "."]
    stats = {name: (run / name).stat() for name in sorted(names, key=lambda name: (name == "summary.json", name))}
    return {name: (stat.st_size, stat.st_mtime_ns) for name, stat in stats.items()}


class _Copy:
    """A run's folder on a machine that does not see the real one."""

    def __init__(self, runs: Path, config: RunConfig, files: dict[str, bytes]) -> None:
        self._real = RunFolder(Path(config.runs_dir) / str(config.name))
        self._run = RunFolder(runs / str(config.name))
        self.config = config.model_copy(update={"runs_dir": str(runs)})
        for name, content in files.items():
            write_bytes(self._run.path / name, content)
        self._sent, self._step = files_in(self._run.path), newest_step(self._run.checkpoints)

    def sent_back(self, events: Iterator[Event]) -> Iterator[Event | Sent]:
        """Yield events as if they happened in the real folder, and what changed in this one.

        Files come before the event of the beginning, the next one after each checkpoint, and the end. The run stands
        still meanwhile, so that they belong together.

        Raises:
            Exception: what stopped the run; the paths in it are the real ones.
        """
        try:
            for event in events:
                told = self._as_real(event)
                step = newest_step(self._run.checkpoints)
                if step != self._step or isinstance(event, Finished | Interrupted):
                    yield from self._changes()
                    self._step = step
                yield told
        except Exception as error:
            yield from self._changes()
            if isinstance(error, StnError):
                here, there = str(self._run.path), str(self._real.path)
                error.what, error.fix = error.what.replace(here, there), error.fix.replace(here, there)
                error.args = (error.what, error.fix)
            raise

    def _as_real(self, event: Event) -> Event:
        """Return the event with the real folder, which the files beside it name from now on too."""
        match event:
            case Started():
                there = {"runs_dir": str(self._real.path.parent)}
                self._run.write_config(self._run.read_config().model_copy(update=there))
                return replace(event, run=self._real.path)
            case Interrupted():
                return replace(event, run=self._real.path)
            case Finished():
                summary = event.summary | {"run": str(self._real.path)}
                write_json(self._run.summary, summary)
                return Finished(summary)
            case _:
                return event

    def _changes(self) -> Iterator[Sent]:
        before, self._sent = self._sent, files_in(self._run.path)
        for name, state in self._sent.items():
            if before.get(name) != state:
                yield Sent(name, (self._run.path / name).read_bytes())
        yield from (Sent(name, None) for name in before.keys() - self._sent.keys())


def wait_for_lock(run: RunFolder, patience: float) -> None:
    """Wait until a run is free, if it is not; whether it is shows when training locks it."""
    until = time.monotonic() + patience
    while run.path.is_dir() and time.monotonic() < until:
        try:
            with run.lock():
                return
        except ResourceError:
            time.sleep(0.1)
