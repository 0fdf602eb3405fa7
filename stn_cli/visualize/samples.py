"""Test images on a page: what a run's transformer does to each, and what the network reads in it."""

from dataclasses import dataclass

import torch
from jaxtyping import Int64
from PIL import Image, ImageOps
from torch import Tensor

from stn_cli.drawing.overlay import COLOURS, MARGIN_SHADE, add_margin, draw_sampling_grid
from stn_cli.drawing.panels import FRAME, MARGIN
from stn_cli.drawing.pixels import to_picture
from stn_cli.models.network import ModelOutput
from stn_cli.training.pictures import warp_picture
from stn_cli.training.restore import TrainedRun
from stn_cli.visualize.markup import Markup, element
from stn_cli.visualize.page import figure, picture, scrolling

SIDE = 120  # pixels; about the longer side of an image
GAP = 6  # pixels between the parts of a strip
PARTS = ("input alone", "input, sampling grid over it, output", "input, sampling grids over it, outputs")


@dataclass(frozen=True)
class Reading:
    """What a network reads in an image: names of the true and the predicted class, and how sure it is, 0..1."""

    true: str
    predicted: str
    sure: float

    @property
    def is_right(self) -> bool:
        """Whether the prediction is true."""
        return self.predicted == self.true

    @property
    def short(self) -> str:
        """What stands below the image."""
        return f"{self.true}, {100 * self.sure:.1f} % sure" if self.is_right else f"✗ {self}"

    def __str__(self) -> str:
        read = "rightly" if self.is_right else f"as {self.predicted}"
        return f"{self.true} read {read}, {100 * self.sure:.1f} % sure"


def samples(
    trained: TrainedRun, index: Int64[Tensor, "n"], which: str, most_bytes: int, *, count: bool = True
) -> Markup:
    """Return test images with their warps and what is read in them.

    `which`: the images in words. `most_bytes`: of all pictures together. `count`: whether to say how many are read
    rightly.
    """
    batch = trained.test.take(index)
    images = batch.images.contiguous(memory_format=trained.runtime.memory_format)
    with torch.inference_mode(), trained.runtime.autocast():
        output = trained.network(images)
    sure, predicted = output.logits.softmax(dim=1).max(dim=1)
    names, found = trained.classes, zip(batch.targets.tolist(), predicted.tolist(), sure.tolist(), strict=True)
    readings = [Reading(names[true], names[guess], share) for true, guess, share in found]
    right = sum(reading.is_right for reading in readings)
    said = f"{which}; {right} of {len(readings)} are read rightly." if count else f"{which}."
    if not set(trained.network.by_place) <= {"input"}:  # feature maps have a sheet of their own for each place
        sheet = warp_picture(trained.network, trained.test, index, trained.classes, trained.runtime)
        told = "; ".join(map(str, readings))
        shown = scrolling(picture(sheet, f"{said} {told}.", most_bytes), which)
        return figure(shown, f"{said} Below each: true → predicted class.")
    kind = min(len(output.warps), 2)
    tiles = (
        figure(
            picture(_strip(trained, images, output, i), f"{reading}: {PARTS[kind]}", most_bytes // len(index)),
            reading.short,
        )
        for i, reading in enumerate(readings)
    )
    why = "" if output.warps else ", since this network has no transformer"
    words = element("p", f"{said} Shown: {PARTS[kind]}{why}.")
    return element("div", words, element("div", *tiles, class_=("tiles small", "tiles", "tiles large")[kind]))


def _strip(trained: TrainedRun, images: Tensor, output: ModelOutput, i: int) -> Image.Image:
    """Return what happens to one image: input, sampling grids over it, and outputs, side by side without words."""
    image = images[i]
    scale = SIDE / max(image.shape[-2:])
    scale = scale if scale < 1 else int(scale)  # so that all pixels are of one size
    parts = [to_picture(image, scale)]
    if output.warps:
        margin = round(MARGIN * max(parts[0].size))
        parts.append(add_margin(parts[0], margin))
        several = len(output.warps) > 1
        place = trained.network.by_place["input"]
        for number, (grids, warp) in enumerate(zip(place.composed(output.warps), output.warps, strict=True)):
            colour = COLOURS[number % len(COLOURS)]
            for grid in grids:
                parts[1] = draw_sampling_grid(parts[1], grid[i].cpu(), margin, colour, outline_alone=several)
            shown = to_picture(warp.output[i], scale)
            parts.append(ImageOps.expand(shown, FRAME, colour) if several else shown)
    height = max(part.height for part in parts)
    strip = Image.new("RGB", (sum(part.width for part in parts) + GAP * (len(parts) - 1), height), MARGIN_SHADE)
    left = 0
    for part in parts:
        strip.paste(part, (left, (height - part.height) // 2))
        left += part.width + GAP
    return strip
