"""What a network says to each image is what it says to it alone."""

from collections.abc import Sequence

import pytest
import torch
from torch.nn.functional import cross_entropy

from stn_cli.config import ModelConfig
from stn_cli.datasets.digits import load_digits
from stn_cli.datasets.loader import BatchLoader, FrozenSet
from stn_cli.datasets.scene import Single
from stn_cli.distortions.similarity import Similarity
from stn_cli.models.build import InputSpec, build_model
from stn_cli.models.network import Network
from stn_cli.training import answers, evaluation
from stn_cli.training.answers import Answers
from stn_cli.training.distributed import Ranks
from stn_cli.training.evaluation import Evaluation, evaluate
from stn_cli.training.runtime import Runtime

CPU = torch.device("cpu")
FLOAT32 = Runtime(CPU, "float32", "")
SPEC = InputSpec(channels=1, height=28, width=28, classes=11, mean=(0.1,), std=(0.3,))  # the last has no images
TURN = {"rotation": (-90.0, 90.0), "scale": (1.0, 1.0), "place": False}
ROTATION = Single(Similarity(in_size=(28, 28), canvas=(28, 28), **TURN), (1, 28, 28), tuple("0123456789"))
FROZEN = FrozenSet(BatchLoader(load_digits().test, ROTATION, CPU), 0, "test", 50)
MODELS = {
    "cnn": {"name": "cnn"},
    "several": {"name": "cnn", "transformers": [[{}, {"transform": "tps"}], {"at": "conv2"}]},
}


def network(name: str) -> Network:
    found = build_model(ModelConfig.model_validate(MODELS[name] | {"parameters": 60_000}), SPEC, 0)
    for place in found.by_place.values():
        for number, transformer in enumerate(place.transformers):
            generator = torch.Generator().manual_seed(number)
            torch.nn.init.normal_(transformer.localisation[-1].weight, std=0.02, generator=generator)
    return found


def evaluated(name: str) -> tuple[Evaluation, Answers]:
    result = evaluate(network(name), FROZEN, 11, FLOAT32)
    assert result.answers is not None
    return result, result.answers


@pytest.mark.parametrize("name", MODELS)
def test_answers_are_those_to_all_images_at_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "BATCH", 7)
    result, found = evaluated(name)
    batch = FROZEN.take(torch.arange(50))
    with torch.no_grad():
        logits, warps = network(name).eval()(batch.images)
    assert torch.equal(found.targets, batch.targets)
    assert torch.equal(found.predicted, logits.argmax(dim=1))
    torch.testing.assert_close(found.losses, cross_entropy(logits, batch.targets, reduction="none"))
    assert found.losses.mean().item() == pytest.approx(result.loss, rel=1e-5)
    assert torch.equal(
        torch.bincount(11 * found.targets + found.predicted, minlength=121).view(11, 11), result.confusion
    )
    assert list(found.thetas) == [warp.name for warp in warps]
    for warp in warps:
        torch.testing.assert_close(found.thetas[warp.name], warp.theta, atol=1e-5, rtol=1e-5)
    outputs = {"before": batch.images} | {warp.name: warp.output for warp in warps if warp.name.startswith("input")}
    assert list(found.means) == (list(outputs) if warps else [])
    for drawn in found.means:
        expected = torch.stack([outputs[drawn][batch.targets == label].mean(dim=0) for label in range(10)])
        torch.testing.assert_close(found.means[drawn][:10], expected, atol=1e-5, rtol=1e-5)
        assert not found.means[drawn][10].any()


class Deaf(Ranks):
    """Ranks that hear nothing of each other."""

    def add_up(self, tensors: Sequence[torch.Tensor]) -> None:
        pass


def test_what_ranks_take_down_adds_up_to_all_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "BATCH", 7)
    _, whole = evaluated("several")
    shares = [evaluate(network("several"), FROZEN, 11, FLOAT32, Deaf(rank, 3)).answers for rank in range(3)]
    for name in ("targets", "predicted", "losses"):
        assert torch.equal(sum(getattr(share, name) for share in shares), getattr(whole, name))
    for name, theta in whole.thetas.items():
        assert torch.equal(sum(share.thetas[name] for share in shares if share is not None), theta)


def test_the_worst_are_wrong_and_nothing_wrong_is_worse() -> None:
    _, found = evaluated("cnn")
    worst, wrong = found.worst(5), found.predicted != found.targets
    assert len(worst) == 5
    assert wrong[worst].all()
    losses = found.losses[worst]
    assert torch.equal(losses, losses.sort(descending=True).values)
    others = wrong.clone()
    others[worst] = False
    assert found.losses[others].max() <= losses.min()
    assert len(found.worst(1000)) == int(wrong.sum())


def test_without_room_for_them_there_are_no_means(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "MOST_VALUES", 11 * 28 * 28 - 1)
    assert evaluated("several")[1].means == {}
