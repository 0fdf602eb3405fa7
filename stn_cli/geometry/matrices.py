"""3×3 matrices of plane maps, in batches. Nothing is solved: inverses and homographies have closed forms."""

import torch
from jaxtyping import Float
from torch import Tensor


def rotation(degrees: Float[Tensor, "n"]) -> Float[Tensor, "n 3 3"]:
    """Return rotations about the origin.

    Convention: y points down, so a positive angle turns clockwise on the screen: (1, 0) goes to (cos, sin).
    """
    radians = torch.deg2rad(degrees)
    cosine, sine = radians.cos(), radians.sin()
    zero, one = torch.zeros_like(cosine), torch.ones_like(cosine)
    return _rows([cosine, -sine, zero], [sine, cosine, zero], [zero, zero, one])


def scaling(factors: Float[Tensor, "n 2"]) -> Float[Tensor, "n 3 3"]:
    """Return scalings about the origin by (x, y) factors."""
    zero, one = torch.zeros_like(factors[:, 0]), torch.ones_like(factors[:, 0])
    return _rows([factors[:, 0], zero, zero], [zero, factors[:, 1], zero], [zero, zero, one])


def translation(shift: Float[Tensor, "n 2"]) -> Float[Tensor, "n 3 3"]:
    """Return translations by (x, y)."""
    zero, one = torch.zeros_like(shift[:, 0]), torch.ones_like(shift[:, 0])
    return _rows([one, zero, shift[:, 0]], [zero, one, shift[:, 1]], [zero, zero, one])


def square_to_corners(corners: Float[Tensor, "n 4 2"]) -> Float[Tensor, "n 3 3"]:
    """Return the homographies that take the square −1..1 to the given corners, up to scale.

    `corners`: images of (−1, −1), (1, −1), (1, 1), (−1, 1), in this order. Division-free, so that degenerate
    corners give a singular matrix instead of NaN.
    Source: Heckbert, Fundamentals of Texture Mapping (1989), section 2.2.3, times its common denominator.
    """
    p0, p1, p2, p3 = corners.unbind(dim=1)
    first, second, closing = p1 - p2, p3 - p2, p0 - p1 + p2 - p3
    denominator = _cross(first, second)[:, None]
    g, h = _cross(closing, second)[:, None], _cross(first, closing)[:, None]
    top = torch.stack([denominator * (p1 - p0) + g * p1, denominator * (p3 - p0) + h * p3, denominator * p0], dim=-1)
    bottom = torch.cat([g, h, denominator], dim=-1)[:, None, :]
    from_unit_square = torch.cat([top, bottom], dim=1)
    to_unit_square = corners.new_tensor([[0.5, 0.0, 0.5], [0.0, 0.5, 0.5], [0.0, 0.0, 1.0]])
    return from_unit_square @ to_unit_square


def facing(homography: Float[Tensor, "n 3 3"]) -> Float[Tensor, "n 3 3"]:
    """Return homographies scaled so that the largest entry is 1 and the square's centre lies in front of the horizon.

    A homography has no scale of its own; with this one the third coordinate is positive in front of the horizon, and
    the threshold near zero means the same for every one.
    """
    largest = homography.abs().amax(dim=(1, 2), keepdim=True).clamp(min=torch.finfo(homography.dtype).tiny)
    return homography / torch.where(homography[:, 2:, 2:] < 0, -largest, largest)


def between_sizes(
    pixel_matrix: Float[Tensor, "n 3 3"], in_size: tuple[int, int], out_size: tuple[int, int]
) -> Float[Tensor, "n 3 3"]:
    """Return the normalised form of output → input maps given in pixels about the images' centres.

    Convention: `pixel_matrix` takes output pixels to input pixels, both (x, y) with their origin at the image centre.
    """
    to_pixels = pixel_matrix.new_tensor([out_size[1] / 2, out_size[0] / 2, 1.0])
    to_normalised = pixel_matrix.new_tensor([2 / in_size[1], 2 / in_size[0], 1.0])
    return to_normalised[:, None] * pixel_matrix * to_pixels


def _cross(a: Float[Tensor, "n 2"], b: Float[Tensor, "n 2"]) -> Float[Tensor, "n"]:
    return a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]


def _rows(*rows: list[Tensor]) -> Float[Tensor, "n 3 3"]:
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=1)
