"""Curves over training steps as SVG: in a page, where they take its colours, or as a file of its own."""

import math
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stn_cli.visualize.markup import Markup, element
from stn_cli.visualize.scale import Scale, scale_of_steps, scale_of_values

# Units of the drawing; text is 12 high, so that it can be read where the 400 are as narrow as a phone.
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 400, 240, 48, 12, 26, 40
LEGEND_ROW, SWATCH, LETTER, FILE_EDGE = 18, 26, 6.6, 8
SPLITS = {"train": "training", "validation": "validation"}
MOST_POINTS = 150  # per curve

# Every series has a colour, a mark and dashes of its own, so that no two need their colours to be told apart.
COLOURS = ("#0550ae", "#a3320b", "#116329", "#7d3bc4", "#6e5300", "#a0105e", "#3d444d")  # page.css has those of pages
CLOSED_MARKS = (
    "m-3.2 0a3.2 3.2 0 1 0 6.4 0a3.2 3.2 0 1 0-6.4 0z",  # disc
    "m-2.9-2.9h5.8v5.8h-5.8z",  # square
    "m0-4l3.9 6.7h-7.8z",  # triangle
    "m0-4.3l4.3 4.3l-4.3 4.3l-4.3-4.3z",  # lozenge
    "m0 4l3.9-6.7h-7.8z",  # triangle on its tip
)
OPEN_MARKS = ("m-3.2-3.2l6.4 6.4m0-6.4l-6.4 6.4", "m0-4.2v8.4m-4.2-4.2h8.4")  # cross, plus
MARKS = [(path, True) for path in CLOSED_MARKS] + [(path, False) for path in (*OPEN_MARKS, *CLOSED_MARKS)]
DASHES = ("5 3", "0.5 3", "9 3 0.5 3", "12 4", "3 5")  # round ends lengthen each by the width


@dataclass(frozen=True)
class Curve:
    """Values by step, in the order of steps; one that is not finite leaves a gap.

    `series`: which colour, mark and dashes it has. `marked`: solid with marks at its points, as of the few evaluations;
    else dashed without.
    """

    label: str
    points: Sequence[tuple[float, float]]
    series: int = 0
    marked: bool = True


def learning_curves(records: Iterable[Mapping[str, Any]], metric: str, label: str = "", series: int = 0) -> list[Curve]:
    """Return the curves of a metric on training and validation images from the records of a metrics file.

    One that was not measured is left out. `label`: what is said before "training" and "validation".
    """
    curves: list[Curve] = []
    records = list(records)
    for split, name in SPLITS.items():
        own = [record for record in records if record.get("split") == split and record.get(metric) is not None]
        if own:
            points = [(float(record["step"]), float(record[metric])) for record in own]
            curves.append(Curve(f"{label}, {name}" if label else name, points, series, split == "validation"))
    return curves


def error_curves(runs: Sequence[tuple[str, Iterable[Mapping[str, Any]]]]) -> list[Curve]:
    """Return the error curves of runs, given by name and records.

    One run has its training and its validation error. Of several each has one curve, the validation error where there
    is any.
    """
    if len(runs) == 1:
        return learning_curves(runs[0][1], "error_percent")
    found = (learning_curves(records, "error_percent", name, i) for i, (name, records) in enumerate(runs))
    return [curves[-1] for curves in found if curves]


