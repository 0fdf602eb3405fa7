import io
import random
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor

from stn_cli.datasets.image_file import inspect_image, read_image
from stn_cli.errors import DataError

GREY = np.arange(6 * 4, dtype=np.uint8).reshape(6, 4) * 10
COLOUR = np.stack([GREY, GREY[::-1], 255 - GREY], axis=2)


def save(path: Path, image: np.ndarray | Image.Image, **options) -> Path:
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path, **options)
    return path


def read(path: Path) -> torch.Tensor:
    return read_image(path, *inspect_image(path))


def as_tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image.astype(np.int16)).view(*image.shape[:2], -1).permute(2, 0, 1)


def colour_palette() -> Image.Image:
    return Image.fromarray(COLOUR).quantize(24)


def grey_palette() -> Image.Image:
    return Image.fromarray(GREY).convert("P", palette=Image.Palette.ADAPTIVE)


def fading(colour: np.ndarray) -> tuple[Image.Image, np.ndarray]:
    """An image that fades out to the right, and what is left of it on black."""
    alpha = np.broadcast_to(np.linspace(255, 0, 4).round().astype(np.uint8)[:, None], (6, 4, 1))
    seen = (colour * (alpha / 255)).round()
    return Image.fromarray(np.concatenate([colour, alpha], axis=2)), seen


# mode → (image, the pixels that must come of it, how far off they may be)
CASES = {
    "1": (Image.fromarray(GREY > 100), np.where(GREY > 100, 255, 0), 0),
    "L": (GREY, GREY, 0),
    "I;16": (GREY.astype(np.uint16) * 257, GREY, 0),
    "P, grey": (grey_palette(), np.asarray(grey_palette().convert("L")), 0),
    "LA": (*fading(GREY[..., None]), 1),
    "RGB": (COLOUR, COLOUR, 0),
    "P": (colour_palette(), np.asarray(colour_palette().convert("RGB")), 0),
    "RGBA": (*fading(COLOUR), 1),
}


@pytest.mark.parametrize("mode", CASES)
def test_every_mode_of_png_becomes_bytes(tmp_path, mode):
    image, expected, tolerance = CASES[mode]
    path = save(tmp_path / "x.png", image)
    assert inspect_image(path) == ((6, 4), expected.shape[2:] in ((), (1,)))
    found = read(path)
    assert found.dtype == torch.uint8
    assert found.shape == as_tensor(expected).shape
    assert (found - as_tensor(expected)).abs().max() <= tolerance


@pytest.mark.parametrize(("mode", "grey"), [("L", True), ("RGB", False), ("CMYK", False)])
def test_every_mode_of_jpeg_is_what_pillow_makes_of_it(tmp_path, mode, grey):
    path = save(tmp_path / "x.jpg", Image.fromarray(COLOUR).convert(mode))
    assert inspect_image(path) == ((6, 4), grey)
    assert torch.equal(read(path), pil_to_tensor(Image.open(path).convert("L" if grey else "RGB")))


def test_grey_may_be_read_as_colour(tmp_path):
    path = save(tmp_path / "x.png", GREY)
    assert torch.equal(read_image(path, (6, 4), grey=False), read(path).expand(3, 6, 4))


@pytest.mark.parametrize("value", [0, 1, 128, 129, 255, 256, 32767, 32768, 65278, 65534, 65535])
def test_sixteen_bits_are_rounded_to_eight(tmp_path, value):
    path = save(tmp_path / "x.png", np.full((6, 4), value, dtype=np.uint16))
    assert read(path).unique().tolist() == [round(value * 255 / 65535)]


TRANSPARENT = {
    "grey": (GREY, 50),
    "16 bits": (GREY.astype(np.uint16) * 257, 50 * 257),
    "colour": (COLOUR, tuple(int(c) for c in COLOUR[1, 1])),
    "palette": (colour_palette(), colour_palette().getpixel((1, 1))),
}


@pytest.mark.parametrize("kind", TRANSPARENT)
def test_transparent_colour_becomes_black(tmp_path, kind):
    image, key = TRANSPARENT[kind]
    opaque, found = read(save(tmp_path / "x.png", image)), read(save(tmp_path / "y.png", image, transparency=key))
    there = (opaque == opaque[:, 1:2, 1:2]).all(0)  # wherever the image has that colour
    assert torch.equal(found, opaque * ~there)


def test_other_sizes_are_fitted_and_centred_on_black(tmp_path):
    path = save(tmp_path / "x.png", np.full((10, 20), 200, dtype=np.uint8))
    expected = torch.zeros(1, 6, 4, dtype=torch.uint8)
    expected[:, 2:4] = 200
    assert torch.equal(read_image(path, (6, 4), grey=True), expected)
    assert torch.equal(read_image(path, (4, 8), grey=True), torch.full((1, 4, 8), 200, dtype=torch.uint8))


def test_shrinking_is_antialiased(tmp_path):
    """A checkerboard of single pixels shrinks to grey, not to some of its pixels."""
    path = save(tmp_path / "x.png", (np.indices((60, 40)).sum(0) % 2 * 255).astype(np.uint8))
    assert (read_image(path, (6, 4), grey=True).float() - 127.5).abs().max() < 8


