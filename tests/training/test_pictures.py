import numpy as np
import pytest
import torch

from stn_cli.config import ModelConfig
from stn_cli.datasets.digits import load_digits
from stn_cli.datasets.loader import BatchLoader, FrozenSet
from stn_cli.datasets.scene import Single
from stn_cli.distortions.similarity import Similarity
from stn_cli.drawing.panels import image_grid, warp_panel
from stn_cli.models.build import InputSpec, build_model
from stn_cli.training.pictures import warp_picture
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
