"""A broken image is refused by its name; odd ones that are sound become the same pixels."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from stn_cli.config import DataConfig
from stn_cli.datasets.build import build_source
from tests.data_faults.conftest import Stn, refused


def picture(grey: bool) -> np.ndarray:
    """A picture that every mode can hold exactly: 6×4 pixels, in six levels or colours."""
    levels = np.arange(24, dtype=np.uint8).reshape(6, 4) % 6 * 51
    return levels if grey else np.stack([levels, 255 - levels, levels[::-1]], axis=2)


def png(image: Image.Image | np.ndarray, kind: str = "PNG") -> bytes:
    content = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(content, kind)
    return content.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds no pixels."""
    chunks = [(b"IHDR", struct.pack(">2I5B", width, height, 8, 0, 0, 0, 0)), (b"IDAT", b""), (b"IEND", b"")]
    pieces = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(pieces)


WHOLE = png(picture(grey=True))
BROKEN = {
    "empty": (b"", "expected a PNG or JPEG, found neither"),
    "text": (b"<!DOCTYPE html>", "expected a PNG or JPEG, found neither"),
    "gif": (png(picture(grey=True), "GIF"), "expected a PNG or JPEG, found neither"),
    "cut": (WHOLE[:-20], "cannot read"),
    "one bit": (WHOLE[:50] + bytes([WHOLE[50] ^ 1]) + WHOLE[51:], "cannot read"),
    "pixels missing": (png_header(4, 6), "cannot read"),
    "0×0": (png_header(0, 0), "expected a PNG or JPEG, found neither"),
    "60000×60000": (png_header(60_000, 60_000), "expected at most 67108864 pixels, found more"),
    "jpeg, cut": (png(np.tile(picture(grey=True), (40, 40)), "JPEG")[:-300], "cannot read"),
}


def fill(folder: Path, images: list[bytes]) -> Path:
    for number, content in enumerate(images):
        path = folder / ("one", "two")[number % 2] / f"{number:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_image_is_named(stn: Stn, broken: str):
    content, reason = BROKEN[broken]
    fill(Path("mine"), [WHOLE] * 24 + [content])
    line = refused(stn, "mine")
    assert "mine/one/024.png" in line
    assert reason in line


def test_a_link_to_an_image_that_is_gone_is_named(stn: Stn):
    (fill(Path("mine"), [WHOLE] * 24) / "two" / "gone.png").symlink_to("nowhere.png")
    assert "mine/two/gone.png: No such file" in refused(stn, "mine")


GREY, COLOUR = Image.fromarray(picture(grey=True)), Image.fromarray(picture(grey=False))
MODES = {
    "grey": [GREY, GREY.convert("LA"), GREY.convert("P"), picture(grey=True).astype(np.uint16) * 257],
    "colour": [COLOUR, COLOUR.convert("RGBA"), COLOUR.quantize(24)],
}


@pytest.mark.parametrize("kind", MODES)
def test_alpha_16_bits_and_palettes_become_the_same_pixels(stn: Stn, tiny: tuple[str, ...], kind: str):
    folder = fill(Path("mine"), [png(image) for image in MODES[kind] for _ in range(16)])
    source = build_source(DataConfig(dataset=str(folder)))  # pyright: ignore[reportCallIssue]
    for images in (source.train.images, source.test.images):
        pixels = torch.from_numpy(picture(grey=kind == "grey")).view(6, 4, -1).permute(2, 0, 1)
        assert torch.equal(images, pixels.repeat(len(images), 1, 1, 1))
    assert stn("train", "--dataset", folder, *tiny, "--model", "fcn").code == 0
