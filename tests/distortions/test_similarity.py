from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import affine_transform

from stn_cli.distortions.similarity import Similarity
from stn_cli.geometry.grids import affine_grid, regular_grid
from stn_cli.geometry.matrices import between_sizes, rotation, scaling, translation
from stn_cli.geometry.sampling import sample

Frozen = Callable[..., dict[str, torch.Tensor]]
R = Similarity(in_size=(28, 28), canvas=(28, 28), rotation=(-90.0, 90.0), scale=(1.0, 1.0), place=False)
RTS = Similarity(in_size=(28, 28), canvas=(42, 44), rotation=(-45.0, 45.0), scale=(0.7, 1.2), place=True)


def pixels(size: tuple[int, int]) -> torch.Tensor:
    """(x, y) of every pixel about the image's centre, [height, width, 2]."""
    return regular_grid(size) * torch.tensor([size[1], size[0]]) / 2


def dots(*points: tuple[float, float], width: float = 1.5) -> torch.Tensor:
    """A 28×28 image of one channel per smooth dot, each at (x, y) pixels about the centre, [1, points, 28, 28]."""
    distance = (pixels((28, 28)) - torch.tensor(points)[:, None, None]).square().sum(dim=-1)
    return torch.exp(-distance / (2 * width**2))[None]


def centres_of_mass(images: torch.Tensor) -> torch.Tensor:
    """(x, y) in pixels about the image's centre, [n, channels, 2]."""
    mass = images / images.sum(dim=(2, 3), keepdim=True)
    return torch.einsum("nchw,hwk->nck", mass, pixels((images.shape[2], images.shape[3])))


def test_drawn_parameters_lie_in_their_ranges(frozen: Frozen) -> None:
    """How they are distributed there: test_statistics.py."""
    drawn = frozen(RTS, 4096)
    assert drawn["place"].shape == (4096, 2)
    for values, low, high in ((drawn["rotation"], -45, 45), (drawn["scale"], 0.7, 1.2), (drawn["place"], -1, 1)):
        assert values.min() >= low
        assert values.max() <= high
    rotation_only = frozen(R, 4096)
    assert rotation_only.keys() == {"rotation", "scale"}
    assert (rotation_only["scale"] == 1).all()


@pytest.mark.parametrize(("degrees", "quarters"), [(90.0, -1), (-90.0, 1)])
def test_a_positive_quarter_turn_is_clockwise(degrees: float, quarters: int) -> None:
    images = torch.rand(1, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    turned = R.apply(images, {"rotation": torch.tensor([degrees]), "scale": torch.ones(1)})
    torch.testing.assert_close(turned, torch.rot90(images, quarters, dims=(2, 3)), atol=1e-5, rtol=0)


@pytest.mark.parametrize("degrees", [-73.0, -20.0, 33.0, 90.0])
def test_rotation_equals_pillows_the_other_way_round(degrees: float) -> None:
    image = dots((5.0, -3.0), (-6.0, 2.0)).sum(dim=1, keepdim=True)
    turned = R.apply(image, {"rotation": torch.tensor([degrees]), "scale": torch.ones(1)})[0, 0]
    picture = Image.fromarray(image[0, 0].numpy())
    expected = np.array(picture.rotate(-degrees, Image.Resampling.BILINEAR))  # Pillow's angles are counter-clockwise
    inside = pixels((28, 28)).norm(dim=-1) < 13  # Pillow repeats the edge instead of fading to black
    assert (turned - torch.from_numpy(expected))[inside].abs().max() < 1e-4


def test_every_similarity_equals_scipys(frozen: Frozen) -> None:
    """Output row and column → input row and column, by the matrix that undoes scale and rotation about the centres."""
    images = torch.rand(8, 28, 28, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    parameters = {name: value.double() for name, value in frozen(RTS, 8).items()}
    found, shift = RTS.apply(images[:, None], parameters)[:, 0], RTS.shift(parameters)
    for k, angle in enumerate(torch.deg2rad(parameters["rotation"]).tolist()):
        undo = (
            np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / parameters["scale"][k].item()
        )
        centre = np.array([20.5, 21.5]) + shift[k].numpy()[::-1]  # of the digit on the canvas
        offset = np.array([13.5, 13.5]) - undo @ centre
        expected = affine_transform(images[k].numpy(), undo, offset, (42, 44), order=1, mode="grid-constant")
        np.testing.assert_allclose(found[k], expected, atol=1e-9, rtol=0)


def test_a_digit_is_turned_and_scaled_about_its_centre_then_put_where_shift_says(frozen: Frozen) -> None:
    points = torch.tensor([(0.0, 0.0), (6.0, -2.0), (-3.0, 5.0)])
    parameters = frozen(RTS, 64)
    found = centres_of_mass(RTS.apply(dots(*points.tolist()).expand(64, -1, -1, -1), parameters))
    angle = torch.deg2rad(parameters["rotation"])[:, None]
    (x, y), s = points.T, parameters["scale"][:, None]
    turned = torch.stack([s * (x * angle.cos() - y * angle.sin()), s * (x * angle.sin() + y * angle.cos())], dim=-1)
    expected = turned + RTS.shift(parameters)[:, None]
    torch.testing.assert_close(found, expected, atol=0.05, rtol=0)


def test_measured_area_is_the_scale_squared(frozen: Frozen) -> None:
    parameters = frozen(RTS, 64)
    dot = dots((0.0, 0.0), width=3.0).expand(64, -1, -1, -1)
    ratio = RTS.apply(dot, parameters).sum(dim=(1, 2, 3)) / dot.sum(dim=(1, 2, 3))
    torch.testing.assert_close(ratio, parameters["scale"] ** 2, atol=0, rtol=0.01)


def test_the_scaled_square_stays_inside_the_canvas_and_uses_all_of_the_room(frozen: Frozen) -> None:
    parameters = frozen(RTS, 4096)
    shift = RTS.shift(parameters)
    reach = shift.abs() + parameters["scale"][:, None] * 14
    assert (reach <= torch.tensor([22, 21]) + 1e-4).all()
    assert (reach.amax(dim=0) > torch.tensor([22, 21]) - 0.1).all()
    assert (shift.amin(dim=0) < -8).all()


def test_a_digit_larger_than_the_canvas_stays_in_the_middle() -> None:
    parameters = {"place": torch.ones(1, 2), "scale": torch.tensor([4.0])}
    assert RTS.shift(parameters).tolist() == [[0, 0]]


@pytest.mark.parametrize("kind", [R, RTS], ids=["R", "RTS"])
def test_the_inverse_map_undoes_the_distortion(kind: Similarity, frozen: Frozen) -> None:
    """Reading the canvas through place · rotation · scale, the forward map, gives the original back."""
    images = dots((4.0, -3.0), (-4.0, 1.0), (0.0, 5.0), width=3.5).expand(32, -1, -1, -1)
    parameters = frozen(kind, 32)
    forward = rotation(parameters["rotation"]) @ scaling(parameters["scale"][:, None].expand(-1, 2))
    if kind.place:
        forward = translation(kind.shift(parameters)) @ forward
    theta = between_sizes(forward, in_size=kind.canvas, out_size=(28, 28))[:, :2]
    undone = sample(kind.apply(images, parameters), affine_grid(theta, (28, 28)))
    middle = pixels((28, 28)).norm(dim=-1) < 12  # beyond, a turned digit may have left the canvas
    assert (undone - images)[..., middle].abs().max() < 0.06
