"""Finished runs that many tests look at, and commands that run in a process of their own."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import stn_cli


@pytest.fixture(autouse=True)
def _every_test_in_plain_surroundings(plain_surroundings: None) -> None:
    pass


@pytest.fixture(scope="session")
def runs(stn: Callable[..., Any], tiny: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the finished runs `st-cnn` and `cnn`, and what they printed as JSON beside them."""
    folder = tmp_path_factory.mktemp("shared") / "runs"
    for model in ("st-cnn", "cnn"):
        answer = stn(
            "train", *tiny, "log.evaluations=2", "--model", model, "--name", model, "--runs-dir", folder, "--json"
        )
        assert answer.code == 0, answer.err
        (folder / f"{model}.json").write_text(answer.out)
    return folder


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start `stn` in a process of its own, which ends with the test."""
    started: list[subprocess.Popen[str]] = []
    # A process inherits that Ctrl-C is ignored, as it is where a shell runs the tests in the background.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def begin(*arguments: object, **options: Any) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "-m", "stn_cli", *map(str, arguments)],
            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options},
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(stn_cli.__file__).parents[1])},
        )
        started.append(process)
        return process

    yield begin
    signal.signal(signal.SIGINT, before)
    for process in started:
        process.kill()
        process.communicate()
