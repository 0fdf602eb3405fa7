"""The confusion matrix as a picture."""

from collections.abc import Sequence

from jaxtyping import Int64
from PIL import Image, ImageDraw
from torch import Tensor

from stn_cli.drawing.sheet import EDGE, GAP, INK, PAGE, QUIET, WIDTH
from stn_cli.drawing.text import LINE_HEIGHT, draw_line, line_width

RIGHT = "#e3f3e6"  # as on the pages of reports
SHADES = ((0.0, "#fff3e6"), (1.0, "#ffe3c7"), (2.0, "#ffcfa3"), (5.0, "#ffb77a"), (10.0, "#ff9f52"))  # percent, from on
EMPTY = "#f6f8fa"
LARGEST, NUMBERS, NAMES = 44, 30, 14  # pixels: the largest cell, and from what size on it has its number and its name
LONGEST_NAME = 140  # pixels


def confusion_picture(counts: Int64[Tensor, "classes classes"], classes: Sequence[str]) -> Image.Image:
    """Return a matrix of counts by true class (row) and predicted class (column).

    Mistakes are shaded by their share of the true class. Where there is no room for numbers or names, shades alone.
    """
    rows, n = counts.tolist(), len(classes)
    cell = max(2, min(LARGEST, (WIDTH - 2 * EDGE - LONGEST_NAME) // n))
    names = [name.split() for name in classes] if cell >= NAMES else []
    widest = min(LONGEST_NAME, max((line_width(name) for name in names), default=0))
    upright = widest > cell - 4
    left, top = EDGE + LINE_HEIGHT + widest + GAP, EDGE + LINE_HEIGHT + (widest if upright else LINE_HEIGHT) + GAP
    page = Image.new("RGB", (left + n * cell + EDGE, top + n * cell + EDGE), PAGE)
    draw = ImageDraw.Draw(page)
    draw_line(draw, ["predicted"], left + n * cell // 2, EDGE, QUIET)
    side = _label(["true"], line_width(["true"]) + 2, at_end=True, colour=QUIET).rotate(90, expand=True)
    page.paste(side, (EDGE, top + (n * cell - side.height) // 2))
    for i, name in enumerate(names):
        middle = i * cell + cell // 2
        page.paste(_label(name, widest, at_end=True), (left - GAP - widest, top + middle - LINE_HEIGHT // 2))
        if upright:
            label = _label(name, widest, at_end=False).rotate(90, expand=True)
            page.paste(label, (left + middle - LINE_HEIGHT // 2, top - GAP - widest))
        else:
            draw_line(draw, name, left + middle, top - GAP - LINE_HEIGHT, INK)
    for true, row in enumerate(rows):
        for predicted, count in enumerate(row):
            x, y, gap = left + predicted * cell, top + true * cell, int(cell >= NAMES)
            shade = RIGHT if true == predicted else _shade(count, sum(row))
            draw.rectangle((x, y, x + cell - 1 - gap, y + cell - 1 - gap), fill=shade)
            if count and cell >= NUMBERS:
                draw_line(draw, [str(count)], x + cell // 2, y + (cell - LINE_HEIGHT) // 2, INK)
    return page


def _shade(count: int, of: int) -> str:
    return [shade for least, shade in SHADES if 100 * count / of >= least][-1] if count else EMPTY


def _label(words: list[str], width: int, *, at_end: bool, colour: str = INK) -> Image.Image:
    """Return a line of words at one end of its room; of one that is too long, the beginning."""
    label, own = Image.new("RGB", (width, LINE_HEIGHT), PAGE), line_width(words)
    centre = width - own // 2 - 1 if at_end and own < width else own // 2
    draw_line(ImageDraw.Draw(label), words, centre, 0, colour)
    return label
