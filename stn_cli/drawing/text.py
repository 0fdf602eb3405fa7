"""Captions in the one font that Pillow always carries."""

import unicodedata
from functools import cache

from PIL import Image, ImageDraw, ImageFont

FONT_SIZE = 14
LINE_HEIGHT = 18
SPACE = 4
ARROW = "→"


@cache
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(FONT_SIZE)


def wrap(text: str, width: int) -> list[list[str]]:
    """Split a text into lines of words, each at most `width` pixels wide. A longer word gets a line of its own.

    Pillow's font knows ASCII: accents are dropped, → is drawn, and what remains unknown becomes "?".
    """
    lines: list[list[str]] = []
    for word in text.replace(ARROW, f" {ARROW} ").split():
        known = word if word == ARROW else _to_ascii(word)
        if not lines or line_width([*lines[-1], known]) > width:
            lines.append([])
        lines[-1].append(known)
    return lines


def line_width(words: list[str]) -> int:
    """Return the width of a line in pixels."""
    return sum(_word_width(word) for word in words) + SPACE * (len(words) - 1)


def draw_line(draw: ImageDraw.ImageDraw, words: list[str], centre: int, top: int, colour: str) -> None:
    """Write one line of words, centred on x = `centre`, into the LINE_HEIGHT pixels below `top`."""
    x = centre - line_width(words) // 2
    for word in words:
        if word == ARROW:
            draw.bitmap((x, top), _arrow(), fill=colour)
        else:
            draw.text((x, top + LINE_HEIGHT / 2), word, font=_font(), fill=colour, anchor="lm")
        x += _word_width(word) + SPACE


def _word_width(word: str) -> int:
    return FONT_SIZE if word == ARROW else round(_font().getlength(word))


def _to_ascii(word: str) -> str:
    plain = unicodedata.normalize("NFKD", word.replace("×", "x").replace("−", "-"))
    return "".join(c for c in plain if not unicodedata.combining(c)).encode("ascii", "replace").decode()


@cache
def _arrow() -> Image.Image:
    fine = 4
    width, middle, head = FONT_SIZE * fine, (LINE_HEIGHT // 2 + 0.5) * fine, 3.5 * fine
    mask = Image.new("L", (width, LINE_HEIGHT * fine))
    draw = ImageDraw.Draw(mask)
    tip = width - fine
    draw.line((fine, middle, tip, middle), fill=255, width=round(1.25 * fine))
    draw.line((tip - head, middle - head, tip, middle, tip - head, middle + head), 255, round(1.25 * fine), "curve")
    return mask.reduce(fine)
