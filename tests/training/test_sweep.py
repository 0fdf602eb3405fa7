"""Error against strength: equal to the evaluation of the same images where there is one, and seen through a spy."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stn_cli.config_files import load_config
from stn_cli.datasets.loader import BatchLoader, FrozenSet
from stn_cli.datasets.manifest import MANIFEST
from stn_cli.datasets.scene import Single
from stn_cli.datasets.source import Split
from stn_cli.distortions.similarity import Similarity
from stn_cli.errors import NumericsError, UsageError
from stn_cli.models.network import ModelOutput
from stn_cli.names import SWEEPS
from stn_cli.training.evaluation import evaluate, wilson_interval
from stn_cli.training.loop import train
from stn_cli.training.restore import TrainedRun, open_trained
from stn_cli.training.run_folder import RunFolder
from stn_cli.training.sweep import KINDS, canvas_of, strengths_of, sweep, trained_on

N = 500
NEUTRAL = {"rotation": 0.0, "scale": 1.0, "shift": 0.0, "noise": 0.0}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run that has learned a little, so that its errors depend on what it sees."""
    return trained_run(tmp_path_factory.mktemp("r"), "train.iterations=150", "distortion.rotation=[-30,30]")


def trained_run(folder: Path, *overrides: str) -> RunFolder:
    small = [
        "data.dataset=digits",
        "model.name=fcn",
        "model.parameters=30000",
        "train.iterations=6",
        "train.batch_size=64",
        "log.evaluations=1",
        "log.images=0",
        "runtime.device=cpu",
        "runtime.precision=float32",
        "runtime.convolutions=library",
        f"runs_dir={folder}",
        "name=a",
    ]
    list(train(load_config(None, [*small, *overrides])))
    return RunFolder(folder / "a")


def opened(run: RunFolder, *overrides: str) -> TrainedRun:
    return open_trained(run, "last", list(overrides))


def wrong(run: RunFolder, *overrides: str) -> int:
    """What `stn eval` counts."""
    trained = opened(run, *overrides)
    return evaluate(trained.network, trained.test, len(trained.classes), trained.runtime).wrong


def swept(run: RunFolder, kind: str, *strengths: float) -> list[int]:
    return [point.wrong for point in sweep(opened(run), kind, strengths)]


