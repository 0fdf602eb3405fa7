"""The curves of a run as files for papers: SVG, and PDF with the same lines and letters.

PDF by fpdf2, which draws the very SVG and embeds the font of captions. It is all Python, 3 MB beside Pillow and
fontTools; Matplotlib would be a second description of every drawing, and CairoSVG needs a library of the system. It
comes with the extra `pdf`, since few need it.
"""

import math
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from stn_cli.drawing.text import FONT
from stn_cli.errors import ResourceError
from stn_cli.storage import write_bytes
from stn_cli.visualize.curves import Curve, draw_curves, learning_curves
from stn_cli.visualize.run_parts import in_words

OF_TRAINING = ("error_percent", "loss")
WARP = "warp "  # what the splits of transformers begin with in a metrics file
OF_WARPS = {
    "outside_percent": ("samples outside the image", " %"),
    "scale": ("scale of the warp", ""),
    "theta_sd": ("spread of θ between images", ""),
    "angle_degrees": ("angle of the warp", "°"),
    "shift": ("shift of the warp", " half sides"),
}
INK = "#24292f"


def run_curves(records: Iterable[Mapping[str, Any]]) -> dict[str, tuple[str, str, list[Curve]]]:
    """Return what there is to draw of a metrics file: by the name of a file its title, its unit and its curves.

    Error and loss, and each number that was measured of transformers at evaluations, with a curve for each of them.
    """
    records = list(records)
    found: dict[str, tuple[str, str, list[Curve]]] = {}
    for metric in OF_TRAINING:
        title, unit = in_words(metric)
        found[title] = (title, unit, learning_curves(records, metric))
    warps = [record for record in records if record["split"].startswith(WARP)]
    names = list(dict.fromkeys(record["split"] for record in warps))
    for metric in dict.fromkeys(key for record in warps for key in record if key not in ("step", "split")):
        curves = [
            Curve(name.removeprefix(WARP), [(record["step"], record[metric]) for record in own], series)
            for series, name in enumerate(names)
            if (own := [record for record in warps if record["split"] == name and record.get(metric) is not None])
        ]
        found[f"warp-{metric.split('_')[0]}"] = (*OF_WARPS.get(metric, in_words(metric)), curves)
    return {file: (title, unit, curves) for file, (title, unit, curves) in found.items() if _is_anything_in(curves)}


def write_curves(records: Iterable[Mapping[str, Any]], folder: Path, *, pdf: bool = False) -> list[Path]:
    """Write the curves of a metrics file into a folder as SVG, and as PDF if asked for; return the files.

    Raises:
        ResourceError: the folder cannot be written, or PDF is asked for and fpdf2 is not installed.
    """
    files: list[Path] = []
    for name, (title, unit, curves) in run_curves(records).items():
        drawing = draw_curves(curves, title, unit, is_file=True)
        contents = {"svg": drawing.encode()} | ({"pdf": as_pdf(drawing)} if pdf else {})
        for form, content in contents.items():
            files.append(folder / f"curves-{name}.{form}")
            write_bytes(files[-1], content)
    return files


def as_pdf(drawing: str) -> bytes:
    """Return a drawing in SVG as a PDF of its size, a unit being a point.

    Raises:
        ResourceError: fpdf2 is not installed.
    """
    try:
        from fpdf import FPDF
        from fpdf.svg import SVGObject
    except ModuleNotFoundError as error:
        raise ResourceError("PDF files need fpdf2", "Install it: pip install 'stn-cli[pdf]'.") from error
    # fpdf2 knows neither the colour of the text around a drawing nor the fonts of the system.
    shapes = SVGObject(drawing.replace("currentColor", INK).replace("system-ui, sans-serif", "caption"))
    width, height = (float(ElementTree.fromstring(drawing).attrib[side]) for side in ("width", "height"))
    page = FPDF(unit="pt", format=(width, height))
    page.set_creation_date(datetime(2000, 1, 1, tzinfo=UTC))  # the same bytes every time
    page.set_auto_page_break(False)
    page.set_margin(0)
    page.add_font("caption", fname=FONT)
    page.add_page()
    page.set_font("caption", size=12)
    shapes.draw_to_page(page)
    return bytes(page.output())


def _is_anything_in(curves: list[Curve]) -> bool:
    return any(math.isfinite(value) for curve in curves for _, value in curve.points)
