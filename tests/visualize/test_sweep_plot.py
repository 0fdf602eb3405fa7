"""The files of a sweep: numbers as they were counted, and a drawing in which they stand where they should."""

import csv
import io
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from stn_cli.training.sweep import SweepCurve, SweepPoint
from stn_cli.visualize.sweep_plot import COLUMNS, as_csv, draw_sweep, write_sweep

SVG = "{http://www.w3.org/2000/svg}"


def curve(name: str = "a", wrong: tuple[int, ...] = (40, 20, 40), trained: Any = (-90, 90)) -> SweepCurve:
    strengths = [-180 + 360 * k / (len(wrong) - 1) for k in range(len(wrong))]
    points = (SweepPoint(strength, count, 100) for strength, count in zip(strengths, wrong, strict=True))
    return SweepCurve(name, "st-cnn-affine", "rotation", trained, tuple(points))


def drawn(*curves: SweepCurve) -> ElementTree.Element:
    return ElementTree.fromstring(draw_sweep(curves)[0])


def lines(svg: ElementTree.Element, width: str) -> list[list[list[float]]]:
    """The points of all lines of a width."""
    found = [line for line in svg.iter(f"{SVG}polyline") if line.get("stroke-width") == width]
    return [[[float(x) for x in pair.split(",")] for pair in str(line.get("points")).split()] for line in found]


def test_the_table_holds_every_point_of_every_run():
    a, b = curve("a"), curve("with, comma", (1, 2, 3, 4))
    rows = list(csv.DictReader(io.StringIO(as_csv([a, b]))))
    assert tuple(rows[0]) == COLUMNS
    assert [row["run"] for row in rows] == ["a"] * 3 + ["with, comma"] * 4
    for row, point in zip(rows, [*a.points, *b.points], strict=True):
        assert float(row["strength"]) == point.strength
        assert float(row["error_percent"]) == point.error_percent
        assert (float(row["low_percent"]), float(row["high_percent"])) == point.interval_percent
        assert (int(row["wrong"]), int(row["n"])) == (point.wrong, 100)
        assert (row["sweep"], row["unit"], row["model"]) == ("rotation", "°", "st-cnn-affine")


def test_points_stand_at_their_strength_and_error():
    svg = drawn(curve(wrong=(40, 20, 10, 0, 50)))
    ticks = {
        (text.get("text-anchor"), text.text): float(str(text.get("x" if text.get("text-anchor") == "middle" else "y")))
        for text in svg.iter(f"{SVG}text")
    }
    line = next(points for points in lines(svg, "2") if len(points) == 5)
    assert [x for x, _ in line] == [ticks["middle", name] for name in ("−180", "−90", "0", "90", "180")]
    assert [y for _, y in line[:4]] == [ticks["end", name] for name in ("40", "20", "10", "0")]


def test_a_bar_says_what_a_run_was_trained_on_as_far_as_it_is_in_view():
    def bars(*curves: SweepCurve) -> list[tuple[float, float]]:
        return [(bar[0][0], bar[1][0]) for bar in lines(drawn(*curves), "4")]

    middle, outside, unknown = curve(), curve(trained=(-400, 0)), curve(trained=None)
    line = next(points for points in lines(drawn(middle), "2") if len(points) == 3)
    left, centre, right = (x for x, _ in line)
    quarter = (right - left) / 4
    assert bars(middle)[0] == pytest.approx((left + quarter - 1, right - quarter + 1), abs=0.1)
    assert bars(outside)[0] == pytest.approx((left - 1, centre + 1), abs=0.1)
    assert bars(unknown) == []
    assert bars(curve(trained=(300, 400))) == []
    assert len(bars(middle, unknown, outside)) == 2
    words = " ".join(str(text.text) for text in drawn(middle, unknown).iter(f"{SVG}text"))
    assert words.count("trained on −90 to 90 °") == 1


def test_runs_can_be_told_apart_without_colours():
    svg = drawn(*(curve(name) for name in "abcd"))
    corners = {len(str(mark.get("points")).split()) for mark in svg.iter(f"{SVG}polygon") if not_interval(mark)}
    assert len(corners) == 4


def not_interval(mark: ElementTree.Element) -> bool:
    return mark.get("fill-opacity") == "1.0"


def test_names_are_text_and_no_markup():
    svg = drawn(curve("</svg><script>"))
    assert not list(svg.iter("script")) + list(svg.iter(f"{SVG}script"))
    assert any("</svg><script>: st-cnn-affine" in str(text.text) for text in svg.iter(f"{SVG}text"))


def test_both_drawings_are_one_and_the_same_bytes_twice():
    curves = [curve(), curve("b", (30, 30, 35), None)]
    svg, png = draw_sweep(curves)
    assert (svg, png) == draw_sweep(curves)
    picture = Image.open(io.BytesIO(png))
    assert re.search(rb'width="(\d+)" height="(\d+)"', svg).groups() == tuple(b"%d" % side for side in picture.size)  # pyright: ignore[reportOptionalMemberAccess]
    pixels = np.asarray(picture.convert("RGB")).astype(int)
    for shape in ElementTree.fromstring(svg).iter(f"{SVG}polyline"):
        if shape.get("stroke-width") == "2":
            x, y = (float(each) for each in str(shape.get("points")).split()[0].split(","))
            colour = [int(str(shape.get("stroke"))[k : k + 2], 16) for k in (1, 3, 5)]
            near = pixels[round(y) - 3 : round(y) + 4, round(x) - 1 : round(x) + 8].reshape(-1, 3)
            assert abs(near - colour).sum(axis=1).min() < 30


@pytest.mark.parametrize("wrong", [(0, 0), (100, 100), (0, 1, 0)])
def test_any_errors_can_be_drawn(wrong: tuple[int, ...]):
    assert not re.search(rb"\b(nan|inf)\b", draw_sweep([curve(wrong=wrong)])[0])


def test_the_files_lie_in_the_folder_under_the_name_of_the_sweep(tmp_path: Path):
    files = write_sweep([curve()], tmp_path / "plots")
    assert [file.name for file in files] == ["sweep-rotation.csv", "sweep-rotation.svg", "sweep-rotation.png"]
    assert files[0].read_text(encoding="utf-8") == as_csv([curve()])
    assert (files[1].read_bytes(), files[2].read_bytes()) == draw_sweep([curve()])