class Spy(nn.Module):
    """A network that keeps what it is shown, in the order of the test set, and says 0."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[Tensor] = []

    def forward(self, images: Tensor) -> ModelOutput:
        self.shown.append(images.clone())
        return ModelOutput(torch.ones(len(images), 10).cumsum(dim=1).flip(1), ())


def shown(trained: TrainedRun, kind: str, strength: float) -> Tensor:
    spy = Spy()
    (point,) = sweep(replace(trained, network=spy), kind, [strength])  # pyright: ignore[reportArgumentType]
    assert point.wrong == (trained.test.targets != 0).sum()
    return torch.cat(spy.shown)


@pytest.mark.parametrize("kind", SWEEPS)
def test_without_strength_it_is_the_evaluation_of_undistorted_images(run: RunFolder, kind: str):
    (point,) = sweep(opened(run), kind, [NEUTRAL[kind]])
    assert (point.strength, point.n) == (NEUTRAL[kind], N)
    assert point.wrong == wrong(run, "distortion=none")
    assert point.error_percent == 100 * point.wrong / N
    assert point.interval_percent == wilson_interval(point.wrong, N)


@pytest.mark.parametrize("degrees", [-100, 37.5])
def test_a_rotation_is_that_of_the_distortion_r(run: RunFolder, degrees: float):
    assert swept(run, "rotation", degrees) == [wrong(run, f"distortion.rotation=[{degrees},{degrees}]")]


@pytest.mark.parametrize("scale", [0.5, 1.4])
def test_a_scale_is_that_of_an_elastic_distortion_which_bends_nothing(run: RunFolder, scale: float):
    setting = f"{{kind: E, control_point_sigma: 0, scale: [{scale}, {scale}]}}"
    assert swept(run, "scale", scale) == [wrong(run, f"distortion={setting}")]


def test_the_strengths_matter(run: RunFolder):
    for kind, strength in (("rotation", 120), ("scale", 0.4), ("shift", 8), ("noise", 0.8)):
        still, strong = swept(run, kind, NEUTRAL[kind], strength)
        assert strong > 2 * still
        assert 5 < still < 100


def test_half_a_turn_is_the_same_both_ways(run: RunFolder):
    left, right = swept(run, "rotation", -180, 180)
    assert left == right
    once, twice = (shown(opened(run), "rotation", degrees) for degrees in (60, 420))
    torch.testing.assert_close(once, twice, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", SWEEPS)
def test_the_same_bits_twice(run: RunFolder, kind: str):
    strength = NEUTRAL[kind] + 0.4
    trained = opened(run)
    first = shown(trained, kind, strength)
    assert torch.equal(first, shown(opened(run), kind, strength))
    other = shown(opened(run, "seed=5"), kind, strength)
    assert torch.equal(first, other) == (kind in ("rotation", "scale"))


def centres(images: Tensor) -> Tensor:
    """The centres of mass, (x, y) in pixels."""
    weights = images[:, 0] / images.sum(dim=(1, 2, 3))[:, None, None]
    x, y = torch.arange(float(images.shape[3])), torch.arange(float(images.shape[2]))
    return torch.stack([(weights.sum(dim=1) * x).sum(dim=1), (weights.sum(dim=2) * y).sum(dim=1)], dim=1)


def test_a_shift_moves_each_digit_by_its_strength_in_a_direction_of_its_own(run: RunFolder):
    trained = opened(run)
    still, near, far = (shown(trained, "shift", pixels) for pixels in (0, 1.5, 3))
    whole = (far.sum(dim=(1, 2, 3)) - still.sum(dim=(1, 2, 3))).abs() < 1e-3  # nothing was cut off
    assert whole.sum() > 100
    first, second = (centres(images)[whole] - centres(still)[whole] for images in (near, far))
    torch.testing.assert_close(first.norm(dim=1), torch.full_like(first[:, 0], 1.5), atol=1e-3, rtol=0)
    torch.testing.assert_close(second, 2 * first, atol=1e-3, rtol=0)
    angles = torch.atan2(second[:, 1], second[:, 0])
    assert [int((angles // (math.pi / 2) == quarter).sum()) > 10 for quarter in (-2, -1, 0, 1)] == [True] * 4


def test_noise_is_normal_cut_to_what_a_camera_gives_and_of_one_pattern(run: RunFolder):
    trained = opened(run)
    clean, weak, strong = (shown(trained, "noise", deviation) for deviation in (0, 0.1, 0.2))
    assert clean.min() == 0
    assert strong.min() == 0
    assert strong.max() == 1
    inside = (strong > 0) & (strong < 1)
    added = (weak - clean)[inside]
    torch.testing.assert_close(2 * added, (strong - clean)[inside], atol=1e-5, rtol=0)
    grey = (clean > 0.45) & (clean < 0.55)  # far from being cut
    assert grey.sum() > 5_000
    assert (weak - clean)[grey].mean().item() == pytest.approx(0, abs=0.01)
    assert (weak - clean)[grey].std().item() == pytest.approx(0.1, rel=0.03)


def test_every_batch_has_noise_of_its_own(run: RunFolder, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("stn_cli.training.sweep.BATCH", 200)
    clean, noisy = (shown(opened(run), "noise", deviation) for deviation in (0, 0.3))
    dark = (clean[:200] == 0) & (clean[200:400] == 0)
    assert dark.sum() > 10_000
    assert (noisy[:200][dark] != noisy[200:400][dark]).float().mean() > 0.5  # the others are cut to 0


def test_images_need_not_be_square(run: RunFolder):
    images = torch.randint(256, (20, 1, 28, 20), dtype=torch.uint8)
    turn = Similarity(in_size=(28, 20), canvas=(40, 40), rotation=(0.0, 0.0), scale=(1.0, 1.0), place=False)
    scene = Single(turn, (1, 28, 20), tuple("0123456789"))
    split = Split(images, torch.zeros(20, dtype=torch.int64))
    test = FrozenSet(BatchLoader(split, scene, torch.device("cpu")), 0, "test")
    trained = replace(opened(run), test=test)
    for kind in SWEEPS:
        found = shown(trained, kind, NEUTRAL[kind])
        torch.testing.assert_close(found[:, :, 6:34, 10:30], images / 255, atol=1e-4, rtol=0)
    assert strengths_of("shift", [trained])[-1] == 20


def test_digits_of_an_addition_are_treated_alike(tmp_path: Path):
    run = trained_run(tmp_path, "distortion=addition", "distortion.canvas=28")
    settings = ["distortion.rotation=[40,40]", "distortion.scale=[1,1]"]
    assert swept(run, "rotation", 40) == [wrong(run, *settings)]
    one = opened(run)
    pairs = shown(one, "shift", 2)
    assert pairs.shape == (N, 2, 28, 28)
    still = shown(one, "shift", 0)
    moved = [centres(pairs[:, k : k + 1]) - centres(still[:, k : k + 1]) for k in (0, 1)]
    whole = ((pairs - still).sum(dim=(2, 3)).abs() < 1e-3).all(dim=1)
    torch.testing.assert_close(moved[0][whole], moved[1][whole], atol=1e-3, rtol=0)


def test_on_a_larger_canvas_the_digit_lies_in_the_middle(tmp_path: Path):
    run = trained_run(tmp_path, "distortion=TC")
    trained = opened(run)
    assert canvas_of(trained) == (60, 60)
    images = [shown(trained, kind, NEUTRAL[kind]) for kind in SWEEPS]
    for other in images[1:]:
        torch.testing.assert_close(other, images[0], atol=1e-4, rtol=0)
    assert images[0][:, :, 16:44, 16:44].sum() == pytest.approx(images[0].sum().item(), rel=1e-5)
    assert trained_on(trained, "shift") == (0, math.hypot(16, 16))


@pytest.mark.parametrize(
    ("distortion", "expected"),
    [
        ("R", {"rotation": (-90, 90)}),
        ("RTS", {"rotation": (-45, 45), "scale": (0.7, 1.2), "shift": (0, math.hypot(11.2, 11.2))}),
        ("P", {"scale": (0.75, 1)}),
        ("none", {}),
    ],
)
def test_the_range_of_training_is_known_where_it_is_a_setting(
    tmp_path: Path, distortion: str, expected: dict[str, Any]
):
    trained = opened(trained_run(tmp_path, f"distortion={distortion}"))
    found = {kind: trained_on(trained, kind) for kind in SWEEPS}
    for kind in SWEEPS:
        assert found[kind] == (pytest.approx(expected[kind]) if kind in expected else None)


def test_the_range_of_training_is_the_runs_own(run: RunFolder):
    assert trained_on(opened(run, "distortion.rotation=[0,5]"), "rotation") == (-30, 30)


def test_strengths_are_evenly_spaced_from_bound_to_bound(run: RunFolder):
    trained = [opened(run)]
    assert strengths_of("rotation", trained) == list(range(-180, 181, 15))
    assert strengths_of("shift", trained) == list(range(15))  # to half of the canvas
    assert strengths_of("scale", trained, 3, (0.5, 1.5)) == [0.5, 1.0, 1.5]
    for kind in SWEEPS:
        usual = strengths_of(kind, trained)
        assert len(usual) == KINDS[kind].steps
        assert NEUTRAL[kind] in usual
    assert tuple(KINDS) == SWEEPS


@pytest.mark.parametrize(
    ("kind", "steps", "bounds", "complaint"),
    [
        ("rotation", 1, None, "--steps cannot be 1. Give 2 to 1,000."),
        ("scale", None, (0, 1), "--range 0 1 is none for scale. Give a lower and a higher number from 0.05 to 4."),
        ("noise", None, (1, 1), "--range 1 1 is none for noise"),
        ("shift", None, (3, math.nan), "--range 3 nan is none for shift"),
        ("blur", None, None, "--sweep has no choice 'blur'. Choose from rotation, scale, shift, noise."),
    ],
)
def test_strengths_without_a_meaning_are_refused(
    run: RunFolder, kind: str, steps: int | None, bounds: Sequence[float] | None, complaint: str
):
    with pytest.raises(UsageError) as raised:
        strengths_of(kind, [opened(run)], steps, bounds)  # pyright: ignore[reportArgumentType]
    assert complaint in str(raised.value)


def test_a_network_without_numbers_is_told(run: RunFolder):
    trained = opened(run)
    torch.nn.init.constant_(list(trained.network.parameters())[-1], math.nan)
    with pytest.raises(NumericsError, match="gives no numbers at a scale of 1"):
        list(sweep(trained, "scale", [1.0]))


def test_images_that_were_distorted_before_are_refused(run: RunFolder, tmp_path: Path):
    trained = opened(run)
    (tmp_path / MANIFEST).write_text("{}")
    data = trained.config.data.model_copy(update={"dataset": str(tmp_path)})
    stored = replace(trained, config=trained.config.model_copy(update={"data": data}))
    with pytest.raises(UsageError, match=r"are distorted already\. Give the --dataset and the --distortion"):
        list(sweep(stored, "noise", [0.0]))
