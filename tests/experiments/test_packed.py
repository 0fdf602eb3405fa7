"""Runs packed side by side end as the same runs alone, and whatever happens to one of them, or to all, is told."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from stn_cli.config import RunConfig
from stn_cli.config_files import load_config
from stn_cli.errors import DataError, ResourceError, UsageError
from stn_cli.experiments.choose import choose_runner
from stn_cli.experiments.in_turn import InTurn
from stn_cli.experiments.packed import Packed, usable_cores
from stn_cli.experiments.runner import Failed, Job, RunEvent, Said, Skipped
from stn_cli.experiments.worker import GRACE, portable
from stn_cli.training.checkpoint import read_checkpoint, read_newest
from stn_cli.training.events import Finished, Interrupted, Started, Trained
from stn_cli.training.loop import train
from stn_cli.training.restore import open_to_resume
from stn_cli.training.run_folder import RunFolder
from stn_cli.training.runtime import choose_runtime

pytestmark = pytest.mark.xdist_group("cores")  # which the processes of packed runs claim

SMALL = (
    "model.parameters=30000",
    "train.iterations=6",
    "train.batch_size=16",
    "log.evaluations=2",
    "log.every=2",
    "log.images=0",
    "runtime.device=cpu",
    "runtime.precision=float32",
    "runtime.convolutions=library",
)
LONG = ("model.name=fcn", "train.iterations=100000", "log.every=1")  # until it is stopped
ENDS = (Finished, Interrupted, Failed, Skipped)


def small(folder: Path, *overrides: str) -> RunConfig:
    return load_config(None, [*SMALL, f"runs_dir={folder}", *overrides])


def result(run: RunFolder) -> dict[str, Any]:
    """Return all that must not depend on where a run was trained, nor beside what: weights, momentum, metrics."""
    summary = run.read_summary() or {}
    timed = ("run", "images_per_second", "train_seconds")
    found: dict[str, Any] = {"metrics": run.metrics.read_bytes()}
    found["summary"] = {key: value for key, value in summary.items() if key not in timed}
    for name, checkpoint in (("last", read_newest(run.checkpoints)[0]), ("best", read_checkpoint(run.best))):
        found |= {f"{name}.{key}": value.flatten().tolist() for key, value in checkpoint.tensors.items()}
        found |= {f"{name}.{key}": value for key, value in checkpoint.state.items() if key != "seconds"}
    return found


def alone(config: RunConfig) -> RunFolder:
    """Train in this process, on one thread."""
    (run,) = [event.run for event in train(config) if isinstance(event, Started)]
    return RunFolder(run)


def process_of(run: Path) -> int:
    """Return the number of the process that began a run; TensorBoard writes it into the name of its file."""
    (events,) = (run / "tb").glob("events.out.tfevents.*")
    return int(events.name.split(".")[-2])


def is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def of_type(events: list[RunEvent], *types: type) -> list[RunEvent]:
    return [event for event in events if isinstance(event.event, types)]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """The number of threads changes bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Seen:
    """Five runs on at most two processes, one of which cannot begin, as they were told and as they were found."""

    def __init__(self, folder: Path) -> None:
        settings = [
            ["model.name=fcn"],
            ["model.name=st-cnn", "model.transform=tps", "distortion.kind=E"],
            [f"data.dataset={folder / 'missing'}"],
            ["model.name=st-fcn", "runtime.precision=bf16"],
            ["model.name=fcn"],
        ]
        self.configs = [small(folder, "seed=4", f"name={i}", *chosen) for i, chosen in enumerate(settings)]
        self.cores = {core for core in os.sched_getaffinity(0) if is_free(core)}
        self.events: list[RunEvent] = []
        self.processes: dict[int, int] = {}
        self.pinned: dict[int, set[int]] = {}
        self.surroundings: dict[int, bytes] = {}
        for event in Packed(2).run([Job(config) for config in self.configs]):
            self.events.append(event)
            if isinstance(event.event, Started):
                process = process_of(event.event.run)
                self.processes[event.place] = process
                self.pinned[process] = os.sched_getaffinity(process)
                self.surroundings[process] = Path(f"/proc/{process}/environ").read_bytes()
        self.cores = {core for core in self.cores if is_free(core)}  # other commands may have begun meanwhile


