import pytest
import scipy.stats
import torch
import torch.nn.functional as F

from stn_cli.config import ModelConfig
from stn_cli.datasets.loader import BatchLoader, FrozenSet
from stn_cli.datasets.scene import Single
from stn_cli.datasets.source import Split
from stn_cli.distortions.similarity import Similarity
from stn_cli.errors import NumericsError
from stn_cli.models.build import InputSpec, build_model
from stn_cli.models.network import Network
from stn_cli.training import evaluation
from stn_cli.training.evaluation import Evaluation, evaluate, wilson_interval
from stn_cli.training.runtime import Runtime

SPEC = InputSpec(channels=1, height=28, width=28, classes=5, mean=(0.1,), std=(0.3,))
CPU = torch.device("cpu")
TURN = {"rotation": (-90.0, 90.0), "scale": (1.0, 1.0), "place": False}
ROTATION = Single(Similarity(in_size=(28, 28), canvas=(28, 28), **TURN), (1, 28, 28), tuple("0123456789"))


def frozen(n: int = 37) -> FrozenSet:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (n, 1, 28, 28), generator=generator, dtype=torch.uint8)
    return FrozenSet(
        BatchLoader(Split(images, torch.randint(0, 4, (n,), generator=generator)), ROTATION, CPU), 0, "test"
    )


@pytest.fixture
def network() -> Network:
    return build_model(ModelConfig(name="st-cnn", parameters=30_000), SPEC, 0)


@pytest.mark.parametrize("batch", [1, 10, 512])
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_it_equals_a_loop_over_single_images(
    network: Network, monkeypatch: pytest.MonkeyPatch, batch: int, precision: str
) -> None:
    monkeypatch.setattr(evaluation, "BATCH", batch)
    images, runtime = frozen(), Runtime(CPU, precision, "")
    found = evaluate(network, images, 5, runtime)
    confusion, loss = torch.zeros(5, 5, dtype=torch.int64), 0.0
    network.eval()
    for index in range(len(images)):
        one = images.take(torch.tensor([index]))
        with torch.no_grad(), runtime.autocast():
            logits = network(one.images).logits[0]
        confusion[one.targets.item(), logits.argmax()] += 1
        loss += F.cross_entropy(logits, one.targets[0]).item()
    tolerance = {"float32": 1e-5, "bf16": 1e-2}[precision]
    assert found.loss == pytest.approx(loss / len(images), rel=tolerance)
    assert torch.equal(found.confusion, confusion)
    assert (found.n, found.wrong) == (len(images), len(images) - int(confusion.trace()))


def test_a_confusion_is_counted_by_true_then_predicted_class() -> None:
    result = Evaluation(torch.tensor([[3, 1, 0], [0, 0, 0], [2, 2, 2]]), loss=1.0)
    assert (result.n, result.wrong, result.error_percent) == (10, 5, 50.0)
    assert result.class_errors_percent == [25.0, None, pytest.approx(200 / 3)]
    assert result.interval_percent == wilson_interval(5, 10)


@pytest.mark.parametrize("n", [1, 10, 500, 10_000])
def test_the_interval_is_scipys_wilson_interval(n: int) -> None:
    for wrong in {0, 1, n // 100, n // 3, n - 1, n}:
        expected = scipy.stats.binomtest(wrong, n).proportion_ci(0.95, method="wilson")
        low, high = wilson_interval(wrong, n)
        assert low == pytest.approx(100 * expected.low, abs=1e-9)
        assert high == pytest.approx(100 * expected.high, abs=1e-9)
        assert 0 <= low <= 100 * wrong / n + 1e-9
        assert 100 * wrong / n - 1e-9 <= high <= 100


def test_it_leaves_mode_weights_gradients_and_generators_alone(network: Network) -> None:
    state = {name: value.clone() for name, value in network.state_dict().items()}
    for training in (True, False):
        network.train(training)
        before = torch.get_rng_state()
        evaluate(network, frozen(), 5, Runtime(CPU, "float32", ""))
        assert network.training is training
        assert all(module.training is training for module in network.modules())
        assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert all(p.grad is None and not p.is_inference() for p in network.parameters())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e38])
def test_a_loss_that_is_not_finite_is_an_error(network: Network, value: float) -> None:
    with torch.no_grad():
        network.classifier[-1].bias[0] = value
        network.classifier[-1].bias[1] = -value
    with pytest.raises(NumericsError, match=r"the loss on 37 images is (nan|inf)"):
        evaluate(network, frozen(), 5, Runtime(CPU, "float32", ""))


def test_the_share_of_samples_outside_is_counted_for_transformers_alone() -> None:
    runtime = Runtime(CPU, "float32", "")
    network = build_model(ModelConfig(name="st-fcn", parameters=30_000), SPEC, 0)
    assert evaluate(network, frozen(), 5, runtime).outside_percent == 0  # the identity stays inside
    with torch.no_grad():  # so that it reads half of its samples right of the image
        network.by_place["input"].transformers[0].localisation[-1].bias[2] = 1.0
    assert evaluate(network, frozen(), 5, runtime).outside_percent == pytest.approx(50)
    plain = build_model(ModelConfig(name="fcn", parameters=30_000), SPEC, 0)
    assert evaluate(plain, frozen(), 5, runtime).outside_percent is None


def test_every_transformer_has_its_own_share_of_samples_outside() -> None:
    runtime = Runtime(CPU, "float32", "")
    transformers = [[{}, {"transform": "attention"}], {"at": "conv2"}]
    config = ModelConfig.model_validate({"transformers": transformers, "parameters": 120_000})
    network = build_model(config, SPEC, 0)
    inside = evaluate(network, frozen(), 5, runtime)
    assert inside.outside_percents == {"input.0": 0, "input.1": 0, "conv2": 0}
    with torch.no_grad():
        network.by_place["input"].transformers[1].localisation[-1].bias[1] = 1.0  # half a map to the right
        network.by_place["conv2"].transformers[0].localisation[-1].bias[2] = 0.4  # a fifth
    found = evaluate(network, frozen(), 5, runtime)
    assert found.outside_percents == {"input.0": 0, "input.1": pytest.approx(50), "conv2": pytest.approx(20)}
    assert found.outside_percent == pytest.approx(50)
