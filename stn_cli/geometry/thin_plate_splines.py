"""Thin plate splines with a fixed regular side: solved once, then one matrix product per batch.

Source: section 3.2 of the paper; Bookstein, Principal Warps (1989).
"""

from collections.abc import Iterator
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor

from stn_cli.geometry.grids import HORIZON, regular_grid
from stn_cli.geometry.matrices import sum_of_products
from stn_cli.geometry.reproducible import logarithm, snapped

WORST_CONDITION = 1e12  # of the spline's system, beyond which float64 leaves no digits to trust
# In float64 the basis is rounded to multiples of 2^−24. The absolute values of a row of the regular 4×4 points sum to
# 1.7, so with source points of 27 bits, sums of products fit 53: a matrix product is exact, whatever its order. It
# costs 1e-6 of a pixel at 28×28.
BASIS_BITS, SOURCE_BITS = 24, 27
_SURE = 1e-9  # an error that the next step of Newton's method squares
_SMALLEST = 1e-30  # of a squared distance, so that its logarithm is finite; times the distance it is 0


def control_points(rows: int = 4, columns: int = 4) -> Float[Tensor, "{rows}*{columns} 2"]:
    """Return control points (x, y) on a regular grid over −1..1, edges included, row by row from the top left."""
    y = torch.linspace(-1, 1, rows, dtype=torch.float64)
    x = torch.linspace(-1, 1, columns, dtype=torch.float64)
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).reshape(-1, 2).float()


def spline_solution(target_points: Float[Tensor, "controls 2"]) -> Float[Tensor, "{len(target_points)}+3 controls"]:
    """Return the matrix that takes values at the control points to the coefficients of the spline, in float64.

    The spline interpolates f(target_points[j]) = value[j] with least bending energy. Its coefficients are one per
    control point, then those of 1, x and y. Distinct points that do not all lie on a line are required.

    Raises:
        ValueError: control points coincide or lie on one line.
    """
    target = target_points.double()
    k = len(target)
    affine = torch.cat([target.new_ones(k, 1), target], dim=1)
    system = torch.zeros(k + 3, k + 3, dtype=torch.float64)
    system[:k, :k] = _kernel(_squared_distances(target, target))
    system[:k, k:], system[k:, :k] = affine, affine.T
    # Rounding hides exact singularity: 4×4 regular points have 231, points on a line 2e15 (benchmarks/readings.py).
    if torch.linalg.cond(system) > WORST_CONDITION:  # pyright: ignore[reportUnknownMemberType] - untyped in torch
        raise ValueError("control points coincide or lie on one line")
    return _inverted(system)[:, :k]


def spline_basis(
    target_points: Float[Tensor, "controls 2"], points: Float[Tensor, "points 2"]
) -> Float[Tensor, "points controls"]:
    """Return the matrix that takes values at the control points to spline values at `points`.

    The spline is linear in its values: f(points) = basis @ values. In the precision of `points`.

    Raises:
        ValueError: as `spline_solution`.
    """
    wanted, solution = points.double(), spline_solution(target_points)
    kernel = _kernel(_squared_distances(wanted, target_points.double()))
    terms = [*kernel.unbind(dim=1), torch.ones_like(wanted[:, 0]), *wanted.unbind(dim=1)]
    basis = sum_of_products(*[(term[:, None], row) for term, row in zip(terms, solution, strict=True)])
    return snapped(basis.to(points.dtype), BASIS_BITS)


def grid_basis(
    target_points: Float[Tensor, "controls 2"], size: tuple[int, int], dtype: torch.dtype = torch.float32
) -> Float[Tensor, "pixels controls"]:
    """Return the spline basis at every pixel centre of an output of `size`, row by row."""
    return spline_basis(target_points, regular_grid(size, dtype=dtype).reshape(-1, 2))


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
    return flat.reshape(n, 2, *size).permute(0, 2, 3, 1)


def thin_plate_points(
    target_points: Float[Tensor, "controls 2"],
    coefficients: Float[Tensor, "n controls_and_3 2"],
    points: Float[Tensor, "n k 2"],
) -> Float[Tensor, "n k 2"]:
    """Return the values of splines at points of their own; `thin_plate_grid` is this at every pixel centre.

    `coefficients`: as `spline_solution` gives them.
    """
    constant, along_x, along_y = (coefficients[:, None, k] for k in (-3, -2, -1))
    value = constant + along_x * points[..., :1] + along_y * points[..., 1:]
    for j, dx, dy in _offsets(target_points, points):
        value = value + coefficients[:, None, j] * _kernel(dx * dx + dy * dy)
    return value