@pytest.mark.parametrize("shape", [(1, 1000), (1000, 1), (1, 1), (7, 4), (6, 4)])
def test_any_size_can_be_fitted(tmp_path, shape):
    path = save(tmp_path / "x.png", np.full(shape, 255, dtype=np.uint8))
    found = read_image(path, (6, 4), grey=True)
    assert found.shape == (1, 6, 4)
    assert found.max() == 255


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds no pixels."""
    chunks = [(b"IHDR", struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0)), (b"IDAT", b""), (b"IEND", b"")]
    pieces = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(pieces)


def encoded(image: np.ndarray, kind: str) -> bytes:
    content = io.BytesIO()
    Image.fromarray(image).save(content, kind)
    return content.getvalue()


BAD_HEADERS = {
    "empty": (b"", "found neither"),
    "text": (b"<!DOCTYPE html>", "found neither"),
    "gif": (encoded(GREY, "GIF"), "found neither"),
    "tiff": (encoded(GREY, "TIFF"), "found neither"),
    "no pixels": (png_header(0, 0), "found neither"),
    "no width": (png_header(0, 5), "found neither"),
    "cut": (encoded(GREY, "PNG")[:-20], "cannot read"),
    "above our limit": (png_header(8193, 8192), "expected at most 67108864 pixels, found 8192×8193"),
    "above Pillow's warning": (png_header(10_000, 10_000), "expected at most 67108864 pixels, found more"),
    "60000×60000": (png_header(60_000, 60_000), "expected at most 67108864 pixels, found more"),
    "beyond counting": (png_header(2**31 - 1, 2**31 - 1), "expected at most 67108864 pixels, found more"),
}
BAD_PIXELS = {
    "header alone": png_header(4, 6),
    "cut jpeg": encoded(np.tile(COLOUR, (20, 20, 1)), "JPEG")[:-300],
}


@pytest.mark.parametrize("name", BAD_HEADERS)
@pytest.mark.parametrize("ending", ["png", "jpg"])
def test_bad_file_is_named_from_its_header(tmp_path, name, ending):
    content, reason = BAD_HEADERS[name]
    (tmp_path / f"x.{ending}").write_bytes(content)
    with pytest.raises(DataError, match=reason) as caught:
        inspect_image(tmp_path / f"x.{ending}")
    assert str(tmp_path / f"x.{ending}") in caught.value.what
    assert "\n" not in str(caught.value)
    assert caught.value.fix


@pytest.mark.parametrize("name", BAD_PIXELS)
def test_bad_pixels_are_named_when_they_are_decoded(tmp_path, name):
    (tmp_path / "x").write_bytes(BAD_PIXELS[name])
    size, grey = inspect_image(tmp_path / "x")
    with pytest.raises(DataError, match=f"cannot read {tmp_path}/x: "):
        read_image(tmp_path / "x", size, grey)


def test_missing_file_and_folder_are_named(tmp_path):
    for path in (tmp_path / "absent.png", tmp_path):
        with pytest.raises(DataError, match=f"cannot read {path}: "):
            inspect_image(path)


@pytest.mark.parametrize("mode", CASES)
def test_no_flipped_bit_in_a_png_changes_a_pixel(tmp_path, mode):
    path = save(tmp_path / "x.png", CASES[mode][0])
    whole, sound = path.read_bytes(), read(path)
    refused = 0
    for bit in range(0, 8 * len(whole), 3):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            assert torch.equal(read(path), sound)
        except DataError:
            refused += 1
    assert refused > 8 * (len(whole) - 12) / 3 - 5  # IEND, the last 12 bytes, is not needed


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_damaged_jpeg_is_read_or_named(tmp_path, mode):
    """JPEG has no checksums: damage may pass, but never as anything else than an image or an error."""
    path = save(tmp_path / "x.jpg", Image.fromarray(np.tile(COLOUR, (4, 4, 1))).convert(mode))
    whole, draw, outcomes = path.read_bytes(), random.Random(0), set()
    for _ in range(200):
        damaged = bytearray(whole[: draw.choice([len(whole), draw.randrange(1, len(whole))])])
        for _ in range(draw.randrange(4)):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        path.write_bytes(damaged)
        try:
            inspect_image(path)
            outcomes.add(tuple(read_image(path, (24, 16), grey=False).shape))
        except DataError as error:
            outcomes.add(str(path) in error.what)
    assert outcomes == {(3, 24, 16), True}


@pytest.mark.parametrize("exif", [b"Exif\0\0II*\0", b"Exif\0\0II*\0\x08\0\0\0\x01\0", b"Exif\0\0nonsense"])
def test_damaged_exif_does_not_matter(tmp_path, exif):
    path = save(tmp_path / "x.jpg", GREY, exif=exif)
    sound, content = read(path), path.read_bytes()
    path.write_bytes(content[:2] + content[content.index(b"\xff\xe1") :])  # without JFIF, Pillow looks into EXIF
    assert torch.equal(read(path), sound)
