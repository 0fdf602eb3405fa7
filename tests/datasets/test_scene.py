import functools
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from stn_cli.config import RunConfig
from stn_cli.config_distortion import RTSConfig
from stn_cli.datasets.build import build_scene
from stn_cli.datasets.digits import load_digits
from stn_cli.datasets.loader import BatchLoader, FrozenSet, hold_out
from stn_cli.datasets.scene import Addition, Cluttered, Scene, Single, Volume, targets_of
from stn_cli.datasets.source import Source, Split
from stn_cli.distortions.build import build_distortion
from stn_cli.distortions.chain import Chain
from stn_cli.errors import UsageError

CPU = torch.device("cpu")
SETTINGS: dict[str, tuple[dict[str, Any], type[Scene], tuple[int, ...]]] = {
    "none": ({}, Single, (28, 28)),
    "R": ({}, Single, (28, 28)),
    "RTS": ({}, Single, (42, 42)),
    "P": ({}, Single, (28, 28)),
    "E": ({}, Single, (28, 28)),
    "T": ({}, Single, (84, 84)),
    "TC": ({}, Cluttered, (60, 60)),
    "addition": ({}, Addition, (42, 42)),
    "volume": ({"canvas": 40}, Volume, (40, 40, 40)),
    "volume, turned": ({"canvas": 30, "rotation": (-90, 90)}, Volume, (30, 30, 30)),
    "chain": ({"stages": ({"kind": "R"}, {"kind": "E"})}, Single, (28, 28)),
    "chain, TC": ({"stages": ({"kind": "RTS"}, {"kind": "E"}, {"kind": "TC"})}, Cluttered, (90, 90)),
    "chain, addition": ({"stages": ({"kind": "R"}, {"kind": "addition"})}, Addition, (42, 42)),
    "chain, volume": ({"stages": ({"kind": "RTS"}, {"kind": "volume", "canvas": 50})}, Volume, (50, 50, 50)),
}


@functools.cache
def digits() -> Source:
    return load_digits()


def scene_of(source: Source, kind: str, **settings: object) -> Scene:
    config = RunConfig.model_validate({"distortion": {"kind": kind.partition(",")[0], **settings}})
    return build_scene(config.distortion, source)


def scene(kind: str) -> Scene:
    return scene_of(digits(), kind, **SETTINGS[kind][0])


def frozen(kind: str, count: int, split: str = "test") -> FrozenSet:
    own = torch.arange(len(digits().train)) if split == "train" else None
    loader = BatchLoader(getattr(digits(), split), scene(kind), CPU, own=own)
    return FrozenSet(loader, 0, split, count)


def exact(parameters: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value.double() for name, value in parameters.items()}


