"""The numbers that comments and docstrings cite for a choice: how P is read, bf16 grids, spline systems.

    STN_DATA=… python benchmarks/readings.py

Not a measurement of time; the same on every machine but for the last digits. Writes results/readings.json.
"""

import json
import os
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from stn_cli.datasets.mnist import load_mnist
from stn_cli.distortions.distortion import BLOCK, draw_frozen
from stn_cli.distortions.projective import Projective
from stn_cli.geometry.grids import affine_grid, projective_grid
from stn_cli.geometry.matrices import square_to_corners
from stn_cli.geometry.sampling import sample
from stn_cli.geometry.thin_plate_splines import control_points
from stn_cli.training.run_folder import describe_environment

RESULTS = Path(__file__).parent / "results" / "readings.json"
FAINT = 0.1  # share of its ink below which a distorted digit counts as lost


def lost_under_p() -> dict[str, float]:
    """Percent of the MNIST test digits that P leaves with under a tenth of their ink, by which side's corners move."""
    images = load_mnist(Path(os.environ["STN_DATA"]), offline=True).test.images.float() / 255
    distortion = Projective(in_size=(28, 28), canvas=(28, 28), scale=(0.75, 1.0), corner_sigma=5.0)
    parameters = draw_frozen(lambda _, generator: distortion.draw(BLOCK, generator), len(images), 0, "test")
    corners = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
    moved = parameters["scale"][:, None, None] * corners + parameters["corner_shift"] / 14
    digit_side = sample(images, projective_grid(_inverse(square_to_corners(moved.double())).float(), (28, 28)))
    return {
        "source side moves (ours)": _lost(images, distortion.apply(images, parameters)),
        "digit's own square moves": _lost(images, digit_side),
    }


def bf16_grid_error() -> dict[str, float]:
    """Largest error in pixels of a grid from PyTorch's affine_grid under bf16 autocast, by image side."""
    theta = torch.tensor([[[0.9, -0.4, 0.1], [0.4, 0.9, -0.1]]])
    errors: dict[str, float] = {}
    for side in (28, 60, 224, 448):
        with torch.autocast("cpu", torch.bfloat16):
            rounded = torch.nn.functional.affine_grid(theta, [1, 1, side, side], align_corners=False).float()
        errors[str(side)] = float((rounded - affine_grid(theta, (side, side))).abs().max()) * side / 2
    return errors


def spline_condition() -> dict[str, float]:
    """Condition number of the spline system for regular control points, and for ones on a line."""
    line = torch.stack([torch.linspace(-1, 1, 16), torch.linspace(-0.3, 0.7, 16)], dim=1)
    return {"4×4 regular": _condition(control_points()), "16 on a line": _condition(line)}


def _lost(images: Float[Tensor, "n 1 h w"], distorted: Float[Tensor, "n 1 h w"]) -> float:
    return 100 * float((distorted.sum((1, 2, 3)) < FAINT * images.sum((1, 2, 3))).float().mean())


def _inverse(homography: Float[Tensor, "n 3 3"]) -> Float[Tensor, "n 3 3"]:
    """Return inverses with the image of the square's centre in front of the horizon."""
    inverse = torch.linalg.inv(homography)
    centre = homography[:, :, 2]
    behind = (inverse[:, 2] * centre).sum(dim=1) * centre[:, 2] < 0
    inverse = torch.where(behind[:, None, None], -inverse, inverse)
    return inverse / inverse.abs().amax(dim=(1, 2), keepdim=True)


def _condition(points: Float[Tensor, "k 2"]) -> float:
    k, points = len(points), points.double()
    squared = torch.cdist(points, points).square()
    system = torch.zeros(k + 3, k + 3, dtype=torch.float64)
    system[:k, :k] = torch.xlogy(squared, squared)
    system[:k, k] = system[k, :k] = 1
    system[:k, k + 1 :], system[k + 1 :, :k] = points, points.T
    return float(torch.linalg.cond(system))


def main() -> None:
    """Compute, print and write."""
    found = {
        "digits lost under P, percent": lost_under_p(),
        "affine_grid under bf16 autocast, error in pixels": bf16_grid_error(),
        "condition of the spline system": spline_condition(),
    }
    print(json.dumps(found, indent=2, ensure_ascii=False))
    record = {"environment": describe_environment(), **found}
    RESULTS.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