def is_free(core: int) -> bool:
    """Return whether no worker of another command on this machine is pinned to a core."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.bind(f"\0stn-core-{core}")
        except OSError:
            return False
    return True


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    return Seen(tmp_path_factory.mktemp("packed"))


def test_a_packed_run_equals_the_same_run_alone(seen: Seen, tmp_path: Path):
    """Also the second run of a process, and runs beside others of another kind."""
    assert len(seen.processes) > len(set(seen.processes.values())), "no process served two runs"
    for place in (0, 1, 3, 4):
        config = seen.configs[place].model_copy(update={"runs_dir": str(tmp_path)})
        packed = result(RunFolder(Path(seen.configs[place].runs_dir) / str(place)))
        assert packed == result(alone(config)), place


def test_every_run_begins_once_and_ends_once_and_no_more_go_on_than_allowed(seen: Seen):
    going_on: set[int] = set()
    for event in seen.events:
        if isinstance(event.event, Started):
            going_on.add(event.place)
            assert len(going_on) <= 2
        elif isinstance(event.event, ENDS):
            going_on.discard(event.place)
    assert sorted(event.place for event in of_type(seen.events, *ENDS)) == [0, 1, 2, 3, 4]
    assert sorted(event.place for event in of_type(seen.events, Started)) == [0, 1, 3, 4]
    finished = {event.place: event.event.summary["seed"] for event in of_type(seen.events, Finished)}  # pyright: ignore
    assert finished == {0: 4, 1: 4, 3: 4, 4: 4}


def test_a_run_that_fails_says_why_and_does_not_stop_the_others(seen: Seen):
    (failed,) = of_type(seen.events, Failed)
    assert failed.place == 2
    error = failed.event.error  # pyright: ignore[reportAttributeAccessIssue]
    assert isinstance(error, DataError)
    assert "missing" in error.what
    assert error.fix
    assert "prepare_data" in error.__notes__[0], "the note is the traceback in the other process"


def test_each_process_has_one_thread_and_a_core_of_its_own(seen: Seen):
    for config in seen.configs[:2]:
        assert json.loads((Path(config.runs_dir) / str(config.name) / "env.json").read_text())["threads"] == 1
    assert all(b"OMP_NUM_THREADS=1\0" in surroundings for surroundings in seen.surroundings.values())
    if len(seen.cores) < 2:
        pytest.skip("another command's runs are pinned to the cores of this machine")
    first, second = seen.pinned.values()
    assert len(first) == len(second) == 1
    assert first != second


def test_runs_have_the_precision_of_the_machine_whatever_a_trial_would_say(tmp_path: Path):
    configs = [small(tmp_path, "model.name=fcn", "runtime.precision=auto", f"name={i}") for i in range(2)]
    assert len(of_type(list(Packed(2).run([Job(config) for config in configs])), Finished)) == 2
    used = {RunFolder(tmp_path / str(i)).read_config().runtime.precision for i in range(2)}
    assert used == {choose_runtime(configs[0].runtime).precision}


def test_a_device_that_one_of_them_lacks_is_refused_before_any_begins(tmp_path: Path):
    missing = "mps" if sys.platform == "linux" else "cuda"
    with pytest.raises(ResourceError, match=f"no {missing} device"):
        list(Packed(2).run([Job(small(tmp_path)), Job(small(tmp_path, f"runtime.device={missing}"))]))
    assert list(tmp_path.iterdir()) == []


def test_no_process_is_left(seen: Seen):
    assert not any(map(is_alive, seen.processes.values()))


def test_runs_in_turn_tell_the_same_and_end_the_same(seen: Seen, tmp_path: Path):
    configs = [config.model_copy(update={"runs_dir": str(tmp_path)}) for config in seen.configs]
    events = list(InTurn().run([Job(config) for config in configs]))
    assert [event.place for event in events] == sorted(event.place for event in events)
    for place, config in enumerate(configs):
        kinds = [[type(event.event) for event in told if event.place == place] for told in (events, seen.events)]
        assert kinds[0] == [kind for kind in kinds[1] if kind is not Said]
        if place != 2:
            packed = RunFolder(Path(seen.configs[place].runs_dir) / str(place))
            assert result(RunFolder(tmp_path / str(config.name))) == result(packed)


class Stopped:
    """Three runs, one at a time: two whose processes are killed as they begin, and one that nobody listens to."""

    def __init__(self, folder: Path) -> None:
        settings = ("model.name=fcn", "train.iterations=400", "log.every=1")
        self.folder = folder
        self.configs = [small(folder, *settings, f"name={i}") for i in range(2)] + [small(folder, *LONG, "name=2")]
        self.events: list[RunEvent] = []
        self.processes: list[int] = []
        stream = Packed(1).run([Job(config) for config in self.configs])
        for event in stream:
            self.events.append(event)
            if isinstance(event.event, Started):
                self.processes.append(process_of(event.event.run))
                if event.place < 2:
                    os.kill(self.processes[-1], (signal.SIGKILL, signal.SIGSEGV)[event.place])
            elif isinstance(event.event, Trained) and event.place == 2:
                stream.close()  # pyright: ignore[reportAttributeAccessIssue]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Stopped:
    return Stopped(tmp_path_factory.mktemp("stopped"))


def test_a_killed_process_is_told_and_replaced(stopped: Stopped):
    assert len(set(stopped.processes)) == 3
    ends = of_type(stopped.events, *ENDS)
    assert [(end.place, type(end.event)) for end in ends] == [(0, Failed), (1, Failed)]
    for end, how in zip(ends, ("signal 9, Killed", "signal 11, Segmentation fault"), strict=True):
        error = end.event.error  # pyright: ignore[reportAttributeAccessIssue]
        assert isinstance(error, ResourceError)
        assert str(error) == (
            f"the process of a run was killed by {how}. Go on with `stn train --resume {stopped.folder}/{end.place}`; "
            "if memory ran out, with fewer at once."
        )


def test_the_last_words_of_a_process_are_told(stopped: Stopped):
    said = of_type(stopped.events, Said)
    assert {event.place for event in said} == {1}
    assert said[0].event == Said("Fatal Python error: Segmentation fault")


def test_the_run_of_a_killed_process_goes_on_to_the_same_end(stopped: Stopped):
    run = RunFolder(stopped.folder / "0")
    assert run.read_summary() is None
    config, checkpoint, _ = open_to_resume(run, [])
    list(train(config, resume=(run, checkpoint)))
    assert result(run) == result(alone(stopped.configs[0].model_copy(update={"name": "whole"})))


def test_whoever_stops_listening_stops_the_runs_which_are_saved(stopped: Stopped):
    assert not any(map(is_alive, stopped.processes))
    assert read_newest(stopped.folder / "2" / "checkpoints")[0].state["step"] > 0


@pytest.mark.parametrize(
    ("runner", "number"), [(Packed(2), signal.SIGTERM), (InTurn(), signal.SIGTERM), (InTurn(), signal.SIGINT)]
)
def test_a_signal_saves_what_has_begun_and_skips_the_rest(runner: Any, number: signal.Signals, tmp_path: Path):
    configs = [small(tmp_path, *LONG, f"name={i}") for i in range(3)]
    begun: set[int] = set()
    ends: dict[int, Any] = {}
    for event in runner.run([Job(config) for config in configs]):
        if isinstance(event.event, Trained) and event.place not in begun:
            begun.add(event.place)
            if len(begun) == (min(2, usable_cores()) if isinstance(runner, Packed) else 1):
                signal.raise_signal(number)
        if isinstance(event.event, ENDS):
            assert event.place not in ends
            ends[event.place] = event.event
    assert ends.keys() == {0, 1, 2}
    for place, end in ends.items():
        if place not in begun:
            assert end == Skipped(number)
            assert not (tmp_path / str(place)).exists()
        else:
            step = read_newest(tmp_path / str(place) / "checkpoints")[0].state["step"]
            assert end == Interrupted(tmp_path / str(place), number, step)
            assert step > 0
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


PARENT = """
import sys
from stn_cli.config_files import load_config
from stn_cli.experiments.packed import Packed
from stn_cli.experiments.runner import Job
from stn_cli.training.events import Trained

