"""Curves: what is drawn is what was measured, read back from the drawing by its ticks as a reader would."""

import math
import re
from itertools import pairwise
from typing import Any
from xml.etree import ElementTree

import pytest

from stn_cli.visualize.curves import (
    COLOURS,
    MARKS,
    MOST_POINTS,
    WIDTH,
    Curve,
    draw_curves,
    error_curves,
    finding,
    learning_curves,
    thinned,
)

RECORDS: list[dict[str, Any]] = [
    {"step": 50, "split": "train", "loss": 2.1, "error_percent": 81.25, "learning_rate": 0.1},
    {"step": 60, "split": "validation", "loss": 1.4, "error_percent": 40.0},
    {"step": 100, "split": "train", "loss": 0.9, "error_percent": 22.5, "learning_rate": 0.05},
    {"step": 120, "split": "validation", "loss": 0.7, "error_percent": 17.5},
]


def drawn(curves: list[Curve], unit: str = "") -> ElementTree.Element:
    return ElementTree.fromstring(draw_curves(curves, "error", unit))


def number(text: str) -> float:
    return float(text.replace(",", ""))


def axis(drawing: ElementTree.Element, name: str) -> list[tuple[float, float]]:
    """Return (place, value) of the ticks of an axis."""
    parts = list(drawing)
    found = []
    for tick, label in pairwise(parts):
        if tick.get("class") == f"{name}-tick":
            x, y = re.match(r"M([\d.]+) ([\d.]+)", tick.attrib["d"]).groups()  # pyright: ignore[reportOptionalMemberAccess]
            found.append((float(x if name == "x" else y), number(label.text or "")))
    return found


def read(ticks: list[tuple[float, float]], place: float, *, is_log: bool) -> float:
    (first, low), (last, high) = ticks[0], ticks[-1]
    share = (place - first) / (last - first)
    return low * (high / low) ** share if is_log else low + share * (high - low)


def lines(drawing: ElementTree.Element) -> list[list[list[tuple[float, float]]]]:
    """Return every curve as pieces of (step, value)."""
    x, y = axis(drawing, "x"), axis(drawing, "y")
    is_log = "logarithmic" in (drawing[0].text or "")
    found = []
    for path in drawing.iter("path"):
        if path.get("class") == "line":
            pieces = [re.findall(r"([\d.]+) ([\d.]+)", piece) for piece in path.attrib["d"].split("M")[1:]]
            found.append(
                [
                    [(read(x, float(a), is_log=False), read(y, float(b), is_log=is_log)) for a, b in piece]
                    for piece in pieces
                ]
            )
    return found


@pytest.mark.parametrize("values", [[80.0, 60.0, 55.5, 41.0], [80.0, 20.0, 3.6, 1.25], [-3.0, 0.5, 2.0, 1.0]])
def test_the_points_of_a_curve_are_the_metrics(values: list[float]):
    points = [(50.0 * (i + 1), value) for i, value in enumerate(values)]
    ((piece,),) = lines(drawn([Curve("a", points)]))
    assert [step for step, _ in piece] == pytest.approx([step for step, _ in points], abs=0.05)
    span = max(values) - min(values)
    is_log = min(values) > 0 and max(values) > 10 * min(values)
    tolerance = {"rel": 0.003} if is_log else {"abs": span / 1000}
    assert [value for _, value in piece] == pytest.approx(values, **tolerance)


def test_training_and_validation_are_told_apart_without_colours():
    training, validation = learning_curves(RECORDS, "error_percent", "seed 3", 1)
    assert (training.label, validation.label) == ("seed 3, training", "seed 3, validation")
    assert training.points == [(50, 81.25), (100, 22.5)]
    assert validation.points == [(60, 40.0), (120, 17.5)]
    dashed, solid = [path for path in drawn([training, validation]).iter("path") if path.get("class") == "line"]
    assert dashed.get("stroke-dasharray")
    assert not solid.get("stroke-dasharray")
    marks = [path for path in drawn([training, validation]).iter("path") if "mark" in path.get("class", "")]
    assert [mark[0].text for mark in marks if len(mark)] == [
        "seed 3, validation: 40 at step 60",
        "seed 3, validation: 17.5 at step 120",
    ]


def test_series_have_marks_of_their_own_and_return_with_another_colour():
    assert len(set(MARKS)) == len(MARKS) >= 12
    looks = {(i % len(MARKS), i % len(COLOURS)) for i in range(60)}
    assert len(looks) == 60


def test_what_was_not_measured_has_no_curve():
    assert [curve.label for curve in learning_curves(RECORDS, "learning_rate")] == ["training"]
    assert learning_curves(RECORDS, "outside_percent") == []
    assert learning_curves([], "loss") == []
    with pytest.raises(ValueError, match="nothing to draw"):
        draw_curves([], "loss")
    with pytest.raises(ValueError, match="nothing to draw"):
        draw_curves([Curve("a", [(1, math.nan)])], "loss")


