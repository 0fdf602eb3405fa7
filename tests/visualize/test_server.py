"""TensorBoard's port: the first free one, on the loopback alone, whoever else looks for one."""

import importlib
import socket
import sys
import warnings
import webbrowser
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from stn_cli.errors import ResourceError
from stn_cli.visualize import server
from stn_cli.visualize.server import HOST, free_port, open_browser, start_tensorboard

pytestmark = pytest.mark.xdist_group("board")  # servers take the first port that is free

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # the html5lib that TensorBoard brings along deprecates itself
    program = importlib.import_module("tensorboard.program")


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that somebody listens on."""
    with socket.create_server((HOST, 0)) as listening:
        yield listening.getsockname()[1]


def test_a_taken_port_is_passed_over(taken: int):
    port = free_port(taken)
    assert port > taken
    assert free_port(port) == port
    with socket.create_server((HOST, port)):
        assert free_port(taken) > port


def test_without_a_free_port_the_range_is_named(taken: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(server, "PORTS_TRIED", 1)
    with pytest.raises(ResourceError, match=f"the ports {taken} to {taken} are taken. Choose another with --port."):
        free_port(taken)


def test_no_port_lies_above_the_last_one():
    with ExitStack() as stack:
        try:
            stack.enter_context(socket.create_server((HOST, 65535)))
        except OSError:
            pytest.skip("port 65535 is in use")
        with pytest.raises(ResourceError, match="the ports 65535 to 65535 are taken"):
            free_port(65535)


class Board:
    """In TensorBoard's place: listens on nothing, and fails as the test says."""

    failures: list[BaseException | None] = []  # noqa: RUF012 - set by each test
    asked: list[list[str]] = []  # noqa: RUF012

    def configure(self, argv: list[str]) -> None:
        self.asked.append(argv)

    def launch(self) -> str:
        failure = self.failures.pop(0)
        if failure is not None:
            raise failure
        return "http://somewhere/"


@pytest.fixture
def board(monkeypatch: pytest.MonkeyPatch) -> type[Board]:
    monkeypatch.setattr(program, "TensorBoard", Board)
    Board.failures, Board.asked = [], []
    return Board


def ports(board: type[Board]) -> list[int]:
    return [int(argv[argv.index("--port") + 1]) for argv in board.asked]


def test_it_is_started_on_the_loopback_and_for_this_folder(board: Any, tmp_path: Path, taken: int):
    board.failures = [None]
    assert start_tensorboard(tmp_path, taken) == "http://somewhere/"
    (argv,) = board.asked
    assert argv[argv.index("--host") + 1] == "127.0.0.1"
    assert argv[argv.index("--logdir") + 1] == str(tmp_path)
    assert ports(board) == [free_port(taken)]


@pytest.mark.parametrize("failure", [program.TensorBoardPortInUseError("taken"), SystemExit(1)], ids=repr)
def test_a_port_that_another_takes_at_the_last_moment_is_passed_over(
    board: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException
):
    free = iter([6006, 6008, 6011])
    monkeypatch.setattr(server, "free_port", lambda _: next(free))
    board.failures = [failure, failure, None]
    assert start_tensorboard(tmp_path) == "http://somewhere/"
    assert ports(board) == [6006, 6008, 6011]


def test_a_port_that_cannot_be_opened_is_named(board: Any, tmp_path: Path, taken: int):
    port = free_port(taken)
    board.failures = [program.TensorBoardServerException("must be superuser")]
    with pytest.raises(ResourceError, match=f"cannot open the port {port}. Choose another --port."):
        start_tensorboard(tmp_path, port)
    assert ports(board) == [port]


@pytest.mark.parametrize(
    ("platform", "terminal", "surroundings", "opened"),
    [
        ("linux", True, {"DISPLAY": ":0"}, True),
        ("linux", True, {"WAYLAND_DISPLAY": "wayland-0"}, True),
        ("linux", True, {"BROWSER": "w3m"}, True),
        ("linux", True, {}, False),
        ("linux", True, {"DISPLAY": ""}, False),
        ("linux", False, {"DISPLAY": ":0"}, False),
        ("darwin", True, {}, True),
        ("darwin", True, {"SSH_CONNECTION": "1.2.3.4"}, False),
        ("darwin", False, {}, False),
    ],
)
def test_a_browser_is_opened_where_somebody_sees_it(
    monkeypatch: pytest.MonkeyPatch, platform: str, terminal: bool, surroundings: dict[str, str], opened: bool
):
    shown: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda address: bool(shown.append(address) or True))
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal, raising=False)
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER", "SSH_CONNECTION"):
        monkeypatch.delenv(name, raising=False)
    for name, value in surroundings.items():
        monkeypatch.setenv(name, value)
    assert open_browser("http://127.0.0.1:6006/") is opened
    assert shown == ["http://127.0.0.1:6006/"] * opened


def test_a_browser_that_does_not_start_is_no_fault(monkeypatch: pytest.MonkeyPatch):
    def fail(_: str) -> bool:
        raise webbrowser.Error("could not locate runnable browser")

    monkeypatch.setattr(webbrowser, "open", fail)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("BROWSER", "nowhere")
    assert open_browser("http://127.0.0.1:6006/") is False
