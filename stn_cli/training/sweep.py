"""Error against the strength of one distortion: all test images turned, scaled, moved or made noisy alike."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Generator, Tensor

from stn_cli.datasets.manifest import MANIFEST
from stn_cli.datasets.scene import Addition, Cluttered, Scene, Single
from stn_cli.distortions.placement import Placement
from stn_cli.distortions.similarity import Similarity
from stn_cli.errors import NumericsError, UsageError
from stn_cli.randomness import named_generator
from stn_cli.training.evaluation import BATCH, wilson_interval
from stn_cli.training.restore import TrainedRun

MOST_STEPS = 1000


@dataclass(frozen=True)
class SweepKind:
    """What is varied: its unit, usual range and steps, and the range that has a meaning."""

    unit: str
    low: float
    high: float
    steps: int
    lowest: float
    highest: float


KINDS = {
    "rotation": SweepKind("°", -180, 180, 25, -3600, 3600),
    "scale": SweepKind("", 0.4, 1.6, 13, 0.05, 4),
    "shift": SweepKind("px", 0, math.inf, 15, 0, 512),  # as far as half of the canvas
    "noise": SweepKind("", 0, 1, 11, 0, 10),
}


@dataclass(frozen=True)
class SweepPoint:
    """What a network gets wrong at one strength, of `n` images."""

    strength: float
    wrong: int
    n: int

    @property
    def error_percent(self) -> float:
        """Share of wrong images in percent."""
        return 100 * self.wrong / self.n

    @property
    def interval_percent(self) -> tuple[float, float]:
        """95 % confidence interval of the error in percent (Wilson's score interval)."""
        return wilson_interval(self.wrong, self.n)


@dataclass(frozen=True)
class SweepCurve:
    """The points of a run in the order of strength. `trained`: the strengths that it was trained on, where known."""

    run: str
    model: str
    kind: str
    trained: tuple[float, float] | None
    points: tuple[SweepPoint, ...]


def strengths_of(
    kind: str, trained: Sequence[TrainedRun], steps: int | None = None, bounds: tuple[float, float] | None = None
) -> list[float]:
    """Return evenly spaced strengths, the bounds among them; the usual ones of a kind unless said otherwise.

    Raises:
        UsageError: there is no such kind, or its strengths cannot be these.
    """
    if kind not in KINDS:
        raise UsageError(f"--sweep has no choice {kind!r}", f"Choose from {', '.join(KINDS)}.")
    usual = KINDS[kind]
    steps = usual.steps if steps is None else steps
    half_canvas = min(min(canvas_of(each)) for each in trained) / 2
    low, high = (usual.low, min(usual.high, half_canvas if kind == "shift" else math.inf)) if bounds is None else bounds
    if not usual.lowest <= low < high <= usual.highest:
        raise UsageError(
            f"--range {low:g} {high:g} is none for {kind}",
            f"Give a lower and a higher number from {usual.lowest:g} to {usual.highest:g}.",
        )
    if not 2 <= steps <= MOST_STEPS:
        raise UsageError(f"--steps cannot be {steps}", f"Give 2 to {MOST_STEPS:,}.")
    return [round(low + (high - low) * k / (steps - 1), 9) for k in range(steps)]  # 0.6, not 0.6000000000000001


def sweep(trained: TrainedRun, kind: str, strengths: Sequence[float]) -> Iterator[SweepPoint]:
    """Yield what a run gets wrong of all test images at each strength.

    The images are not distorted otherwise and lie in the middle of the canvas that the run takes. `rotation`: by so
    many degrees, clockwise. `scale`: to this size. `shift`: by so many pixels, each image in a direction of its own.
    `noise`: normal, of this standard deviation, where white is 1, and cut to 0..1 again. Directions and noise follow
    from the seed of the run's configuration and are the same at all strengths. Of an addition both digits are treated
    alike.

    Raises:
        UsageError: the test images were distorted before.
        NumericsError: the network gives NaN or infinity.
    """
    if (Path(trained.config.data.dataset) / MANIFEST).is_file():
        raise UsageError(
            f"the images of {trained.config.data.dataset} are distorted already",
            "Give the --dataset and the --distortion that they were made with.",
        )
    frozen, runtime = trained.test, trained.runtime
    loader = frozen.loader.under(varied_scene(frozen.loader.scene, kind))
    for strength in strengths:
        parameters = parameters_at(trained, kind, strength)
        wrong = torch.zeros((), dtype=torch.int64, device=runtime.device)
        largest = torch.zeros((), device=runtime.device)
        with torch.inference_mode():
            for number, index in enumerate(torch.arange(len(frozen)).split(BATCH)):
                batch = loader.gather(index, {name: value[index] for name, value in parameters.items()})
                images = batch.images
                if kind == "noise":
                    images = _noisy(images, strength, named_generator(trained.config.seed, "noise of a sweep", number))
                with runtime.autocast():
                    logits = trained.network(images.contiguous(memory_format=runtime.memory_format)).logits
                wrong += (logits.argmax(dim=1) != batch.targets).sum()
                largest = torch.maximum(largest, logits.abs().amax())  # which is NaN where one of them is
        if not math.isfinite(largest.item()):
            raise NumericsError(
                f"{trained.run.path} gives no numbers at a {kind} of {strength:g}",
                "Lower train.learning_rate and train again.",
            )
        yield SweepPoint(strength, int(wrong), len(frozen))


def trained_on(trained: TrainedRun, kind: str) -> tuple[float, float] | None:
    """Return between which strengths a run's own distortion drew, None where that is not one number of its settings.

    Of shifts it is how far the digit's centre could be from that of the canvas.
    """
    distortion = trained.run.read_config().distortion
    if kind != "shift":
        return getattr(distortion, kind, None)
    if distortion.kind not in ("RTS", "T", "TC", "addition"):
        return None
    smallest = getattr(distortion, "scale", (1.0, 1.0))[0]
    sides = zip(canvas_of(trained), in_size_of(trained.test.loader.scene), strict=True)
    return 0.0, math.hypot(*(max(0.0, (side - smallest * own) / 2) for side, own in sides))


def canvas_of(trained: TrainedRun) -> tuple[int, int]:
    """Return (height, width) of the images that a run takes."""
    _, height, width = trained.test.loader.scene.shape
    return height, width


def varied_scene(scene: Scene, kind: str) -> Scene:
    """Return the scene of the same images in which nothing but the kind is varied."""
    in_size, (channels, *canvas) = in_size_of(scene), scene.shape
    sizes = {"in_size": in_size, "canvas": (canvas[0], canvas[1])}
    distortion = (
        Placement(**sizes)
        if kind == "shift"
        else Similarity(**sizes, rotation=(0.0, 0.0), scale=(1.0, 1.0), place=False)  # which are for drawing alone
    )
    if isinstance(scene, Addition):
        return Addition(distortion, tuple(map(str, range((len(scene.classes) + 1) // 2))))
    return Single(distortion, (channels, *in_size), scene.classes)


def in_size_of(scene: Scene) -> tuple[int, int]:
    """Return (height, width) of the images that scenes are made of."""
    distortion = scene.distortion if isinstance(scene, Single | Cluttered | Addition) else None
    return (scene.shape[1], scene.shape[2]) if distortion is None else distortion.in_size


def parameters_at(trained: TrainedRun, kind: str, strength: float) -> dict[str, Tensor]:
    """Return the parameters of all samples at a strength; for noise, those of images as they are."""
    frozen, sides = trained.test, zip(canvas_of(trained), in_size_of(trained.test.loader.scene), strict=True)
    n = len(frozen)
    if kind == "shift":
        middle = torch.tensor([(side - own) / 2 for side, own in sides]).flip(0)
        angle = 2 * math.pi * torch.rand(n, generator=named_generator(trained.config.seed, "directions of a sweep"))
        own = {"corner": middle + strength * torch.stack([angle.cos(), angle.sin()], dim=1)}
    else:
        as_it_is = {"rotation": 0.0, "scale": 1.0}
        own = {name: torch.full((n,), float(strength if name == kind else usual)) for name, usual in as_it_is.items()}
    if "second_image" not in frozen.parameters:
        return own
    both = {f"{which}.{name}": value for which in ("first", "second") for name, value in own.items()}
    return both | {"second_image": frozen.parameters["second_image"]}


def _noisy(images: Tensor, deviation: float, generator: Generator) -> Tensor:
    noise = torch.randn(images.shape, generator=generator).to(images.device)
    return (images + deviation * noise).clamp(0, 1)
