"""`stn report`: a page or a drawing, where it is asked for."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

Stn = Callable[..., Any]


def test_one_run_has_its_report_in_its_folder(stn: Stn, runs: Path, read_page: Callable[[str], Any]):
    shutil.copytree(runs / "st-cnn", "run")
    answer = stn("report", "run", "--json")
    assert (answer.code, answer.err) == (0, "")
    summary = json.loads(Path("run/summary.json").read_text())
    assert answer.json == {
        "file": "run/report.html",
        "bytes": Path("run/report.html").stat().st_size,
        "runs": [
            {
                "run": "run",
                "finished": True,
                "step": 6,
                "error_percent": summary["test_error_percent"],
                "interval_percent": summary["test_interval_percent"],
                "parameters": summary["parameters"],
                "missing": [],
            }
        ],
    }
    assert answer.json["bytes"] < 5_000_000
    assert read_page(Path("run/report.html").read_text()).all("h1")[0].text == "Report on run"
    assert stn("report", "run").out.startswith("run/report.html  0.")


def test_several_runs_are_compared_here_or_where_asked(stn: Stn, runs: Path, read_page: Callable[[str], Any]):
    assert stn("report", "st-cnn", "cnn", "--runs-dir", runs).code == 0
    assert stn("report", runs / "st-cnn", runs / "cnn", "--out", "new/compared.html").code == 0
    pages = [Path(name).read_text() for name in ("report.html", "new/compared.html")]
    assert pages[0] == pages[1]
    assert read_page(pages[0]).all("h1")[0].text == "Report on 2 runs"


def test_curves_alone_are_a_drawing(stn: Stn, runs: Path):
    answer = stn("report", runs / "st-cnn", runs / "cnn", "--out", "curves.svg", "--json")
    assert answer.json == {
        "file": "curves.svg",
        "bytes": Path("curves.svg").stat().st_size,
        "runs": [{"run": str(runs / "st-cnn")}, {"run": str(runs / "cnn")}],
    }
    drawing = ElementTree.parse("curves.svg").getroot()
    words = drawing.attrib["aria-label"]
    assert "st-cnn, validation from" in words
    assert "; cnn, validation from" in words


def test_what_cannot_be_shown_is_told(stn: Stn, runs: Path):
    shutil.copytree(runs / "cnn", "run")
    shutil.rmtree("run/checkpoints")
    answer = stn("report", "run")
    assert answer.code == 0
    assert "not shown of run: there is no sound checkpoint" in answer.out
    (why,) = stn("report", "run", "--json").json["runs"][0]["missing"]
    assert why.startswith("there is no sound checkpoint")


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        (["nothing"], 4, "there is no run 'nothing'"),
        (["run", "--out", "page.pdf"], 2, "--out cannot be 'page.pdf'. End its name with .html"),
        (["run", "--out", "run/config.yaml/page.html"], 6, "cannot write run/config.yaml/page.html: "),
        (["run", "--out", "curves.svg"], 2, "no error was recorded yet"),
        (["run", "--device", "abacus"], 2, "runtime.device"),
    ],
)
def test_faults_have_one_line_and_their_code(stn: Stn, runs: Path, arguments: list[str], code: int, line: str):
    shutil.copytree(runs / "cnn", "run")
    Path("run/metrics.jsonl").unlink()
    answer = stn("report", *arguments)
    assert answer.code == code
    assert line in answer.error
    assert not Path("run/report.html").exists()
