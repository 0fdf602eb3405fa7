"""Runs on a Ray cluster end as the same runs alone, also when a worker is killed or does not see the runs folder."""

import gc
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import uuid4

import pytest
import torch

from stn_cli import __version__
from stn_cli.config import RunConfig
from stn_cli.config_files import load_config
from stn_cli.errors import DataError, ResourceError, StnError, UsageError
from stn_cli.experiments import ray_runner, ray_worker
from stn_cli.experiments.ray_cluster import joined
from stn_cli.experiments.ray_runner import OnRay
from stn_cli.experiments.runner import Failed, Job, RunEvent, Said, Skipped
from stn_cli.training.checkpoint import read_checkpoint, read_newest
from stn_cli.training.events import Finished, Interrupted, Started, Trained
from stn_cli.training.loop import train
from stn_cli.training.run_folder import RunFolder
from stn_cli.training.runtime import choose_runtime

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")  # Ray leaves files to the garbage collector
HAS_RAY = importlib.util.find_spec("ray") is not None
needs_ray = pytest.mark.skipif(not HAS_RAY, reason="Ray is not installed")
# Read by Ray as it is imported: a secret of these tests' own, or it would write one into the home folder; and workers
# that do not give way to everything else on the machine.
os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": uuid4().hex, "RAY_worker_niceness": "0"}

SMALL = (
    *("model.parameters=30000", "train.iterations=6", "train.batch_size=16"),
    *("log.evaluations=2", "log.every=2", "log.images=0"),
    *("runtime.device=cpu", "runtime.precision=float32", "runtime.convolutions=library"),
)
MIDDLE = ("model.name=fcn", "train.iterations=800", "log.evaluations=4", "log.every=25", "name=a")
LONG = ("model.name=fcn", "train.iterations=1000000", "log.every=100")  # until it is stopped
ENDS = (Finished, Interrupted, Failed, Skipped)


def small(folder: Path | str, *overrides: str) -> RunConfig:
    return load_config(None, [*SMALL, f"runs_dir={folder}", *overrides])


def result(run: Path) -> dict[str, Any]:
    """Return all that must not depend on where a run was trained: weights, momentum, metrics, summary."""
    folder = RunFolder(run)
    timed = ("run", "images_per_second", "train_seconds")
    found: dict[str, Any] = {"metrics": folder.metrics.read_bytes()}
    found["summary"] = {key: value for key, value in (folder.read_summary() or {}).items() if key not in timed}
    for name, checkpoint in (("last", read_newest(folder.checkpoints)[0]), ("best", read_checkpoint(folder.best))):
        found |= {f"{name}.{key}": value.flatten().tolist() for key, value in checkpoint.tensors.items()}
        found |= {f"{name}.{key}": value for key, value in checkpoint.state.items() if key != "seconds"}
    return found


def alone(config: RunConfig, folder: Path) -> Path:
    """Train in this process, on one thread."""
    (run,) = [
        event.run for event in train(config.model_copy(update={"runs_dir": str(folder)})) if isinstance(event, Started)
    ]
    return run


def files_of(run: Path) -> set[str]:
    """Return the names of all but TensorBoard's, of which each process has its own."""
    names = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}
    return {name for name in names if not name.startswith("tb/")}


def processes_of(run: Path) -> list[int]:
    """Return the numbers of the processes that trained a run; TensorBoard writes them into the names of its files."""
    files = sorted(run.glob("tb/events.out.tfevents.*"), key=lambda file: file.stat().st_mtime_ns)
    return [int(file.name.split(".")[-2]) for file in files]


