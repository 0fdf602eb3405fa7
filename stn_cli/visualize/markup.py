"""HTML and SVG as text. Whatever is put into an element is escaped, unless it is markup already."""

import html
import re
from collections.abc import Iterable

# What neither HTML nor XML may hold. Names of files can: control characters, and bytes that are no UTF-8.
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_WITHOUT_END = {"img", "link", "meta"}


class Markup(str):
    """Text that is HTML or SVG already."""

    __slots__ = ()


def element(name: str, /, *content: str, **attributes: str | float | bool | None) -> Markup:
    """Return an element.

    `attributes`: by their names, with "_" for "-" and after a name that Python keeps for itself, `class_`. True stands
    for an attribute without a value; one that is None or False is left out.
    """
    said = "".join(
        f" {_plain(key)}" if value is True else f' {_plain(key)}="{escaped(str(value))}"'
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    return Markup(f"<{name}{said}>" if name in _WITHOUT_END else f"<{name}{said}>{joined(content)}</{name}>")


def joined(parts: Iterable[str]) -> Markup:
    """Return texts and markup one after the other as markup."""
    return Markup("".join(part if isinstance(part, Markup) else escaped(part) for part in parts))


def escaped(text: str) -> Markup:
    """Return a text as markup that shows it; characters that a document may not hold are shown as �."""
    return Markup(html.escape(_FORBIDDEN.sub("\N{REPLACEMENT CHARACTER}", text)))


def _plain(key: str) -> str:
    return key.removesuffix("_").replace("_", "-")
