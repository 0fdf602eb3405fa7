"""An image of the user's own through a trained network: what is read in it, and what the transformers do to it."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import ExifTags, Image, ImageOps
from torch import Tensor

from stn_cli.datasets.image_file import inspect_image, read_image
from stn_cli.datasets.scene import Addition
from stn_cli.errors import DataError, UsageError
from stn_cli.storage import write_bytes
from stn_cli.training.look import Look, look_at_images
from stn_cli.training.pictures import captioned_picture
from stn_cli.training.restore import TrainedRun
from stn_cli.training.sweep import in_size_of
from stn_cli.visualize.animation import Frame, as_gif, draw_frame
from stn_cli.visualize.turning import turned

LIKELIEST = 3  # classes that are named
FAINT = 16 / 255  # contrast below which there is nothing to see
UNLIKE = 0.5  # difference in the mean brightness of borders, 0..1, from which an image is not like those of training
LOOKED_AT = 64  # test images that say how bright borders are
MOVES, MILLISECONDS, BEFORE, AFTER = 15, 60, 700, 1800  # frames from the identity to the learned warp, and times


@dataclass(frozen=True)
class OwnImage:
    """An image as the network takes it. `fitted`: what was done to it. `hint`: what may be wrong with it, or None."""

    file: Path
    pixels: Float[Tensor, "1 channels height width"]
    fitted: str
    hint: str | None


def fit_image(file: Path, trained: TrainedRun, *, invert: bool = False) -> OwnImage:
    """Return a PNG or JPEG as an image like those that a run was trained on.

    Upright as its EXIF says, grey or in colour as they are, inverted if asked for, scaled to fit their size with its
    proportions kept, and put in the middle of the canvas. What is transparent, and what is left beside it, is black.

    Raises:
        DataError: the file is missing, damaged, no PNG or JPEG, too large, or of one shade.
        UsageError: the run takes no single images.
    """
    scene = trained.test.loader.scene
    channels, *canvas = scene.shape
    if isinstance(scene, Addition) or channels not in (1, 3):
        raise UsageError(
            f"{trained.run.path} takes {channels} images at once", "Choose a run that reads one, grey or in colour."
        )
    size = in_size_of(scene)
    if not file.is_file():
        raise DataError(f"there is no image {file}", "Check its name.")
    found, was_grey = inspect_image(file)
    image = _upright(read_image(file, found, channels == 1), file)
    width, height = image.size
    levels = np.asarray(image, dtype=np.float32) / 255
    if np.ptp(levels) < FAINT:
        raise DataError(
            f"{file} is of one shade",
            "Give an image whose background differs from what is on it; what is transparent counts as black.",
        )
    image = ImageOps.invert(image) if invert else image
    border = _border(torch.from_numpy(1 - levels if invert else levels))
    image = ImageOps.pad(image, (size[1], size[0]), Image.Resampling.BILINEAR, color=0)
    pixels = torch.from_numpy(np.array(image)).view(*size, channels).permute(2, 0, 1)[None] / 255
    said = [f"{height}×{width} to {size[0]}×{size[1]}"]
    said += ["grey"] if channels == 1 and not was_grey else []
    said += ["inverted"] if invert else []
    if tuple(canvas) != size:
        room = [(whole - own) // 2 for whole, own in zip(canvas, size, strict=True)]
        top, left = room
        placed = torch.zeros(1, channels, *canvas)
        placed[..., top : top + size[0], left : left + size[1]] = pixels
        pixels = placed
        said.append(f"in the middle of {canvas[0]}×{canvas[1]}")
    return OwnImage(file, pixels, ", ".join(said), _hint(border, trained, invert=invert))


def likeliest(look: Look, classes: tuple[str, ...]) -> list[tuple[str, float]]:
    """Return the likeliest classes of one image with their probabilities."""
    shares, found = look.probabilities[0].topk(min(LIKELIEST, len(classes)))
    return [(classes[k], share) for k, share in zip(found.tolist(), shares.tolist(), strict=True)]


def own_picture(own: OwnImage, look: Look, classes: tuple[str, ...]) -> Image.Image:
    """Return a picture of what transformers do to an image, with its likeliest classes."""
    caption = ", ".join(f"{name}: {100 * share:.1f} %" for name, share in likeliest(look, classes))
    return captioned_picture(own.pixels, look, [caption])


def own_frames(own: OwnImage, trained: TrainedRun, look: Look) -> Iterator[Frame]:
    """Yield the frames of an image on the way from the identity to the learned warp and back.

    Each says what the network reads where the warp goes so far only. `look`: at the image, with the learned warp.
    """
    identity = {
        name: transformer.grid_generator.identity[None]
        for place in trained.network.by_place.values()
        for name, transformer in zip(place.names, place.transformers, strict=True)
    }
    for k in (*range(MOVES + 1), *range(MOVES - 1, 0, -1)):
        way = k / MOVES
        eased = way * way * (3 - 2 * way)
        thetas = {name: start.lerp(look.thetas[name], eased) for name, start in identity.items()}
        now = look_at_images(trained.network, own.pixels, trained.runtime, thetas)
        (name, share), *_ = likeliest(now, trained.classes)
        title = f"{100 * eased:.0f} % of the warp"
        picture = draw_frame(own.pixels, now, [f"read as {name}, {100 * share:.0f} %"], [False], title)
        yield Frame(picture, {0: BEFORE, MOVES: AFTER}.get(k, MILLISECONDS))


def write_own(own: OwnImage, look: Look, trained: TrainedRun, name: str) -> list[Path]:
    """Write the picture of an image and, if there are transformers, its film into a run's plots folder.

    Raises:
        ResourceError: the folder cannot be written.
    """
    picture = BytesIO()
    own_picture(own, look, trained.classes).save(picture, "PNG")
    contents = {"png": picture.getvalue()}
    if look.places:
        contents["gif"] = as_gif(list(own_frames(own, trained, look)))
    files = [trained.run.plots / f"{name}.{form}" for form in contents]
    for file, content in zip(files, contents.values(), strict=True):
        write_bytes(file, content)
    return files


def _upright(pixels: Tensor, file: Path) -> Image.Image:
    """Return an image as its camera was held, which `read_image` leaves alone, as sets of images are."""
    image = Image.fromarray(np.ascontiguousarray(pixels.permute(1, 2, 0).squeeze(2).numpy()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of damaged EXIF, which says nothing then
        with Image.open(file) as opened:
            image.getexif()[ExifTags.Base.Orientation] = opened.getexif().get(ExifTags.Base.Orientation, 1)
    return ImageOps.exif_transpose(image)


def _hint(border: float, trained: TrainedRun, *, invert: bool) -> str | None:
    few = torch.arange(min(LOOKED_AT, len(trained.test)))
    usual = _border(turned(trained, few, 0.0).images.cpu().permute(2, 3, 1, 0))
    if abs(border - usual) < UNLIKE:
        return None
    words = ("bright", "dark") if border > usual else ("dark", "bright")
    remedy = "leave --invert out" if invert else "try --invert"
    return f"its border is {words[0]}, that of the training images {words[1]}: {remedy}"


def _border(levels: Float[Tensor, "height width *rest"]) -> float:
    """Return how bright the outermost pixels are on average, 0..1."""
    return float(torch.cat([side.flatten() for side in (levels[0], levels[-1], levels[:, 0], levels[:, -1])]).mean())
