import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import stn_cli
from stn_cli.__main__ import main

TINY = ("--iterations", "6", "--precision", "float32", "train.batch_size=16", "model.parameters=30000")


@dataclass(frozen=True)
class Answer:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The object on stdout, which must be all there is."""
        value = json.loads(self.out)
        assert isinstance(value, dict)
        assert self.out.isascii()
        assert self.out.count("\n") == 1
        assert "\x1b" not in self.out + self.err
        return value

    @property
    def error(self) -> str:
        """The one line of an error."""
        assert self.out == ""
        assert self.err.startswith("error: ")
        assert self.err.count("\n") == 1
        return self.err.removeprefix("error: ").removesuffix("\n")


class Terminal(io.TextIOWrapper):
    """A stream that claims to be a terminal."""

    def isatty(self) -> bool:
        return True


Stn = Callable[..., Answer]


def call(*arguments: object, encoding: str = "utf-8", terminal: bool = False) -> Answer:
    """Run `stn` in this process: importing torch takes a new one two seconds."""
    kind = Terminal if terminal else io.TextIOWrapper
    streams = [kind(io.BytesIO(), encoding=encoding) for _ in ("stdout", "stderr")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["stn", *map(str, arguments)])
        patch.setattr(sys, "stdout", streams[0])
        patch.setattr(sys, "stderr", streams[1])
        with pytest.raises(SystemExit) as end:
            main()
    texts: list[str] = []
    for stream in streams:
        stream.flush()
        texts.append(stream.buffer.getvalue().decode())  # pyright: ignore[reportAttributeAccessIssue]
    assert "--debug" in arguments or "Traceback" not in texts[1]
    assert isinstance(end.value.code, int)
    return Answer(end.value.code, *texts)


@pytest.fixture(scope="session")
def stn() -> Stn:
    """Run the command line in this process and return its exit code, stdout and stderr."""
    return call


@pytest.fixture(autouse=True)
def _plain_surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("FORCE_COLOR", "NO_COLOR", "COLUMNS", "LINES", "PYTHONIOENCODING", "STN_DATA"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def tiny() -> tuple[str, ...]:
    """Arguments of a training that takes a second."""
    return TINY


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the finished runs `st-cnn` and `cnn`, and what they printed as JSON beside them."""
    folder = tmp_path_factory.mktemp("shared") / "runs"
    for model in ("st-cnn", "cnn"):
        answer = call(
            "train", *TINY, "log.evaluations=2", "--model", model, "--name", model, "--runs-dir", folder, "--json"
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
