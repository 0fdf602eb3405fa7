"""Grid generators: θ → sampling grid, one class per transform (section 3.2)."""

from abc import ABC, abstractmethod
from typing import cast, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from stn_cli.geometry.grids import affine_grid, affine_points, projective_grid, projective_points
from stn_cli.geometry.thin_plate_splines import (
    control_points,
    grid_basis,
    spline_solution,
    thin_plate_grid,
    thin_plate_points,
)


class GridGenerator(nn.Module, ABC):
    """Turns the parameters θ of a transform into a sampling grid of `out_size`.

    Convention: the grid maps the regular output grid to the input, both normalised to −1..1.
    """

    def __init__(self, out_size: tuple[int, int]) -> None:
        super().__init__()
        self.out_size = out_size

    @property
    @abstractmethod
    def identity(self) -> Float[Tensor, "parameters"]:
        """The θ that leaves an image as it is; every localisation network starts there."""

    @abstractmethod
    def forward(self, theta: Float[Tensor, "n parameters"]) -> Float[Tensor, "n height width 2"]:
        """Return the sampling grid of each θ, float32."""

    @abstractmethod
    def points(self, theta: Float[Tensor, "n parameters"], points: Float[Tensor, "n k 2"]) -> Float[Tensor, "n k 2"]:
        """Return where each θ takes points of the output; `forward` is this at every pixel centre."""

    def __call__(self, theta: Tensor) -> Tensor:
        """Apply `forward`; stated here for its type."""
        return cast("Tensor", super().__call__(theta))


class MatrixGrid(GridGenerator, ABC):
    """A transform whose θ stands for a 2×3 matrix."""

    @abstractmethod
    def matrix(self, theta: Float[Tensor, "n parameters"]) -> Float[Tensor, "n 2 3"]:
        """Return the matrix that takes output points to input points."""

    def forward(self, theta: Float[Tensor, "n parameters"]) -> Float[Tensor, "n height width 2"]:
        return affine_grid(self.matrix(theta), self.out_size)

    def points(self, theta: Float[Tensor, "n parameters"], points: Float[Tensor, "n k 2"]) -> Float[Tensor, "n k 2"]:
        return affine_points(self.matrix(theta), points)


@final
class AttentionGrid(MatrixGrid):
    """Isotropic scale and translation, θ = (s, t_x, t_y) (equation 2)."""

    @property
    def identity(self) -> Float[Tensor, "3"]:
        return torch.tensor([1.0, 0.0, 0.0])

    def matrix(self, theta: Float[Tensor, "n 3"]) -> Float[Tensor, "n 2 3"]:
        scale, x, y = theta.unbind(dim=1)
        zero = torch.zeros_like(scale)
        return torch.stack([scale, zero, x, zero, scale, y], dim=1).view(-1, 2, 3)


@final
class SimilarityGrid(MatrixGrid):
    """Rotation, isotropic scale and translation, θ = (s·cos α, s·sin α, t_x, t_y): linear in θ, no angle to wrap."""

    @property
    def identity(self) -> Float[Tensor, "4"]:
        return torch.tensor([1.0, 0.0, 0.0, 0.0])

    def matrix(self, theta: Float[Tensor, "n 4"]) -> Float[Tensor, "n 2 3"]:
        cosine, sine, x, y = theta.unbind(dim=1)
        return torch.stack([cosine, -sine, x, sine, cosine, y], dim=1).view(-1, 2, 3)


@final
class AffineGrid(MatrixGrid):
    """Any affine map, θ = the 2×3 matrix row by row (equation 1)."""

    @property
    def identity(self) -> Float[Tensor, "6"]:
        return torch.tensor([1.0, 0.0, 0.0, 0.0, 1.0, 0.0])

    def matrix(self, theta: Float[Tensor, "n 6"]) -> Float[Tensor, "n 2 3"]:
        return theta.view(-1, 2, 3)


@final
class ProjectiveGrid(GridGenerator):
    """Any homography whose last entry is 1, θ = its other eight entries row by row."""

    @property
    def identity(self) -> Float[Tensor, "8"]:
        return torch.tensor([1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0])

    def forward(self, theta: Float[Tensor, "n 8"]) -> Float[Tensor, "n height width 2"]:
        return projective_grid(_homography(theta), self.out_size)

    def points(self, theta: Float[Tensor, "n 8"], points: Float[Tensor, "n k 2"]) -> Float[Tensor, "n k 2"]:
        return projective_points(_homography(theta), points)


@final
class ThinPlateSplineGrid(GridGenerator):
    """A thin plate spline with 4×4 control points, θ = the source point (x, y) of each, row by row.

    The regular side is fixed, so its system is inverted once, here; forward is one matrix product.
    """

    basis: Tensor

    def __init__(self, out_size: tuple[int, int]) -> None:
        super().__init__(out_size)
        self.register_buffer("basis", grid_basis(control_points(), out_size), persistent=False)

    @property
    def identity(self) -> Float[Tensor, "32"]:
        return control_points().flatten()

    def forward(self, theta: Float[Tensor, "n 32"]) -> Float[Tensor, "n height width 2"]:
        return thin_plate_grid(self.basis, theta.view(-1, 16, 2), self.out_size)

    def points(self, theta: Float[Tensor, "n 32"], points: Float[Tensor, "n k 2"]) -> Float[Tensor, "n k 2"]:
        solution = spline_solution(control_points()).to(theta)
        return thin_plate_points(control_points(), solution @ theta.view(-1, 16, 2), points)


def _homography(theta: Float[Tensor, "n 8"]) -> Float[Tensor, "n 3 3"]:
    return torch.cat([theta, torch.ones_like(theta[:, :1])], dim=1).view(-1, 3, 3)


TRANSFORMS: dict[str, type[GridGenerator]] = {
    "attention": AttentionGrid,
    "similarity": SimilarityGrid,
    "affine": AffineGrid,
    "projective": ProjectiveGrid,
    "tps": ThinPlateSplineGrid,
}