def test_a_value_that_is_not_finite_leaves_a_gap_and_a_point_alone_stays_visible():
    points = [(1, 5.0), (2, 4.0), (3, math.nan), (4, 3.0), (5, math.inf), (6, 2.0), (7, 1.0)]
    drawing = drawn([Curve("a", points)])
    (pieces,) = lines(drawing)
    assert [[round(step) for step, _ in piece] for piece in pieces] == [[1, 2], [4], [6, 7]]
    (line,) = [path for path in drawing.iter("path") if path.get("class") == "line"]
    assert [piece.endswith("h0") for piece in line.attrib["d"].split("M")[1:]] == [False, True, False]
    assert line.get("stroke-linecap") == "round"
    assert sum(path.get("class") == "mark filled" for path in drawing.iter("path")) == 5 + 1  # and in the legend


def test_zeros_stand_on_the_lower_edge_and_the_title_says_so():
    drawing = drawn([Curve("a", [(1, 50.0), (2, 0.5), (3, 0.0)])], " %")
    assert drawing[0].text == "error in %, logarithmic, 0 on the lower edge"
    ((piece,),) = lines(drawing)
    assert piece[-1][1] < piece[-2][1] < piece[-3][1]
    (edge,) = [path.attrib["d"] for path in drawing.iter("path") if path.get("class") is None][-1:]
    (line,) = [path.attrib["d"] for path in drawing.iter("path") if path.get("class") == "line"]
    assert float(line.split()[-1]) == float(re.findall(r"[\d.]+", edge)[1])


@pytest.mark.parametrize("count", [1, MOST_POINTS, MOST_POINTS + 1, 3000])
def test_long_curves_are_thinned_to_means(count: int):
    points = [(10.0 * i, 3.0 + (-1) ** i * 2.0 + i / count) for i in range(1, count + 1)]
    few = thinned(points)
    assert len(few) <= MOST_POINTS
    assert few[-1][0] == points[-1][0]
    assert [step for step, _ in few] == sorted({step for step, _ in few})
    if count <= MOST_POINTS:
        assert few == points
    if count % MOST_POINTS == 0:
        assert math.fsum(v for _, v in few) / len(few) == pytest.approx(math.fsum(v for _, v in points) / count)
    assert math.isnan(thinned([(i, math.nan if i == 7 else 1.0) for i in range(3000)])[0][1])


def test_words_say_what_the_curves_show():
    (curve, _) = learning_curves(RECORDS, "error_percent")
    assert finding([curve], " %") == "training from 81.2 % at step 50 to 22.5 % at step 100."
    up = Curve("b", [(1, 9.0), (1000, 2.0), (2000, 3.0)])
    assert finding([up]) == "b from 9 at step 1 to 3 at step 2,000, lowest 2 at step 1,000."
    assert "no finite value" in finding([Curve("c", [(1, math.nan)])])
    assert drawn([curve], " %").get("aria-label") == f"error over steps: {finding([curve], ' %')}"


def test_names_are_text_and_stay_inside_the_drawing():
    long = "<b>&" + "x" * 200
    drawing = drawn([Curve(label, [(1, 1.0)], i) for i, label in enumerate([long, "字" * 100, "a", "b", "c" * 40])])
    *_, height = map(float, drawing.attrib["viewBox"].split())
    labels = [text for text in drawing.iter("text") if float(text.attrib["y"]) > 240]
    assert (labels[0].text or "").startswith("<b>&x")
    assert all(len(label.text or "") * 6 + float(label.attrib["x"]) <= WIDTH for label in labels)
    assert all(float(label.attrib["y"]) < height for label in labels)
    assert f"{long} from 1" in drawing.attrib["aria-label"]


def test_several_runs_have_one_curve_each():
    no_validation = [record for record in RECORDS if record["split"] == "train"]
    curves = error_curves([("a", RECORDS), ("b", no_validation), ("c", [])])
    assert [(curve.label, curve.series) for curve in curves] == [("a, validation", 0), ("b, training", 1)]
    assert [curve.label for curve in error_curves([("a", RECORDS)])] == ["training", "validation"]


def test_a_file_stands_alone():
    curves = learning_curves(RECORDS, "error_percent")
    file = draw_curves(curves, "error", " %", is_file=True)
    assert ElementTree.fromstring(file).tag == "{http://www.w3.org/2000/svg}svg"
    assert "var(" not in file
    assert "url(" not in file
    assert "http" not in draw_curves(curves, "error", " %")
