from collections.abc import Callable

import pytest
import torch

from stn_cli.distortions.placement import Placement

Frozen = Callable[..., dict[str, torch.Tensor]]
SIZES = [((28, 28), (84, 84)), ((28, 26), (40, 61)), ((5, 1), (6, 9)), ((7, 7), (7, 7))]


def levels(n: int, size: tuple[int, int]) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, 2, *size), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize(("in_size", "canvas"), SIZES)
def test_the_digit_lies_on_the_canvas_pixel_for_pixel(
    in_size: tuple[int, int], canvas: tuple[int, int], frozen: Frozen
) -> None:
    kind, images = Placement(in_size=in_size, canvas=canvas), levels(32, in_size)
    parameters = frozen(kind, 32)
    expected = torch.zeros(32, 2, *canvas, dtype=torch.uint8)
    for one, image, (x, y) in zip(expected, images, parameters["corner"].long().tolist(), strict=True):
        one[:, y : y + in_size[0], x : x + in_size[1]] = image
    assert torch.equal(kind.render(images, parameters), expected)
    torch.testing.assert_close(kind.apply(images / 255, parameters), expected / 255, atol=5e-5, rtol=0)


@pytest.mark.parametrize(("in_size", "canvas"), SIZES)
def test_corners_are_whole_pixels_and_use_all_of_the_room(
    in_size: tuple[int, int], canvas: tuple[int, int], frozen: Frozen
) -> None:
    x, y = frozen(Placement(in_size=in_size, canvas=canvas), 4096)["corner"].unbind(dim=1)
    for found, room in ((x, canvas[1] - in_size[1]), (y, canvas[0] - in_size[0])):
        assert found.unique().tolist() == list(range(room + 1))


def test_a_digit_larger_than_the_canvas_lies_in_its_middle(frozen: Frozen) -> None:
    kind, images = Placement(in_size=(20, 17), canvas=(8, 20)), levels(64, (20, 17))
    parameters = frozen(kind, 64)
    assert (parameters["corner"][:, 1] == -6).all()
    assert parameters["corner"][:, 0].unique().tolist() == [0, 1, 2, 3]
    at_left = parameters["corner"][:, 0] == 0
    assert torch.equal(kind.render(images, parameters)[at_left][..., :17], images[at_left][:, :, 6:14])
