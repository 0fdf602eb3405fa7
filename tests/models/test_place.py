"""Several transformers at one place: in series, in parallel, both."""

import pytest
import torch
from torch import Tensor, nn

from stn_cli.geometry.grids import affine_grid
from stn_cli.geometry.sampling import sample
from stn_cli.models.grid_generators import TRANSFORMS
from stn_cli.models.localisation import fully_connected_localisation
from stn_cli.models.network import initialise
from stn_cli.models.place import Member, Place
from stn_cli.models.spatial_transformer import SpatialTransformer

SIZE = (20, 24)


class Constant(nn.Module):
    """A localisation network that says the same of every map, and remembers what it saw."""

    def __init__(self, theta: Tensor) -> None:
        super().__init__()
        self.theta = nn.Parameter(theta)
        self.seen: list[Tensor] = []

    def forward(self, maps: Tensor) -> Tensor:
        self.seen.append(maps)
        return self.theta.expand(len(maps), -1)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def smooth(n: int, channels: int, size: tuple[int, int]) -> Tensor:
    """Images that are black at the border, so that a rotation cuts nothing off, and change little between pixels."""
    coarse = nn.functional.pad(random(n, channels, 3, 3), (2, 2, 2, 2))
    return nn.functional.interpolate(coarse, size, mode="bicubic").clamp(0, 1)


def constant(transform: str = "affine", seed: int = 0, out_size: tuple[int, int] = SIZE, spread: float = 0.3) -> Member:
    generator = TRANSFORMS[transform](out_size)
    theta = generator.identity + spread * (random(len(generator.identity), seed=seed) - 0.5)
    return Member(SpatialTransformer(Constant(theta), generator))


def learned(transform: str, channels: int, seed: int) -> Member:
    """A transformer that decides by what it sees: its last layer is not at zero."""
    generator = TRANSFORMS[transform](SIZE)
    localisation = fully_connected_localisation(channels, SIZE, generator.identity, (8,))
    initialise(localisation, torch.Generator().manual_seed(seed))
    nn.init.normal_(localisation[-1].weight, std=0.01, generator=torch.Generator().manual_seed(seed + 100))
    return Member(SpatialTransformer(localisation, generator))


