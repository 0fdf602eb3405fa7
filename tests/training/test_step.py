import copy
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stn_cli.config import ModelConfig, TrainConfig
from stn_cli.datasets.loader import Batch
from stn_cli.models.build import InputSpec, build_model
from stn_cli.models.network import ModelOutput, Network
from stn_cli.training.optimiser import Optimiser, learning_rate
from stn_cli.training.runtime import Runtime
from stn_cli.training.step import TrainStep

SPEC = InputSpec(channels=1, height=28, width=28, classes=10, mean=(0.1,), std=(0.3,))
FLOAT32 = Runtime(torch.device("cpu"), "float32", "")
TOTAL, BATCH = 8, 4
SGD = {"localisation_optimiser": "sgd"}


def batches(seed: int = 0) -> Iterator[Batch]:
    generator = torch.Generator().manual_seed(seed)
    while True:
        images = torch.rand(BATCH, 1, 28, 28, generator=generator)
        yield Batch(images, torch.randint(0, 10, (BATCH,), generator=generator))


def broken(batch: Batch) -> Batch:
    images = batch.images.clone()
    images[1, 0, 3, 4] = float("nan")
    return Batch(images, batch.targets)


def make(name: str = "st-cnn", recipe: str = "quick", **settings) -> tuple[TrainStep, Network, Optimiser]:
    config = TrainConfig.model_validate({"recipe": recipe, "batch_size": BATCH, **settings})
    network = build_model(ModelConfig(name=name, parameters=30_000), SPEC, 0)
    optimiser = Optimiser(network, config)
    return TrainStep(network, optimiser, config, TOTAL, FLOAT32), network, optimiser


def bits(network: Network, optimiser: Optimiser) -> list[Tensor]:
    return [value.detach().clone() for value in (*network.parameters(), *optimiser.tensors().values())]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize(
    ("name", "recipe", "settings"),
    [
        ("cnn", "paper", {}),
        ("st-cnn", "paper", {"schedule": "step", "learning_rate": 0.05}),
        ("st-cnn", "quick", {}),
        ("st-cnn", "quick", SGD),
        ("st-fcn", "quick", {"clip_norm": None, "momentum": 0.5}),
        (
            "st-fcn",
            "quick",
            {"localisation_optimiser": "sgd", "clip_norm": 0.1, "localisation_rate": 0.5, "nesterov": False},
        ),
        ("fcn", "quick", {"clip_norm": None, "momentum": 0.0, "nesterov": False}),
    ],
)
def test_it_equals_plain_sgd_and_adam(name: str, recipe: str, settings: dict) -> None:
    """The update of Sutskever et al. (2013) as PyTorch writes it, and of Kingma and Ba (2015), weight by weight."""
    step, network, _ = make(name, recipe, **settings)
    config = TrainConfig.model_validate({"recipe": recipe, **settings})
    plain = copy.deepcopy(network)
    adaptive = [
        ".localisation." in key and config.localisation_optimiser == "adam" for key, _ in plain.named_parameters()
    ]
    velocity = {key: torch.zeros_like(p) for key, p in plain.named_parameters()}
    square = copy.deepcopy(velocity)
    for index, batch in zip(range(4), batches(), strict=False):
        step(batch, index)

        gradients = torch.autograd.grad(
            F.cross_entropy(plain(batch.images).logits, batch.targets), list(plain.parameters())
        )
        clipped = [g.square().sum() for g, free in zip(gradients, adaptive, strict=True) if not free]
        norm = torch.stack(clipped).sum().sqrt().item()
        shrink = 1.0 if config.clip_norm is None else min(1.0, config.clip_norm / (norm + 1e-6))
        with torch.no_grad():
            for (key, weight), gradient, free in zip(plain.named_parameters(), gradients, adaptive, strict=True):
                rate = learning_rate(config, index, TOTAL)
                rate *= config.localisation_rate if ".localisation." in key else 1
                if free:
                    velocity[key] = config.momentum * velocity[key] + (1 - config.momentum) * gradient
                    square[key] = 0.999 * square[key] + 0.001 * gradient.square()
                    mean = velocity[key] / (1 - config.momentum ** (index + 1))
                    spread = (square[key] / (1 - 0.999 ** (index + 1))).sqrt()
                    weight.sub_(rate * mean / (spread + 1e-8))
                    continue
                pull = shrink * gradient + config.weight_decay * weight
                velocity[key] = config.momentum * velocity[key] + pull
                move = pull + config.momentum * velocity[key] if config.nesterov else velocity[key]
                weight.sub_(rate * move)
        for (key, p), (_, q) in zip(network.named_parameters(), plain.named_parameters(), strict=True):
            torch.testing.assert_close(p, q, atol=1e-6, rtol=1e-4, msg=lambda text, key=key: f"{key}: {text}")


