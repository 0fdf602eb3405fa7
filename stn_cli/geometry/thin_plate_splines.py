"""Thin plate splines with a fixed regular side: solved once, then one matrix product per batch.

Source: section 3.2 of the paper; Bookstein, Principal Warps (1989).
"""

import torch
from jaxtyping import Float
from torch import Tensor

from stn_cli.geometry.grids import regular_grid

WORST_CONDITION = 1e12  # of the spline's system, beyond which float64 leaves no digits to trust


def control_points(rows: int = 4, columns: int = 4) -> Float[Tensor, "{rows}*{columns} 2"]:
    """Return control points (x, y) on a regular grid over −1..1, edges included, row by row from the top left."""
    y = torch.linspace(-1, 1, rows, dtype=torch.float64)
    x = torch.linspace(-1, 1, columns, dtype=torch.float64)
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).reshape(-1, 2).float()


def spline_basis(
    target_points: Float[Tensor, "controls 2"], points: Float[Tensor, "points 2"]
) -> Float[Tensor, "points controls"]:
    """Return the matrix that takes values at the control points to spline values at `points`.

    The spline f interpolates f(target_points[j]) = value[j] with least bending energy; it is linear in the values:
    f(points) = basis @ values. The system is inverted here, once, in float64. Distinct points that do not all lie on a
    line are required.

    Raises:
        ValueError: control points coincide or lie on one line.
    """
    target, wanted = target_points.double(), points.double()
    k = target.shape[0]
    affine = torch.cat([target.new_ones(k, 1), target], dim=1)
    system = torch.zeros(k + 3, k + 3, dtype=torch.float64)
    system[:k, :k] = _kernel(torch.cdist(target, target))
    system[:k, k:], system[k:, :k] = affine, affine.T
    # Rounding hides exact singularity: 4×4 regular points have 231, points on a line 2e15 (benchmarks/readings.py).
    if torch.linalg.cond(system) > WORST_CONDITION:  # pyright: ignore[reportUnknownMemberType] - untyped in torch
        raise ValueError("control points coincide or lie on one line")
    evaluate = torch.cat([_kernel(torch.cdist(wanted, target)), wanted.new_ones(len(wanted), 1), wanted], dim=1)
    return (evaluate @ torch.inverse(system)[:, :k]).to(points.dtype)


def grid_basis(target_points: Float[Tensor, "controls 2"], size: tuple[int, int]) -> Float[Tensor, "pixels controls"]:
    """Return the spline basis at every pixel centre of an output of `size`, row by row."""
    return spline_basis(target_points, regular_grid(size).reshape(-1, 2))


def thin_plate_grid(
    basis: Float[Tensor, "{size[0]}*{size[1]} controls"],
    source_points: Float[Tensor, "n controls 2"],
    size: tuple[int, int],
) -> Float[Tensor, "n {size[0]} {size[1]} 2"]:
    """Return the sampling grid of thin plate splines: one matrix product.

    Convention: output → input. The regular control points of the output are read at `source_points` of the input.
    """
    # One product over all images and both coordinates: [2n, controls] × [controls, pixels].
    n = source_points.shape[0]
    flat = source_points.transpose(1, 2).reshape(2 * n, -1) @ basis.T
    return flat.reshape(n, 2, *size).permute(0, 2, 3, 1).contiguous()


def _kernel(distance: Float[Tensor, "a b"]) -> Float[Tensor, "a b"]:
    """U(r) = r² log r² (equation 5 of Bookstein), 0 at r = 0."""
    squared = distance.square()
    return torch.xlogy(squared, squared)