def is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until_gone(process: int) -> None:
    deadline = time.monotonic() + 10
    while is_alive(process):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def of(events: list[RunEvent], place: int, *types: type) -> list[Any]:
    return [event.event for event in events if event.place == place and isinstance(event.event, types)]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """The number of threads changes bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
    with warnings.catch_warnings(action="ignore", category=ResourceWarning):
        gc.collect()  # or what Ray has left would count as a fault of a later test


class Cluster:
    """A cluster of two CPU cores that somebody else has started, elsewhere."""

    def __init__(self) -> None:
        port, client_port = free_port(), free_port()
        self.address = f"127.0.0.1:{port}"
        self.folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # short, for the sockets in it
        options = (
            *(
                "--head",
                "--block",
                f"--port={port}",
                f"--ray-client-server-port={client_port}",
                "--num-cpus=2",
                "--num-gpus=0",
            ),
            *("--include-dashboard=false", "--disable-usage-stats", f"--object-store-memory={128 << 20}"),
            f"--temp-dir={self.folder}",
        )
        self.log = Path(self.folder, "start.log")
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "ray.scripts.scripts", "start", *options],
                stdout=log,
                stderr=log,
                cwd="/",
                process_group=0,
            )
        deadline = time.monotonic() + 60
        while b"runtime started" not in self.log.read_bytes():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.1)

    def end(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)  # what has not yet ended may still write into it


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of MIDDLE, alone."""
    return alone(small(".", *MIDDLE), tmp_path_factory.mktemp("alone"))


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    if not HAS_RAY:
        pytest.skip("Ray is not installed")
    cluster = Cluster()
    yield cluster
    cluster.end()


@needs_ray
def test_runs_on_a_cluster_of_their_own_equal_the_same_runs_alone(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    """And whoever stops listening stops the rest, which is saved."""
    last = (*LONG, "runtime.precision=auto")
    settings = (["model.name=fcn"], ["data.dataset=missing"], ["model.transform=tps"], last)
    configs = [small(tmp_path / "ray", f"name={i}", *chosen) for i, chosen in enumerate(settings)]
    handler = signal.getsignal(signal.SIGTERM)
    events: list[RunEvent] = []
    stream = OnRay(workers=1).run([Job(config) for config in configs])
    for event in stream:
        events.append(event)
        if isinstance(event.event, Trained) and event.place == 3:
            stream.close()  # pyright: ignore[reportAttributeAccessIssue]
    assert signal.getsignal(signal.SIGTERM) is handler
    assert [event.place for event in events if isinstance(event.event, ENDS)] == [0, 1, 2]
    (failed,) = of(events, 1, Failed)
    assert isinstance(failed.error, DataError)
    assert "missing" in failed.error.what
    assert "prepare_data" in failed.error.__notes__[0], "the note is the traceback in the other process"
    assert sorted(path.name for path in (tmp_path / "ray").iterdir()) == ["0", "2", "3"]
    for place in (0, 2):
        started, *_, finished = of(events, place, Started, Trained, Finished)
        assert started.run == tmp_path / "ray" / str(place)
        assert finished.summary["run"] == str(started.run)
        assert result(started.run) == result(alone(configs[place], tmp_path / "alone"))
    assert read_newest(tmp_path / "ray/3/checkpoints")[0].state["step"] > 0
    precision = RunFolder(tmp_path / "ray/3").read_config().runtime.precision
    assert precision == choose_runtime(configs[3].runtime).precision
    (process,) = {process for run in (tmp_path / "ray").iterdir() for process in processes_of(run)}
    wait_until_gone(process)
    assert capfd.readouterr() == ("", "")


def test_a_run_whose_worker_is_killed_goes_on_to_the_same_end(
    cluster: Cluster,
    uninterrupted: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
):
    """It was begun somewhere else too, and left."""
    monkeypatch.chdir(tmp_path)  # of which the cluster's processes know nothing
    config = small("runs", *MIDDLE)
    for event in train(config):
        if isinstance(event, Trained) and event.step > 200:
            break
    events: list[RunEvent] = []
    for event in OnRay(cluster.address).run([Job(config, resume=True)]):
        events.append(event)
        if isinstance(event.event, Trained) and event.event.step > 400 and len(of(events, 0, Started)) == 1:
            process = processes_of(Path("runs/a"))[-1]
            assert Path("runs/a/.owner").read_text() == f"process {process} on {socket.gethostname()}\n"
            os.kill(process, signal.SIGKILL)
    first, second = of(events, 0, Started)
    assert first.step == 200
    assert second.step >= 400
    (said,) = [said.line for said in of(events, 0, Said) if "was lost" in said.line]
    assert f"its worker on {socket.gethostname()} was lost: " in said
    assert said.endswith(f"; it goes on from step {second.step:,}")
    assert len(of(events, 0, *ENDS)) == len(of(events, 0, Finished)) == 1
    assert result(Path("runs/a")) == result(uninterrupted)
    assert sorted(path.name for path in Path("runs").iterdir()) == ["a"]
    assert capfd.readouterr() == ("", "")


def test_a_signal_saves_what_has_begun_and_skips_the_rest(cluster: Cluster, tmp_path: Path):
    """One of the workers dies at the same time; what it has saved before is left."""
    configs = [small(tmp_path, *LONG, f"name={i}") for i in range(3)]
    begun: set[int] = set()
    ends: dict[int, Any] = {}
    for event in OnRay(cluster.address, workers=2).run([Job(config) for config in configs]):
        if isinstance(event.event, Trained) and event.place not in begun:
            begun.add(event.place)
            if len(begun) == 2:
                os.kill(processes_of(tmp_path / "0")[0], signal.SIGKILL)
                signal.raise_signal(signal.SIGTERM)
        if isinstance(event.event, ENDS):
            assert event.place not in ends
            ends[event.place] = event.event
    steps = [read_newest(tmp_path / name / "checkpoints")[0].state["step"] for name in ("0", "1")]
    assert ends == {
        0: Interrupted(tmp_path / "0", signal.SIGTERM, steps[0]),
        1: Interrupted(tmp_path / "1", signal.SIGTERM, steps[1]),
        2: Skipped(signal.SIGTERM),
    }
    assert steps[1] > 0
    assert not (tmp_path / "2").exists()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="there is no path here that only one process sees")
