"""Curves as files: every number that was measured, as SVG and, drawn alike, as PDF."""

import re
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from stn_cli.errors import ResourceError
from stn_cli.training.logger import read_metrics
from stn_cli.training.run_folder import RunFolder
from stn_cli.visualize.curve_files import OF_WARPS, as_pdf, run_curves, write_curves
from stn_cli.visualize.curves import draw_curves

RECORDS = [
    {"step": 5, "split": "train", "loss": 2.0, "error_percent": 80.0, "learning_rate": 0.1},
    {"step": 5, "split": "validation", "loss": 1.5, "error_percent": 70.0},
    {"step": 5, "split": "warp input", "scale": 0.9, "angle_degrees": 12.0},
    {"step": 5, "split": "warp conv2", "scale": 1.1},
    {"step": 9, "split": "warp input", "scale": 0.8, "angle_degrees": 8.0},
]


def test_every_number_of_every_transformer_has_its_curve():
    found = run_curves(RECORDS)
    assert list(found) == ["error", "loss", "warp-scale", "warp-angle"]
    title, unit, curves = found["warp-scale"]
    assert (title, unit, [curve.label for curve in curves]) == ("scale of the warp", "", ["input", "conv2"])
    assert [curve.points for curve in curves] == [[(5, 0.9), (9, 0.8)], [(5, 1.1)]]
    assert [curve.label for curve in found["warp-angle"][2]] == ["input"]
    assert run_curves([]) == {}


def test_a_run_has_words_for_all_that_was_measured_of_its_transformers(small_run: Callable[[str], RunFolder]):
    records = read_metrics(small_run("deep").metrics)
    measured = {key for record in records if record["split"].startswith("warp ") for key in record}
    assert measured - {"step", "split"} == set(OF_WARPS)
    assert len(run_curves(records)) == 2 + len(OF_WARPS)
    assert list(run_curves(read_metrics(small_run("cnn").metrics))) == ["error", "loss"]


def test_files_are_the_drawings(tmp_path: Path):
    files = write_curves(RECORDS, tmp_path, pdf=True)
    assert [file.name for file in files][:3] == ["curves-error.svg", "curves-error.pdf", "curves-loss.svg"]
    title, unit, curves = run_curves(RECORDS)["error"]
    assert files[0].read_text() == draw_curves(curves, title, unit, is_file=True)
    assert [file.suffix for file in write_curves(RECORDS, tmp_path)] == [".svg"] * 4


def test_a_pdf_has_lines_and_letters_of_the_drawing_and_the_same_bytes_every_time():
    title, unit, curves = run_curves(RECORDS)["error"]
    drawing = draw_curves(curves, title, unit, is_file=True)
    content = as_pdf(drawing)
    assert content.startswith(b"%PDF-")
    assert as_pdf(drawing) == content
    assert b"/CreationDate (D:20000101000000" in content  # and not that of today
    assert b"/Subtype /Image" not in content
    assert b"DejaVu" in content
    width, height = (float(side) for side in re.findall(r"(?:width|height)=\"(\d+)\"", drawing)[:2])
    assert f"[0 0 {width:.2f} {height:.2f}]".encode() in content
    streams = [zlib.decompress(part) for part in re.findall(rb"stream\n(.*?)\nendstream", content, re.DOTALL)[:1]]
    assert streams[0].count(b" Tj") + streams[0].count(b" TJ") == drawing.count("<text")


def test_without_the_library_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setitem(sys.modules, "fpdf", None)
    with pytest.raises(ResourceError, match=r"PDF files need fpdf2\. Install it: pip install 'stn-cli\[pdf\]'"):
        write_curves(RECORDS, tmp_path, pdf=True)
    assert write_curves(RECORDS, tmp_path)
