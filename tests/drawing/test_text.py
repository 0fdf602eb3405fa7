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


@pytest.mark.parametrize(
    ("text", "words"),
    [("7→1", ["7", ARROW, "1"]), ("Müller 3×3 −1", ["Muller", "3x3", "-1"]), ("数 7", ["?", "7"])],
)
def test_only_what_can_be_drawn_is_left(text, words):
    assert wrap(text, 500) == [words]


@pytest.mark.parametrize("words", [["7", ARROW, "7"], ["Agjpqy|", "true", "7,"], [ARROW]])
def test_ink_stays_centred_in_its_line(words):
    page = Image.new("L", (300, 3 * LINE_HEIGHT))
    draw_line(ImageDraw.Draw(page), words, 150, LINE_HEIGHT, "white")
    y, x = np.nonzero(np.array(page) > 40)
    assert y.min() >= LINE_HEIGHT
    assert y.max() < 2 * LINE_HEIGHT
    assert abs((x.min() + x.max()) / 2 - 150) <= 2
    assert abs(np.ptp(x) - line_width(words)) <= 4
    assert FONT_SIZE >= 12