def thin_plate_inverse(
    target_points: Float[Tensor, "controls 2"],
    coefficients: Float[Tensor, "n controls_and_3 2"],
    values: Float[Tensor, "n k 2"],
    iterations: int = 12,
) -> Float[Tensor, "n k 2"]:
    """Return the points at which splines take the given values, by Newton's method from the nearest of 8×8 points.

    Where a spline folds there are several, and one is found; a value that is not found is sent far outside.
    """
    wanted, known = values.double(), coefficients.double()
    starts = regular_grid((8, 8), dtype=torch.float64, device=values.device).reshape(1, -1, 2)
    reached = thin_plate_points(target_points, known, starts.expand(len(known), -1, -1))
    # Not by a matrix product, which would cancel digits.
    nearest = torch.cdist(wanted, reached, compute_mode="donot_use_mm_for_euclid_dist").argmin(dim=-1)
    points = starts[0, nearest]
    left = torch.arange(len(known), device=known.device)  # splines that are not inverted yet: few after six steps
    for _ in range(iterations):
        value, along_x, along_y = _values_and_slopes(target_points, known[left], points[left])
        error = wanted[left] - value
        # Half a side at most: where a spline is nearly flat, a full step would leave the image.
        points[left] += _solved(along_x, along_y, error).clamp(-1, 1)
        left = left[error.abs().amax(dim=(1, 2)) > _SURE]
    missed = (wanted - thin_plate_points(target_points, known, points)).abs().amax(dim=-1, keepdim=True)
    return torch.where(missed < 1e-6, points, 1 / HORIZON).to(values.dtype)


def _values_and_slopes(
    target_points: Float[Tensor, "controls 2"],
    coefficients: Float[Tensor, "n controls_and_3 2"],
    points: Float[Tensor, "n k 2"],
) -> tuple[Float[Tensor, "n k 2"], Float[Tensor, "n k 2"], Float[Tensor, "n k 2"]]:
    """Return the splines' values and their derivatives by x and by y, at the price of one logarithm."""
    constant, along_x, along_y = (coefficients[:, None, k] for k in (-3, -2, -1))
    value = constant + along_x * points[..., :1] + along_y * points[..., 1:]
    for j, dx, dy in _offsets(target_points, points):
        squared = dx * dx + dy * dy
        log = logarithm(squared.clamp(min=_SMALLEST))
        value = value + coefficients[:, None, j] * (squared * log)
        slope = coefficients[:, None, j] * (2 * (log + 1))
        along_x, along_y = along_x + slope * dx, along_y + slope * dy
    return value, along_x, along_y


def _offsets(
    target_points: Float[Tensor, "controls 2"], points: Float[Tensor, "n k 2"]
) -> Iterator[tuple[int, Float[Tensor, "n k 1"], Float[Tensor, "n k 1"]]]:
    """Yield how far points lie from each control point in x and y: one after another, which keeps memory small."""
    x, y = points[..., :1], points[..., 1:]
    controls = cast("list[list[float]]", target_points.tolist())  # pyright: ignore[reportUnknownMemberType] - of torch
    for j, (point_x, point_y) in enumerate(controls):
        yield j, x - point_x, y - point_y


def _solved(
    along_x: Float[Tensor, "n *k 2"], along_y: Float[Tensor, "n *k 2"], wanted: Float[Tensor, "n k 2"]
) -> Float[Tensor, "n k 2"]:
    """Return the (x, y) with along_x·x + along_y·y = wanted, by Cramer's rule."""
    determinant = along_x[..., 0] * along_y[..., 1] - along_x[..., 1] * along_y[..., 0]
    x = wanted[..., 0] * along_y[..., 1] - wanted[..., 1] * along_y[..., 0]
    y = along_x[..., 0] * wanted[..., 1] - along_x[..., 1] * wanted[..., 0]
    return torch.stack([x, y], dim=-1) / torch.where(determinant.abs() < 1e-12, 1e-12, determinant)[..., None]


def _inverted(matrix: Float[Tensor, "n n"]) -> Float[Tensor, "n n"]:
    """Return the inverse by Gauss-Jordan elimination, the largest entry of each column as its pivot.

    Of elementwise operations alone, whose bits IEEE 754 defines; those of LAPACK depend on the processor.
    """
    n = len(matrix)
    rows = torch.cat([matrix, torch.eye(n, dtype=matrix.dtype)], dim=1)
    for k in range(n):
        pivot = k + int(rows[k:, k].abs().argmax())
        rows[[k, pivot]] = rows[[pivot, k]]
        rows[k] = rows[k] / rows[k, k]
        factor = rows[:, k : k + 1].clone()
        factor[k] = 0
        rows = rows - factor * rows[k]
    return rows[:, n:]


def _squared_distances(a: Float[Tensor, "a 2"], b: Float[Tensor, "b 2"]) -> Float[Tensor, "a b"]:
    dx, dy = a[:, None, 0] - b[:, 0], a[:, None, 1] - b[:, 1]
    return dx * dx + dy * dy


def _kernel(squared: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """U(r) = r² log r² (equation 5 of Bookstein) of r², 0 at r = 0."""
    return squared * logarithm(squared.clamp(min=_SMALLEST))
