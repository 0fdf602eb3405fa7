import pytest
import torch

from stn_cli.datasets.loader import BatchLoader, FrozenSet, TrainingStream, first_of_each_class, hold_out
from stn_cli.datasets.source import Split
from stn_cli.distortions.distortion import Distortion
from stn_cli.distortions.elastic import Elastic
from stn_cli.distortions.projective import Projective
from stn_cli.distortions.similarity import Similarity

CPU = torch.device("cpu")
KINDS: dict[str, Distortion] = {
    "R": Similarity(canvas=(8, 8), rotation=(-90.0, 90.0), scale=(1.0, 1.0), place=False),
    "RTS": Similarity(canvas=(12, 11), rotation=(-45.0, 45.0), scale=(0.7, 1.2), place=True),
    "P": Projective(canvas=(8, 8), scale=(0.75, 1.0), corner_sigma=1.0),
    "E": Elastic(canvas=(8, 8), scale=(0.75, 1.0), control_point_sigma=0.5),
}
every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


def split(n: int = 53) -> Split:
    """Images that are all different; the target of each is its place."""
    images = torch.randint(0, 256, (n, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return Split(images, torch.arange(n))


def loader(kind: Distortion | None = None, n: int = 53) -> BatchLoader:
    return BatchLoader(split(n), kind, CPU)


def stream(kind: Distortion | None = None, batch_size: int = 10, seed: int = 0) -> TrainingStream:
    return TrainingStream(loader(kind), batch_size, seed)


def test_a_gathered_batch_is_the_images_in_0_to_1_and_their_targets() -> None:
    index = torch.tensor([7, 0, 7, 52])
    batch = loader().gather(index, {})
    assert batch.images.dtype == torch.float32
    assert torch.equal(batch.images, split().images[index].float() / 255)
    assert torch.equal(batch.targets, index)


def test_a_batch_is_a_copy() -> None:
    lies = loader()
    lies.gather(torch.arange(3), {}).images.zero_()
    assert torch.equal(lies.gather(torch.arange(3), {}).images, split().images[:3].float() / 255)


@every_kind
def test_images_are_distorted_by_the_parameters_given(kind: Distortion) -> None:
    index, parameters = torch.tensor([5, 3, 3]), kind.draw(3, torch.Generator().manual_seed(1))
    found = loader(kind).gather(index, parameters).images
    assert torch.equal(found, kind.apply(split().images[index].float() / 255, parameters))
    assert found.shape[2:] == kind.canvas


@pytest.mark.parametrize("batch_size", [1, 10, 53])
def test_an_epoch_shows_every_image_once_but_for_an_incomplete_batch(batch_size: int) -> None:
    batches = stream(batch_size=batch_size)
    orders = []
    for epoch in range(3):
        steps = range(epoch * batches.steps_per_epoch, (epoch + 1) * batches.steps_per_epoch)
        seen = torch.cat([batches.batch(step).targets for step in steps]).tolist()
        assert len(seen) == len(set(seen)) == 53 // batch_size * batch_size
        orders.append(seen)
    assert orders[0] != orders[1] != orders[2] != orders[0]


@pytest.mark.parametrize("kind", [None, *KINDS.values()], ids=["none", *KINDS])
def test_a_batch_follows_from_seed_and_step_alone(kind: Distortion | None) -> None:
    """Whatever was asked for before, so that a resumed run needs no replay."""
    in_order = stream(kind)
    batches = {step: in_order.batch(step) for step in range(12)}
    backwards = stream(kind)
    for step in (11, 3, 4, 3, 0, 7):
        for found in (backwards.batch(step), stream(kind).batch(step)):
            assert torch.equal(found.images, batches[step].images)
            assert torch.equal(found.targets, batches[step].targets)
    other = stream(kind, seed=1).batch(3)
    assert not torch.equal(other.targets, batches[3].targets)
    assert not torch.equal(other.images, batches[3].images)


@every_kind
def test_training_distortions_differ_at_every_step(kind: Distortion) -> None:
    """Four times the same image, five epochs: twenty pictures."""
    same = Split(split(1).images.expand(4, -1, -1, -1), torch.zeros(4, dtype=torch.int64))
    training = TrainingStream(BatchLoader(same, kind, CPU), 1, 0)
    images = torch.stack([training.batch(step).images for step in range(20)]).flatten(1)
    assert len(images.unique(dim=0)) == 20


@every_kind
def test_a_frozen_set_is_the_same_however_it_is_asked(kind: Distortion) -> None:
    frozen = FrozenSet(loader(kind), 0, "test")
    whole = frozen.take(torch.arange(53))
    assert torch.equal(whole.targets, frozen.targets)
    assert torch.equal(whole.images, kind.apply(split().images.float() / 255, frozen.parameters))
    for batch_size in (1, 10, 53, 100):
        batches = list(FrozenSet(loader(kind), 0, "test").batches(batch_size))
        assert [len(batch.targets) for batch in batches] == [
            min(batch_size, 53 - done) for done in range(0, 53, batch_size)
        ]
        assert torch.equal(torch.cat([batch.targets for batch in batches]), whole.targets)
        # Not bit for bit: a matrix product of another shape adds in another order.
        torch.testing.assert_close(torch.cat([batch.images for batch in batches]), whole.images, atol=1e-4, rtol=0)
    chosen = torch.tensor([50, 2])
    torch.testing.assert_close(frozen.take(chosen).images, whole.images[chosen], atol=1e-4, rtol=0)


@every_kind
def test_seeds_and_purposes_give_unrelated_draws_and_more_images_change_none(kind: Distortion) -> None:
    first = FrozenSet(loader(kind), 0, "test").parameters
    for seed, purpose in ((1, "test"), (0, "validation"), (0, "train")):
        other = FrozenSet(loader(kind), seed, purpose).parameters
        assert not any(torch.equal(other[name], value) for name, value in first.items() if value.std() > 0)
    larger = FrozenSet(loader(kind, 80), 0, "test").parameters
    assert all(torch.equal(larger[name][:53], value) for name, value in first.items())


def test_without_a_distortion_a_frozen_set_is_the_split() -> None:
    frozen = FrozenSet(loader(), 0, "test")
    assert frozen.parameters == {}
    assert torch.equal(torch.cat([b.images for b in frozen.batches(10)]), split().images.float() / 255)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.05, 0.3, 0.5])
