"""Runs in threads of one process end as the same runs alone, and whatever happens to one, or to all, is told.

On CPUs, where nothing but a GPU's streams and graphs is missing; tests/training/test_captured_cuda.py has these.
"""

import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from stn_cli.config import RunConfig, RuntimeConfig
from stn_cli.config_files import load_config
from stn_cli.errors import DataError, UsageError
from stn_cli.experiments.choose import choose_runner
from stn_cli.experiments.runner import Failed, Job, RunEvent, Skipped
from stn_cli.experiments.threaded import AT_ONCE, MOST, Threaded
from stn_cli.training import runtime
from stn_cli.training.checkpoint import read_newest
from stn_cli.training.events import Event, Finished, Interrupted, Started, Trained
from stn_cli.training.loop import train
from stn_cli.training.runtime import Runtime

SMALL = (
    *("model.parameters=30000", "train.iterations=6", "train.batch_size=16"),
    *("log.evaluations=2", "log.every=2", "log.images=0"),
    *("runtime.device=cpu", "runtime.precision=float32", "runtime.convolutions=library"),
)
LONG = ("model.name=fcn", "train.iterations=100000", "log.every=1")  # until it is stopped
ENDS = (Finished, Interrupted, Failed, Skipped)
SETTINGS = (
    ["model.name=fcn"],
    ["model.name=st-cnn", "model.transform=tps", "distortion.kind=E"],
    ["data.dataset=missing"],
    ["model.name=st-fcn", "runtime.precision=bf16"],
    ["model.name=fcn", "seed=5"],
    ["model.name=cnn"],
)


def config(folder: Path, *settings: str) -> RunConfig:
    return load_config(None, [*SMALL, f"runs_dir={folder}", *settings])


def result(run: Path) -> dict[str, Any]:
    """Return all that must not depend on what was trained beside a run."""
    last = read_newest(run / "checkpoints")[0]
    found: dict[str, Any] = {name: value.flatten().tolist() for name, value in last.tensors.items()}
    return found | {"metrics": (run / "metrics.jsonl").read_bytes(), "best": last.state["best_error"]}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """The number of threads of an operation changes bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[RunEvent]]:
    """Six runs, at most three at once, one of which cannot begin."""
    folder = tmp_path_factory.mktemp("threaded")
    jobs = [Job(config(folder, f"name={i}", *settings)) for i, settings in enumerate(SETTINGS)]
    before = threading.active_count()
    events = list(Threaded(3).run(jobs))
    assert threading.active_count() <= before
    return folder, events


def of(told: list[RunEvent], place: int) -> list[Event | Failed | Skipped | Any]:
    return [event.event for event in told if event.place == place]


@pytest.mark.parametrize("place", [0, 1, 3, 4, 5])
def test_a_run_beside_others_equals_the_same_run_alone(told: tuple[Path, list[RunEvent]], place: int, tmp_path: Path):
    alone = list(train(config(tmp_path, f"name={place}", *SETTINGS[place])))
    assert [type(event) for event in of(told[1], place)] == [type(event) for event in alone]
    assert result(told[0] / str(place)) == result(tmp_path / str(place))


def test_a_run_that_fails_says_why_and_does_not_stop_the_others(told: tuple[Path, list[RunEvent]]):
    (failed,) = of(told[1], 2)
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, DataError)
    assert "missing" in failed.error.what


def test_no_more_go_on_at_once_than_allowed(told: tuple[Path, list[RunEvent]]):
    going_on: set[int] = set()
    most = 0
    for event in told[1]:
        if isinstance(event.event, Started):
            going_on.add(event.place)
        elif isinstance(event.event, ENDS):
            going_on.discard(event.place)
        most = max(most, len(going_on))
    assert most <= 3
    assert sorted(event.place for event in told[1] if isinstance(event.event, ENDS)) == list(range(6))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_what_has_begun_and_skips_the_rest(number: signal.Signals, tmp_path: Path):
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    begun: set[int] = set()
    ends: dict[int, Any] = {}
    for event in Threaded(2).run([Job(config(tmp_path, *LONG, f"name={i}")) for i in range(4)]):
        if isinstance(event.event, Trained) and event.place not in begun:
            begun.add(event.place)
            if len(begun) == 2:
                signal.raise_signal(number)
        if isinstance(event.event, ENDS):
            assert event.place not in ends
            ends[event.place] = event.event
    assert begun == {0, 1}
    assert (ends[2], ends[3]) == (Skipped(number), Skipped(number))
    for place in begun:
        step = read_newest(tmp_path / str(place) / "checkpoints")[0].state["step"]
        assert ends[place] == Interrupted(tmp_path / str(place), number, step)
        assert step > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1"]
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_whoever_stops_listening_stops_the_runs_which_are_saved(tmp_path: Path):
    before = threading.active_count()
    stream = Threaded(2).run([Job(config(tmp_path, *LONG, f"name={i}")) for i in range(3)])
    trained: set[int] = set()
    while len(trained) < 2:
        event = next(stream)
        if isinstance(event.event, Trained):
            trained.add(event.place)
    stream.close()  # pyright: ignore[reportAttributeAccessIssue] - a runner's iterator is a generator
    assert threading.active_count() == before
    assert all(read_newest(tmp_path / str(i) / "checkpoints")[0].state["step"] > 0 for i in (0, 1))
    assert not (tmp_path / "2").exists()


def test_different_numbers_of_threads_are_refused_before_anything_begins(tmp_path: Path):
    jobs = [Job(config(tmp_path)), Job(config(tmp_path, "runtime.threads=2"))]
    with pytest.raises(UsageError, match="the same number of threads"):
        next(Threaded().run(jobs))
    assert list(tmp_path.iterdir()) == []


def test_no_runs_are_no_events():
    assert list(Threaded().run([])) == []


@pytest.mark.parametrize(("workers", "at_once"), [(None, AT_ONCE), (3, 3), (10**6, MOST)])
def test_a_gpu_gets_them_side_by_side(workers: int | None, at_once: int, monkeypatch: pytest.MonkeyPatch):
    gpu = Runtime(torch.device("cuda"), "bf16", "")
    monkeypatch.setattr(runtime, "choose_runtime", lambda _: gpu)
    runner, why = choose_runner(RuntimeConfig(device="cuda"), workers, overwrite=True)
    assert runner == Threaded(at_once, overwrite=True)
    assert why == f"up to {at_once} at once on the GPU, a stream each"
