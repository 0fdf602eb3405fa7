import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


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
