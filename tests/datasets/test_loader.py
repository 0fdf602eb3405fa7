import pytest
import torch

from stn_cli.datasets import loader as loader_module
from stn_cli.datasets.loader import BatchLoader, FrozenSet, TrainingStream, first_of_each_class, hold_out
from stn_cli.datasets.scene import Addition, Cluttered, Scene, Single, Volume
from stn_cli.datasets.source import Split
from stn_cli.distortions.chain import Chain
from stn_cli.distortions.clutter import Clutter
from stn_cli.distortions.distortion import BLOCK, Distortion
from stn_cli.distortions.elastic import Elastic
from stn_cli.distortions.extrusion import Extrusion
from stn_cli.distortions.placement import Placement
from stn_cli.distortions.projective import Projective
from stn_cli.distortions.similarity import Similarity

CPU = torch.device("cpu")
SIZE, CLASSES = (8, 8), tuple("0123456789")
KINDS: dict[str, Distortion] = {
    "R": Similarity(in_size=SIZE, canvas=(8, 8), rotation=(-90.0, 90.0), scale=(1.0, 1.0), place=False),
    "RTS": Similarity(in_size=SIZE, canvas=(12, 11), rotation=(-45.0, 45.0), scale=(0.7, 1.2), place=True),
    "P": Projective(in_size=SIZE, canvas=(8, 8), scale=(0.75, 1.0), corner_sigma=1.0),
    "E": Elastic(in_size=SIZE, canvas=(8, 8), scale=(0.75, 1.0), control_point_sigma=0.5),
    "T": Placement(in_size=SIZE, canvas=(14, 15)),
}
KINDS["chain"] = Chain([KINDS["R"], KINDS["E"], KINDS["T"]])
every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