for event in Packed(1).run([Job(load_config(None, sys.argv[1:]))]):
    if isinstance(event.event, Trained):
        print("training", flush=True)
"""


def test_no_process_outlives_its_killed_parent_and_its_run_is_saved(tmp_path: Path):
    call = [sys.executable, "-c", PARENT, *SMALL, *LONG, f"runs_dir={tmp_path}", "name=a"]
    with subprocess.Popen(call, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": ":".join(sys.path)}) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"training\n"
        process = process_of(tmp_path / "a")
        parent.kill()
    deadline = time.monotonic() + GRACE  # then it would stop unsaved
    while is_alive(process):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert read_newest(tmp_path / "a" / "checkpoints")[0].state["step"] > 0


def test_more_threads_than_one_are_refused_before_anything_begins(tmp_path: Path):
    configs = [small(tmp_path), small(tmp_path, "runtime.threads=2")]
    with pytest.raises(UsageError, match="one thread each, not 2"):
        next(Packed().run([Job(config) for config in configs]))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("workers", "at_once"), [(None, usable_cores()), (1, 1), (10**6, usable_cores())])
def test_a_processor_gets_packed_runs_as_many_as_it_has_cores(workers: int | None, at_once: int, tmp_path: Path):
    runner, why = choose_runner(small(tmp_path).runtime, workers, overwrite=True)
    assert runner == Packed(at_once, overwrite=True)
    assert why == f"up to {at_once} at once, one CPU core each"


def test_a_device_that_runs_would_share_gets_them_in_turn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch._C, "_dispatch_has_kernel_for_dispatch_key", lambda *_: True)
    runner, why = choose_runner(small(tmp_path, "runtime.device=mps").runtime)
    assert runner == InTurn()
    assert "mps" in why


class UnportableError(Exception):
    def __init__(self, code: int, words: str) -> None:
        super().__init__(f"{code} {words}")


@pytest.mark.parametrize("make", [lambda: DataError("what", "fix"), lambda: OSError(28, "full", "/x")])
def test_an_error_comes_through_as_it_is(make: Callable[[], Exception]):
    sent = portable(make())
    assert (type(sent), str(sent), sent.args) == (type(make()), str(make()), make().args)


def test_an_error_that_cannot_be_sent_is_told_in_words():
    sent = portable(UnportableError(3, "words"))
    assert (type(sent), str(sent)) == (RuntimeError, "UnportableError: 3 words")
