"""From tensors to pictures."""

import numpy as np
from jaxtyping import Float
from PIL import Image
from torch import Tensor


def to_picture(image: Float[Tensor, "c h w"], scale: float = 1.0) -> Image.Image:
    """Turn one image into an RGB picture `scale` times its size.

    `image`: values in 0..1 on any device; what lies outside is clamped and NaN is black. One channel is grey, two are
    red and cyan (white where they meet), three red, green and blue. Any other number is shown as the maximum over the
    channels, which keeps the frame that a sampling grid is drawn in. Enlarging repeats pixels, so they stay visible;
    shrinking averages.
    """
    # NumPy, because torch would start threads for a thousand pixels, which wait for each other on busy cores.
    values = np.clip(np.nan_to_num(image.detach().float().cpu().numpy()), 0.0, 1.0)
    if len(values) == 2:
        values = values[[0, 1, 1]]
    if len(values) != 3:
        values = np.broadcast_to(values.max(0), (3, *values.shape[1:]))
    pixels = np.rint(255.0 * values).astype(np.uint8)
    picture = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.NEAREST if scale >= 1.0 else Image.Resampling.LANCZOS)