def split(n: int = 53) -> Split:
    """Images that are all different; the target of each is its place."""
    images = torch.randint(0, 256, (80, 1, *SIZE), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return Split(images[:n], torch.arange(n))


NONE = Single(None, (1, *SIZE), CLASSES)
SCENES: dict[str, Scene] = {
    "none": NONE,
    **{name: Single(kind, (1, *SIZE), CLASSES) for name, kind in KINDS.items()},
    "TC": Cluttered(
        KINDS["T"], Clutter(in_size=SIZE, canvas=KINDS["T"].canvas, pieces=3, side=4), split(80).images, CLASSES
    ),
    "addition": Addition(KINDS["RTS"], CLASSES),
    "volume": Volume(Extrusion(in_size=SIZE, side=13, depth=2.0, rotation=(-30.0, 30.0), warp=None), 1, CLASSES),
}
every_scene = pytest.mark.parametrize("scene", SCENES.values(), ids=SCENES)
every_random_scene = pytest.mark.parametrize("scene", list(SCENES.values())[1:], ids=list(SCENES)[1:])


def loader(scene: Scene = NONE, n: int = 53) -> BatchLoader:
    """Of the first `n` training images of 80."""
    return BatchLoader(split(n), scene, CPU, own=torch.arange(n))


def stream(scene: Scene = NONE, batch_size: int = 10, seed: int = 0) -> TrainingStream:
    return TrainingStream(loader(scene), batch_size, seed)


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
    lies = loader(Single(kind, (1, *SIZE), CLASSES))
    found = lies.gather(index, parameters).images
    assert torch.equal(found, kind.apply(split().images[index].float() / 255, parameters))
    assert found.shape[2:] == kind.canvas
    assert torch.equal(lies.render(index, parameters), kind.render(split().images[index], parameters))


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


@pytest.mark.parametrize("batch_size", [1, 10, 53])
def test_the_indices_of_many_steps_are_those_of_each(batch_size: int) -> None:
    """Over the borders of several epochs, and whatever was asked for before."""
    batches = stream(batch_size=batch_size)
    for step, count in ((0, 1), (3, 12), (0, 120), (117, 2)):
        found = batches.indices(step, count)
        assert found.shape == (count, batch_size)
        assert all(torch.equal(found[i], stream(batch_size=batch_size).indices(step + i)[0]) for i in range(count))


@every_scene
def test_a_batch_is_made_in_parts(scene: Scene) -> None:
    """Where its draws begin is told apart from which images it shows."""
    batches, expected = stream(scene), stream(scene).batch(7)
    batches.batch(3)
    batches.seek(7)
    found = batches.make(batches.indices(6, 2)[1])
    assert torch.equal(found.images, expected.images)
    assert torch.equal(found.targets, expected.targets)


class Philox:
    """A device's generator as the stream uses it: each draw moves its offset by four."""

    def __init__(self) -> None:
        self.offset = 0

    def get_offset(self) -> int:
        return self.offset

    def set_offset(self, offset: int) -> None:
        self.offset = offset


class Counting(BatchLoader):
    """Draws three times for a batch and notes where."""

    def __init__(self) -> None:
        super().__init__(split(), NONE, CPU)
        self.device = torch.device("cuda")
        self.drawn_at: list[int] = []

    def draw(self, index: torch.Tensor, generator: Philox) -> dict[str, torch.Tensor]:  # pyright: ignore
        self.drawn_at.append(generator.offset)
        generator.offset += 3 * 4
        return {}

    def gather(self, index: torch.Tensor, parameters: object) -> None:  # pyright: ignore
        assert parameters == {}


def test_on_a_gpu_the_offset_of_a_draw_follows_from_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """And steps one after another, as in a CUDA graph, are drawn where single ones are."""
    monkeypatch.setattr(loader_module, "device_generator", lambda *_: Philox())
    monkeypatch.setattr(loader_module, "uploaded", lambda values, _: values)
    monkeypatch.setattr(torch, "zeros", lambda *size, **_: torch.empty(*size))
    lies = Counting()
    batches = TrainingStream(lies, 10, 0)
    assert lies.drawn_at == [0]
    for step in (5, 0, 7, 8):
        batches.batch(step)
    batches.seek(7)
    for index in batches.indices(7, 3):
        batches.make(index)
    assert lies.drawn_at[1:] == [12 * step for step in (5, 0, 7, 8, 7, 8, 9)]


@every_scene
def test_a_batch_follows_from_seed_and_step_alone(scene: Scene) -> None:
    """Whatever was asked for before, so that a resumed run needs no replay."""
    in_order = stream(scene)
    batches = {step: in_order.batch(step) for step in range(12)}
    backwards = stream(scene)
    for step in (11, 3, 4, 3, 0, 7):
        for found in (backwards.batch(step), stream(scene).batch(step)):
            assert torch.equal(found.images, batches[step].images)
            assert torch.equal(found.targets, batches[step].targets)
    other = stream(scene, seed=1).batch(3)
    assert not torch.equal(other.targets, batches[3].targets)
    assert not torch.equal(other.images, batches[3].images)


@every_random_scene
def test_training_distortions_differ_at_every_step(scene: Scene) -> None:
    """Four times the same image, five epochs: twenty pictures, but T has only 56 places."""
    same = Split(split(1).images.expand(4, -1, -1, -1), torch.zeros(4, dtype=torch.int64))
    training = TrainingStream(BatchLoader(same, scene, CPU), 1, 0)
    images = torch.stack([training.batch(step).images for step in range(20)]).flatten(1)
    assert len(images.unique(dim=0)) >= (15 if scene is SCENES["T"] else 20)


@every_scene
def test_a_frozen_set_is_the_same_however_it_is_asked(scene: Scene) -> None:
    frozen = FrozenSet(loader(scene), 0, "test")
    whole, rendered = frozen.take(torch.arange(53)), frozen.render(torch.arange(53))
    assert torch.equal(whole.targets, frozen.targets)
    assert whole.images.shape[1:] == rendered.shape[1:] == scene.shape
    assert (255 * whole.images - rendered).abs().max() < 0.6  # half a level by rounding, the rest by float32
    for batch_size in (1, 10, 53, 100):
        batches = list(FrozenSet(loader(scene), 0, "test").batches(batch_size))
        assert [len(batch.targets) for batch in batches] == [
            min(batch_size, 53 - done) for done in range(0, 53, batch_size)
        ]
        assert torch.equal(torch.cat([batch.targets for batch in batches]), whole.targets)
        # Not bit for bit: a matrix product of another shape adds in another order.
        torch.testing.assert_close(torch.cat([batch.images for batch in batches]), whole.images, atol=1e-4, rtol=0)
    chosen = torch.tensor([50, 2])
    torch.testing.assert_close(frozen.take(chosen).images, whole.images[chosen], atol=1e-4, rtol=0)
    assert torch.equal(frozen.render(chosen), rendered[chosen])


@every_random_scene
def test_seeds_and_purposes_give_unrelated_draws_and_more_images_change_none(scene: Scene) -> None:
    first = FrozenSet(loader(scene), 0, "test").parameters
    for seed, purpose in ((1, "test"), (0, "validation"), (0, "train")):
        other = FrozenSet(loader(scene), seed, purpose).parameters
        assert not any(torch.equal(other[name], value) for name, value in first.items() if value.float().std() > 0)
    larger = FrozenSet(loader(scene, 80), 0, "test").parameters
    kept = set(first) - {"second_image"}  # that is any of the split, whose size it depends on
    assert all(torch.equal(larger[name][:53], first[name]) for name in kept)


@every_scene
def test_the_first_of_a_split_are_the_same_however_many_are_asked_for(scene: Scene) -> None:
    n = BLOCK + 60
    many = Split(split(80).images[torch.arange(n) % 80], torch.arange(n) % 10)
    all_of_them = BatchLoader(many, scene, CPU, own=torch.arange(n) % 80)
    whole = FrozenSet(all_of_them, 0, "test")
    assert len(whole) == n
    for count in (0, 1, 10, BLOCK, BLOCK + 1, n, n + 1):
        part = FrozenSet(all_of_them, 0, "test", count)
        assert len(part) == min(count, n)
        assert part.parameters.keys() == whole.parameters.keys()
        assert all(torch.equal(value, whole.parameters[name][:count]) for name, value in part.parameters.items())
        assert torch.equal(part.targets, whole.targets[:count])
    last = torch.tensor([BLOCK])
    assert torch.equal(FrozenSet(all_of_them, 0, "test", BLOCK + 1).render(last), whole.render(last))


def test_no_canvas_gets_a_piece_of_its_own_image() -> None:
    """Where the images stand in the training split is what counts, not where they stand in the loader's."""
    held_out = torch.tensor([3, 77, 20, 78, 79])
    lies = BatchLoader(split(80).at(held_out), SCENES["TC"], CPU, own=held_out)
    of_each = torch.arange(5).repeat(400)
    drawn = lies.draw(of_each, torch.Generator().manual_seed(0))["piece_image"]
    frozen = FrozenSet(lies, 0, "validation").parameters["piece_image"]
    for place, own in enumerate(held_out.tolist()):
        assert drawn[of_each == place].unique().tolist() == [k for k in range(80) if k != own]
        assert own not in frozen[place].tolist()
    of_others = BatchLoader(split(5), SCENES["TC"], CPU).draw(of_each, torch.Generator().manual_seed(0))
    assert of_others["piece_image"][of_each == 0].unique().tolist() == list(range(80))


def test_without_a_distortion_a_frozen_set_is_the_split() -> None:
    frozen = FrozenSet(loader(), 0, "test")
    assert frozen.parameters == {}
    assert torch.equal(torch.cat([b.images for b in frozen.batches(10)]), split().images.float() / 255)
    assert torch.equal(frozen.render(torch.arange(53)), split().images)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.05, 0.3, 0.5])