def test_a_worker_that_does_not_see_the_folder_sends_everything_back(
    cluster: Cluster, uninterrupted: Path, tmp_path: Path
):
    """Also what another one needs to go on, when it is killed."""
    (tmp_path / "ray").mkdir()
    descriptor = os.open(tmp_path / "ray", os.O_RDONLY)
    here = Path(f"/proc/self/fd/{descriptor}")
    config = small(here, *MIDDLE)
    events: list[RunEvent] = []
    for event in OnRay(cluster.address).run([Job(config)]):
        events.append(event)
        if isinstance(event.event, Started):
            assert RunFolder(here / "a").read_config().runs_dir == str(here)
            with pytest.raises(ResourceError, match="in use"), RunFolder(here / "a").lock():
                pass
        if isinstance(event.event, Trained) and event.event.step > 200 and len(of(events, 0, Started)) == 1:
            (process,) = processes_of(here / "a")
            os.kill(process, signal.SIGKILL)
    os.close(descriptor)
    run = tmp_path / "ray/a"
    first, second = of(events, 0, Started)
    assert first.run == second.run == here / "a"
    assert (first.step, second.step >= 200) == (0, True)
    (finished,) = of(events, 0, *ENDS)
    assert finished.summary == RunFolder(run).read_summary()
    assert finished.summary["run"] == str(here / "a")
    assert result(run) == result(uninterrupted)
    assert json.loads((run / "env.json").read_text())["threads"] == 1
    assert files_of(run) == files_of(uninterrupted)
    assert len(processes_of(run)) == 2
    assert [path.name for path in (tmp_path / "ray").iterdir()] == ["a"]


def module_of_mortals(name: str) -> ModuleType:
    """Return a module with a class of workers that are lost at once. No other process can import it."""
    module = ModuleType(name)
    exec("import os\nclass Trainer:\n    def greet(self, *_): os._exit(1)", module.__dict__)
    return module


