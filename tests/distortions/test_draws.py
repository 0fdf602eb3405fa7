import pytest
import torch

from stn_cli.distortions.draws import normal, uniform


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_uniform_fills_its_range_and_no_more() -> None:
    numbers = uniform(10_000, (-3.0, 5.0), generator(), 2)
    assert numbers.shape == (10_000, 2)
    assert -3 <= numbers.min() < -2.99
    assert 4.99 < numbers.max() <= 5
    assert uniform(4, (2.0, 2.0), torch.Generator()).tolist() == [2, 2, 2, 2]


@pytest.mark.parametrize("shape", [(), (1,), (3,), (16, 2)])
@pytest.mark.parametrize("n", [0, 1, 2, 7])
def test_normal_numbers_are_float32_of_the_shape_asked_for_and_finite(n: int, shape: tuple[int, ...]) -> None:
    numbers = normal(n, 5.0, generator(), *shape)
    assert numbers.shape == (n, *shape)
    assert numbers.dtype == torch.float32
    assert numbers.isfinite().all()


def test_normal_numbers_scale_with_their_deviation_and_vanish_with_it() -> None:
    assert torch.equal(normal(100, 8.0, generator(), 3), 8 * normal(100, 1.0, generator(), 3))
    assert not normal(100, 0.0, generator(), 3).any()


def test_normal_numbers_are_box_and_mullers() -> None:
    """Of pairs of uniform numbers u and v: a radius of √(−2 log(1 − u)) at an angle of 2πv."""
    u, v = torch.rand(2, 5000, generator=generator(), dtype=torch.float64)
    radius, angle = (-2 * torch.log1p(-u)).sqrt(), 2 * torch.pi * v
    expected = torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1).flatten().float()
    torch.testing.assert_close(normal(10_000, 1.0, generator()), expected, atol=1e-7, rtol=1e-6)
