import numpy as np
import pytest
import torch

from stn_cli.config import ModelConfig
from stn_cli.datasets.digits import load_digits
from stn_cli.datasets.loader import BatchLoader, FrozenSet
from stn_cli.datasets.scene import Single
from stn_cli.distortions.similarity import Similarity
from stn_cli.drawing.panels import image_grid, warp_panel, warps_panel
from stn_cli.drawing.sheet import stacked
from stn_cli.models.build import InputSpec, build_model
from stn_cli.models.network import Network
from stn_cli.training.look import look_at_images
from stn_cli.training.pictures import look_picture, means_picture, warp_picture
from stn_cli.training.runtime import Runtime

CPU = torch.device("cpu")
FLOAT32 = Runtime(CPU, "float32", "")
SPEC = InputSpec(channels=1, height=28, width=28, classes=10, mean=(0.1,), std=(0.3,))
TURN = {"rotation": (-90.0, 90.0), "scale": (1.0, 1.0), "place": False}
ROTATION = Single(Similarity(in_size=(28, 28), canvas=(28, 28), **TURN), (1, 28, 28), tuple("0123456789"))
CLASSES = tuple("abcdefghij")
INDEX = torch.tensor([3, 400])


@pytest.fixture
def frozen() -> FrozenSet:
    return FrozenSet(BatchLoader(load_digits().test, ROTATION, CPU), 0, "test")


@pytest.mark.parametrize("name", ["cnn", "st-cnn"])
def test_it_shows_inputs_warps_and_what_was_predicted(frozen: FrozenSet, name: str) -> None:
    network = build_model(ModelConfig(name=name, parameters=30_000), SPEC, 0)
    batch = frozen.take(INDEX)
    with torch.no_grad():
        logits, warps = network(batch.images)
    pairs = list(zip(batch.targets.tolist(), logits.argmax(dim=1).tolist(), strict=True))
    captions = [f"{CLASSES[true]} → {CLASSES[predicted]}" for true, predicted in pairs]
    wrong = [true != predicted for true, predicted in pairs]
    if name == "cnn":
        expected = image_grid(batch.images, captions, wrong=wrong)
    else:
        expected = warp_panel(batch.images, warps[0].grid, warps[0].output, captions, wrong=wrong)
    found = warp_picture(network, frozen, INDEX, CLASSES, FLOAT32)
    assert np.array_equal(np.asarray(found), np.asarray(expected))


def test_wrong_predictions_look_different(frozen: FrozenSet) -> None:
    network = build_model(ModelConfig(name="cnn", parameters=30_000), SPEC, 0)
    pictures = []
    for label in frozen.targets[INDEX].tolist():
        with torch.no_grad():
            network.classifier[-1].bias.fill_(0)
            network.classifier[-1].bias[label] = 1e6
        pictures.append(np.asarray(warp_picture(network, frozen, INDEX, CLASSES, FLOAT32)))
    assert not np.array_equal(*pictures)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_the_network_is_left_as_it_was(frozen: FrozenSet, precision: str) -> None:
    network = build_model(ModelConfig(name="st-cnn", transform="tps", parameters=40_000), SPEC, 0)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    for training in (True, False):
        network.train(training)
        warp_picture(network, frozen, INDEX, CLASSES, Runtime(CPU, precision, ""))
        assert all(module.training is training for module in network.modules())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


SEVERAL = [[{}, {"transform": "tps"}], {"at": "input"}, {"at": "conv2", "transform": "similarity"}]


def several() -> Network:
    config = ModelConfig.model_validate({"name": "cnn", "transformers": SEVERAL, "parameters": 200_000})
    network = build_model(config, SPEC, 0)
    for place in network.by_place.values():
        for number, transformer in enumerate(place.transformers):
            generator = torch.Generator().manual_seed(number)
            torch.nn.init.normal_(transformer.localisation[-1].weight, std=0.02, generator=generator)
    return network


def test_several_transformers_are_drawn_on_what_they_see_place_by_place(frozen: FrozenSet) -> None:
    network, batch = several(), frozen.take(INDEX)
    with torch.no_grad():
        logits, warps = network(batch.images)
        before = network.classifier[0](network.normalise(warps[2].output))
    predicted = logits.argmax(dim=1)
    captions = [f"{CLASSES[t]} → {CLASSES[p]}" for t, p in zip(batch.targets, predicted, strict=True)]
    wrong = (batch.targets != predicted).tolist()
    first, second, (one, other) = network.by_place["input"].composed(warps[:3])
    assert torch.equal(first[0], warps[0].grid)
    assert not torch.equal(one, other)
    outputs = [warp.output for warp in warps[:3]]
    headings = ["input", "sampling grids", "input.0", "input.1", "input.2"]
    spline = warps[1].theta.view(2, 16, 2)
    points = [[], [spline], []]
    grids = [first, second, [one, other]]
    at_input = warps_panel(batch.images, grids, outputs, headings, captions, points=points, wrong=wrong)
    mean, seen = (maps.mean(dim=1, keepdim=True) for maps in (warps[3].output, before))
    bright = seen.amax(dim=(2, 3), keepdim=True)
    headings = ["before conv2", "sampling grid", "output"]
    inside = warps_panel(seen / bright, [[warps[3].grid]], [mean / bright], headings, captions, wrong=wrong)
    found = warp_picture(network, frozen, INDEX, CLASSES, FLOAT32)
    assert np.array_equal(np.asarray(found), np.asarray(stacked([at_input, inside])))


def test_the_picture_of_several_leaves_the_network_as_it_was(frozen: FrozenSet) -> None:
    network = several()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    warp_picture(network.train(), frozen, INDEX, CLASSES, Runtime(CPU, "bf16", ""))
    assert all(module.training and not module._forward_pre_hooks for module in network.modules())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_images_are_enlarged_to_what_was_asked_for_and_no_more(frozen: FrozenSet) -> None:
    network, batch = build_model(ModelConfig(name="st-cnn", parameters=30_000), SPEC, 0), frozen.take(INDEX)
    look = look_at_images(network, batch.images, FLOAT32)
    large, small = (look_picture(batch.images, [0, 0], look, CLASSES, most=most) for most in (256, 28))
    assert large.width == 1104
    assert small.width < 450  # headings are wider than images of 28 pixels


def test_means_show_each_class_before_and_after_in_full_light(frozen: FrozenSet) -> None:
    before, after = torch.zeros(3, 1, 4, 4), torch.zeros(3, 1, 4, 4)
    before[:, :, 1], after[:, :, 2] = 0.5, 0.25
    dim = means_picture({"before": before, "input": after}, "abc", most=4)
    bright = means_picture({"before": 2 * before, "input": 2 * after}, "abc", most=4)
    assert np.array_equal(np.asarray(dim), np.asarray(bright))
    swapped = means_picture({"before": after, "input": before}, "abc", most=4)
    assert not np.array_equal(np.asarray(dim), np.asarray(swapped))
