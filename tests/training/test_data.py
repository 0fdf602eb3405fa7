from collections.abc import Callable

import pytest
import torch

from stn_cli.config import RunConfig
from stn_cli.config_distortion import AdditionConfig, RTSConfig, VolumeConfig
from stn_cli.datasets.build import build_scene
from stn_cli.datasets.digits import load_digits
from stn_cli.datasets.loader import FrozenSet, hold_out
from stn_cli.datasets.scene import Single
from stn_cli.datasets.source import Source, Split
from stn_cli.distortions.similarity import Similarity
from stn_cli.errors import UsageError
from stn_cli.training import data as training_data
from stn_cli.training.data import input_spec, prepare_data, prepare_test

CPU = torch.device("cpu")


def everything(frozen: FrozenSet) -> torch.Tensor:
    return frozen.take(torch.arange(len(frozen))).images


def colours() -> Source:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (50, 3, 5, 7), generator=generator, dtype=torch.uint8)
    images[:, 1] //= 3
    images[:, 2] = 9
    split = Split(images, torch.zeros(50, dtype=torch.int64))
    return Source("colours", split, Split(images[:1], split.targets[:1]), ("a", "b"))


def test_the_network_is_built_for_the_training_images_mean_and_deviation() -> None:
    source = colours()
    spec = input_spec(source, Single(None, source.shape, source.classes))
    assert (spec.channels, spec.size, spec.classes) == (3, (5, 7), 2)
    levels = source.train.images.double() / 255
    assert spec.mean == pytest.approx(levels.mean(dim=(0, 2, 3)).tolist(), rel=1e-12)
    deviation = levels.std(dim=(0, 2, 3), correction=0).tolist()
    assert spec.std == pytest.approx([*deviation[:2], 1e-3], rel=1e-12)  # a constant channel is divided by something


def test_the_network_is_built_for_the_canvas_of_the_distortion() -> None:
    source, turn = colours(), {"rotation": (0.0, 0.0), "scale": (1.0, 1.0)}
    distortion = Similarity(in_size=(5, 7), canvas=(40, 50), **turn, place=True)
    spec = input_spec(source, Single(distortion, source.shape, source.classes))
    assert (spec.channels, spec.size, spec.classes) == (3, (40, 50), 2)


def test_the_network_for_an_addition_has_two_channels_alike_and_a_class_for_every_sum() -> None:
    digits = load_digits()
    one = input_spec(digits, build_scene(RTSConfig(), digits))
    two = input_spec(digits, build_scene(AdditionConfig(), digits))
    assert (two.channels, two.size, two.classes) == (2, (42, 42), 19)
    assert (two.mean, two.std) == (2 * one.mean, 2 * one.std)


def test_no_network_takes_volumes(small: Callable[..., RunConfig]) -> None:
    digits = load_digits()
    with pytest.raises(UsageError, match=r"no network for volumes\. Choose another distortion"):
        input_spec(digits, build_scene(VolumeConfig(), digits))
    with pytest.raises(UsageError, match="no network for volumes"):
        prepare_data(small("distortion.kind=volume"), CPU)


def test_pieces_of_its_own_digit_are_on_no_canvas(
    small: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every image is of one level, its own, and so is its target; pieces are whole images."""
    levels = torch.arange(200)
    squares = (50 + levels).to(torch.uint8)[:, None, None, None].expand(-1, 1, 6, 6)
    split = Split(squares, levels)
    source = Source("squares", split, split, tuple(str(level) for level in range(200)))
    monkeypatch.setattr(training_data, "build_source", lambda *_: source)
    clutter = ("distortion.kind=TC", "distortion.canvas=40", "distortion.piece_size=6", "distortion.pieces=40")
    data = prepare_data(small(*clutter, "data.validation=0.2", "train.batch_size=16"), CPU)
    assert data.validation is not None
    batches = [data.stream.batch(step) for step in range(40)]
    of_validation = data.validation.take(torch.arange(40))
    for batch in (*batches, of_validation):
        own = (batch.images * 255).round() == (50 + batch.targets)[:, None, None, None]
        assert (own.sum(dim=(1, 2, 3)) <= 36).all()  # with a piece of itself it would be up to 72
    of_test = data.test.take(torch.arange(200))  # which stand nowhere in the training split
    own = (of_test.images * 255).round() == (50 + of_test.targets)[:, None, None, None]
    assert (own.sum(dim=(1, 2, 3)) > 36).any()
    held_out = hold_out(200, 0.2, 0)[1]
    assert (data.validation.parameters["piece_image"] != held_out[:, None]).all()
    assert set(data.validation.parameters["piece_image"].flatten().tolist()) == set(range(200))


def test_training_and_validation_share_no_image_and_lose_none(small: Callable[..., RunConfig]) -> None:
    data = prepare_data(small("distortion.kind=none", "train.batch_size=1", "data.validation=0.1"), CPU)
    assert data.validation is not None
    assert len(data.validation) == round(0.1 * 1297)
    epoch = [data.stream.batch(step).images for step in range(data.stream.steps_per_epoch)]
    found = torch.cat([*epoch, everything(data.validation)]).flatten(1)
    expected = load_digits().train.images.float().flatten(1) / 255
    assert sorted(found.tolist()) == sorted(expected.tolist())
    assert torch.equal(everything(data.test), load_digits().test.images.float() / 255)


def test_without_a_share_nothing_is_held_out(small: Callable[..., RunConfig]) -> None:
    data = prepare_data(small("data.validation=0"), CPU)
    assert data.validation is None
    assert data.stream.steps_per_epoch == 1297 // 16


def test_the_test_set_is_one_frozen_draw_per_seed(small: Callable[..., RunConfig]) -> None:
    for kind in ("R", "RTS", "P", "E", "T", "TC", "addition"):
        config = small(f"distortion.kind={kind}")
        first = everything(prepare_data(config, CPU).test)
        data = prepare_data(small(f"distortion.kind={kind}", "train.batch_size=7", "model.name=cnn"), CPU)
        for step in range(2):
            data.stream.batch(step)
        assert torch.equal(everything(data.test), first)
        assert torch.equal(everything(prepare_test(config, CPU)[0]), first)
        assert not torch.equal(everything(prepare_test(small(f"distortion.kind={kind}", "seed=1"), CPU)[0]), first)


def test_validation_and_test_are_drawn_apart(small: Callable[..., RunConfig]) -> None:
    data = prepare_data(small(), CPU)
    assert data.validation is not None
    a, b = (part.parameters["rotation"][:60] for part in (data.validation, data.test))
    assert not torch.equal(a, b)


def test_a_batch_larger_than_the_training_set_is_refused_with_its_size(small: Callable[..., RunConfig]) -> None:
    count = 1297 - round(0.05 * 1297)
    assert prepare_data(small(f"train.batch_size={count}"), CPU).stream.steps_per_epoch == 1
    with pytest.raises(UsageError, match=rf"larger than the {count} training images\. Set train.batch_size to {count}"):
        prepare_data(small(f"train.batch_size={count + 1}"), CPU)