def together(points: Sequence[tuple[float, float]], most: int = MOST_POINTS) -> int:
    """Return how many neighbouring points become one, so that at most `most` are drawn."""
    return -(-len(points) // most) or 1


def thinned(points: Sequence[tuple[float, float]], most: int = MOST_POINTS) -> list[tuple[float, float]]:
    """Return at most `most` points: the means of as many neighbours each, at the last one's step."""
    each = together(points, most)
    groups = [points[i : i + each] for i in range(0, len(points), each)]
    return [(group[-1][0], sum(value for _, value in group) / len(group)) for group in groups]


def finding(curves: Sequence[Curve], unit: str = "") -> str:
    """Return in words what curves show: where each begins and ends, and its lowest point."""
    said: list[str] = []
    for curve in curves:
        known = [(step, value) for step, value in curve.points if math.isfinite(value)]
        if not known:
            said.append(f"{curve.label} has no finite value")
            continue
        (first, begins), (last, ends), (at, lowest) = known[0], known[-1], min(known, key=lambda point: point[1])
        words = f"{curve.label} from {begins:.3g}{unit} at step {first:,.0f} to {ends:.3g}{unit} at step {last:,.0f}"
        said.append(words if lowest == ends else f"{words}, lowest {lowest:.3g}{unit} at step {at:,.0f}")
    return "; ".join(said) + "."


def draw_curves(curves: Sequence[Curve], title: str, unit: str = "", *, is_file: bool = False) -> Markup:
    """Return curves as an SVG element with axes and a legend.

    `title`: of what the values are, "error". Long curves are thinned. A logarithmic scale says so, and 0 stands on its
    lower edge. `is_file`: whether the element is to be a whole SVG file, in colours for white paper.

    Raises:
        ValueError: there is no finite value.
    """
    shown = [(curve, thinned(curve.points)) for curve in curves]
    known = [point for _, points in shown for point in points if math.isfinite(point[1])]
    if not known:
        raise ValueError("there is nothing to draw")
    values = [value for _, value in known]
    x = scale_of_steps(max(step for step, _ in known), LEFT, WIDTH - RIGHT)
    y = scale_of_values(values, HEIGHT - BOTTOM, TOP)
    said = [f"{title} in {unit.strip()}" if unit else title, *(["logarithmic"] if y.is_log else [])]
    said += ["0 on the lower edge"] if y.is_log and min(values) == 0 else []
    legend, rows = _legend([curve for curve, _ in shown])
    height = HEIGHT + rows * LEGEND_ROW
    edge = FILE_EDGE if is_file else 0
    whole = (WIDTH + 2 * edge, height + 2 * edge)
    size = {"xmlns": "http://www.w3.org/2000/svg", "width": whole[0], "height": whole[1]} if is_file else {}
    return element(
        "svg",
        _text(0, 14, ", ".join(said)),
        *_axes(x, y),
        *(_drawn(curve, points, x, y, unit) for curve, points in shown),
        *legend,
        **size,
        viewBox=f"{-edge} {-edge} {whole[0]} {whole[1]}",
        class_="curves",
        role="img",
        aria_label=f"{title} over steps: {finding(curves, unit)}",
        font_family="system-ui, sans-serif",
        font_size=12,
        fill="currentColor",
    )


def _axes(x: Scale, y: Scale) -> Iterator[Markup]:
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    for tick in y.ticks:
        place = y.at(tick)
        yield _line(f"M{LEFT} {place:.1f}H{right}", stroke_opacity=0.2, class_="y-tick")
        yield _text(LEFT - 6, place + 4, f"{tick:.6g}", text_anchor="end")
    for tick in x.ticks:
        place = x.at(tick)
        yield _line(f"M{place:.1f} {bottom}v5", class_="x-tick")
        is_last = place > right - 12  # its label would leave the drawing
        yield _text(
            right if is_last else place, bottom + 18, f"{tick:,.10g}", text_anchor="end" if is_last else "middle"
        )
    yield _line(f"M{LEFT} {bottom}H{right}")
    yield _text(right, bottom + 34, "steps", text_anchor="end")


def _drawn(curve: Curve, points: Sequence[tuple[float, float]], x: Scale, y: Scale, unit: str) -> Markup:
    places = [(x.at(step), y.at(value)) if math.isfinite(value) else None for step, value in points]
    line = "".join(
        f"{'L' if i and places[i - 1] else 'M'}{place[0]:.1f} {place[1]:.1f}" for i, place in enumerate(places) if place
    )
    line = re.sub(r"M[^ML]+(?=M|$)", r"\g<0>h0", line)  # a point alone is a dot, where line ends are round
    parts = [_stroked(curve, line, "line")]
    if curve.marked:
        for (step, value), place in zip(points, places, strict=True):
            if place is not None:
                said = element("title", f"{curve.label}: {value:.4g}{unit} at step {step:,.0f}")
                parts.append(_mark(curve, *place, said))
    return element("g", *parts, class_=f"series-{curve.series % len(COLOURS)}")


def _legend(curves: Sequence[Curve]) -> tuple[list[Markup], int]:
    """Return an entry for every curve, flowing into rows, and the number of rows."""
    entries: list[Markup] = []
    left, row = 0.0, 0
    for curve in curves:
        label = _cut(curve.label, WIDTH - SWATCH - 8)
        width = SWATCH + 6 + _width(label) + 12
        if left and left + width > WIDTH:
            left, row = 0.0, row + 1
        middle = HEIGHT + row * LEGEND_ROW + 8
        swatch = [_stroked(curve, f"M{left:.1f} {middle}h{SWATCH}", "swatch")]
        swatch += [_mark(curve, left + SWATCH / 2, middle)] if curve.marked else []
        entries.append(element("g", *swatch, class_=f"series-{curve.series % len(COLOURS)}"))
        entries.append(_text(left + SWATCH + 6, middle + 4, label))
        left += width
    return entries, row + 1


def _stroked(curve: Curve, path: str, role: str) -> Markup:
    return element(
        "path",
        d=path,
        class_=role,
        fill="none",
        stroke=COLOURS[curve.series % len(COLOURS)],
        stroke_width=1.8 if curve.marked else 1.3,
        stroke_linecap="round",
        stroke_dasharray=None if curve.marked else DASHES[curve.series % len(DASHES)],
    )


def _mark(curve: Curve, x: float, y: float, *content: Markup) -> Markup:
    path, is_filled = MARKS[curve.series % len(MARKS)]
    colour = COLOURS[curve.series % len(COLOURS)]
    role = "mark filled" if is_filled else "mark"
    fill = colour if is_filled else "none"
    return element("path", *content, d=f"M{x:.1f} {y:.1f}{path}", class_=role, fill=fill, stroke=colour)


def _line(path: str, **attributes: str | float) -> Markup:
    return element("path", d=path, fill="none", stroke="currentColor", **attributes)


def _text(x: float, y: float, text: str, **attributes: str) -> Markup:
    return element("text", text, x=f"{x:.1f}", y=f"{y:.1f}", **attributes)


def _width(text: str) -> float:
    """Return about how wide a text is; nothing here knows the reader's font."""
    return sum(2 * LETTER if unicodedata.east_asian_width(letter) in "WF" else LETTER for letter in text)


def _cut(text: str, width: float) -> str:
    """Return a text, or its beginning where it is too wide."""
    if _width(text) <= width:
        return text
    while _width(text) > width - LETTER:
        text = text[:-1]
    return f"{text}…"