def test_what_keeps_runs_from_beginning_is_told(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """In a process that is connected already, and stays so."""
    jobs = [Job(small(tmp_path / "ray", "runtime.device=auto"))]
    with joined(cluster.address):
        with pytest.raises(ResourceError, match=r"no machine of the cluster has a CPU core and 0\.5 of a GPU"):
            list(OnRay(gpus=0.5).run(jobs))
        monkeypatch.setattr(ray_runner, "__version__", "0.0")
        (old,) = OnRay().run(jobs)
        monkeypatch.setitem(sys.modules, "only_here", module_of_mortals("only_here"))
        monkeypatch.setattr(ray_runner, "Trainer", sys.modules["only_here"].Trainer)
        (unknown,) = OnRay().run(jobs)
        monkeypatch.setattr(ray_runner, "Trainer", module_of_mortals("__main__").Trainer)  # which is sent as it is
        *said, lost = OnRay().run(jobs)
    assert isinstance(old.event, Failed)
    assert str(old.event.error) == (
        f"{socket.gethostname()} has stn {__version__}, this machine has 0.0. "
        "Install the same version on all machines of the cluster."
    )
    assert isinstance(unknown.event, Failed)
    assert str(unknown.event.error) == (
        "the cluster cannot load stn: ModuleNotFoundError: No module named 'only_here'. "
        "Install stn-cli 0.0 on all machines of the cluster."
    )
    assert [type(event.event) for event in said] == [Said] * ray_runner.LOSSES
    for event in said:
        assert isinstance(event.event, Said)
        assert event.event.line.startswith(
            "its worker was lost: The actor is dead because its worker process has died."
        )
        assert event.event.line.endswith("; it begins again")
    assert isinstance(lost.event, Failed)
    assert isinstance(lost.event.error, ResourceError)
    assert lost.event.error.what.startswith("its worker was lost: The actor is dead because")
    assert lost.event.error.fix == "Train it again; if memory ran out, with fewer at once."
    assert list((tmp_path / "ray").iterdir()) == []


def test_without_ray_it_is_told_how_to_install_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ResourceError) as error:
        next(OnRay().run([Job(small(tmp_path))]))
    assert str(error.value) == "Ray is not installed. pip install 'stn-cli[ray]'"


@needs_ray
def test_a_cluster_that_does_not_answer_is_told(tmp_path: Path):
    address = f"127.0.0.1:{free_port()}"
    for form in (address, f"ray://{address}"):
        with pytest.raises(ResourceError) as error:
            next(OnRay(form).run([Job(small(tmp_path))]))
        assert error.value.what == f"no Ray cluster answers at {form}: Connection refused"


@pytest.mark.parametrize(
    ("gpus", "settings", "problem"),
    [
        (None, ["runtime.threads=2"], "one thread each, not 2"),
        (None, ["runtime.device=mps"], "not on mps"),
        (0.5, ["runtime.device=cpu"], "not on cpu and cuda"),
        (0, ["runtime.device=cuda"], "not on cpu and cuda"),
        (1.5, ["runtime.device=auto"], r"cannot have 1\.5 of a GPU"),
    ],
)
def test_what_no_run_gets_is_refused_before_anything_begins(
    gpus: float | None, settings: list[str], problem: str, tmp_path: Path
):
    with pytest.raises(UsageError, match=problem):
        next(OnRay(gpus=gpus).run([Job(small(tmp_path, *settings))]))
    assert list(tmp_path.iterdir()) == []


def test_a_worker_is_where_the_runs_were_asked_for_if_that_is_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir("/")
    monkeypatch.setenv("STN_DATA", "data")
    ray_worker.settle_in(tmp_path / "missing", "missing")
    assert (Path.cwd(), os.environ["STN_DATA"]) == (Path("/"), "data")
    (tmp_path / "b").mkdir()
    ray_worker.settle_in(tmp_path, "b")
    assert (Path.cwd(), os.environ["STN_DATA"]) == (tmp_path, "b")


def test_the_lock_of_a_lost_worker_is_waited_for(tmp_path: Path):
    run, locked = RunFolder(tmp_path), threading.Event()

    def lock() -> None:
        with run.lock():
            locked.set()
            time.sleep(0.3)

    thread = threading.Thread(target=lock)
    thread.start()
    locked.wait()
    ray_worker.wait_for_lock(run, 0)
    with pytest.raises(ResourceError, match="in use"), run.lock():
        pass
    ray_worker.wait_for_lock(run, 10)
    with run.lock():
        pass
    thread.join()


@pytest.mark.parametrize("name", ["../b/config.yaml", "/etc/passwd", "c:config.yaml", "tb\\..\\..\\x"])
def test_no_file_that_is_sent_lands_outside_its_run(name: str, tmp_path: Path):
    with pytest.raises(StnError, match="outside"):
        ray_worker.Sent(name, b"").land(tmp_path / "a")
    assert list(tmp_path.iterdir()) == []
