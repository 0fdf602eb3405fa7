"""Error against strength as files: its numbers, and a drawing whose shapes are described once for SVG and PNG."""

import csv
import math
from collections.abc import Iterator, Sequence
from io import BytesIO, StringIO
from pathlib import Path
from typing import Literal, NamedTuple

from PIL import Image, ImageColor, ImageDraw

from stn_cli.drawing.text import FONT_SIZE, LINE_HEIGHT, draw_line, line_width
from stn_cli.storage import write_bytes
from stn_cli.training.sweep import KINDS, SweepCurve
from stn_cli.visualize.curves import COLOURS
from stn_cli.visualize.markup import Markup, element
from stn_cli.visualize.scale import Scale

WIDTH, LEFT, RIGHT, TOP, BOTTOM = 760, 52, 740, 40, 388  # pixels; the last four are the sides of the plot
BARS = BOTTOM + 32  # below the numbers on the axis
INK, QUIET, PAGE = "#24292f", "#d0d7de", "white"
FINE = 3  # shapes of the PNG are drawn this many times finer and averaged
MARK = 4.0  # pixels from the middle of a mark to its corners
BAR = 6  # pixels from one bar to the next
INTERVAL = 0.18  # opacity

COLUMNS = ("run", "model", "sweep", "unit", "strength", "error_percent", "low_percent", "high_percent", "wrong", "n")

Points = Sequence[tuple[float, float]]


class Area(NamedTuple):
    """A filled polygon."""

    points: Points
    colour: str
    opacity: float = 1.0


class Line(NamedTuple):
    """A line through points."""

    points: Points
    colour: str
    width: float


class Text(NamedTuple):
    """A line of text, whose middle is at the height of `y`."""

    text: str
    x: float
    y: float
    anchor: Literal["start", "middle", "end"] = "start"


Shape = Area | Line | Text


def write_sweep(curves: Sequence[SweepCurve], folder: Path) -> list[Path]:
    """Write the curves of one kind of sweep into a folder, as CSV, SVG and PNG; return the files.

    Raises:
        ResourceError: the folder cannot be written.
    """
    contents = {"csv": as_csv(curves).encode(), **dict(zip(("svg", "png"), draw_sweep(curves), strict=True))}
    files = [folder / f"sweep-{curves[0].kind}.{form}" for form in contents]
    for file, content in zip(files, contents.values(), strict=True):
        write_bytes(file, content)
    return files


def as_csv(curves: Sequence[SweepCurve]) -> str:
    """Return the points of curves with a line for each, under `COLUMNS`."""
    text = StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(COLUMNS)
    for curve in curves:
        for point in curve.points:
            errors = point.error_percent, *point.interval_percent
            said = curve.run, curve.model, curve.kind, KINDS[curve.kind].unit, point.strength, *errors, point.wrong
            lines.writerow([*said, point.n])
    return text.getvalue()


def draw_sweep(curves: Sequence[SweepCurve]) -> tuple[bytes, bytes]:
    """Return the curves of one kind of sweep, one at least, as (SVG, PNG): errors with their 95 % intervals.

    Bars below the axis, in the colours of the curves, say between which strengths each run was trained.
    """
    shapes, height = list(_shapes(curves)), _legend_top(curves) + LINE_HEIGHT * len(curves) + 4
    return _svg(shapes, height, _heading(curves[0].kind)).encode(), _png(shapes, height)


def _shapes(curves: Sequence[SweepCurve]) -> Iterator[Shape]:
    points = [point for curve in curves for point in curve.points]
    x = _scale(
        points[0].strength, points[-1].strength, LEFT, RIGHT, (1, 1.5, 3, 4.5, 9) if _turns(curves) else (1, 2, 5)
    )
    y = _scale(0, max(1.0, *(point.interval_percent[1] for point in points)), BOTTOM, TOP, (1, 2, 5))
    yield Text(_heading(curves[0].kind), LEFT, TOP / 2)
    for tick in y.ticks:
        yield Line([(LEFT, y.at(tick)), (RIGHT, y.at(tick))], QUIET, 1)
        yield Text(f"{tick:g}", LEFT - 8, y.at(tick), "end")
    for tick in x.ticks:
        yield Line([(x.at(tick), BOTTOM), (x.at(tick), BOTTOM + 5)], INK, 1)
        yield Text(_number(tick), x.at(tick), BOTTOM + 18, "middle")
    yield Line([(LEFT, BOTTOM), (RIGHT, BOTTOM)], INK, 1)
    for number, curve in enumerate(curves):
        yield from _trained(curve, number, x)
        yield from _drawn(curve, number, x, y)
        yield from _entry(curve, number, _legend_top(curves) + LINE_HEIGHT * (number + 0.5))


def _trained(curve: SweepCurve, number: int, x: Scale) -> Iterator[Shape]:
    """Yield the bar of a run, as far as it lies below the plot."""
    low, high = curve.trained or (math.inf, -math.inf)
    left, right, y = x.at(max(low, x.low)), x.at(min(high, x.high)), BARS + BAR * number
    if left <= right:
        yield Line([(left - 1, y), (right + 1, y)], _colour(number), BAR - 2)


