import numpy as np
import pytest
import torch

from stn_cli.distortions.clutter import Clutter

CLUTTER = Clutter(in_size=(11, 9), canvas=(20, 23), pieces=6, side=4)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def levels(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, shape, generator=generator(seed), dtype=torch.uint8)


def test_corners_use_all_of_the_room_there_is() -> None:
    drawn = CLUTTER.draw(4096, generator(), others=30, own=None)
    assert {name: tuple(value.shape) for name, value in drawn.items()} == {
        "piece_image": (4096, 6),
        "piece_from": (4096, 6, 2),
        "piece_to": (4096, 6, 2),
    }
    assert all(value.dtype == torch.int64 for value in drawn.values())
    assert drawn["piece_image"].unique().tolist() == list(range(30))
    for name, (height, width) in (("piece_from", CLUTTER.in_size), ("piece_to", CLUTTER.canvas)):
        x, y = drawn[name].unbind(dim=-1)
        assert x.unique().tolist() == list(range(width - 4 + 1))
        assert y.unique().tolist() == list(range(height - 4 + 1))


@pytest.mark.parametrize("others", [2, 3, 30])
def test_a_canvas_gets_pieces_of_all_images_but_its_own(others: int) -> None:
    own = torch.arange(1200) % others
    image = CLUTTER.draw(1200, generator(), others=others, own=own)["piece_image"]
    for which in range(others):
        assert image[own == which].unique().tolist() == [k for k in range(others) if k != which]


def test_pieces_are_laid_over_the_canvas_by_the_brighter_pixel() -> None:
    canvases, others = levels(5, 2, 20, 23, seed=1), levels(30, 2, 11, 9)
    parameters = CLUTTER.draw(5, generator(), others=30, own=None)
    expected = canvases.clone().numpy()
    for n in range(5):
        for k in range(6):
            left, top = parameters["piece_from"][n, k].tolist()
            x, y = parameters["piece_to"][n, k].tolist()
            piece = others[parameters["piece_image"][n, k], :, top : top + 4, left : left + 4].numpy()
            there = expected[n, :, y : y + 4, x : x + 4]
            np.maximum(there, piece, out=there)
    found = CLUTTER.apply(canvases, others, parameters)
    assert found.dtype == torch.uint8
    assert np.array_equal(found, expected)
    assert torch.equal(CLUTTER.apply(canvases / 255, others, parameters), found / 255)


def test_no_pieces_leave_the_canvas_as_it_is() -> None:
    none = Clutter(in_size=(11, 9), canvas=(20, 23), pieces=0, side=4)
    parameters = none.draw(5, generator(), others=30, own=None)
    canvases = levels(5, 1, 20, 23)
    assert torch.equal(none.apply(canvases, levels(30, 1, 11, 9), parameters), canvases)


def test_pieces_may_be_as_large_as_the_image() -> None:
    whole = Clutter(in_size=(9, 9), canvas=(9, 9), pieces=1, side=9)
    others = levels(7, 1, 9, 9)
    parameters = whole.draw(5, generator(), others=7, own=None)
    found = whole.apply(torch.zeros(5, 1, 9, 9, dtype=torch.uint8), others, parameters)
    assert torch.equal(found, others[parameters["piece_image"][:, 0]])
