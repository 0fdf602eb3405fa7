"""The layout of a sheet: tiles of pictures in columns, each with its caption, under one row of headings."""

from collections.abc import Sequence

from PIL import Image, ImageDraw

from stn_cli.drawing.text import LINE_HEIGHT, draw_line, line_width, wrap

PAGE, INK, QUIET, WRONG = "white", "#24292f", "#6e7781", "#cf222e"
WIDTH = 1120  # pixels; pictures are drawn as large as this allows
LARGEST = 256  # pixels; the most that one picture is enlarged to
EDGE, GAP, BETWEEN, BELOW = 24, 10, 36, 6  # pixels: round the sheet, in a tile, between tiles, above a caption


def fitting_scale(widths: Sequence[int], longest: int, tiles: int, columns: int, most: int = LARGEST) -> float:
    """Return the pixel scale at which tiles of pictures that are `widths` wide fill a sheet, and none is too large.

    A whole number wherever pictures are enlarged, so that all their pixels are of one size. `longest`: the longest side
    of any. `most`: the pixels that it is enlarged to.
    """
    columns = max(1, min(columns, tiles))
    free = (WIDTH - 2 * EDGE - (columns - 1) * BETWEEN) / columns - (len(widths) - 1) * GAP
    scale = min(free / sum(widths), LARGEST / longest, max(1.0, most / longest))
    return scale if scale < 1 else float(int(scale))


def lay_out(
    tiles: Sequence[Sequence[Image.Image]],
    headings: Sequence[str],
    captions: Sequence[str] | None,
    wrong: Sequence[bool] | None,
    columns: int,
) -> Image.Image:
    """Place tiles of equally sized pictures row by row. Pictures are centred on the middle line of their tile.

    `headings`: one per picture of a tile, or none; each has room, however narrow its pictures are. Captions are wrapped
    to their tile, in red where `wrong`.
    """
    columns = max(1, min(columns, len(tiles)))
    captions = captions if captions is not None else [""] * len(tiles)
    wrong = wrong if wrong is not None else [False] * len(tiles)
    first = tiles[0] if tiles else ()
    titles = [heading.split() for heading in headings] or [[] for _ in first]
    widths = [max(picture.width, line_width(title)) for picture, title in zip(first, titles, strict=bool(first))]
    pictures_width = sum(widths) + GAP * max(0, len(first) - 1)
    texts = [wrap(caption, pictures_width) for caption in captions]
    width = max([pictures_width, *(line_width(line) for lines in texts for line in lines)])
    lines = max((len(text) for text in texts), default=0)
    picture_height = max((picture.height for picture in first), default=0)
    row_height = picture_height + (BELOW + lines * LINE_HEIGHT if lines else 0)
    head = LINE_HEIGHT + BELOW if headings else 0
    rows = -(-len(tiles) // columns)

    size = (
        2 * EDGE + columns * width + (columns - 1) * BETWEEN,
        2 * EDGE + head + rows * row_height + max(0, rows - 1) * BETWEEN // 2,
    )
    page = Image.new("RGB", size, PAGE)
    draw = ImageDraw.Draw(page)
    for i, (tile, text, is_wrong) in enumerate(zip(tiles, texts, wrong, strict=True)):
        row, column = divmod(i, columns)
        left, top = EDGE + column * (width + BETWEEN), EDGE + head + row * (row_height + BETWEEN // 2)
        x = left + (width - pictures_width) // 2
        for picture, title, room in zip(tile, titles, widths, strict=True):
            page.paste(picture, (x + (room - picture.width) // 2, top + (picture_height - picture.height) // 2))
            if row == 0:
                draw_line(draw, title, x + room // 2, EDGE, QUIET)
            x += room + GAP
        for k, line in enumerate(text):
            y = top + picture_height + BELOW + k * LINE_HEIGHT
            draw_line(draw, line, left + width // 2, y, WRONG if is_wrong else INK)
    return page


def stacked(sheets: Sequence[Image.Image]) -> Image.Image:
    """Place sheets below each other."""
    page = Image.new("RGB", (max(sheet.width for sheet in sheets), sum(sheet.height for sheet in sheets)), PAGE)
    top = 0
    for sheet in sheets:
        page.paste(sheet, (0, top))
        top += sheet.height
    return page
