"""Moving pictures of what a network does: frames of one layout, and the file they make.

GIF and not WebP: slides, mail and READMEs play it everywhere, and it is no larger. Four digits that turn, 60 frames of
664×516, are 1.5 MB with 64 colours, which are enough for grey images and coloured lines. As WebP they are 1.6 MB in
quality 80, and 3.6 MB without loss.
"""

from collections.abc import Sequence
from io import BytesIO
from itertools import zip_longest
from typing import NamedTuple

from jaxtyping import Float
from PIL import Image, ImageDraw
from torch import Tensor

from stn_cli.drawing.panels import margin_of, warp_tiles
from stn_cli.drawing.pixels import to_picture
from stn_cli.drawing.sheet import BETWEEN, EDGE, GAP, INK, PAGE, lay_out, stacked
from stn_cli.drawing.text import LINE_HEIGHT, draw_line
from stn_cli.training.look import Look, PlaceLook

WIDTH = 640  # pixels of a frame
LARGEST, ALONE = 100, 224  # pixels; the most that a picture is enlarged to; at 112, four digits that turn are 1.1 MB
COLOURS = (64, 32)  # how many: the second where a file would be too large
SAMPLED = 16  # frames that the colours of all are chosen from
MOST_BYTES, FEWEST = 1_000_000, 12  # of a file, and frames that it is left with to be as small


class Frame(NamedTuple):
    """A picture and for how long it is shown. GIF counts in hundredths of a second."""

    picture: Image.Image
    milliseconds: int


def draw_frame(
    images: Float[Tensor, "n channels height width"],
    look: Look,
    captions: Sequence[str],
    wrong: Sequence[bool],
    title: str,
) -> Image.Image:
    """Return a picture of all images with what the network's transformers do to each, below a title."""
    largest = LARGEST if len(images) > 1 else ALONE
    columns = min(2, len(images))
    if any(_scale(place, _room(look, columns), largest) < 2 for place in look.places):
        columns = 1
    tiles: list[tuple[Image.Image, ...]] = [() for _ in images]
    headings: list[str] = []
    for place in look.places:
        scale = _scale(place, _room(look, columns), largest)
        own = warp_tiles(place.maps, place.grids, place.outputs, scale, place.points)
        tiles = [(*before, *parts) for before, parts in zip(tiles, own, strict=True)]
        headings += ["input" if place.place == "input" else f"before {place.place}"]
        headings += place.names if len(place.names) > 1 else ["output"]
    if not look.places:
        scale = largest / max(images.shape[-2:])
        tiles = [(to_picture(image, int(scale) or scale),) for image in images]
        headings, columns = ["input"], len(images)
    sheet = lay_out(tiles, headings, captions, wrong, columns)
    head = Image.new("RGB", (sheet.width, EDGE + LINE_HEIGHT), PAGE)
    draw_line(ImageDraw.Draw(head), title.split(), head.width // 2, EDGE, INK)
    return stacked([head, sheet])


def as_gif(frames: Sequence[Frame]) -> bytes:
    """Return frames as a GIF that is played again and again.

    All have the same colours, without dithering, so that what does not move does not flicker either, and costs nothing.
    Where the file would be too large it has fewer, and then, as with photographs, every second frame is left out and
    the others stay longer.
    """
    content = _encoded(frames, COLOURS[0])
    if len(content) > MOST_BYTES:
        content = _encoded(frames, COLOURS[1])
    while len(content) > MOST_BYTES and len(frames) >= 2 * FEWEST:
        pairs = zip_longest(frames[::2], frames[1::2])
        frames = [Frame(kept.picture, kept.milliseconds + (left.milliseconds if left else 0)) for kept, left in pairs]
        content = _encoded(frames, COLOURS[1])
    return content


def _encoded(frames: Sequence[Frame], count: int) -> bytes:
    size = (max(frame.picture.width for frame in frames), max(frame.picture.height for frame in frames))
    pictures = [_centred(frame.picture, size) for frame in frames]
    sampled = pictures[:: max(1, len(pictures) // SAMPLED)]
    colours = stacked(sampled).quantize(count // 2, Image.Quantize.FASTOCTREE)
    # Half of them are greys: means of colours would make dark ones brown. And a page is white, not nearly so.
    means = [255 if level > 250 else level for level in (colours.getpalette() or [])[: 3 * (count // 2)]]
    greys = [round(255 * k / (count // 2 - 1)) for k in range(count // 2) for _ in range(3)]
    colours.putpalette([*means, *greys])
    first, *others = [picture.quantize(palette=colours, dither=Image.Dither.NONE) for picture in pictures]
    content = BytesIO()
    times = [frame.milliseconds for frame in frames]
    first.save(content, "GIF", save_all=True, append_images=others, duration=times, loop=0, optimize=True)
    return content.getvalue()


def _room(look: Look, columns: int) -> float:
    """Return how wide the pictures of one place may be together, in pixels."""
    return ((WIDTH - 2 * EDGE - (columns - 1) * BETWEEN) / columns) / len(look.places)


def _scale(place: PlaceLook, room: float, most: int) -> float:
    """Return the pixel scale of a place's pictures; whole where they are enlarged."""
    maps = (place.maps, *place.outputs)
    width = 2 * margin_of(place.maps) + sum(one.shape[-1] for one in maps)
    longest = max(max(one.shape[-2:]) for one in maps)
    scale = min((room - GAP * (len(maps) - 1)) / width, most / longest)
    return scale if scale < 1 else int(scale)


def _centred(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Return a picture in the upper middle of a page; another frame's captions may need more room."""
    if picture.size == size:
        return picture
    page = Image.new("RGB", size, PAGE)
    page.paste(picture, ((size[0] - picture.width) // 2, 0))
    return page