def test_holding_out_parts_a_split(share: float) -> None:
    rest, held = hold_out(split(), share, 0)
    assert len(held) == round(share * 53)
    assert sorted(rest.targets.tolist() + held.targets.tolist()) == list(range(53))
    for part in (rest, held):
        assert part.targets.tolist() == sorted(part.targets.tolist())
        assert torch.equal(part.images, split().images[part.targets])


def test_what_is_held_out_follows_from_the_seed() -> None:
    held = [tuple(hold_out(split(), 0.3, seed)[1].targets.tolist()) for seed in (0, 0, 1)]
    assert held[0] == held[1] != held[2]


def test_the_first_images_of_each_class_come_class_by_class() -> None:
    targets = torch.tensor([2, 0, 2, 1, 0, 2, 0, 0])
    assert first_of_each_class(targets, 3, 6).tolist() == [1, 4, 3, 0, 2]
    assert first_of_each_class(targets, 3, 5).tolist() == [1, 3, 0]
    assert first_of_each_class(targets, 3, 2).tolist() == [1, 3]
    assert first_of_each_class(targets, 4, 100).tolist() == [1, 4, 6, 7, 3, 0, 2, 5]


def test_global_generators_are_left_alone() -> None:
    before = torch.get_rng_state()
    stream(KINDS["E"]).batch(0)
    FrozenSet(loader(KINDS["E"]), 0, "test").take(torch.arange(3))
    hold_out(split(), 0.3, 0)
    assert torch.equal(torch.get_rng_state(), before)
