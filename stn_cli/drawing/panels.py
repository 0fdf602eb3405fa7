"""Sheets of examples. Images are in 0..1 and shown with their pixels visible; captions stand in red where `wrong`."""

from collections.abc import Sequence

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from stn_cli.drawing.overlay import add_margin, draw_sampling_grid
from stn_cli.drawing.pixels import to_picture
from stn_cli.drawing.sheet import fitting_scale, lay_out

MARGIN = 0.25  # of the longer side: the corners of a frame turned by 45° stay in view


def warp_panel(
    inputs: Float[Tensor, "n c h w"],
    grids: Float[Tensor, "n out_h out_w 2"],
    outputs: Float[Tensor, "n c out_h out_w"],
    captions: Sequence[str] | None = None,
    *,
    wrong: Sequence[bool] | None = None,
    columns: int = 2,
) -> Image.Image:
    """Show what a transformer does: each input, its sampling grid over it, and the output, at one pixel scale.

    Convention: grids go output → input (see `overlay`).
    """
    margin = round(MARGIN * max(inputs.shape[-2:]))
    widths = (inputs.shape[-1], inputs.shape[-1] + 2 * margin, outputs.shape[-1])
    scale = fitting_scale(widths, max(*inputs.shape[-2:], *outputs.shape[-2:]), len(inputs), columns)
    margin = round(margin * scale)
    tiles = []
    for image, grid, output in zip(inputs, grids, outputs, strict=True):
        picture = to_picture(image, scale)
        overlay = draw_sampling_grid(add_margin(picture, margin), grid, margin)
        tiles.append((picture, overlay, to_picture(output, scale)))
    return lay_out(tiles, ("input", "sampling grid", "output"), captions, wrong, columns)


def image_grid(
    images: Float[Tensor, "n c h w"],
    captions: Sequence[str] | None = None,
    *,
    wrong: Sequence[bool] | None = None,
    columns: int = 8,
) -> Image.Image:
    """Show images alone, as of a model without a transformer."""
    scale = fitting_scale((images.shape[-1],), max(images.shape[-2:]), len(images), columns)
    return lay_out([(to_picture(image, scale),) for image in images], (), captions, wrong, columns)


def before_after_panel(
    originals: Float[Tensor, "n c h w"],
    distorted: Float[Tensor, "n c new_h new_w"],
    captions: Sequence[str] | None = None,
    *,
    columns: int = 4,
) -> Image.Image:
    """Show each original beside its distorted version, at one pixel scale and on one middle line."""
    widths = (originals.shape[-1], distorted.shape[-1])
    longest = max(*originals.shape[-2:], *distorted.shape[-2:])
    scale = fitting_scale(widths, longest, len(originals), columns)
    tiles = [(to_picture(a, scale), to_picture(b, scale)) for a, b in zip(originals, distorted, strict=True)]
    return lay_out(tiles, ("original", "distorted"), captions, None, columns)
