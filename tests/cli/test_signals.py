"""Runs that are stopped, by asking or by force, go on as if they had not been."""

import json
import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from stn_cli.datasets.download import alone
from stn_cli.storage import sha256_of
from stn_cli.training.checkpoint import read_newest

Stn = Callable[..., Any]
STEPS = 240
# One thread wherever it runs, and nothing left to a trial: both change bits.
SETTINGS = ("--iterations", STEPS, "--precision", "float32", "--seed", 5, "runtime.threads=1", "train.batch_size=16",
            "model.parameters=20000", "log.every=7", "log.evaluations=12", "log.images=1",
            "runtime.convolutions=library")  # fmt: skip


def fingerprint(run: Path) -> tuple[dict[str, str], list[dict[str, Any]], dict[str, Any]]:
    """Return the hash of every tensor of a run's last checkpoint, its metrics and its result, without timings."""
    checkpoint, passed = read_newest(run / "checkpoints")
    assert (checkpoint.state["step"], passed) == (STEPS, [])
    tensors = {name: sha256(tensor.numpy().tobytes()).hexdigest() for name, tensor in checkpoint.tensors.items()}
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    summary = json.loads((run / "summary.json").read_text())
    timings = ("run", "images_per_second", "train_seconds")
    return tensors, metrics, {key: value for key, value in summary.items() if key not in timings}


@pytest.fixture(scope="module")
def uninterrupted(stn: Stn, tmp_path_factory: pytest.TempPathFactory) -> Any:
    runs = tmp_path_factory.mktemp("uninterrupted")
    assert stn("train", *SETTINGS, "--name", "whole", "--runs-dir", runs).code == 0
    return fingerprint(runs / "whole")


def begun(start: Callable[..., Any], name: str) -> tuple[Any, Path]:
    """Start a run in another process and return it when it has trained a little and saved a checkpoint."""
    process, run = start("train", *SETTINGS, "--name", name), Path("runs") / name
    deadline = time.monotonic() + 60
    while not list(run.glob("checkpoints/step-*.safetensors")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    return process, run


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_run_that_is_asked_to_stop_saves_says_how_to_go_on_and_ends_the_same(
    stn: Stn, start: Callable[..., Any], uninterrupted: Any, number: signal.Signals
):
    process, run = begun(start, "my run")
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (128 + number, "")
    said = err.splitlines()[-1]
    step = read_newest(run / "checkpoints")[0].state["step"]
    assert said == f"saved at step {step}. Go on with: stn train --resume 'runs/my run'"
    assert step < STEPS
    assert not (run / "summary.json").exists()
    answer = stn("train", "--resume", "runs/my run")
    assert answer.code == 0
    assert f"going on    after step {step} of {STEPS}\n" in answer.err
    assert fingerprint(run) == uninterrupted


def test_a_second_signal_stops_at_once_and_loses_no_more_than_steps(
    stn: Stn, start: Callable[..., Any], uninterrupted: Any
):
    process, run = begun(start, "a")
    process.send_signal(signal.SIGINT)
    time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode in (130, -signal.SIGINT)
    assert stn("train", "--resume", "a").code == 0
    assert fingerprint(run) == uninterrupted


def test_a_run_that_is_killed_goes_on_from_its_last_checkpoint_and_ends_the_same(
    stn: Stn, start: Callable[..., Any], uninterrupted: Any
):
    process, run = begun(start, "a")
    time.sleep(random.random() / 4)  # anywhere between two checkpoints, or in one
    process.kill()
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert not (run / "summary.json").exists(), "the run was over before it was killed"
    assert stn("train", "--resume", "a").code == 0
    assert fingerprint(run) == uninterrupted


# ---- distort-dataset

DISTORT = ("distort-dataset", "R", "--seed", 3, "--copies", 20, "--out")
AGAIN = "stopped. Run the same command again: it begins anew and ends with the same bytes.\n"


def contents(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock")
    return {str(path.relative_to(folder)): sha256_of(path) for path in files}


@pytest.fixture(scope="module")
def undisturbed(stn: Stn, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("undisturbed") / "a"
    assert stn(*DISTORT, folder).code == 0
    return contents(folder)


def size_of(path: Path) -> int:
    """A file's length; 0 when the process that writes it has given it its name since it was listed."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def writing(start: Callable[..., Any], folder: Path) -> Any:
    """Start writing a folder in another process and return it when there is something in a temporary file."""
    process, deadline = start(*DISTORT, folder), time.monotonic() + 60
    while not any(size_of(path) > 10_000 for path in folder.rglob(".*.tmp")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_distorting_that_is_asked_to_stop_cleans_up_and_says_that_it_may_be_run_again(
    stn: Stn, start: Callable[..., Any], undisturbed: dict[str, str], number: signal.Signals
):
    process = writing(start, Path("a"))
    process.send_signal(number)
    assert process.communicate(timeout=60) == ("", AGAIN)
    assert process.returncode == 128 + number
    assert set(contents(Path("a"))) == {"unfinished.json"}
    assert stn(*DISTORT, "a").code == 0
    assert contents(Path("a")) == undisturbed


def test_a_second_signal_ends_distorting_at_once_and_the_same_bytes_come_out_of_the_next_run(
    stn: Stn, start: Callable[..., Any], undisturbed: dict[str, str]
):
    process = writing(start, Path("a"))
    for _ in range(2):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.001)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (143, "")
    assert err in (AGAIN, "")
    assert stn(*DISTORT, "a").code == 0
    assert contents(Path("a")) == undisturbed


def test_distorting_stops_while_it_waits_for_another_that_writes_there(start: Callable[..., Any]):
    with alone(Path("a/manifest.json")):
        process = start(*DISTORT, "a", "--json")
        time.sleep(3)  # importing takes most of it; before and after that the answer is the same
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=60) == ("", AGAIN)
    assert process.returncode == 143
    assert contents(Path("a")) == {}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_checking_a_folder_stops_at_once(start: Callable[..., Any], number: signal.Signals):
    Path("a").mkdir()
    os.mkfifo("a/manifest.json")
    process, writer, deadline = start("distort-dataset", "--verify", "a"), None, time.monotonic() + 60
    while writer is None:
        with suppress(OSError):  # until the other process reads, which then waits for what is never written
            writer = os.open("a/manifest.json", os.O_WRONLY | os.O_NONBLOCK)
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(number)
    assert process.communicate(timeout=60) == ("", "stopped before all files were checked.\n")
    assert process.returncode == 128 + number
    os.close(writer)
