"""Pages: sound by themselves, readable in both schemes, and no larger than promised."""

import base64
import io
import re
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stn_cli.visualize.curves import COLOURS
from stn_cli.visualize.markup import element
from stn_cli.visualize.page import STYLE, Cell, duration, facts, figure, folded, notice, page, picture, table

Read = Callable[[str], Any]
CSS = STYLE.read_text(encoding="utf-8")
LIGHT, DARK = (
    dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", block))
    for block in re.findall(r":root \{(.*?)\n *\}", CSS, re.DOTALL)
)
SHADES = [f"shade-{i}" for i in range(1, 6)]
SERIES = [f"series-{i}" for i in range(len(COLOURS))]
# (what is read, on what): text, links, curves
PAIRS = [
    *product(["ink"], ["paper", "raised", "notice", "above", "right", *SHADES]),
    *product(["quiet"], ["paper", "raised"]),
    *product(["link"], ["paper", "raised", "above"]),
    *product(SERIES, ["paper"]),
]


def luminance(colour: str) -> float:
    """Relative luminance as WCAG 2 defines it."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", [LIGHT, DARK], ids=["light", "dark"])
def test_whatever_is_read_stands_out_from_its_ground(scheme: dict[str, str]):
    for front, ground in PAIRS:
        low, high = sorted(luminance(scheme[name]) for name in (front, ground))
        assert (high + 0.05) / (low + 0.05) >= 4.5, (front, ground)


def test_both_schemes_have_all_colours_and_no_rule_has_others():
    assert LIGHT.keys() == DARK.keys()
    assert [LIGHT[name] for name in SERIES] == list(COLOURS)
    rules = re.sub(r":root \{.*?\}", "", CSS, flags=re.DOTALL)
    assert not re.findall(r"#[0-9a-f]{3,8}\b", rules)
    assert set(re.findall(r"var\(--([\w-]+)", rules)) <= LIGHT.keys() | {"tile", "stroke"}


def test_a_page_is_sound_and_escapes_what_it_shows(read_page: Read):
    name = '<b>&"'
    made = page(
        f"Report on {name}",
        facts({name: name}),
        table(name, [name, Cell(name, "words")], [(name, [Cell(name, "words")]), ("b", ["1"])]),
        figure(picture(Image.new("RGB", (8, 8)), name), name),
        folded(name, notice(name, element("b", name))),
    )
    read = read_page(made)
    assert not read.all("b")[1:]
    for tag in ("dt", "dd", "caption", "summary", "figcaption"):
        assert read.all(tag)[0].text == name
    assert read.all("img")[0].attributes["alt"] == name
    assert [(th.attributes["scope"], th.text) for th in read.all("th")] == [
        ("col", name),
        ("col", name),
        ("row", name),
        ("row", "b"),
    ]
    assert page("a") == page("a")


def test_a_page_may_load_nothing(read_page: Read):
    (policy,) = read_page(page("a")).all("meta", **{"http-equiv": "Content-Security-Policy"})
    assert policy.attributes["content"].startswith("default-src 'none';")


def decoded(markup: str) -> tuple[bytes, Image.Image]:
    content = base64.b64decode(re.findall(r"base64,([^\"]+)", markup)[0])
    return content, Image.open(io.BytesIO(content))


def test_a_small_picture_keeps_every_pixel():
    drawn = Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8))
    _, shown = decoded(picture(drawn, "noise"))
    assert np.array_equal(np.asarray(shown), np.asarray(drawn))
    assert picture(drawn, "noise") == picture(drawn, "noise")


@pytest.mark.parametrize("most", [60_000, 20_000, 3_000])
def test_a_large_picture_fits_what_it_may_take(most: int):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (300, 400, 3), dtype=np.uint8))
    content, shown = decoded(picture(noise, "noise", most))
    assert len(content) <= most
    assert shown.width / shown.height == pytest.approx(4 / 3, rel=0.1)


def test_durations_are_for_people():
    assert [duration(s) for s in (0.04, 9.04, 57.4, 186, 5990, 8640)] == [
        *("0.0 s", "9.0 s", "57 s", "3.1 min", "99.8 min", "2.4 h")
    ]
