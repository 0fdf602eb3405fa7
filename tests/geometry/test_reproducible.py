import math

import pytest
import torch

from stn_cli.geometry.reproducible import fitted, logarithm, sine_cosine, snapped


def random(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def from_the_library(degrees: float) -> tuple[float, float]:
    """Sine and cosine of what is left of the nearest quarter turn, which is exact, then turned by quarters."""
    quarters = round(degrees / 90)
    rest = math.radians(degrees - 90 * quarters)
    s, c = math.sin(rest), math.cos(rest)
    return ((s, c), (c, -s), (-s, -c), (-c, s))[quarters % 4]


def test_sine_and_cosine_are_those_of_the_library_to_the_last_bits() -> None:
    degrees = torch.cat([1440 * random(20_000) - 720, 2 * random(2000) - 1, torch.arange(-720.0, 721).double()])
    expected = torch.tensor([from_the_library(x) for x in degrees.tolist()], dtype=torch.float64)
    torch.testing.assert_close(torch.stack(sine_cosine(degrees), dim=1), expected, atol=3e-16, rtol=0)


def test_small_angles_keep_their_relative_precision() -> None:
    degrees = 10 ** (-12 * random(1000))
    expected = torch.tensor([math.sin(math.radians(x)) for x in degrees.tolist()], dtype=torch.float64)
    torch.testing.assert_close(sine_cosine(degrees)[0], expected, atol=0, rtol=1e-15)


def test_multiples_of_a_quarter_turn_are_exact_and_symmetries_hold_bit_for_bit() -> None:
    sine, cosine = sine_cosine(90 * torch.arange(-8.0, 9).double())
    assert sine.tolist() == [0, 1, 0, -1] * 4 + [0]
    assert cosine.tolist() == [1, 0, -1, 0] * 4 + [1]
    degrees = torch.arange(-360, 360).double() / 8  # so that 90 − degrees is exact
    (sine, cosine), (minus_sine, same_cosine) = sine_cosine(degrees), sine_cosine(-degrees)
    assert torch.equal(minus_sine, -sine)
    assert torch.equal(same_cosine, cosine)
    assert torch.equal(sine_cosine(90 - degrees)[1][1:], sine[1:])
    assert torch.equal(sine_cosine(degrees + 720)[0], sine)


def test_logarithm_is_that_of_the_library_to_the_last_bits() -> None:
    x = torch.cat([10 ** (60 * random(10_000) - 30), 0.5 + random(10_000), 1 + 1e-8 * (random(1000) - 0.5)])
    expected = torch.tensor([math.log(value) for value in x.tolist()], dtype=torch.float64)
    torch.testing.assert_close(logarithm(x), expected, atol=1e-16, rtol=5e-16)


def test_logarithms_of_powers_of_two_are_exact_and_so_is_that_of_one() -> None:
    exponents = torch.arange(-1000.0, 1000).double()
    powers = torch.tensor([2.0**k for k in range(-1000, 1000)], dtype=torch.float64)
    assert torch.equal(logarithm(powers), exponents * math.log(2))
    assert logarithm(torch.ones(1, dtype=torch.float64)).item() == 0


def test_in_float32_they_are_the_librarys() -> None:
    x = 100 * random(1000).float()
    assert torch.equal(logarithm(x), x.log())
    assert torch.equal(torch.stack(sine_cosine(x)), torch.stack([torch.deg2rad(x).sin(), torch.deg2rad(x).cos()]))


@pytest.mark.parametrize("bits", [0, 12, 24])
def test_snapped_numbers_are_the_nearest_multiples(bits: int) -> None:
    x = 20 * random(1000) - 10
    steps = snapped(x, bits) * 2**bits
    assert torch.equal(steps, steps.round())
    assert (snapped(x, bits) - x).abs().max() <= 2.0**-bits / 2
    assert torch.equal(snapped(snapped(x, bits), bits), snapped(x, bits))
    assert torch.equal(snapped(x.float(), bits), x.float())


def test_fitted_numbers_have_few_bits_whatever_their_size_and_company() -> None:
    x = 10 ** torch.linspace(-3, 6, 50).double()[:, None, None] * (2 * random(50, 16, 2) - 1)
    found = fitted(x, 27)
    largest = [max(1.0, one.abs().max().item()) for one in x]
    step = torch.tensor([2.0 ** (math.floor(math.log2(value)) + 1 - 27) for value in largest], dtype=torch.float64)
    whole = found / step[:, None, None]
    assert torch.equal(whole, whole.round())
    assert whole.abs().max() <= 2**27
    assert ((found - x).abs() <= step[:, None, None] / 2).all()
    assert torch.equal(fitted(x[7:8], 27), found[7:8])
    assert torch.equal(fitted(x.float(), 27), x.float())
    assert not fitted(torch.zeros(2, 3, dtype=torch.float64), 27).any()
