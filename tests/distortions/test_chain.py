from collections.abc import Callable

import pytest
import torch

from stn_cli.distortions.chain import Chain, of_stage
from stn_cli.distortions.elastic import Elastic
from stn_cli.distortions.placement import Placement
from stn_cli.distortions.projective import Projective
from stn_cli.distortions.similarity import Similarity
from stn_cli.geometry.grids import regular_grid
from stn_cli.geometry.matrices import between_sizes, rotation, scaling, translation

Frozen = Callable[..., dict[str, torch.Tensor]]
STAGES = (
    Similarity(in_size=(28, 26), canvas=(30, 32), rotation=(-90.0, 90.0), scale=(1.0, 1.0), place=False),
    Projective(in_size=(30, 32), canvas=(36, 34), scale=(0.75, 1.0), corner_sigma=2.0),
    Elastic(in_size=(36, 34), canvas=(36, 36), scale=(0.75, 1.0), control_point_sigma=1.0),
    Similarity(in_size=(36, 36), canvas=(44, 46), rotation=(-45.0, 45.0), scale=(0.7, 1.2), place=True),
    Placement(in_size=(44, 46), canvas=(60, 61)),
)


def test_parameters_are_those_of_the_stages_in_turn_by_their_number() -> None:
    drawn = Chain(STAGES).draw(7, torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(0)
    for number, stage in enumerate(STAGES, 1):
        alone = stage.draw(7, generator)
        found = of_stage(drawn, number)
        assert found.keys() == alone.keys()
        assert all(torch.equal(found[name], alone[name]) for name in alone)
    assert len(drawn) == sum(len(of_stage(drawn, number)) for number in range(1, 6))
    assert Chain(STAGES).in_size == (28, 26)
    assert Chain(STAGES).canvas == (60, 61)


def test_ten_stages_are_told_from_the_first() -> None:
    assert of_stage({"1.a": torch.zeros(1), "10.a": torch.ones(1)}, 1)["a"].item() == 0


def test_a_chain_of_affine_maps_is_the_product_of_their_matrices(frozen: Frozen) -> None:
    first, second, third = STAGES[0], Similarity(**{**vars(STAGES[3]), "in_size": (30, 32)}), STAGES[4]
    chain = Chain([first, second, third])
    parameters = {name: value.double() for name, value in frozen(chain, 16).items()}

    def undo(kind: Similarity, number: int) -> torch.Tensor:
        own = of_stage(parameters, number)
        pixels = scaling(1 / own["scale"][:, None].expand(-1, 2)) @ rotation(-own["rotation"])
        if kind.place:
            pixels = pixels @ translation(-kind.shift(own))
        return between_sizes(pixels, kind.in_size, kind.canvas)

    middle = parameters["3.corner"] - torch.tensor([(61 - 46) / 2, (60 - 44) / 2], dtype=torch.float64)
    matrix = undo(first, 1) @ undo(second, 2) @ between_sizes(translation(-middle), (44, 46), (60, 61))
    x, y = regular_grid((60, 61), dtype=torch.float64).unbind(dim=-1)
    expected = torch.einsum("nij,hwj->nhwi", matrix, torch.stack([x, y, torch.ones_like(x)], dim=-1))[..., :2]
    torch.testing.assert_close(chain.grid(parameters), expected, atol=1e-12, rtol=0)


def test_one_reading_shows_what_stage_after_stage_shows(frozen: Frozen) -> None:
    """Of smooth images with a wide margin: what leaves a canvas on the way is lost only stage after stage."""
    points = regular_grid((28, 26))[..., None, :]
    centres = torch.tensor([[0.0, -0.3], [0.25, 0.2], [-0.25, 0.1]])
    images = torch.exp(-10 * (points - centres).square().sum(dim=-1)).sum(dim=-1).expand(16, 1, 28, 26)
    chain = Chain(STAGES)
    parameters = frozen(chain, 16)
    expected = images
    for number, stage in enumerate(STAGES, 1):
        expected = stage.apply(expected, of_stage(parameters, number))
    # Each of four readings between pixels flattens a blob's top, by 0.03 of its height or more where it has shrunk.
    assert (chain.apply(images, parameters) - expected).abs().max() < 0.12
    backwards = chain.apply(images, {**parameters, "1.rotation": -parameters["1.rotation"]})
    assert (backwards - expected).abs().max() > 0.5


def test_what_left_a_canvas_on_the_way_may_come_back() -> None:
    """Moved out of view and back in again: the image is read once, where the maps together lead."""
    sizes = {"in_size": (28, 28), "canvas": (28, 28)}
    away = Elastic(**sizes, scale=(1.0, 1.0), control_point_sigma=0.0)
    images = torch.rand(1, 1, 28, 28, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    shift, one = torch.tensor([40.0, -30.0], dtype=torch.float64).expand(1, 16, 2), torch.ones(1, dtype=torch.float64)
    parameters = {"1.scale": one, "1.control_point_shift": shift, "2.scale": one, "2.control_point_shift": -shift}
    torch.testing.assert_close(Chain([away, away]).apply(images, parameters), images, atol=1e-5, rtol=0)


@pytest.mark.parametrize("other", ["R", "T", "E"])
def test_what_lies_beyond_a_horizon_comes_back_by_no_later_or_earlier_map(other: str, frozen: Frozen) -> None:
    sizes = {"in_size": (28, 28), "canvas": (28, 28)}
    wild = Projective(**sizes, scale=(0.75, 1.0), corner_sigma=15.0)
    first = {
        "R": Similarity(**sizes, rotation=(-90.0, 90.0), scale=(1.0, 1.0), place=False),
        "T": Placement(**sizes),
        "E": Elastic(**sizes, scale=(0.05, 4.0), control_point_sigma=20.0),
    }[other]
    chain = Chain([first, wild])
    parameters = frozen(chain, 256)
    beyond = (wild.grid(of_stage(parameters, 2)).abs() > 100).any(dim=-1)
    assert 0.02 < beyond.float().mean() < 0.5
    assert (chain.grid(parameters)[beyond].abs().amax(dim=-1) > 100).all()
    assert chain.grid(parameters).isfinite().all()


def test_a_chain_of_one_or_of_neutral_ones_is_that_one(frozen: Frozen) -> None:
    turned = Similarity(in_size=(28, 26), canvas=(28, 26), rotation=(-90.0, 90.0), scale=(1.0, 1.0), place=False)
    still = Similarity(in_size=(28, 26), canvas=(28, 26), rotation=(0.0, 0.0), scale=(1.0, 1.0), place=False)
    put = Placement(in_size=(28, 26), canvas=(28, 26))
    images = torch.rand(8, 1, 28, 26, generator=torch.Generator().manual_seed(0))
    alone = frozen(Chain([turned]), 8)
    expected = turned.apply(images, of_stage(alone, 1))
    assert torch.equal(Chain([turned]).apply(images, alone), expected)
    among = Chain([still, put, turned, put, still])
    parameters = frozen(among, 8) | {"3.rotation": alone["1.rotation"]}
    torch.testing.assert_close(among.apply(images, parameters), expected, atol=1e-4, rtol=0)
    neutral = Chain([still, put])
    torch.testing.assert_close(neutral.apply(images, frozen(neutral, 8)), images, atol=1e-5, rtol=0)
