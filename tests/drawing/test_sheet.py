import numpy as np
import pytest
from PIL import Image

from stn_cli.drawing.sheet import EDGE, GAP, LARGEST, WIDTH, fitting_scale, lay_out
from stn_cli.drawing.text import LINE_HEIGHT, line_width


def sheet_width(widths: tuple[int, ...], scale: float, tiles: int, columns: int) -> int:
    tile = [Image.new("RGB", (int(width * scale), 10)) for width in widths]
    return lay_out([tile] * tiles, (), None, None, columns).width


@pytest.mark.parametrize("columns", [1, 2, 3])
@pytest.mark.parametrize("widths", [(28,), (28, 42, 28), (42, 60, 20), (9, 9)])
@pytest.mark.parametrize("tiles", [1, 2, 10, 20])
def test_pictures_are_as_large_as_fits(widths, tiles, columns):
    scale = fitting_scale(widths, max(widths), tiles, columns)
    assert scale == int(scale) >= 1
    assert sheet_width(widths, scale, tiles, columns) <= WIDTH
    assert max(widths) * scale <= LARGEST
    larger = scale + 1
    assert sheet_width(widths, larger, tiles, columns) > WIDTH or max(widths) * larger > LARGEST


def test_no_picture_is_enlarged_to_more_than_was_asked_for_nor_shrunk_to_it():
    assert fitting_scale((28, 28), 28, 2, 2, most=84) == 3
    assert fitting_scale((28, 28), 28, 2, 2, most=28) == 1
    assert fitting_scale((60, 60), 60, 2, 2, most=28) == 1
    assert fitting_scale((60, 60), 60, 2, 2, most=1000) == fitting_scale((60, 60), 60, 2, 2)


@pytest.mark.parametrize("widths", [(448,), (224, 336, 224)])
def test_large_pictures_shrink_to_fit(widths):
    scale = fitting_scale(widths, max(widths), 8, 4)
    assert 0 < scale < 1
    assert sheet_width(widths, scale, 8, 4) <= WIDTH


@pytest.mark.parametrize("widths", [(1, 1), (1, 100), (60, 1), (5, 9), (200, 300)])
@pytest.mark.parametrize("columns", [1, 3])
def test_headings_stand_apart_over_the_middle_of_their_pictures(widths, columns):
    tile = [Image.new("RGB", (width, 10), "blue") for width in widths]
    page = np.array(lay_out([tile] * 4, ("original", "distorted"), None, None, columns)).astype(int)
    written = np.flatnonzero((page[EDGE : EDGE + LINE_HEIGHT].sum(2) < 600).any(0))
    ends = np.flatnonzero(np.diff(written) > GAP / 2)
    headings = [(part[0], part[-1] + 1) for part in np.split(written, ends + 1)]
    assert len(headings) == 2 * columns
    blue = np.flatnonzero((page == (0, 0, 255)).all(2).any(0))
    pictures = [(part[0], part[-1] + 1) for part in np.split(blue, np.flatnonzero(np.diff(blue) > 1) + 1)]
    for (left, right), (begin, end), text in zip(headings, pictures, ("original", "distorted") * columns, strict=True):
        assert abs((left + right) - (begin + end)) <= 4
        assert abs((right - left) - line_width([text])) <= 4
