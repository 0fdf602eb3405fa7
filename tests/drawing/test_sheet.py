import pytest
from PIL import Image

from stn_cli.drawing.sheet import LARGEST, WIDTH, fitting_scale, lay_out


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


@pytest.mark.parametrize("widths", [(448,), (224, 336, 224)])
def test_large_pictures_shrink_to_fit(widths):
    scale = fitting_scale(widths, max(widths), 8, 4)
    assert 0 < scale < 1
    assert sheet_width(widths, scale, 8, 4) <= WIDTH
