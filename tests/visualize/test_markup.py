"""Markup: what is put in comes out as it was, and nothing of it is taken for markup."""

from xml.etree import ElementTree

import pytest

from stn_cli.visualize.markup import Markup, element, escaped, joined

TEXTS = ['<b>&"', "</p><script>alert(1)</script>", "it's", "&amp;", "2×ST-FCN ± 0.1 → θ", "\U0001f600", " a\nb\tc ", ""]


@pytest.mark.parametrize("text", TEXTS)
def test_text_and_attributes_come_back(text: str):
    found = ElementTree.fromstring(element("p", text, element("b", text), text, aria_label=text))
    assert (found.text or "", found[0].text or "", found[0].tail or "") == (text, text, text)
    attribute = found.attrib["aria-label"]  # XML makes spaces of line breaks there, HTML does not
    assert attribute == text.translate({ord("\n"): " ", ord("\t"): " "})


@pytest.mark.parametrize("letter", ["\x00", "\x1b", "\x85", "\udcff", "\uffff"])
def test_what_no_document_may_hold_is_shown_as_such(letter: str):
    assert escaped(f"a{letter}b") == "a�b"
    assert element("p", f"a{letter}b").encode() == "<p>a�b</p>".encode()


def test_markup_is_not_escaped_twice_and_text_made_of_it_is():
    inner = element("b", "<")
    assert element("p", inner) == "<p><b>&lt;</b></p>"
    assert joined([inner, "<"]) == "<b>&lt;</b>&lt;"
    assert isinstance(joined([]), Markup)
    assert element("p", inner + "") == "<p>&lt;b&gt;&amp;lt;&lt;/b&gt;</p>"  # the safe side


def test_attributes_are_named_as_html_names_them():
    made = element("td", class_="a", data_x=1.5, hidden=True, scope=None, title=False)
    assert made == '<td class="a" data-x="1.5" hidden></td>'
    assert element("img", alt="x") == '<img alt="x">'
