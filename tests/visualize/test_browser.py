"""The report in a real browser: nothing is fetched, nothing complains, nothing leaves the screen."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stn_cli.training.run_folder import RunFolder
from stn_cli.visualize.report import look_at
from stn_cli.visualize.report_page import report_page

WIDTHS = (390, 1280)
SCHEMES = ("light", "dark")


@pytest.fixture(scope="module")
def address(small_run: Callable[[str], RunFolder], tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of a report on three runs."""
    file: Path = tmp_path_factory.mktemp("report") / "report.html"
    file.write_text(report_page([look_at(small_run(name), []) for name in ("st-cnn", "cnn", "deep")]))
    return file.as_uri()


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_a_report_is_whole_at_every_width_in_both_schemes(browser: Any, address: str, width: int, scheme: str):
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    browser.get_log("performance")
    browser.get(address)

    def ask(expression: str) -> Any:
        return browser.execute_script(f"return {expression}")

    assert ask("innerWidth") == width
    assert ask("document.documentElement.scrollWidth") == ask("document.documentElement.clientWidth")
    assert ask("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    assert ask("document.images.length") > 40
    # Drawings are scaled, and their text with them.
    sizes = ask(
        "[...document.querySelectorAll('svg text')].filter(text => text.checkVisibility()).map(text => "
        "12 * text.ownerSVGElement.getBoundingClientRect().width / text.ownerSVGElement.viewBox.baseVal.width)"
    )
    assert min(sizes) >= 9
    ground = ask("getComputedStyle(document.body).backgroundColor")
    assert ground == {"light": "rgb(255, 255, 255)", "dark": "rgb(15, 19, 24)"}[scheme]
    line = ask("getComputedStyle(document.querySelector('.series-0 .line')).stroke")
    assert line == {"light": "rgb(5, 80, 174)", "dark": "rgb(121, 192, 255)"}[scheme]
    assert browser.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert {url for url in asked if not url.startswith("data:")} == {address}


def test_the_keys_reach_links_folds_and_whatever_scrolls(browser: Any, address: str):
    browser.get(address)
    body = browser.switch_to.active_element
    reached = []
    for _ in range(60):
        body.send_keys("\ue004")  # tab
        body = browser.switch_to.active_element
        reached.append(body.tag_name)
    assert {"a", "summary", "div"} <= set(reached)
    outline = browser.execute_script("return getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
