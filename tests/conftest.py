"""Fixtures that every room's tests may use."""

import io
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

# Before torch is imported, here and in the processes that tests start. The networks of tests are tiny, and two
# threads on a core that something else uses spend seconds waiting for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from jaxtyping import install_import_hook

# Before anything of stn_cli is imported: every shape and type in a signature of these rooms is checked on every call.
install_import_hook(
    ["stn_cli.geometry", "stn_cli.distortions", "stn_cli.models", "stn_cli.datasets.source"], "beartype.beartype"
)


@pytest.fixture(scope="session")
def mnist_dir() -> Path:
    """The folder that holds MNIST/raw, from STN_DATA."""
    if not os.environ.get("STN_DATA"):
        pytest.skip("STN_DATA does not name a folder with MNIST in it")
    return Path(os.environ["STN_DATA"])


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


def call(*arguments: object, encoding: str = "utf-8", terminal: bool = False) -> Answer:
    """Run `stn` in this process: importing torch takes a new one two seconds."""
    from stn_cli.__main__ import main

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
def stn() -> Callable[..., Answer]:
    """Run the command line in this process and return its exit code, stdout and stderr."""
    return call


@pytest.fixture(scope="session")
def tiny() -> tuple[str, ...]:
    """Arguments of a training that takes a second."""
    return (
        "--iterations",
        "6",
        "--precision",
        "float32",
        "runtime.convolutions=library",
        "train.batch_size=16",
        "model.parameters=30000",
    )


@pytest.fixture
def plain_surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a test run in a folder of its own, in an environment that asks for nothing."""
    monkeypatch.chdir(tmp_path)
    for name in ("FORCE_COLOR", "NO_COLOR", "COLUMNS", "LINES", "PYTHONIOENCODING", "STN_DATA"):
        monkeypatch.delenv(name, raising=False)


class Mirror:
    """A web server on the loopback that gives prepared answers and remembers what it was asked for."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.requests: list[str] = []
        self.answers: dict[str, tuple[int, dict[str, str], bytes]] = {}
        self.before_answer: Callable[[], object] = lambda: None

    def put(self, path: str, body: bytes, status: int = 200, **headers: str) -> str:
        """Answer `path` with `body`; returns its address. The headers may contradict the body."""
        fields = {"Content-Length": str(len(body))} | {name.replace("_", "-"): text for name, text in headers.items()}
        self.answers[path] = (status, fields, body)
        return self.url + path


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    """A mirror that lives as long as the test."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.removeprefix("/")
            served.requests.append(path)
            served.before_answer()
            status, headers, body = served.answers.get(path, (404, {}, b"no such file"))
            self.send_response(status)
            for name, text in headers.items():
                self.send_header(name, text)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    monkeypatch.setenv("no_proxy", "*")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        served = Mirror(f"http://127.0.0.1:{server.server_port}/")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield served
        server.shutdown()
        thread.join()
