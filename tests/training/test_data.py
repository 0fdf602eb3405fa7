from collections.abc import Callable

import pytest
import torch

from stn_cli.config import RunConfig
from stn_cli.datasets.digits import load_digits
from stn_cli.datasets.loader import FrozenSet
from stn_cli.datasets.source import Source, Split
from stn_cli.distortions.similarity import Similarity
from stn_cli.errors import UsageError
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
    spec = input_spec(source, None)
    assert (spec.channels, spec.size, spec.classes) == (3, (5, 7), 2)
    levels = source.train.images.double() / 255
    assert spec.mean == pytest.approx(levels.mean(dim=(0, 2, 3)).tolist(), rel=1e-12)
    deviation = levels.std(dim=(0, 2, 3), correction=0).tolist()
    assert spec.std == pytest.approx([*deviation[:2], 1e-3], rel=1e-12)  # a constant channel is divided by something


def test_the_network_is_built_for_the_canvas_of_the_distortion() -> None:
    distortion = Similarity(canvas=(40, 50), rotation=(0.0, 0.0), scale=(1.0, 1.0), place=True)
    assert input_spec(colours(), distortion).size == (40, 50)


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
    for kind in ("R", "RTS", "P", "E"):
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
