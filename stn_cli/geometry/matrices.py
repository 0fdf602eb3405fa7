"""3×3 matrices of plane maps and of turns in space, in batches.

Nothing is solved: inverses and homographies have closed forms.
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from stn_cli.geometry.reproducible import sine_cosine


def compose(a: Float[Tensor, "n 3 3"], b: Float[Tensor, "n 3 3"]) -> Float[Tensor, "n 3 3"]:
    """Return the products a·b: first b, then a.

    Written out, because a library's matrix product may sum in any order, and TF32 would round it.
    """
    return sum_of_products(*[(a[:, :, k, None], b[:, None, k]) for k in range(3)])


def inverse(matrix: Float[Tensor, "n 3 3"]) -> Float[Tensor, "n 3 3"]:
    """Return the inverses, by cofactors. A singular matrix gives large numbers, never NaN."""
    a, b, c = matrix.unbind(dim=1)
    adjugate = torch.stack([_cross3(b, c), _cross3(c, a), _cross3(a, b)], dim=2)
    determinant = sum_of_products(*[(a[:, k], adjugate[:, k, 0]) for k in range(3)])[:, None, None]
    tiny = torch.finfo(matrix.dtype).tiny ** 0.5
    return adjugate / torch.where(determinant.abs() < tiny, tiny, determinant)


def sum_of_products(*pairs: tuple[Tensor, Tensor]) -> Tensor:
    """Return a·b + c·d + …, from left to right, each operation rounded on its own."""
    total = pairs[0][0] * pairs[0][1]
    for a, b in pairs[1:]:
        total = total + a * b
    return total


def rotation(degrees: Float[Tensor, "n"]) -> Float[Tensor, "n 3 3"]:
    """Return rotations about the origin.

    Convention: y points down, so a positive angle turns clockwise on the screen: (1, 0) goes to (cos, sin).
    """
    return rotation_about("z", degrees)


def rotation_about(axis: Literal["x", "y", "z"], degrees: Float[Tensor, "n"]) -> Float[Tensor, "n 3 3"]:
    """Return rotations of space about one axis.

    Convention: x points right, y down and z away from the viewer; a positive angle about z is `rotation`'s, and x, y, z
    follow one another in a circle.
    """
    sine, cosine = sine_cosine(degrees)
    zero, one = torch.zeros_like(cosine), torch.ones_like(cosine)
    if axis == "x":
        return _rows([one, zero, zero], [zero, cosine, -sine], [zero, sine, cosine])
    if axis == "y":
        return _rows([cosine, zero, sine], [zero, one, zero], [-sine, zero, cosine])
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
    x, y = from_unit_square[:, :, 0] / 2, from_unit_square[:, :, 1] / 2  # the unit square is half as wide as −1..1
    return torch.stack([x, y, x + y + from_unit_square[:, :, 2]], dim=-1)


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
    # By numbers and not by a tensor of them, whose copy from the host would break the capture of a training step.
    x, y, constant = pixel_matrix.unbind(dim=2)
    matrix = torch.stack([x * (out_size[1] / 2), y * (out_size[0] / 2), constant], dim=2)
    x, y, third = matrix.unbind(dim=1)
    return torch.stack([x / (in_size[1] / 2), y / (in_size[0] / 2), third], dim=1)


def _cross(a: Float[Tensor, "n 2"], b: Float[Tensor, "n 2"]) -> Float[Tensor, "n"]:
    return a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]


def _cross3(a: Float[Tensor, "n 3"], b: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
    (a0, a1, a2), (b0, b1, b2) = a.unbind(dim=1), b.unbind(dim=1)
    return torch.stack([a1 * b2 - a2 * b1, a2 * b0 - a0 * b2, a0 * b1 - a1 * b0], dim=1)


def _rows(*rows: list[Tensor]) -> Float[Tensor, "n 3 3"]:
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=1)
