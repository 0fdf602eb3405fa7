"""How far a warp undoes the true one: warps that are known to undo it fully, not at all, up to a turn, in parts."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import circstd
from torch import Tensor, nn

from stn_cli.config import RunConfig
from stn_cli.datasets.build import build_scene
from stn_cli.datasets.digits import load_digits
from stn_cli.datasets.distorted import Recipe, read_distorted, write_distorted
from stn_cli.datasets.loader import BatchLoader, FrozenSet
from stn_cli.datasets.scene import Addition, Single
from stn_cli.distortions.distortion import Distortion
from stn_cli.distortions.projective import Projective
from stn_cli.distortions.similarity import Similarity
from stn_cli.errors import UsageError
from stn_cli.geometry.matrices import facing, inverse, rotation, square_to_corners
from stn_cli.models.build import InputSpec, build_model
from stn_cli.models.grid_generators import TRANSFORMS
from stn_cli.models.network import Network, Normalise
from stn_cli.models.place import Member, Place
from stn_cli.models.spatial_transformer import SpatialTransformer
from stn_cli.training.runtime import Runtime
from stn_cli.training.undoing import QUANTITIES, Undoing, find_truth, measure_undoing

CPU = torch.device("cpu")
FLOAT32 = Runtime(CPU, "float32", "")
DIGITS = load_digits()
N = len(DIGITS.test)
KINDS: dict[str, dict[str, Any]] = {
    "R": {"kind": "R"},
    "RTS": {"kind": "RTS"},
    "P": {"kind": "P", "corner_sigma": 3},
    "E": {"kind": "E"},
    "T": {"kind": "T"},
    "TC": {"kind": "TC"},
    "chain": {"stages": [{"kind": "R"}, {"kind": "E"}, {"kind": "T"}]},
}


class Known(nn.Module):
    """A localisation network that gives the images θ prepared for them, in the order of the set."""

    def __init__(self, theta: Tensor) -> None:
        super().__init__()
        self.theta = theta
        self.seen = 0

    def forward(self, maps: Tensor) -> Tensor:
        self.seen += len(maps)
        return self.theta[self.seen - len(maps) : self.seen]


def frozen_of(kind: str) -> FrozenSet:
    config = RunConfig.model_validate({"distortion": KINDS.get(kind, {"kind": kind})})
    return FrozenSet(BatchLoader(DIGITS.test, build_scene(config.distortion, DIGITS), CPU), 0, "test")


def network_of(frozen: FrozenSet, *steps: Sequence[Tensor], transform: str = "affine", out_size: int = 6) -> Network:
    """A network whose transformers do what the θ in each step say."""
    channels = frozen.loader.scene.shape[0]
    generator = TRANSFORMS[transform]((out_size, out_size))
    members = [[Member(SpatialTransformer(Known(theta), generator)) for theta in step] for step in steps]
    for step in members:
        channels *= len(step)
    normalise = Normalise(torch.zeros(1), torch.ones(1))
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(channels * out_size**2, 10))
    return Network(normalise=normalise, classifier=classifier, places={"input": Place("input", members)}).eval()


def measure(frozen: FrozenSet, *steps: Sequence[Tensor], **options: Any) -> list[Undoing]:
    return measure_undoing(network_of(frozen, *steps, **options), frozen, find_truth(frozen, "digits"), FLOAT32)


def distortion_of(frozen: FrozenSet) -> Distortion:
    scene = frozen.loader.scene
    assert isinstance(scene, Single | Addition)
    assert scene.distortion is not None
    return scene.distortion


def undoing_theta(distortion: Distortion, parameters: dict[str, Tensor]) -> Tensor:
    """The 3×3 matrices that put the original's frame over the output's: the inverse of the true affine map."""
    points = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    n = len(next(iter(parameters.values())))
    origin, x, y = distortion.to_output(points.expand(n, -1, -1), parameters).unbind(dim=1)
    matrix = torch.stack([x - origin, y - origin, origin], dim=2)
    return torch.cat([matrix, torch.tensor([[[0.0, 0.0, 1.0]]]).expand(n, -1, -1)], dim=1)


def affine(matrix: Tensor) -> Tensor:
    return matrix[:, :2].reshape(-1, 6)


def turn(degrees: Tensor | float) -> Tensor:
    return rotation(torch.as_tensor(degrees, dtype=torch.float32).expand(N))


@pytest.mark.parametrize("kind", ["R", "RTS", "T"])
def test_the_exact_inverse_undoes_everything(kind: str):
    frozen = frozen_of(kind)
    distortion = distortion_of(frozen)
    (found,) = measure(frozen, [affine(undoing_theta(distortion, frozen.parameters))])
    assert (found.transformer, found.digit, found.n, found.measured) == ("input", "", N, N)
    assert found.pose["rotation"] == pytest.approx(0, abs=1e-3)
    assert found.pose["scale"] == pytest.approx(distortion.canvas[0] / 28, rel=1e-4)
    assert (found.pose["x"], found.pose["y"]) == pytest.approx((0, 0), abs=1e-3)
    assert found.turned == pytest.approx(0, abs=1e-3)
    for quantity, spread in found.spreads.items():
        assert spread.after == pytest.approx(0, abs=1e-3), quantity
        assert spread.undone == (None if spread.before < 1e-3 else pytest.approx(1, abs=1e-6)), quantity
        assert spread.undone == (None if spread.before < 1e-3 else pytest.approx(spread.undone_within)), quantity
    assert list(found.residuals.values()) == pytest.approx([0] * 4, abs=1e-3)
    assert found.corners is not None
    assert found.corners[0] > 1
    assert found.corners[1] < 1e-3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("transform", ["affine", "tps"])
def test_the_identity_undoes_nothing(kind: str, transform: str):
    frozen = frozen_of(kind)
    still = TRANSFORMS[transform]((6, 6)).identity.expand(N, -1)
    (found,) = measure(frozen, [still], transform=transform)
    assert found.measured > 0.9 * N
    for quantity, spread in found.spreads.items():
        assert spread.after == pytest.approx(spread.before, rel=1e-3, abs=1e-3), quantity
        assert spread.undone is None or spread.undone == pytest.approx(0, abs=1e-3), quantity
    assert found.corners is not None
    assert found.corners[0] == pytest.approx(found.corners[1], rel=1e-3)


def test_before_is_what_was_drawn():
    frozen = frozen_of("RTS")
    drawn, distortion = frozen.parameters, distortion_of(frozen)
    assert isinstance(distortion, Similarity)
    shift = distortion.shift(drawn)
    (found,) = measure(frozen, [TRANSFORMS["affine"]((6, 6)).identity.expand(N, -1)])
    expected = {
        "rotation": math.degrees(circstd(drawn["rotation"].deg2rad().numpy())),
        "scale": drawn["scale"].log().std(correction=0).item(),
        "shift": shift.var(dim=0, correction=0).sum().sqrt().item() / drawn["scale"].median().item(),
        "stretch": 0,
    }
    assert {name: spread.before for name, spread in found.spreads.items()} == pytest.approx(
        expected, rel=1e-4, abs=1e-4
    )
    assert found.turned == pytest.approx(drawn["rotation"].abs().median().item(), rel=1e-4)
    assert found.pose["scale"] == pytest.approx(drawn["scale"].median().item(), rel=1e-4)
    assert (found.pose["x"], found.pose["y"]) == pytest.approx(tuple(shift.median(dim=0).values.tolist()), abs=1e-3)


@pytest.mark.parametrize("degrees", [30.0, -160.0])
def test_one_turn_for_all_takes_nothing_from_what_is_undone(degrees: float):
    frozen = frozen_of("R")
    (found,) = measure(frozen, [affine(undoing_theta(distortion_of(frozen), frozen.parameters) @ turn(degrees))])
    assert found.spreads["rotation"].undone == pytest.approx(1, abs=1e-6)
    assert found.turned == pytest.approx(abs(degrees), abs=1e-3)
    assert found.pose["rotation"] == pytest.approx(-degrees, abs=1e-3)
    assert found.residuals["rotation"] == pytest.approx(0, abs=1e-3)
    assert found.corners is not None
    assert found.corners[1] < 1e-3


@pytest.mark.parametrize("zoom", [0.7, 2.0])
def test_one_zoom_for_all_undoes_nothing(zoom: float):
    frozen = frozen_of("RTS")
    (found,) = measure(frozen, [torch.tensor([zoom, 0, 0.1, 0, zoom, 0]).expand(N, -1)])
    assert found.measured == N
    for quantity, spread in found.spreads.items():
        assert spread.after == pytest.approx(spread.before, rel=1e-4, abs=1e-4), quantity
    assert found.corners is not None
    assert found.corners[0] == pytest.approx(found.corners[1], rel=1e-4)


def test_a_pose_for_each_class_is_undone_within_classes():
    frozen = frozen_of("R")
    own = 36.0 * frozen.targets
    (found,) = measure(frozen, [affine(undoing_theta(distortion_of(frozen), frozen.parameters) @ turn(own))])
    rotation = found.spreads["rotation"]
    assert rotation.within == pytest.approx(0, abs=0.1)
    assert rotation.undone_within == pytest.approx(1, abs=1e-5)
    assert rotation.undone is not None
    assert rotation.undone < -1  # all around the circle, where before there was half of it


def test_half_of_the_angle_leaves_half_of_the_angle():
    frozen = frozen_of("R")
    (found,) = measure(frozen, [affine(turn(frozen.parameters["rotation"] / 2))])
    half = frozen.parameters["rotation"].deg2rad() / 2
    assert found.spreads["rotation"].after == pytest.approx(math.degrees(circstd(half.numpy())), rel=1e-4)
    residual = (half - half.mean()).rad2deg().abs().median().item()
    assert found.residuals["rotation"] == pytest.approx(residual, abs=0.2)  # the circular mean is nearly the mean


def test_a_homography_is_undone_by_its_inverse_and_by_no_affine_map():
    frozen = frozen_of("P")
    distortion = distortion_of(frozen)
    assert isinstance(distortion, Projective)
    back = inverse(facing(square_to_corners(distortion.source_corners(frozen.parameters))))
    theta = (back / back[:, 2:, 2:]).reshape(-1, 9)[:, :8]
    (found,) = measure(frozen, [theta], transform="projective")
    assert found.corners is not None
    assert found.corners[0] > 1
    assert found.corners[1] < 1e-2
    assert found.spreads["stretch"].undone == pytest.approx(1, abs=1e-3)
    (found,) = measure(frozen, [affine(theta.new_zeros(N, 3, 3) + torch.eye(3))])
    assert found.corners is not None
    assert found.corners[0] == pytest.approx(found.corners[1])


def test_in_series_they_are_taken_together():
    frozen = frozen_of("RTS")
    whole = undoing_theta(distortion_of(frozen), frozen.parameters)
    both = measure(frozen, [affine(whole @ turn(25))], [affine(turn(-25))])
    assert [found.transformer for found in both] == ["input.0", "input.1"]
    assert [found.turned for found in both] == pytest.approx([25, 0], abs=1e-3)
    assert [found.spreads["rotation"].undone for found in both] == pytest.approx([1, 1], abs=1e-5)
    half = measure(frozen, [affine(turn(frozen.parameters["rotation"]))], [affine(turn(0))])
    expected = measure(frozen, [affine(turn(frozen.parameters["rotation"]))])
    assert half[1].spreads == pytest.approx(expected[0].spreads)


def test_in_parallel_each_is_measured_and_after_them_each_way():
    frozen = frozen_of("R")
    whole, still = undoing_theta(distortion_of(frozen), frozen.parameters), turn(0)
    found = measure(frozen, [affine(whole), affine(still)], [affine(turn(10))])
    undone = {one.transformer: one.spreads["rotation"].undone for one in found}
    assert list(undone) == ["input.0", "input.1", "input.2, way 0", "input.2, way 1"]
    assert list(undone.values()) == pytest.approx([1, 0, 1, 0], abs=1e-4)


def test_of_an_addition_each_transformer_is_measured_on_each_digit():
    frozen = frozen_of("addition")
    digits = find_truth(frozen, "digits").digits
    thetas = [affine(undoing_theta(distortion_of(frozen), dict(digits[which]))) for which in ("first", "second")]
    found = measure(frozen, thetas)
    rotation = {(one.transformer, one.digit): one.spreads["rotation"] for one in found}
    assert all(spread.within is None for spread in rotation.values())
    good = {key: spread.undone is not None and spread.undone > 0.999 for key, spread in rotation.items()}
    assert good == {(f"input.{k}", digit): k == j for j, digit in enumerate(digits) for k in (0, 1)}


def test_before_conv1_it_is_an_image_still_and_deeper_inside_it_is_none():
    frozen = frozen_of("R")
    spec = InputSpec(channels=1, height=28, width=28, classes=10, mean=(0.1,), std=(0.3,))

    def undone(*places: str) -> list[Undoing]:
        transformers = [{"at": place} for place in places]
        config = RunConfig.model_validate({"model": {"transformers": transformers, "parameters": 60_000}})
        network = build_model(config.model, spec, 0).eval()
        return measure_undoing(network, frozen, find_truth(frozen, "digits"), FLOAT32)

    assert [found.transformer for found in undone("input", "conv1", "conv2")] == ["input", "conv1"]
    with pytest.raises(UsageError, match="no transformer stands before the first convolution"):
        undone("conv2")


def test_a_transformer_that_fled_shows_nothing():
    frozen = frozen_of("R")
    (found,) = measure(frozen, [torch.tensor([[1.0, 0, 50, 0, 1, 50]]).expand(N, -1)])
    assert (found.n, found.measured, found.spreads, found.corners, found.turned) == (N, 0, {}, None, None)


def test_one_of_two_fled_samples_is_not_counted():
    frozen = frozen_of("R")
    theta = affine(undoing_theta(distortion_of(frozen), frozen.parameters))
    theta[::2, 2] = 50
    (found,) = measure(frozen, [theta])
    assert found.measured == N // 2
    assert found.spreads["rotation"].undone == pytest.approx(1, abs=1e-6)


def test_the_truth_of_a_folder_is_that_of_its_samples(tmp_path: Path):
    config = RunConfig.model_validate({"distortion": {"kind": "RTS"}})
    scene = build_scene(config.distortion, DIGITS)
    recipe = Recipe(
        dataset="digits",
        distortion=config.distortion.model_dump(mode="json"),
        seed=0,
        format="idx",
        copies=1,
        limit=None,
    )
    list(write_distorted(DIGITS, scene, recipe, tmp_path / "rts"))
    source = read_distorted(tmp_path / "rts")
    stored = FrozenSet(BatchLoader(source.test, Single(None, source.shape, source.classes), CPU), 0, "test")
    truth = find_truth(stored, str(tmp_path / "rts"))
    fly = frozen_of("RTS")
    theta = affine(undoing_theta(distortion_of(fly), fly.parameters))
    (found,) = measure_undoing(network_of(stored, [theta]), stored, truth, FLOAT32)
    assert found == measure(fly, [theta])[0]


def test_images_as_they_are_have_nothing_to_undo():
    with pytest.raises(UsageError, match="nothing to undo"):
        find_truth(frozen_of("none"), "digits")


def test_it_says_how_far_it_is_and_finds_the_same_in_batches(monkeypatch: pytest.MonkeyPatch):
    frozen, told = frozen_of("RTS"), list[tuple[int, int]]()
    theta = affine(undoing_theta(distortion_of(frozen), frozen.parameters) @ turn(frozen.targets * 20.0))
    whole, again = (measure(frozen, [theta])[0] for _ in range(2))
    assert whole == again
    monkeypatch.setattr("stn_cli.training.undoing.BATCH", 200)
    network, truth = network_of(frozen, [theta]), find_truth(frozen, "digits")
    (parts,) = measure_undoing(network, frozen, truth, FLOAT32, lambda *now: told.append(now))
    assert told == [(200, N), (400, N), (N, N)]
    assert parts.spreads["rotation"].after == pytest.approx(whole.spreads["rotation"].after)
    assert parts.spreads["rotation"].within == pytest.approx(0, abs=0.1)
    assert parts.corners == pytest.approx(whole.corners)
    assert list(parts.spreads) == list(parts.residuals) == list(QUANTITIES)