def _drawn(curve: SweepCurve, number: int, x: Scale, y: Scale) -> Iterator[Shape]:
    """Yield the interval of a run, its curve and its marks."""
    colour, across = _colour(number), [x.at(point.strength) for point in curve.points]
    low, high = ([y.at(point.interval_percent[side]) for point in curve.points] for side in (0, 1))
    errors = [(place, y.at(point.error_percent)) for place, point in zip(across, curve.points, strict=True)]
    outline = [*zip(across, high, strict=True), *zip(reversed(across), reversed(low), strict=True)]
    yield Area(outline, colour, INTERVAL)
    yield Line(errors, colour, 2)
    yield from (_mark(number, *place) for place in errors)


def _entry(curve: SweepCurve, number: int, y: float) -> Iterator[Shape]:
    """Yield what the legend says of a run."""
    words = [f"{curve.run}: {curve.model}"]
    if curve.trained is not None:
        low, high = map(_number, curve.trained)
        words.append(f", trained on {low} to {high} {KINDS[curve.kind].unit}".rstrip())
    yield Line([(LEFT, y), (LEFT + 28, y)], _colour(number), 2)
    yield _mark(number, LEFT + 14, y)
    yield Text("".join(words), LEFT + 38, y)


def _mark(number: int, x: float, y: float) -> Area:
    """Return a mark of 3, 4, … corners, so that runs can be told apart without colours; the first is a disc."""
    corners = 24 if number == 0 else 2 + number
    turns = [2 * math.pi * k / corners - math.pi / 2 for k in range(corners)]
    return Area([(x + MARK * math.cos(turn), y + MARK * math.sin(turn)) for turn in turns], _colour(number))


def _scale(low: float, high: float, start: float, end: float, digits: Sequence[float]) -> Scale:
    """Return a scale with about six ticks, at multiples of one of the digits times a power of ten."""
    power = 10.0 ** math.floor(math.log10((high - low) / 6))
    tick = next(step for step in (*(digit * power for digit in digits), 10 * power) if 8 * step >= high - low)
    ticks = range(math.ceil(low / tick - 1e-9), math.floor(high / tick + 1e-9) + 1)
    return Scale(low, high, tuple(k * tick for k in ticks), start, end)


def _turns(curves: Sequence[SweepCurve]) -> bool:
    return curves[0].kind == "rotation"


def _heading(kind: str) -> str:
    unit = KINDS[kind].unit
    return f"test error in % over {kind}" + (f" in {unit}" if unit else "")


def _legend_top(curves: Sequence[SweepCurve]) -> int:
    return BARS + BAR * len(curves) + 8


def _number(value: float) -> str:
    return f"{value:.4g}".replace("-", "\N{MINUS SIGN}")


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def _svg(shapes: Sequence[Shape], height: int, title: str) -> Markup:
    drawn: list[Markup] = []
    for shape in shapes:
        if isinstance(shape, Text):
            place = {"x": f"{shape.x:.1f}", "y": f"{shape.y:.1f}", "text_anchor": shape.anchor}
            drawn.append(element("text", shape.text, **place, fill=INK, dominant_baseline="central"))
            continue
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in shape.points)
        if isinstance(shape, Area):
            drawn.append(element("polygon", points=points, fill=shape.colour, fill_opacity=shape.opacity))
        else:
            drawn.append(element("polyline", points=points, fill="none", stroke=shape.colour, stroke_width=shape.width))
    return element(
        "svg",
        element("title", title),
        element("rect", width=WIDTH, height=height, fill=PAGE),
        *drawn,
        xmlns="http://www.w3.org/2000/svg",
        width=WIDTH,
        height=height,
        viewBox=f"0 0 {WIDTH} {height}",
        role="img",
        font_family="system-ui, sans-serif",
        font_size=FONT_SIZE,
    )


def _png(shapes: Sequence[Shape], height: int) -> bytes:
    fine = Image.new("RGB", (WIDTH * FINE, height * FINE), PAGE)
    draw = ImageDraw.Draw(fine, "RGBA")  # which blends what is not opaque
    for shape in shapes:
        if isinstance(shape, Text):
            continue
        points = [(FINE * x, FINE * y) for x, y in shape.points]
        if isinstance(shape, Area):
            draw.polygon(points, fill=(*ImageColor.getrgb(shape.colour), round(255 * shape.opacity)))
        else:
            draw.line(points, fill=shape.colour, width=round(FINE * shape.width), joint="curve")
    page = fine.reduce(FINE)
    draw = ImageDraw.Draw(page)
    for shape in shapes:
        if isinstance(shape, Text):
            words, side = shape.text.split(), {"start": 0.5, "middle": 0.0, "end": -0.5}[shape.anchor]
            centre = round(shape.x + side * line_width(words))
            draw_line(draw, words, centre, round(shape.y - LINE_HEIGHT / 2), INK)
    content = BytesIO()
    page.save(content, "PNG")
    return content.getvalue()
