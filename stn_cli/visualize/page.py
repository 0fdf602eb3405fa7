"""Self-contained HTML pages: no network, no script. Read on phones, in the dark, on paper, by keyboard and by ear."""

from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from PIL import Image

from stn_cli import __version__
from stn_cli.visualize.markup import Markup, element

STYLE = Path(__file__).with_name("page.css")
# What a page may load: nothing but the pictures and the style inside it.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
MOST_BYTES = 150_000  # of a picture
QUALITIES = (90, 75, 60, 40)  # of WebP, where a lossless picture is too large
SHRINK = 0.7


@dataclass(frozen=True)
class Cell:
    """A cell of a table. `look`: a class of page.css."""

    content: str
    look: str | None = None


def page(title: str, *content: str) -> str:
    """Return an HTML document that begins with its title."""
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        element("link", rel="icon", href="data:,"),
        element("style", Markup(STYLE.read_text(encoding="utf-8"))),
    )
    body = element(
        "body",
        element("main", element("h1", title), *content),
        element("footer", f"Made by stn {__version__}."),
    )
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"


def table(caption: str, columns: Sequence[str | Cell], rows: Iterable[tuple[str, Sequence[str | Cell]]]) -> Markup:
    """Return a table, which scrolls where it is too wide.

    `columns`: their headings, that of the row headings first. `rows`: the heading of each, and its cells.
    """
    head = element("tr", *(_cell("th", heading, scope="col") for heading in columns))
    lines = [
        element("tr", element("th", heading, scope="row"), *(_cell("td", cell) for cell in cells))
        for heading, cells in rows
    ]
    body = (element("caption", caption), element("thead", head), element("tbody", *lines))
    return scrolling(element("table", *body), caption)


def facts(values: Mapping[str, str]) -> Markup:
    """Return names and values as a list."""
    pairs = (element("div", element("dt", name), element("dd", value)) for name, value in values.items())
    return element("dl", *pairs, class_="facts")


def figure(content: str, caption: str = "") -> Markup:
    """Return a drawing or picture with its caption, if it has one."""
    return element("figure", content, *([element("figcaption", caption)] if caption else []))


def figures(*content: str) -> Markup:
    """Return figures side by side, where there is room."""
    return element("div", *content, class_="figures")


def picture(image: Image.Image, said: str, most_bytes: int = MOST_BYTES) -> Markup:
    """Return a picture inside the page.

    `said`: what it shows, in words. `most_bytes`: of the file; a larger one is compressed with loss, then made smaller.
    """
    data = b64encode(_encoded(image, most_bytes)).decode()
    return element(
        "img",
        src=f"data:image/webp;base64,{data}",
        alt=said,
        width=image.width,
        height=image.height,
    )


def scrolling(content: Markup, label: str) -> Markup:
    """Return what scrolls by itself where it is too wide, with the keys too. `label`: what it is."""
    return element("div", content, class_="wide", role="group", aria_label=label, tabindex=0)


def folded(summary: str, *content: str) -> Markup:
    """Return content that is shown when its summary is clicked."""
    return element("details", element("summary", summary), *content)


def notice(*content: str) -> Markup:
    """Return a paragraph that nobody can miss."""
    return element("p", *content, class_="notice", role="note")


def duration(seconds: float) -> str:
    """Return a duration for people: 45 s, 3.1 min, 2.4 h."""
    if seconds < 100:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _cell(name: str, cell: str | Cell, **attributes: str) -> Markup:
    cell = cell if isinstance(cell, Cell) else Cell(cell)
    return element(name, cell.content, class_=cell.look, **attributes)


def _encoded(image: Image.Image, most_bytes: int) -> bytes:
    """Return a picture as WebP: without loss if it is small enough so, else as good as fits."""
    content = _webp(image, lossless=True)
    for quality in QUALITIES:
        if len(content) <= most_bytes:
            return content
        content = _webp(image, quality=quality)
    while len(content) > most_bytes and min(image.size) > 8:
        image = image.resize((round(image.width * SHRINK), round(image.height * SHRINK)), Image.Resampling.LANCZOS)
        content = _webp(image, quality=QUALITIES[-1])
    return content


def _webp(image: Image.Image, **options: int) -> bytes:
    content = BytesIO()
    image.save(content, "WEBP", **options)
    return content.getvalue()