def source(channels: int, classes: tuple[str, ...], size: tuple[int, int] = (28, 28)) -> Source:
    images = torch.randint(0, 256, (12, channels, *size), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    split = Split(images, torch.arange(12) % len(classes))
    return Source("made", split, split, classes)


@pytest.mark.parametrize("kind", SETTINGS)
def test_every_kind_makes_the_samples_that_the_scene_announces(kind: str) -> None:
    samples, (_, made_of, size) = frozen(kind, 5), SETTINGS[kind]
    channels = 2 if made_of is Addition else 1
    assert type(scene(kind)) is made_of
    assert scene(kind).shape == (channels, *size)
    batch, rendered = samples.take(torch.arange(5)), samples.render(torch.arange(5))
    assert (batch.images.dtype, rendered.dtype) == (torch.float32, torch.uint8)
    assert batch.images.shape == rendered.shape == (5, channels, *size)
    assert 0 <= batch.images.min() <= batch.images.max() <= 1 + 1e-6
    assert (255 * batch.images - rendered).abs().max() < 0.6  # half a level by rounding, the rest by float32
    assert torch.equal(batch.targets, samples.targets)
    assert int(batch.targets.max()) < len(scene(kind).classes)


@pytest.mark.parametrize("kind", [kind for kind in SETTINGS if "addition" not in kind])
def test_channels_are_distorted_alike(kind: str) -> None:
    colour = source(3, ("a", "b"))
    green = Split(colour.train.images[:, 1:2], colour.train.targets)
    settings, index = SETTINGS[kind][0], torch.arange(4)
    of_three, of_one = (scene_of(each, kind, **settings) for each in (colour, Source("g", green, green, ("a", "b"))))
    parameters = of_three.draw(4, torch.Generator().manual_seed(0), among=12, own=index)
    assert of_three.shape == (3, *of_one.shape[1:])
    assert of_three.classes == ("a", "b")
    samples = of_three.make(colour.train, index, parameters, exact=True)
    assert torch.equal(samples[:, 1:2], of_one.make(green, index, parameters, exact=True))


@pytest.mark.parametrize("kind", [kind for kind, (_, made_of, _) in SETTINGS.items() if made_of is not Cluttered])
def test_the_original_read_at_the_true_map_is_the_sample(kind: str) -> None:
    samples = frozen(kind, 5)
    originals = digits().test.images[:5].double()
    if kind == "none":
        with pytest.raises(ValueError, match="no map"):
            scene(kind).true_map({})
        return
    grid = scene(kind).true_map(exact(samples.parameters))
    if isinstance(scene(kind), Volume):
        depth = scene(kind).extrusion.depth  # pyright: ignore[reportAttributeAccessIssue]
        originals = originals[:, :, None].expand(-1, -1, int(depth), -1, -1)
        expected = F.grid_sample(originals, grid, align_corners=False)
    elif isinstance(scene(kind), Addition):
        both = originals, digits().test.images[samples.parameters["second_image"]].double()
        read = [F.grid_sample(one, grid[:, k], align_corners=False) for k, one in enumerate(both)]
        expected = torch.cat(read, dim=1)
    else:
        expected = F.grid_sample(originals, grid, align_corners=False)
    # Half a level by rounding; positions in bytes are rounded to 2⁻¹⁷ of a pixel, depths to 2⁻¹³.
    assert (samples.render(torch.arange(5)) - expected).abs().max() < 0.54


@pytest.mark.parametrize("kind", ["TC", "chain, TC"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_clutter_is_of_pieces_of_other_training_digits_by_the_brighter_pixel(kind: str, split: str) -> None:
    cluttered, samples = scene(kind), frozen(kind, 100, split)
    assert isinstance(cluttered, Cluttered)
    parameters, train = samples.parameters, digits().train.images[:, 0].numpy()
    found = samples.render(torch.arange(100))[:, 0].numpy()
    digit = cluttered.distortion.render(getattr(digits(), split).images[:100], parameters)[:, 0].numpy()
    expected = digit.copy()
    for n in range(100):
        for k in range(6):
            (left, top), (x, y) = parameters["piece_from"][n, k].tolist(), parameters["piece_to"][n, k].tolist()
            piece = train[parameters["piece_image"][n, k], top : top + 6, left : left + 6]
            assert piece.shape == (6, 6)
            on_canvas = found[n, y : y + 6, x : x + 6]
            assert (on_canvas >= piece).all()
            np.maximum(expected[n, y : y + 6, x : x + 6], piece, out=expected[n, y : y + 6, x : x + 6])
    assert np.array_equal(found, expected)
    assert (found != digit).any(axis=(1, 2)).mean() > 0.9


def test_no_digit_is_among_pieces_of_itself_also_after_some_were_held_out() -> None:
    count = len(digits().train)
    for part in (torch.arange(count), *hold_out(count, 0.3, 0)):
        loader = BatchLoader(digits().train.at(part), scene("TC"), CPU, own=part)
        image = FrozenSet(loader, 0, "train").parameters["piece_image"]
        assert (image != part[:, None]).all()
        assert (image.min(), image.max()) == (0, count - 1)


@pytest.mark.parametrize("split", ["train", "test"])
def test_an_addition_is_two_digits_apart_and_its_target_their_sum(split: str) -> None:
    samples, images = frozen("addition", 200, split), getattr(digits(), split)
    parameters, similarity = samples.parameters, build_distortion(RTSConfig(), (28, 28))
    found = samples.render(torch.arange(200))
    second = parameters["second_image"]
    assert similarity is not None
    for channel, (which, index) in enumerate({"first": torch.arange(200), "second": second}.items()):
        own = {name: parameters[f"{which}.{name}"] for name in ("rotation", "scale", "place")}
        assert torch.equal(found[:, channel : channel + 1], similarity.render(images.images[index], own))
    assert torch.equal(samples.targets, images.targets[:200] + images.targets[second])
    assert not torch.equal(parameters["first.rotation"], parameters["second.rotation"])
    assert second.max() > 400  # any of the split, of which 200 are asked for
    assert scene("addition").classes == tuple(str(total) for total in range(19))


def test_targets_are_those_of_the_image_or_the_sum_with_the_second() -> None:
    split, index = Split(torch.zeros(4, 1, 2, 2, dtype=torch.uint8), torch.tensor([3, 1, 4, 5])), torch.tensor([2, 0])
    assert targets_of(split, index, {}).tolist() == [4, 3]
    assert targets_of(split, index, {"second_image": torch.tensor([1, 1])}).tolist() == [5, 4]


def test_stages_before_an_addition_or_a_volume_are_drawn_for_every_digit() -> None:
    addition, volume = scene("chain, addition"), scene("chain, volume")
    assert isinstance(addition, Addition)
    assert isinstance(addition.distortion, Chain)
    drawn = frozen("chain, addition", 3).parameters
    assert {"first.1.rotation", "second.1.rotation", "first.2.place", "second.2.place", "second_image"} <= set(drawn)
    assert isinstance(volume, Volume)
    assert volume.extrusion.warp is not None
    assert volume.extrusion.warp.canvas == (42, 42)


@pytest.mark.parametrize("stages", [(), ({"kind": "R"},)])
def test_only_grey_digits_can_be_added(stages: tuple[dict[str, Any], ...]) -> None:
    settings = {"kind": "chain", "stages": (*stages, {"kind": "addition"})} if stages else {"kind": "addition"}
    assert scene_of(source(1, ("0", "1", "2")), **settings).classes == ("0", "1", "2", "3", "4")
    for refused in (source(3, ("0", "1")), source(1, ("a", "b")), source(1, ("1", "2")), source(1, ("0", "2"))):
        with pytest.raises(UsageError, match=r"only grey images of digits can be added\. Use mnist"):
            scene_of(refused, **settings)


@pytest.mark.parametrize(
    ("size", "settings", "room"),
    [
        ((28, 28), {"kind": "TC", "piece_size": 29}, 28),
        ((28, 5), {"kind": "TC"}, 5),
        ((28, 28), {"kind": "TC", "piece_size": 9, "canvas": 8}, 8),
        ((28, 28), {"kind": "chain", "stages": ({"kind": "R"}, {"kind": "TC", "piece_size": 29})}, 28),
        ((28, 28), {"kind": "chain", "stages": ({"kind": "R"}, {"kind": "TC", "piece_size": 9, "canvas": 8})}, 8),
    ],
)
def test_pieces_fit_the_images_and_the_canvas(size: tuple[int, int], settings: dict[str, Any], room: int) -> None:
    with pytest.raises(UsageError, match=rf"the smallest side is {room}\. Lower distortion\.piece_size"):
        scene_of(source(1, ("a", "b"), size), **settings)
    largest = scene_of(source(1, ("a", "b"), size), kind="TC", piece_size=room, canvas=max(8, room))
    assert isinstance(largest, Cluttered)
    pieces = largest.draw(3, torch.Generator().manual_seed(0), among=12, own=torch.arange(3))
    assert largest.make(source(1, ("a", "b"), size).train, torch.arange(3), pieces).shape == (3, *largest.shape)


def test_pieces_need_another_image() -> None:
    one = load_digits()
    one = Source("one", one.train.at(torch.tensor([0])), one.test, one.classes)
    with pytest.raises(UsageError, match="no other to cut pieces from"):
        build_scene(RunConfig.model_validate({"distortion": {"kind": "TC"}}).distortion, one)