def test_a_step_that_is_not_finite_changes_no_bit_of_weights_and_momentum_and_is_counted() -> None:
    step, network, optimiser = make()
    stream = batches()
    step(next(stream), 0)
    step(next(stream), 1)
    before = bits(network, optimiser)
    step(broken(next(stream)), 2)
    assert same(bits(network, optimiser), before)
    assert step.skipped.item() == 1
    step(next(stream), 3)
    assert not same(bits(network, optimiser), before)
    assert all(value.isfinite().all() for value in bits(network, optimiser))
    assert step.read().skipped == 1
    assert step.skipped.item() == 0


def test_an_infinite_gradient_of_a_finite_loss_counts_too() -> None:
    step, network, optimiser = make("cnn", clip_norm=None)
    stream = batches()
    step(next(stream), 0)
    before = bits(network, optimiser)
    hook = next(network.parameters()).register_hook(lambda gradient: gradient * float("inf"))
    step(next(stream), 1)
    hook.remove()
    assert same(bits(network, optimiser), before)
    assert step.skipped.item() == 1


def test_a_very_first_step_that_is_not_finite_is_as_if_it_had_not_been() -> None:
    after = []
    for is_broken in (False, True):
        step, network, optimiser = make()
        if is_broken:
            step(broken(next(batches())), 0)
            assert step.skipped.item() == 1
        step(next(batches()), 1)
        after.append(bits(network, optimiser))
    assert same(*after)


class Overflowing(nn.Module):
    """Its loss is infinite, while the gradient of its one weight is 0."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(1.0))
        self.by_place = {}  # no transformers

    def forward(self, images: Tensor) -> ModelOutput:
        right = torch.full((len(images), 1), 3e38) * self.weight.detach() + self.weight
        return ModelOutput(torch.cat([right, self.weight - right.detach()], dim=1), ())


def test_a_loss_that_is_not_finite_is_counted_though_its_gradient_is() -> None:
    network, config = Overflowing(), TrainConfig.model_validate({"clip_norm": None})
    step = TrainStep(network, Optimiser(network, config), config, TOTAL, FLOAT32)  # pyright: ignore
    step(Batch(torch.zeros(2, 1, 28, 28), torch.ones(2, dtype=torch.int64)), 0)
    assert network.weight.grad is not None
    assert network.weight.grad.isfinite()
    assert step.read().skipped == 1
    assert network.weight.item() == 1


def test_progress_is_the_mean_over_the_steps_since_the_last_reading() -> None:
    step, network, _ = make("cnn")
    stream = batches()
    for steps in (3, 2):
        losses, wrong, norms = [], 0, []
        for index in range(steps):
            batch = next(stream)
            before = copy.deepcopy(network)
            logits = before(batch.images).logits
            loss = F.cross_entropy(logits, batch.targets)
            loss.backward()
            losses.append(loss.item())
            wrong += int((logits.argmax(dim=1) != batch.targets).sum())
            norms.append(torch.stack([p.grad.norm() for p in before.parameters()]).norm().item())
            step(batch, index)
        progress = step.read()
        assert progress.loss == pytest.approx(sum(losses) / steps, rel=1e-5)
        assert progress.error_percent == pytest.approx(100 * wrong / (BATCH * steps))
        assert progress.gradient_norm == pytest.approx(sum(norms) / steps, rel=1e-4)
        assert progress.skipped == 0


def test_clipping_bounds_the_update_and_keeps_its_direction() -> None:
    settings = {"momentum": 0.0, "nesterov": False, "weight_decay": 0.0, "localisation_rate": 1.0, **SGD}
    moves = []
    for clip in (None, 1e-3):
        step, network, _ = make("st-cnn", clip_norm=clip, **settings)
        before = torch.cat([p.detach().flatten().clone() for p in network.parameters()])
        step(next(batches()), 0)
        moves.append(torch.cat([p.detach().flatten() for p in network.parameters()]) - before)
        norm = step.read().gradient_norm
    free, clipped = moves
    rate = learning_rate(TrainConfig.model_validate({}), 0, TOTAL)
    assert norm > 1
    assert clipped.norm().item() == pytest.approx(rate * 1e-3, rel=0.01)  # weights are coarse beside so small a move
    assert F.cosine_similarity(free, clipped, dim=0) > 0.999


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_the_same_steps_give_the_same_bits(precision: str) -> None:
    results = []
    for _ in range(2):
        config = TrainConfig.model_validate({})
        runtime = Runtime(torch.device("cpu"), precision, "")
        network = build_model(ModelConfig(name="st-cnn", parameters=30_000), SPEC, 0)
        network = network.to(memory_format=runtime.memory_format)
        optimiser = Optimiser(network, config)
        step = TrainStep(network, optimiser, config, TOTAL, runtime)
        for index, batch in zip(range(3), batches(), strict=False):
            step(batch, index)
        results.append([*bits(network, optimiser), step.counts])
    assert same(*results)
