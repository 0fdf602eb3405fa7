import unicodedata

import numpy as np
import pytest
from PIL import Image, ImageDraw

from stn_cli.drawing.text import ARROW, FONT_SIZE, LINE_HEIGHT, draw_line, line_width, wrap

TEXT = "072.Pomarine Jaeger → 073.Blue Jay, true 7 predicted 1"


@pytest.mark.parametrize("width", [1, 60, 120, 400, 2000])
def test_wrapping_keeps_all_words_and_the_width(width):
    lines = wrap(TEXT, width)
    assert [word for line in lines for word in line] == TEXT.split()
    assert all(line_width(line) <= width or len(line) == 1 for line in lines)


def test_no_text_is_no_line():
    assert wrap("", 100) == wrap("  ", 100) == []


def drawn(text: str) -> np.ndarray:
    """The ink of a text on a page."""
    (words,) = wrap(text, 500)
    page = Image.new("L", (300, LINE_HEIGHT))
    draw_line(ImageDraw.Draw(page), words, 150, 0, "white")
    return np.array(page)


BOX = drawn("\uffff")  # of letters that the font lacks


def test_an_arrow_is_a_word():
    assert wrap("7→1", 500) == [["7", ARROW, "1"]]
    assert not np.array_equal(drawn(ARROW), BOX)


@pytest.mark.parametrize("letters", ["éèêëẽēĕė", "AÀÁÂÃÄÅĀĂĄ", "sßśŝşš", "oøóöőơ", "lłĺ", "iıíï", "αάд×−–€"])
def test_every_letter_is_told_from_the_others_and_from_what_is_unknown(letters):
    different = {drawn(letter).tobytes() for letter in letters} | {BOX.tobytes()}
    assert len(different) == len(letters) + 1


@pytest.mark.parametrize("text", ["Müller", "Ångström", "Čapek", "ñandú", "Việt"])
def test_an_accent_may_be_a_letter_of_its_own(text):
    apart = unicodedata.normalize("NFD", text)
    assert len(apart) > len(text)
    assert np.array_equal(drawn(apart), drawn(text))


@pytest.mark.parametrize("text", ["数", "\udce9", "\x07"])
def test_what_no_font_of_ours_knows_is_a_box(text):
    assert np.array_equal(drawn(text), BOX)


@pytest.mark.parametrize("words", [["7", ARROW, "7"], ["Agjpqy|", "true", "7,"], ["ÅÉŐ", "çąỹ"], [ARROW]])
def test_ink_stays_centred_in_its_line(words):
    page = Image.new("L", (300, 3 * LINE_HEIGHT))
    draw_line(ImageDraw.Draw(page), words, 150, LINE_HEIGHT, "white")
    y, x = np.nonzero(np.array(page) > 40)
    assert y.min() >= LINE_HEIGHT
    assert y.max() < 2 * LINE_HEIGHT
    assert abs((x.min() + x.max()) / 2 - 150) <= 2
    assert abs(np.ptp(x) - line_width(words)) <= 4
    assert FONT_SIZE >= 12