def homogeneous(theta: Tensor) -> Tensor:
    return torch.cat([theta.view(-1, 2, 3), torch.tensor([[[0.0, 0.0, 1.0]]]).expand(len(theta), 1, 3)], dim=1)


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_at_the_identity_a_series_changes_nothing_and_a_parallel_step_repeats_the_map(transform: str) -> None:
    generator, maps = TRANSFORMS[transform](SIZE), random(2, 5, *SIZE)
    still = [Member(SpatialTransformer(Constant(generator.identity), generator)) for _ in range(3)]
    series, _ = Place("input", [[one] for one in still])(maps)
    torch.testing.assert_close(series, maps, atol=1e-5, rtol=0)
    parallel, _ = Place("input", [still])(maps)
    torch.testing.assert_close(parallel, maps.repeat(1, 3, 1, 1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("transforms", [("affine",), ("affine", "affine"), ("tps", "projective", "attention")])
def test_in_parallel_they_are_separate_modules_side_by_side(transforms: tuple[str, ...]) -> None:
    members = [learned(name, 3, seed) for seed, name in enumerate(transforms)]
    maps = random(4, 3, *SIZE)
    output, warps = Place("conv2", [members])(maps)
    alone = [member.transformer(maps) for member in members]
    assert torch.equal(output, torch.cat([warp.output for warp in alone], dim=1))
    for found, expected in zip(warps, alone, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(found[1:], expected, strict=True))
    assert len({tuple(warp.theta[0].tolist()) for warp in warps}) == len(transforms)


def test_in_series_each_sees_what_the_one_before_hands_on() -> None:
    first, second = learned("projective", 2, 0), learned("affine", 2, 1)
    maps = random(4, 2, *SIZE)
    output, warps = Place("input", [[first], [second]])(maps)
    between = first.transformer(maps).output
    assert torch.equal(warps[0].output, between)
    assert torch.equal(output, second.transformer(between).output)


def test_a_series_of_affine_maps_is_one_of_their_product_up_to_interpolation() -> None:
    maps = smooth(2, 3, (120, 120))
    place = Place("input", [[constant(seed=seed, out_size=(120, 120))] for seed in range(3)])
    output, warps = place(maps)
    matrix = homogeneous(warps[0].theta) @ homogeneous(warps[1].theta) @ homogeneous(warps[2].theta)
    at_once = affine_grid(matrix[:, :2], (120, 120))
    torch.testing.assert_close(place.composed(warps)[2], [at_once], atol=1e-5, rtol=0)
    assert (output - sample(maps, at_once)).abs().max() < 0.02 * maps.max()
    assert (output - maps).abs().max() > 0.2 * maps.max()  # they do move the image


@pytest.mark.parametrize("before", TRANSFORMS)
@pytest.mark.parametrize("after", TRANSFORMS)
def test_a_composed_grid_says_where_the_last_of_a_series_reads(before: str, after: str) -> None:
    """On an image that holds its own coordinates, reading is the same as saying where."""
    x, y = torch.meshgrid(*((2 * torch.arange(n) + 1) / n - 1 for n in (64, 64)), indexing="xy")
    members = [constant(name, seed, (64, 64), 0.1) for seed, name in enumerate((before, after))]
    place = Place("input", [[member] for member in members])
    output, warps = place(torch.stack([x, y])[None])
    (composed,) = place.composed(warps)[1]
    middle = (slice(None), slice(16, 48), slice(16, 48))
    torch.testing.assert_close(output.permute(0, 2, 3, 1)[middle], composed[middle], atol=2e-3, rtol=0)
    assert torch.equal(place.composed(warps)[0][0], warps[0].grid)


def test_after_parallel_ones_there_is_a_composed_grid_for_each_of_their_maps() -> None:
    place = Place("input", [[constant(seed=0), constant(seed=1)], [constant(seed=2), constant(seed=3)]])
    output, warps = place(random(1, 2, *SIZE))
    assert output.shape == (1, 8, *SIZE)
    matrices = [homogeneous(warp.theta) for warp in warps]
    for last, grids in zip((2, 3), place.composed(warps)[2:], strict=True):
        expected = [affine_grid((matrices[first] @ matrices[last])[:, :2], SIZE) for first in (0, 1)]
        torch.testing.assert_close(grids, expected, atol=1e-5, rtol=0)


def test_each_has_a_name_by_its_place_and_number() -> None:
    members = [constant(seed=seed) for seed in range(3)]
    assert Place("conv2", [members[:1]]).names == ["conv2"]
    place = Place("input", [members[:1], members[1:]])
    assert place.names == [warp.name for warp in place(random(1, 1, *SIZE))[1]] == ["input.0", "input.1", "input.2"]
    assert [name for name, _ in place.named_parameters()] == [f"members.{i}.localisation.theta" for i in range(3)]


def test_localisation_networks_see_normalised_maps_and_samplers_read_raw_ones() -> None:
    members, maps = [constant(seed=seed) for seed in range(2)], random(2, 1, *SIZE)
    output, warps = Place("input", [members[:1], members[1:]])(maps, nn.Hardsigmoid())
    raw, _ = Place("input", [members[:1], members[1:]])(maps)
    assert torch.equal(output, raw)
    for member, seen in zip(members, (maps, warps[0].output), strict=True):
        assert torch.equal(member.transformer.localisation.seen[0], nn.Hardsigmoid()(seen))
        assert torch.equal(member.transformer.localisation.seen[1], seen)


def test_sizes_may_change_on_the_way() -> None:
    steps = [[constant(out_size=(30, 10))], [constant(out_size=(8, 9)), constant("tps", out_size=(8, 9))]]
    output, warps = Place("input", steps)(random(2, 3, *SIZE))
    assert output.shape == (2, 6, 8, 9)
    assert [tuple(warp.output.shape[1:]) for warp in warps] == [(3, 30, 10), (3, 8, 9), (3, 8, 9)]


def test_gradients_reach_every_localisation_network() -> None:
    place = Place("input", [[learned("tps", 2, 0)], [learned("affine", 2, 1), learned("projective", 2, 2)]])
    output, _ = place(random(4, 2, *SIZE))
    (output * random(4, 4, *SIZE, seed=9)).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in place.parameters())
