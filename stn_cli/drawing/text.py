"""Captions in a font of our own, so that they look the same everywhere: Latin with all accents, Greek and Cyrillic."""

import unicodedata
from functools import cache
from pathlib import Path

from PIL import ImageDraw, ImageFont

FONT = Path(__file__).parent / "embedded" / "DejaVuSans-subset.ttf"
FONT_SIZE = 13
LINE_HEIGHT = 18
SPACE = 4
ARROW = "→"


@cache
def _font() -> ImageFont.FreeTypeFont:
    # The other layout engine, which not every Pillow has, places letters differently.
    return ImageFont.truetype(str(FONT), FONT_SIZE, layout_engine=ImageFont.Layout.BASIC)


def wrap(text: str, width: int) -> list[list[str]]:
    """Split a text into lines of words, each at most `width` pixels wide. A longer word gets a line of its own.

    An arrow is a word. Letters that the font lacks are drawn as a box.
    """
    lines: list[list[str]] = []
    # Composed, because the font has letters with their accents, but does not place an accent on a letter.
    for word in unicodedata.normalize("NFC", text).replace(ARROW, f" {ARROW} ").split():
        if not lines or line_width([*lines[-1], word]) > width:
            lines.append([])
        lines[-1].append(word)
    return lines


def line_width(words: list[str]) -> int:
    """Return the width of a line in pixels."""
    return sum(_word_width(word) for word in words) + SPACE * (len(words) - 1)


def draw_line(draw: ImageDraw.ImageDraw, words: list[str], centre: int, top: int, colour: str) -> None:
    """Write one line of words, centred on x = `centre`, into the LINE_HEIGHT pixels below `top`."""
    x = centre - line_width(words) // 2
    for word in words:
        draw.text((x, top + LINE_HEIGHT / 2), word, font=_font(), fill=colour, anchor="lm")
        x += _word_width(word) + SPACE


def _word_width(word: str) -> int:
    return round(_font().getlength(word))
