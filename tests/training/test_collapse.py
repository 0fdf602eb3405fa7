"""The watch over transformers that run away."""

import math

import pytest
import torch
from torch import nn

from stn_cli.geometry.grids import affine_grid
from stn_cli.models.grid_generators import AffineGrid
from stn_cli.models.network import Network, Normalise
from stn_cli.models.place import Member, NamedWarp, Place
from stn_cli.models.spatial_transformer import SpatialTransformer
from stn_cli.training.collapse import WarpStatistics, WarpSums, faults
from stn_cli.training.distributed import ALONE

SIZE = (12, 9)


def network(count: int = 1) -> Network:
    members = [Member(SpatialTransformer(nn.Identity(), AffineGrid(SIZE))) for _ in range(count)]
    normalise = Normalise(torch.zeros(1), torch.ones(1))
    return Network(
        normalise=normalise, classifier=nn.Sequential(nn.Identity()), places={"input": Place("input", [members])}
    )


def warp(theta: torch.Tensor, name: str = "input") -> NamedWarp:
    return NamedWarp(name, theta, affine_grid(theta.view(-1, 2, 3), SIZE), torch.zeros(len(theta), 1, *SIZE))


def affine(scale: float, x: float = 0.0, degrees: float = 0.0) -> torch.Tensor:
    cosine, sine = scale * math.cos(math.radians(degrees)), scale * math.sin(math.radians(degrees))
    return torch.tensor([[cosine, -sine, x, sine, cosine, 0.0]])


def statistics(*thetas: torch.Tensor, batches: int = 1) -> WarpStatistics:
    sums = WarpSums(network(), torch.device("cpu"))
    for part in torch.cat(thetas).chunk(batches):
        sums.add([warp(part)])
    return sums.statistics(len(thetas))["input"]


def test_the_identity_is_sound() -> None:
    found = statistics(affine(1), affine(1))
    assert (found.outside_percent, found.scale, found.theta_sd, found.fault) == (0, pytest.approx(1), 0, None)


@pytest.mark.parametrize("scale", [0.3, 2.5])
def test_the_scale_is_that_of_the_warp_however_it_turns_and_moves(scale: float) -> None:
    square = torch.zeros(1, 6)
    square[:, [0, 4]] = torch.tensor([scale, scale])
    assert statistics(square).scale == pytest.approx(scale, rel=1e-5)
    assert statistics(affine(scale, x=0.7)).scale == pytest.approx(scale, rel=1e-5)
    assert statistics(affine(scale, degrees=180)).scale == pytest.approx(scale, rel=1e-5)
    assert statistics(affine(scale), affine(1 / scale)).scale == pytest.approx(1, rel=1e-5)


def test_the_angle_and_the_shift_are_those_of_the_warp_either_way_in_the_mean() -> None:
    square = torch.zeros(1, 6)
    square[:, [0, 4]] = 1.0
    found = statistics(affine(1.7, degrees=30), affine(0.6, x=0.5, degrees=-50))
    assert found.angle_degrees == pytest.approx(40, abs=1e-3)
    assert found.shift == pytest.approx(0.25, abs=1e-5)
    still = statistics(square)
    assert (still.angle_degrees, still.shift) == (pytest.approx(0, abs=1e-5), pytest.approx(0, abs=1e-6))
    far = statistics(1e30 * affine(1, x=1))
    assert math.isfinite(far.angle_degrees)
    assert math.isfinite(far.shift)
    assert math.isfinite(far.scale)  # or it could not be logged
    assert far.fault is not None


def test_batches_add_up() -> None:
    thetas = [affine(s, x, d) for s, x, d in ((0.5, 0.1, 3), (1.5, -2, 50), (1, 0, 0), (4, 1, -80), (0.2, 0.9, 12))]
    whole, parts = statistics(*thetas), statistics(*thetas, batches=3)
    assert parts.outside_percent == pytest.approx(whole.outside_percent)
    assert parts.scale == pytest.approx(whole.scale)
    assert parts.theta_sd == pytest.approx(whole.theta_sd)
    theta = torch.cat(thetas).double()
    assert whole.theta_sd == pytest.approx(theta.var(dim=0, unbiased=False).mean().sqrt().item())
    points = torch.cat([affine_grid(one.view(1, 2, 3), SIZE) for one in thetas])
    assert whole.outside_percent == pytest.approx(100 * (points.abs() > 1).any(dim=-1).float().mean().item())


@pytest.mark.parametrize(
    ("theta", "fault"),
    [
        (affine(1, x=3), "100 % of its samples lie outside the image"),
        (affine(0.01), "its samples spread over 0.01 times the image's size"),
        (affine(0.011, degrees=30), "its samples spread over 0.011 times the image's size"),
        (affine(50), "100 % of its samples lie outside the image"),
        (affine(math.nan), "100 % of its samples lie outside the image"),
    ],
)
def test_what_runs_away_is_noticed(theta: torch.Tensor, fault: str) -> None:
    assert statistics(theta).fault == fault


def test_the_watch_names_the_transformer() -> None:
    sums = WarpSums(network(2), torch.device("cpu"))
    sums.add([warp(affine(1), "input.0"), warp(affine(1, x=-9), "input.1")])
    sums.share(ALONE)
    found = sums.statistics(1)
    assert found["input.0"].fault is None
    assert faults(found) == ("transformer input.1 has collapsed: 100 % of its samples lie outside the image",)
    assert faults({}) == ()
