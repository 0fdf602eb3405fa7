import numpy as np
import pytest
import torch
from PIL import ImageColor

from stn_cli.drawing.confusion import EMPTY, RIGHT, SHADES, confusion_picture

SHADE_COLOURS = [ImageColor.getrgb(shade) for _, shade in SHADES]


def cells(counts: torch.Tensor, names: list[str], cell: int) -> np.ndarray:
    """Return the colour in the corner of every cell; the matrix ends at the lower right margin."""
    picture = np.asarray(confusion_picture(counts, names))
    edge, n = 24, len(counts)
    return picture[-edge - n * cell : -edge : cell, -edge - n * cell : -edge : cell]


@pytest.mark.parametrize(("n", "cell"), [(3, 44), (10, 44), (60, 15), (200, 4)])
def test_every_cell_has_the_shade_of_its_share(n: int, cell: int) -> None:
    generator = torch.Generator().manual_seed(n)
    counts = torch.randint(0, 40, (n, n), generator=generator) * (torch.rand(n, n, generator=generator) < 0.5)
    counts += 200 * torch.eye(n, dtype=torch.int64)
    found = cells(counts, [f"class {i}" for i in range(n)], cell)
    for i, row in enumerate(counts.tolist()):
        for j, count in enumerate(row):
            if i == j:
                expected = ImageColor.getrgb(RIGHT)
            elif not count:
                expected = ImageColor.getrgb(EMPTY)
            else:
                expected = SHADE_COLOURS[sum(100 * count / sum(row) >= least for least, _ in SHADES) - 1]
            assert tuple(found[i, j]) == expected


def test_a_class_without_images_and_long_names_are_drawn_too() -> None:
    counts = torch.tensor([[0, 0], [3, 1]])
    short, long = (confusion_picture(counts, ["a", name]) for name in ("b", "a name that is longer than its room " * 5))
    assert short.width < long.width < 500