def test_holding_out_parts_a_split(share: float) -> None:
    rest, held = (part.tolist() for part in hold_out(53, share, 0))
    assert len(held) == round(share * 53)
    assert sorted(rest + held) == list(range(53))
    assert (rest, held) == (sorted(rest), sorted(held))


def test_what_is_held_out_follows_from_the_seed() -> None:
    held = [tuple(hold_out(53, 0.3, seed)[1].tolist()) for seed in (0, 0, 1)]
    assert held[0] == held[1] != held[2]


def test_the_first_images_of_each_class_come_class_by_class() -> None:
    targets = torch.tensor([2, 0, 2, 1, 0, 2, 0, 0])
    assert first_of_each_class(targets, 3, 6).tolist() == [1, 4, 3, 0, 2]
    assert first_of_each_class(targets, 3, 5).tolist() == [1, 3, 0]
    assert first_of_each_class(targets, 3, 2).tolist() == [1, 3]
    assert first_of_each_class(targets, 4, 100).tolist() == [1, 4, 6, 7, 3, 0, 2, 5]


def test_global_generators_are_left_alone() -> None:
    before = torch.get_rng_state()
    for scene in SCENES.values():
        stream(scene).batch(0)
        FrozenSet(loader(scene), 0, "test").render(torch.arange(3))
    hold_out(53, 0.3, 0)
    assert torch.equal(torch.get_rng_state(), before)
