"""A sampling grid drawn over the image it reads from.

Convention: the grid goes output → input: `grid[y, x]` is where the output pixel (y, x) reads the input, as (x, y) with
−1..1 from edge to edge of the image and pixel i of n centred at (2i + 1)/n − 1.
"""

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageOps
from torch import Tensor

ACCENT = "#ff9500"  # orange stands out from black, from white strokes (through the halo) and from most photographs
COLOURS = (ACCENT, "#00b7ff", "#ff4fd8", "#4cd964", "#ffe14d", "#b48cff")  # of several transformers, in turn
MARGIN_SHADE = "#363b44"  # dark, yet no image's background
HALO_SHADE = "black"

FINE = 4  # lines are drawn on masks this many times finer, then averaged: Pillow's own lines have hard edges
LINE, OUTLINE, TOP, MARK, HALO = 1.3, 2.0, 3.5, 9.0, 1.0  # widths in pixels; the halo is on each side
POINT, POINT_RIM = 4.0, 1.5  # pixels; a white disc and the rim round it, told from the corner's disc by its core
LINE_INK, HALO_INK, FULL_INK = 215, 110, 255  # opacities, 0..255
FAR = 5.0  # in half widths of the image; a line that runs out here may come back across a projective grid's horizon


def add_margin(picture: Image.Image, margin: int) -> Image.Image:
    """Surround a picture by `margin` pixels of a dark shade, where grid lines outside the image can be seen."""
    return ImageOps.expand(picture, margin, MARGIN_SHADE)


def draw_sampling_grid(
    canvas: Image.Image,
    grid: Float[Tensor, "h w 2"],
    margin: int = 0,
    colour: str = ACCENT,
    *,
    outline_alone: bool = False,
) -> Image.Image:
    """Return a copy of the canvas with a sampling grid over it.

    The lines run along the borders of output pixels, so an identity grid's outline is the image's border. The thick
    side is the top of the output and the disc its top left corner: together they tell rotations from flips. Lines end
    at the canvas; what is not finite, or further out than FAR, is left out.

    Convention: the image fills the RGB canvas but for `margin` pixels on every side (see `add_margin`).
    Several grids, as of transformers in parallel, are drawn one after the other, each in its colour.
    """
    points = _places(canvas, pixel_corners(grid.detach().cpu().double()), margin)
    rows, columns = points[_cuts(grid.shape[0])], points[:, _cuts(grid.shape[1])].swapaxes(0, 1)

    result = canvas.copy()
    for shade, extra, most in ((HALO_SHADE, 2 * HALO, HALO_INK), (colour, 0.0, FULL_INK)):
        mask = Image.new("L", (canvas.width * FINE, canvas.height * FINE))
        draw = ImageDraw.Draw(mask)
        for line in () if outline_alone else (*rows[1:-1], *columns[1:-1]):
            _stroke(draw, line, LINE + extra, min(LINE_INK, most))
        for line in (rows[-1], columns[0], columns[-1]):
            _stroke(draw, line, OUTLINE + extra, most)
        _stroke(draw, rows[0], TOP + extra, most)
        # Discs also round the corners, where Pillow's wide lines leave a notch.
        for corner, width in zip(points[[0, 0, -1, -1], [0, -1, 0, -1]], (MARK, TOP, OUTLINE, OUTLINE), strict=True):
            _disc(draw, corner, width + extra, most)
        result.paste(shade, mask=mask.reduce(FINE))
    return result


def draw_control_points(
    canvas: Image.Image, points: Float[Tensor, "*n 2"], margin: int = 0, colour: str = ACCENT
) -> Image.Image:
    """Return a copy of the canvas with control points over it: where each is read, as a white disc with a rim.

    Convention: as `draw_sampling_grid`. What is not finite, or further out than FAR, is left out.
    """
    places = _places(canvas, points.detach().cpu().double().reshape(-1, 2), margin)
    result = canvas.copy()
    for shade, width in (
        (HALO_SHADE, POINT + 2 * POINT_RIM + 2 * HALO),
        (colour, POINT + 2 * POINT_RIM),
        ("white", POINT),
    ):
        mask = Image.new("L", (canvas.width * FINE, canvas.height * FINE))
        for place in places:
            _disc(ImageDraw.Draw(mask), place, width, HALO_INK if shade == HALO_SHADE else FULL_INK)
        result.paste(shade, mask=mask.reduce(FINE))
    return result


def pixel_corners(grid: Float[Tensor, "h w 2"]) -> Float[Tensor, "h+1 w+1 2"]:
    """Return where the corners of the output pixels lie: halfway between centres, and half a step out at the rim."""
    return _borders(_borders(grid).transpose(0, 1)).transpose(0, 1)


def _places(canvas: Image.Image, points: Float[Tensor, "*n 2"], margin: int) -> np.ndarray:
    """Return where points of the image lie on masks over the canvas; NaN for those that are not drawn."""
    near = torch.where((points.abs() <= FAR).all(-1, keepdim=True), points, torch.nan)
    size = torch.tensor([canvas.width - 2 * margin, canvas.height - 2 * margin])
    return (((near + 1) / 2 * size + margin) * FINE).numpy()


def _borders(points: Float[Tensor, "n m 2"]) -> Float[Tensor, "n+1 m 2"]:
    if len(points) == 1:  # one pixel alone has no step
        return points.repeat(2, 1, 1)
    first, last = 1.5 * points[:1] - 0.5 * points[1:2], 1.5 * points[-1:] - 0.5 * points[-2:-1]
    return torch.cat([first, (points[:-1] + points[1:]) / 2, last])


def _cuts(pixels: int) -> list[int]:
    """Return the pixel borders to draw: evenly spaced, with 5 to 8 cells where the number of pixels allows."""
    cells = next((n for n in (8, 7, 6, 5) if pixels % n == 0), min(8, pixels))
    return [round(i * pixels / cells) for i in range(cells + 1)]


def _stroke(draw: ImageDraw.ImageDraw, line: np.ndarray, width: float, ink: int) -> None:
    """Draw a line of points, `width` pixels wide, broken where a point is NaN."""
    for run in np.split(line, np.flatnonzero(np.isnan(line[:, 0]))):
        finite = run[~np.isnan(run[:, 0])]
        if len(finite) > 1:
            draw.line(finite.ravel().tolist(), fill=ink, width=round(width * FINE))


def _disc(draw: ImageDraw.ImageDraw, centre: np.ndarray, width: float, ink: int) -> None:
    """Draw a disc, `width` pixels wide, unless its centre is NaN."""
    if not np.isnan(centre).any():
        (x, y), radius = centre.tolist(), width / 2 * FINE
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=ink)
