"""Fixtures that every room's tests may use."""

import io
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests of a file in one process, where their fixtures are, and those of files that share something."""
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.path.stem))


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


@dataclass
class Node:
    """An element of an HTML document, with what stands in it in order: elements and texts."""

    name: str
    attributes: dict[str, str | None]
    content: "list[Node | str]" = field(default_factory=list)

    @property
    def text(self) -> str:
        """All text inside."""
        return "".join(part if isinstance(part, str) else part.text for part in self.content)

    def all(self, name: str, **attributes: str) -> "list[Node]":
        """Return the elements inside that have a name and attributes; `class_` is one of the classes."""
        found: list[Node] = []
        for part in self.content:
            if isinstance(part, Node):
                found += [part] if part.name == name and part._has(attributes) else []
                found += part.all(name, **attributes)
        return found

    def _has(self, wanted: dict[str, str]) -> bool:
        classes = (self.attributes.get("class") or "").split()
        return all(
            value in classes if key == "class_" else self.attributes.get(key) == value for key, value in wanted.items()
        )


class _Tree(HTMLParser):
    """Reads a document whose elements are all closed, in the order in which they were opened."""

    EMPTY = frozenset({"meta", "link", "img"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.root = Node("document", {})
        self._open = [self.root]
        self.feed(text)
        self.close()
        assert self._open == [self.root], f"{self._open[-1].name} is not closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs)
        node = Node(tag, dict(attrs))
        self._open[-1].content.append(node)
        if tag not in self.EMPTY:
            self._open.append(node)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop().name == tag

    def handle_data(self, data: str) -> None:
        self._open[-1].content.append(data)


def _read_page(text: str) -> Node:
    text.encode()
    assert text.startswith("<!DOCTYPE html>\n<html ")
    page = _Tree(text.removeprefix("<!DOCTYPE html>")).root
    (html,), (head,), (heading,) = (page.all(name) for name in ("html", "head", "h1"))
    (title,) = head.all("title")
    assert html.attributes == {"lang": "en"}
    assert title.text == heading.text != ""
    assert page.all("meta", charset="utf-8")
    assert not any(page.all(name) for name in ("script", "iframe", "object", "form", "base"))
    nodes = [
        node for name in ("a", "img", "link", "path", "svg", "div", "section", "td", "p") for node in page.all(name)
    ]
    for node in nodes:
        assert not any(key.startswith("on") for key in node.attributes)
        for key in ("src", "href"):
            assert (node.attributes.get(key) or "#").startswith(("#", "data:"))
        assert not node.attributes.keys() & {"srcset", "style", "background"}
    (style,) = page.all("style")
    assert "url(" not in style.text
    assert "@import" not in style.text
    named = [node.attributes["id"] for node in nodes if "id" in node.attributes]
    assert len(named) == len(set(named))
    assert {(a.attributes["href"] or "").removeprefix("#") for a in page.all("a")} <= set(named)
    assert all(image.attributes.get("alt") for image in page.all("img"))
    assert all(drawing.attributes.get("aria-label") for drawing in page.all("svg"))
    assert all(heading.attributes.get("scope") in ("row", "col") for heading in page.all("th"))
    assert all(table.all("caption") and table.all("th", scope="col") for table in page.all("table"))
    assert all(region.attributes.get("aria-label") for region in page.all("div", tabindex="0"))
    return page


@pytest.fixture(scope="session")
def read_page() -> Callable[[str], Node]:
    """Read a page, after making sure that it needs nothing from elsewhere, that all has words, and that links lead."""
    return _read_page
