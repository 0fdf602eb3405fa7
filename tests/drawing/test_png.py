import io

import numpy as np
import pytest
from PIL import Image

from stn_cli.drawing.png import small_png

NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8))
GREY = Image.fromarray(np.tile(np.arange(0, 255, dtype=np.uint8), (40, 1)))


@pytest.mark.parametrize("most", [1_000, 5_000, 1_000_000])
@pytest.mark.parametrize("picture", [NOISE, GREY], ids=["noise", "grey"])
def test_it_is_never_larger_than_allowed_nor_reduced_without_need(picture: Image.Image, most: int) -> None:
    content, size = small_png(picture, most)
    assert len(content) <= most
    with Image.open(io.BytesIO(content)) as shown:
        assert shown.format == "PNG"
        assert shown.size == size
    if size != picture.size:
        assert len(small_png(picture, 10 * most)[0]) > most
    assert small_png(picture, most) == (content, size)


def test_few_colours_stay_close_to_what_they_were() -> None:
    content, _ = small_png(GREY, 100_000)
    with Image.open(io.BytesIO(content)) as shown:
        difference = np.asarray(shown.convert("L")).astype(int) - np.asarray(GREY).astype(int)
    assert np.abs(difference).max() <= 8
