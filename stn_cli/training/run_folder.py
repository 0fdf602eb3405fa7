"""A run is a folder: config.yaml, env.json, metrics.jsonl, checkpoints/, tb/, plots/, summary.json."""

import json
import os
import platform
import shutil
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from stn_cli import __version__
from stn_cli.config import RunConfig
from stn_cli.config_files import dump_config, load_config
from stn_cli.errors import CheckpointError, ResourceError, UsageError
from stn_cli.names import DATASETS
from stn_cli.storage import write_bytes, write_json
from stn_cli.training.runtime import Runtime


@dataclass(frozen=True)
class RunFolder:
    """The paths inside a run's folder."""

    path: Path

    @property
    def config(self) -> Path:
        """The complete configuration; its presence makes a folder a run."""
        return self.path / "config.yaml"

    @property
    def environment(self) -> Path:
        """Versions and machine."""
        return self.path / "env.json"

    @property
    def metrics(self) -> Path:
        """One JSON object per line."""
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        """The newest steps and the best."""
        return self.path / "checkpoints"

    @property
    def best(self) -> Path:
        """The checkpoint with the lowest validation error."""
        return self.checkpoints / "best.safetensors"

    @property
    def sound(self) -> Path:
        """The checkpoint of the last evaluation at which no transformer had collapsed; where `roll_back` is on."""
        return self.checkpoints / "sound.safetensors"

    @property
    def tensorboard(self) -> Path:
        """Event files."""
        return self.path / "tb"

    @property
    def plots(self) -> Path:
        """Pictures."""
        return self.path / "plots"

    @property
    def summary(self) -> Path:
        """The result; written when the run is finished."""
        return self.path / "summary.json"

    def read_config(self, overrides: Sequence[str] = ()) -> RunConfig:
        """Return the run's configuration, with some settings changed."""
        # SGD alone was there when a run's complete configuration had no such line.
        old = self.config.is_file() and b"localisation_optimiser:" not in self.config.read_bytes()
        return load_config(str(self.config), [*(["train.localisation_optimiser=sgd"] if old else []), *overrides])

    def write_config(self, config: RunConfig) -> None:
        """Write the run's configuration."""
        write_bytes(self.config, dump_config(config).encode())

    def read_summary(self) -> dict[str, Any] | None:
        """Return the result of a finished run, None for another one.

        Raises:
            CheckpointError: the summary is damaged.
        """
        if not self.summary.is_file():
            return None
        try:
            return dict(json.loads(self.summary.read_bytes()))
        except (ValueError, TypeError) as error:
            raise CheckpointError(f"{self.summary} is damaged", "`stn train --resume` writes it again.") from error

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep others from writing into the run. The system drops the lock of a process that dies.

        Raises:
            ResourceError: another process has it, or the folder cannot be written; the message names process and host.
        """
        owner = self.path / ".owner"
        lock = FileLock(self.path / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            who = owner.read_text().strip() if owner.is_file() else "another process"
            raise ResourceError(f"{self.path} is in use by {who}", "Wait for it, or stop it.") from error
        except OSError as error:
            raise ResourceError(f"cannot write {self.path}: {error.strerror}", "Make the folder writable.") from error
        try:
            owner.write_text(f"process {os.getpid()} on {socket.gethostname()}\n")
            yield
        finally:
            owner.unlink(missing_ok=True)
            lock.release()


def create_run(config: RunConfig, *, overwrite: bool = False) -> tuple[RunFolder, RunConfig]:
    """Make a new run's folder with its configuration; return both, the configuration with the final name.

    A name that is taken gets a suffix, -2 and so on, unless `overwrite` says to remove the old run.

    Raises:
        UsageError: the name leaves the runs folder, or `overwrite` would remove something that is no run.
        ResourceError: the folder cannot be written, or `overwrite` would remove a run that is going on.
    """
    wanted = config.name or _default_name(config)
    if wanted in ("", ".", "..") or wanted != Path(wanted).name or wanted.startswith("."):
        raise UsageError(f"{wanted!r} is no name for a run", "Use a plain name without slashes or a leading dot.")
    runs = Path(config.runs_dir)
    try:
        if overwrite and (runs / wanted).exists():
            _remove(RunFolder(runs / wanted))
        runs.mkdir(parents=True, exist_ok=True)
        run = _make_folder(runs, wanted)
    except OSError as error:
        raise ResourceError(f"cannot write {runs / wanted}: {error.strerror}", "Choose another --runs-dir.") from error
    config = config.model_copy(update={"name": run.path.name})
    if config.data.dataset not in DATASETS:  # a folder: the run finds it from everywhere
        folder = str(Path(config.data.dataset).resolve())
        config = config.model_copy(update={"data": config.data.model_copy(update={"dataset": folder})})
    run.write_config(config)
    return run, config


def find_run(name: str, runs_dir: str = "runs") -> RunFolder:
    """Return the folder of a run, given by path or by its name in `runs_dir`.

    Raises:
        CheckpointError: there is no run there.
    """
    for run in (RunFolder(Path(name)), RunFolder(Path(runs_dir) / name)):
        if os.path.isfile(run.config):  # unlike Path.is_file, False also for names no file can have
            return run
    raise CheckpointError(f"there is no run {name!r}, neither here nor in {runs_dir}", "See `stn list runs`.")


def list_runs(runs_dir: str) -> list[RunFolder]:
    """Return every run in a folder, by name."""
    return [RunFolder(file.parent) for file in sorted(Path(runs_dir).glob("*/config.yaml"))]


def write_environment(run: RunFolder, runtime: Runtime, processes: int = 1) -> None:
    """Write what the run computes with."""
    chosen = {"device": str(runtime.device), "processes": processes, **_chosen(runtime)}
    write_json(run.environment, describe_environment() | chosen)


def describe_environment() -> dict[str, Any]:
    """Return versions and machine, as every result names them."""
    return {
        "stn": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "cpu": f"{_cpu_name()}, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}",
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _cpu_name() -> str:
    listing = Path("/proc/cpuinfo")
    if listing.is_file():
        names = [line.partition(":")[2].strip() for line in listing.read_text().splitlines() if "model name" in line]
        if names:
            return names[0]
    return platform.processor() or platform.machine()


def _chosen(runtime: Runtime) -> dict[str, str]:
    return {"precision": runtime.precision, "why": runtime.reason}


def _remove(run: RunFolder) -> None:
    if not run.config.is_file():
        try:
            run.path.rmdir()  # a run that was killed before it had written anything
        except OSError as error:
            raise UsageError(f"{run.path} is no run, so it is not overwritten", "Choose another --name.") from error
        return
    with run.lock():
        shutil.rmtree(run.path)


def _make_folder(runs: Path, wanted: str) -> RunFolder:
    suffix, run = 1, RunFolder(runs / wanted)
    while True:
        try:
            run.path.mkdir()
            return run
        except FileExistsError:
            suffix += 1
            run = RunFolder(runs / f"{wanted}-{suffix}")


def _default_name(config: RunConfig) -> str:
    dataset = Path(config.data.dataset).resolve().name
    return f"{dataset}-{config.distortion.kind.lower()}-{config.model.label}-seed{config.seed}"
