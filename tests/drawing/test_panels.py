import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageColor

from stn_cli.drawing.overlay import ACCENT, COLOURS, MARGIN_SHADE
from stn_cli.drawing.panels import before_after_panel, image_grid, warp_panel, warps_panel
from stn_cli.drawing.sheet import WRONG


def warped(
    n: int, channels: int = 1, size: int = 28, out_size: int = 28
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    theta = torch.eye(2, 3) + 0.2 * torch.randn(n, 2, 3, generator=generator)
    inputs = torch.rand(n, channels, size, size, generator=generator)
    grids = F.affine_grid(theta, [n, channels, out_size, out_size], align_corners=False)
    return inputs, grids, F.grid_sample(inputs, grids, align_corners=False)


def box(picture: Image.Image, colour: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of all pixels of exactly one colour."""
    y, x = np.nonzero((np.array(picture) == colour).all(-1))
    return int(x.min()), int(y.min()), int(x.max()) + 1, int(y.max()) + 1


def count(picture: Image.Image, colour: str | tuple[int, int, int]) -> int:
    wanted = ImageColor.getrgb(colour) if isinstance(colour, str) else colour
    return int((np.array(picture) == wanted).all(-1).sum())


@pytest.mark.parametrize("n", [10, 20])
def test_panels_of_digits_are_page_wide(n):
    assert 900 <= warp_panel(*warped(n), ["7 → 7"] * n).width <= 1200
    assert 900 <= image_grid(torch.zeros(n, 1, 28, 28)).width <= 1200
    assert 900 <= before_after_panel(torch.zeros(n, 1, 28, 28), torch.zeros(n, 1, 42, 42)).width <= 1200


@pytest.mark.parametrize(("channels", "size", "out_size"), [(1, 28, 28), (3, 64, 32), (2, 42, 60), (3, 224, 112)])
def test_the_same_arguments_give_the_same_bytes(channels, size, out_size):
    arguments = warped(3, channels, size, out_size)
    assert warp_panel(*arguments).tobytes() == warp_panel(*arguments).tobytes()


def test_a_tile_holds_input_overlay_and_output_at_one_scale():
    n, tone = 1, [(51, 51, 51), (102, 102, 102)]
    grids = F.affine_grid(4 * torch.eye(2, 3)[None], [n, 1, 14, 14], align_corners=False)
    panel = warp_panel(torch.full((n, 1, 28, 28), 0.2), grids, torch.full((n, 1, 14, 14), 0.4))
    left, top, right, bottom = box(panel, tone[1])
    scale = (right - left) / 14
    assert scale == (bottom - top) / 14 == int(scale)
    margin = box(panel, ImageColor.getrgb(MARGIN_SHADE)[:3])
    image_left, image_top, image_right, image_bottom = box(panel, tone[0])
    assert image_bottom - image_top == 28 * scale
    assert image_left < image_right < margin[2] < left  # input, overlay, output
    assert margin[1] + margin[3] == image_top + image_bottom == top + bottom  # one middle line


def test_all_parts_of_the_overlay_show():
    panel = warp_panel(*warped(4))
    assert count(panel, ACCENT) > 4 * 100
    assert count(panel, MARGIN_SHADE) > 4 * 1000


def test_wrong_predictions_alone_are_red():
    images = torch.zeros(3, 1, 28, 28)
    for wrong in ([False] * 3, [False, True, False], [True] * 3):
        reds = [count(part, WRONG) > 0 for part in split(image_grid(images, ["7 → 1"] * 3, wrong=wrong, columns=3), 3)]
        assert reds == wrong


def split(picture: Image.Image, parts: int) -> list[Image.Image]:
    width = picture.width / parts
    return [picture.crop((round(i * width), 0, round((i + 1) * width), picture.height)) for i in range(parts)]


def test_image_grid_places_images_row_by_row():
    tones = [(tone, tone, tone) for tone in range(40, 180, 20)]
    images = torch.tensor([tone[0] / 255 for tone in tones]).view(7, 1, 1, 1).expand(-1, 1, 20, 30)
    picture = image_grid(images, columns=3)
    places = [box(picture, tone) for tone in tones]
    assert len({(right - left, bottom - top) for left, top, right, bottom in places}) == 1
    assert sorted(range(7), key=lambda i: (places[i][1], places[i][0])) == list(range(7))
    assert [place[0] for place in places] == [places[i % 3][0] for i in range(7)]


def test_before_and_after_share_scale_and_middle():
    panel = before_after_panel(torch.full((1, 1, 28, 28), 0.2), torch.full((1, 1, 42, 42), 0.4))
    one, two = box(panel, (51, 51, 51)), box(panel, (102, 102, 102))
    assert (one[2] - one[0]) / 28 == (two[2] - two[0]) / 42
    assert one[2] < two[0]
    assert one[1] + one[3] == two[1] + two[3]


def test_captions_are_never_cut():
    images = torch.zeros(8, 1, 28, 28)
    plain, short, long = (image_grid(images, text) for text in (None, ["7"] * 8, ["true 7, predicted 1"] * 8))
    assert plain.height < short.height < long.height
    assert image_grid(images, ["Rhinoceros_Auklet_and_more"] * 8).width > plain.width


def test_missing_values_do_not_hurt():
    inputs, grids, outputs = warped(2)
    grids[0, 3:9], inputs[0], outputs[1] = torch.nan, torch.nan, torch.inf
    assert warp_panel(inputs, grids, outputs).size == warp_panel(*warped(2)).size


def test_no_example_gives_a_blank_page():
    assert len(image_grid(torch.zeros(0, 1, 28, 28)).getcolors() or []) == 1
    empty = torch.zeros(0, 1, 28, 28)
    assert len(warp_panel(empty, torch.zeros(0, 28, 28, 2), empty).getcolors() or []) == 1


def test_a_caption_too_few_is_refused():
    with pytest.raises(ValueError, match="shorter"):
        image_grid(torch.zeros(3, 1, 28, 28), ["7", "1"])


def test_one_of_several_transformers_is_drawn_as_one_alone():
    inputs, grids, outputs = warped(3)
    alone = warps_panel(inputs, [[grids]], [outputs], ("input", "sampling grid", "output"))
    assert alone.tobytes() == warp_panel(inputs, grids, outputs).tobytes()


def test_several_transformers_have_their_outlines_and_outputs_in_colours_of_their_own():
    inputs, grids, outputs = warped(2)
    both = [[grids], [0.5 * grids, 0.5 * grids + 0.3]], [outputs, outputs[:, :, ::2]]
    panel = warps_panel(inputs, *both, ("input", "grids", "a", "b"))
    for colour in COLOURS[:2]:
        assert count(panel, colour) > 4 * 100
    assert count(panel, COLOURS[2]) == 0
    less = warps_panel(inputs, [[grids], [0.5 * grids]], both[1], ("input", "grids", "a", "b"))
    assert count(less, COLOURS[1]) < count(panel, COLOURS[1])


def test_more_transformers_than_colours_are_drawn_too():
    inputs, grids, outputs = warped(1, size=8, out_size=8)
    assert warps_panel(inputs, [[grids]] * 9, [outputs] * 9, ["x"] * 11).size[0] > 0


def test_control_points_lie_over_the_grid_of_their_transformer_alone():
    inputs, grids, outputs = warped(2)
    points = torch.tensor([[[0.0, 0.0], [0.5, 0.5]]]).expand(2, -1, -1)
    headings = ("input", "grids", "a", "b")
    two = [[grids], [0.5 * grids]], [outputs, outputs]
    neither = warps_panel(inputs, *two, headings)
    assert warps_panel(inputs, *two, headings, points=[[], []]).tobytes() == neither.tobytes()
    with_points = warps_panel(inputs, *two, headings, points=[[], [points]])
    assert count(with_points, COLOURS[1]) > count(neither, COLOURS[1])
    assert count(with_points, COLOURS[0]) <= count(neither, COLOURS[0])
