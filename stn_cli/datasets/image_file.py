"""One PNG or JPEG file: what its header says, and its pixels as bytes, grey or in colour."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from stn_cli.errors import DataError

_FORMATS = ("PNG", "JPEG")  # what the content must be: Pillow has a decoder for some fifty others
_GREY_MODES = ("1", "L", "LA", "I", "I;16", "I;16B", "I;16L")
_MOST_PIXELS = 1 << 26  # 8192×8192, below the 89 million from where Pillow warns
_FIX = "Remove it or replace it by a sound PNG or JPEG"
_SMALLER = "Make it smaller"


def inspect_image(path: Path) -> tuple[tuple[int, int], bool]:
    """Return an image's size, (height, width), and whether it is grey, from its header; nothing is decoded.

    The checksums of a PNG are verified; JPEG has none.

    Raises:
        DataError: the file is missing, damaged, no PNG or JPEG, or has more than 67 million pixels.
    """
    with _opened(path) as image:
        width, height = image.size
        if width * height > _MOST_PIXELS:
            raise DataError(f"{path}: expected at most {_MOST_PIXELS} pixels, found {height}×{width}", _SMALLER)
        colours = bytes(image.palette.palette) if image.palette else b""  # RGBRGB…; getpalette() would decode
        grey = image.mode in _GREY_MODES or (image.mode == "P" and colours[::3] == colours[1::3] == colours[2::3])
        image.verify()
    return (height, width), grey


def read_image(path: Path, size: tuple[int, int], grey: bool) -> UInt8[Tensor, "channels height width"]:
    """Return an image's pixels with one channel (`grey`) or three, brought to `size`, (height, width).

    An image of another size is scaled to fit, bilinear with antialiasing, the proportions kept, and centred on black.
    16 bits become 8; what is transparent becomes black. EXIF orientation is not applied.

    Raises:
        DataError: the file is missing, damaged or no PNG or JPEG.
    """
    with _opened(path) as opened:
        image = _to_8_bits(opened) if opened.mode.startswith("I") else opened
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image)
        image = _fitted(image.convert("L" if grey else "RGB"), size[1], size[0])
        return torch.from_numpy(np.array(image)).view(*size, -1).permute(2, 0, 1)


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Scale 16 bits of grey to 8, rounded; Pillow's own conversion would cut everything above 255."""
    values = np.asarray(image).astype(np.int64)
    values[values == image.info.get("transparency", -1)] = 0
    return Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))


def _fitted(image: Image.Image, width: int, height: int) -> Image.Image:
    """Scale an image to fit into a frame and centre it on black."""
    if image.size == (width, height):
        return image
    factor = min(width / image.width, height / image.height)
    inner = max(1, round(image.width * factor)), max(1, round(image.height * factor))
    frame = Image.new(image.mode, (width, height))
    frame.paste(image.resize(inner, Image.Resampling.BILINEAR), ((width - inner[0]) // 2, (height - inner[1]) // 2))
    return frame


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Open an image, and name it in whatever goes wrong with it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about damaged EXIF, which is not used
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=_FORMATS) as image:
                yield image
    except DataError:
        raise
    except UnidentifiedImageError as error:
        raise DataError(f"{path}: expected a PNG or JPEG, found neither", _FIX) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"{path}: expected at most {_MOST_PIXELS} pixels, found more: {error}", _SMALLER) from error
    except Exception as error:  # broken bytes lead Pillow to OSError, SyntaxError, ValueError, struct.error and more
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise DataError(f"cannot read {path}: {reason}", _FIX) from error
