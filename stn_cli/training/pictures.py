"""Pictures of what a network does to images of a frozen set."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from jaxtyping import Float, Int64
from PIL import Image
from torch import Tensor

from stn_cli.datasets.loader import FrozenSet
from stn_cli.drawing.confusion import confusion_picture
from stn_cli.drawing.panels import image_grid, warps_panel
from stn_cli.drawing.pixels import to_picture
from stn_cli.drawing.sheet import LARGEST, fitting_scale, lay_out, stacked
from stn_cli.models.network import Network
from stn_cli.training.evaluation import Evaluation
from stn_cli.training.look import Look, PlaceLook, look_at_images
from stn_cli.training.runtime import Runtime
from stn_cli.training.tags import CONFUSION, MEANS, WORST

WORST_ERRORS = 8
MOST_IN_MATRIX = 256  # classes of a confusion matrix
MOST_CLASSES = 40  # with a mean image


def warp_picture(
    network: Network, frozen: FrozenSet, index: Int64[Tensor, "n"], classes: Sequence[str], runtime: Runtime
) -> Image.Image:
    """Return a picture of the images at `index`, as `look_picture`. Leaves the network in the mode it was in."""
    batch = frozen.take(index)
    look = look_at_images(network, batch.images, runtime)
    return look_picture(batch.images.cpu(), batch.targets.tolist(), look, classes)


def look_picture(
    images: Float[Tensor, "n channels height width"],
    targets: Sequence[int],
    look: Look,
    classes: Sequence[str],
    *,
    notes: Sequence[str] | None = None,
    most: int = LARGEST,
) -> Image.Image:
    """Return a picture of images: input, sampling grid over it, output, and what was predicted.

    `notes` stand behind the predictions. `most`: the pixels that images are enlarged to.
    """
    predicted = look.predicted
    captions = [f"{classes[t]} → {classes[p]}" for t, p in zip(targets, predicted, strict=True)]
    if notes is not None:
        captions = [f"{caption} {note}" for caption, note in zip(captions, notes, strict=True)]
    wrong = [t != p for t, p in zip(targets, predicted, strict=True)]
    return captioned_picture(images, look, captions, wrong, most=most)


def captioned_picture(
    images: Float[Tensor, "n channels height width"],
    look: Look,
    captions: Sequence[str],
    wrong: Sequence[bool] | None = None,
    *,
    most: int = LARGEST,
) -> Image.Image:
    """Return a picture of images with their sampling grids and outputs, under captions, in red where `wrong`.

    Transformers at several places have a panel each, deeper ones over the mean of their feature maps. A network without
    a transformer gets its inputs shown.
    """
    if not look.places:
        return image_grid(images, captions, wrong=wrong)
    return stacked([_place_panel(place, captions, wrong, most) for place in look.places])


def evaluation_pictures(
    network: Network,
    frozen: FrozenSet,
    evaluation: Evaluation,
    classes: Sequence[str],
    runtime: Runtime,
    *,
    most: int = LARGEST,
) -> Iterator[tuple[str, Callable[[], Image.Image]]]:
    """Yield (tag, what draws it) of the pictures of an evaluation on a set, by the network as it is now.

    The worst errors, where there are any; the class means, where a transformer sees images; the confusion matrix, where
    classes are not too many. What they are drawn from lies on the CPU, so that a thread may draw them.
    """
    answers = evaluation.answers
    if answers is not None and len(worst := answers.worst(WORST_ERRORS)):
        batch = frozen.take(worst)
        look = look_at_images(network, batch.images, runtime)
        notes = [f"(loss {loss:.1f})" for loss in answers.losses[worst].tolist()]
        shown = (batch.images.cpu(), batch.targets.tolist(), look, classes)
        yield WORST, partial(look_picture, *shown, notes=notes, most=most)
    if answers is not None and answers.means:
        yield MEANS, partial(means_picture, answers.means, classes, most=most)
    if len(classes) <= MOST_IN_MATRIX:
        yield CONFUSION, partial(confusion_picture, evaluation.confusion, classes)


def means_picture(
    means: dict[str, Float[Tensor, "classes c h w"]], classes: Sequence[str], *, most: int = LARGEST
) -> Image.Image:
    """Return the mean images of classes before and after each transformer, the brightest of a class in full light."""
    shown = min(len(classes), MOST_CLASSES)
    widths = [images.shape[-1] for images in means.values()]
    longest = max(max(images.shape[-2:]) for images in means.values())
    scale = fitting_scale(widths, longest, shown, 2, most)
    tiles: list[tuple[Image.Image, ...]] = []
    for label in range(shown):
        brightest = max(images[label].max().item() for images in means.values())
        tiles.append(tuple(to_picture(images[label] / max(brightest, 1e-6), scale) for images in means.values()))
    headings = ["before the warp", "after it"] if len(means) == 2 else ["before", *(f"after {n}" for n in [*means][1:])]
    return lay_out(tiles, headings, classes[:shown], None, 2)


def _place_panel(place: PlaceLook, captions: Sequence[str], wrong: Sequence[bool] | None, most: int) -> Image.Image:
    """Return what the transformers at a place do to what they see."""
    count = len(place.names)
    headings = ["input" if place.place == "input" else f"before {place.place}"]
    headings += ["sampling grid", "output"] if count == 1 else ["sampling grids", *place.names]
    warps = (place.maps, place.grids, place.outputs, headings, captions)
    return warps_panel(*warps, points=place.points, wrong=wrong, columns=2 if count < 4 else 1, most=most)
