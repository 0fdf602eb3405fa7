"""A run's TensorBoard in a real browser: pictures are there to be seen, runs stand in one table with their errors."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stn_cli.config_files import load_config
from stn_cli.training.events import Finished
from stn_cli.training.loop import train

pytestmark = pytest.mark.xdist_group("board")  # servers take the first port that is free

SETTINGS = (
    *("train.iterations=4", "train.batch_size=8", "model.parameters=40000", "log.evaluations=2", "log.every=1"),
    *("log.images=4", "runtime.device=cpu", "runtime.precision=float32", "runtime.convolutions=library"),
)
# TensorBoard is made of elements within elements that hide what is in them.
ALL = """
const found = [];
const look = root => root.querySelectorAll('*').forEach(node => {
    if (node.matches(arguments[0]) && node.getBoundingClientRect().width > 0) found.push(node);
    if (node.shadowRoot) look(node.shadowRoot);
});
look(document);
"""
PICTURES = ALL + "return found.map(image => image.complete ? image.naturalWidth : 0)"
TEXTS = ALL + "return found.map(node => node.innerText.trim())"


@pytest.fixture(scope="module")
def errors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    """The test errors of two runs by their names; they lie in the folder "runs"."""
    folder = tmp_path_factory.mktemp("board")
    found: dict[str, float] = {}
    for name in ("st-cnn", "cnn"):
        config = load_config(None, [f"model.name={name}", f"name=a-{name}", f"runs_dir={folder}", *SETTINGS])
        finished = list(train(config))[-1]
        assert isinstance(finished, Finished)
        found[str(finished.summary["run"])] = finished.summary["test_error_percent"]
    return found


@pytest.fixture(scope="module")
def address(errors: dict[str, float]) -> Iterator[str]:
    """The address of `stn visualize --serve` on both."""
    runs = Path(next(iter(errors))).parent
    command = [sys.executable, "-m", "stn_cli", "visualize", "--serve", "--runs-dir", str(runs), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ, text=True) as served:
        assert served.stdout is not None
        yield json.loads(served.stdout.readline())["address"]
        served.send_signal(signal.SIGINT)
        _, err = served.communicate(timeout=60)
    # Where another program takes the port at the same moment, TensorBoard says so, and the next one is taken.
    said = [line for line in err.splitlines() if not line.startswith(("Address already in use", "Port "))]
    assert (served.returncode, said) == (0, [])


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Callable[[str, str, str, Callable[[list[Any]], bool]], list[Any]]]:
    """Open a page of the board, and return what a script finds on it as soon as that is as it should be."""
    metrics = {"width": 1400, "height": 1200, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.get_log("browser")

    def open_page(name: str, script: str, selector: str, whole: Callable[[list[Any]], bool]) -> list[Any]:
        browser.get("about:blank")
        browser.get(f"{address}#{name}")
        found, end = [], time.monotonic() + 30
        while not whole(found) and time.monotonic() < end:
            time.sleep(0.1)
            found = browser.execute_script(script, selector)
        assert whole(found), found
        return found

    yield open_page
    browser.get("about:blank")  # while the server is there for what the page still asks for
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_the_pictures_of_all_runs_are_there_to_be_seen(page: Any):
    # Four of the run with a transformer; of the other one, which warps nothing, no means.
    widths = page("images", PICTURES, "#main-image-container img", lambda found: len(found) == 7 and all(found))
    assert min(widths) > 100


def test_the_runs_stand_in_one_table_with_their_errors(page: Any, errors: dict[str, float]):
    names = {Path(run).name for run in errors}
    texts = page("hparams", TEXTS, "vaadin-grid-cell-content", lambda found: names <= {*found})
    numbers = [float(text) for text in texts if re.fullmatch(r"[\d.]+", text)]
    for error in errors.values():
        assert any(number == pytest.approx(error, rel=1e-3) for number in numbers)
    assert "error_percent/test" in texts


def test_the_curves_stand_by_what_they_measure(page: Any):
    groups = {"error_percent", "loss", "learning_rate", "speed", "warp input"}
    page("scalars", TEXTS, ".category-name, .heading span, [class*=title]", lambda found: groups <= {*found})
