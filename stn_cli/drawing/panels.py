"""Sheets of examples. Images are in 0..1 and shown with their pixels visible; captions stand in red where `wrong`."""

from collections.abc import Sequence

from jaxtyping import Float
from PIL import Image, ImageOps
from torch import Tensor

from stn_cli.drawing.overlay import COLOURS, add_margin, draw_control_points, draw_sampling_grid
from stn_cli.drawing.pixels import to_picture
from stn_cli.drawing.sheet import LARGEST, fitting_scale, lay_out

MARGIN = 0.25  # of the longer side: the corners of a frame turned by 45° stay in view
FRAME = 4  # pixels round the outputs of several transformers


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
    headings = ("input", "sampling grid", "output")
    return warps_panel(inputs, [[grids]], [outputs], headings, captions, wrong=wrong, columns=columns)


def warps_panel(
    inputs: Float[Tensor, "n c h w"],
    grids: Sequence[Sequence[Float[Tensor, "n grid_h grid_w 2"]]],
    outputs: Sequence[Float[Tensor, "n out_c out_h out_w"]],
    headings: Sequence[str],
    captions: Sequence[str] | None = None,
    *,
    points: Sequence[Sequence[Float[Tensor, "n k 2"]]] | None = None,
    wrong: Sequence[bool] | None = None,
    columns: int = 2,
    most: int = LARGEST,
) -> Image.Image:
    """Show what several transformers do: each input, the outlines of all sampling grids over it, and the outputs.

    Each transformer has its colour, in the outlines and round its output. One alone has its whole grid drawn.
    `grids`: for each transformer one grid or several, as after transformers in parallel; they go output → input.
    `points`: for each transformer its control points, likewise; none where it has none.
    `most`: the pixels that images are enlarged to.
    """
    width = inputs.shape[-1]
    widths = (width, width + 2 * margin_of(inputs), *(output.shape[-1] for output in outputs))
    longest = max(max(maps.shape[-2:]) for maps in (inputs, *outputs))
    scale = fitting_scale(widths, longest, len(inputs), columns, most)
    tiles = warp_tiles(inputs, grids, outputs, scale, points)
    shown = [(to_picture(image, scale), *tile) for image, tile in zip(inputs, tiles, strict=True)]
    return lay_out(shown, headings, captions, wrong, columns)


def warp_tiles(
    inputs: Float[Tensor, "n c h w"],
    grids: Sequence[Sequence[Float[Tensor, "n grid_h grid_w 2"]]],
    outputs: Sequence[Float[Tensor, "n out_c out_h out_w"]],
    scale: float,
    points: Sequence[Sequence[Float[Tensor, "n k 2"]]] | None = None,
) -> list[tuple[Image.Image, ...]]:
    """Return for each input the picture of it with the sampling grids over it, and those of the outputs.

    All as in `warps_panel`, at a pixel scale.
    """
    several = len(outputs) > 1
    margin = round(margin_of(inputs) * scale)
    points = points or [()] * len(outputs)
    colours = [COLOURS[i % len(COLOURS)] for i in range(len(outputs))]
    tiles: list[tuple[Image.Image, ...]] = []
    for i, image in enumerate(inputs):
        overlay = add_margin(to_picture(image, scale), margin)
        for own, own_points, colour in zip(grids, points, colours, strict=True):
            for grid in own:
                overlay = draw_sampling_grid(overlay, grid[i], margin, colour, outline_alone=several)
            for controls in own_points:
                overlay = draw_control_points(overlay, controls[i], margin, colour)
        shown = [to_picture(output[i], scale) for output in outputs]
        if several:
            shown = [ImageOps.expand(one, FRAME, colour) for one, colour in zip(shown, colours, strict=True)]
        tiles.append((overlay, *shown))
    return tiles


def margin_of(inputs: Float[Tensor, "n c h w"]) -> int:
    """Return how many pixels of images the margin round their overlay is wide."""
    return round(MARGIN * max(inputs.shape[-2:]))


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
