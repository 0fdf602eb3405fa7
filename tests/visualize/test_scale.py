"""Scales: every value has its place, between round ticks."""

import math

import pytest

from stn_cli.visualize.scale import scale_of_steps, scale_of_values

VALUES = [
    [3.2, 90.1],
    [89.8, 3.6, 0.0],
    [0.0],
    [5.0],
    [-3.0, 2.0],
    [-0.02],
    [0.004, 0.1],
    [1e-5, 1e5],
    [50.0, 0.5, 0.0],
    [100.0, 1.0],
    [0.3, 0.31],
]


@pytest.mark.parametrize("values", VALUES)
def test_values_lie_between_the_ends_in_order(values: list[float]):
    scale = scale_of_values(values, 200.0, 20.0)
    places = [scale.at(value) for value in sorted(values)]
    assert places == sorted(places, reverse=True)  # upwards
    assert all(20 - 1e-9 <= place <= 200 + 1e-9 for place in places)
    assert len(set(places)) == len(values)
    assert (scale.at(scale.low), scale.at(scale.high)) == (200.0, 20.0)
    assert len(scale.ticks) >= 2
    assert all(scale.low <= tick <= scale.high for tick in scale.ticks)
    digits = {f"{abs(tick):.3e}"[:5] for tick in scale.ticks if tick}
    assert all(float(digit) * 10 % 5 == 0 for digit in digits), digits


@pytest.mark.parametrize("values", VALUES)
def test_a_scale_is_logarithmic_where_a_line_would_hide_the_end_of_training(values: list[float]):
    scale = scale_of_values(values, 0.0, 1.0)
    positive = [value for value in values if value > 0]
    assert scale.is_log == (min(values) >= 0 and len(positive) > 0 and max(positive) > 10 * min(positive))
    middle = math.sqrt(scale.low * scale.high) if scale.is_log else (scale.low + scale.high) / 2
    assert scale.at(middle) == pytest.approx(0.5)
    if not scale.is_log:
        assert scale.low <= 0 <= scale.high


def test_zero_stands_below_every_positive_value_of_a_logarithmic_scale():
    scale = scale_of_values([0.0, 0.5, 50.0], 0.0, 1.0)
    assert scale.at(0.0) == 0.0 < scale.at(0.5)


@pytest.mark.parametrize("most", [1, 6, 300, 1800, 150_000])
def test_steps_begin_at_zero_and_end_with_the_last(most: int):
    scale = scale_of_steps(most, 10.0, 20.0)
    assert (scale.at(0), scale.at(most)) == (10.0, 20.0)
    assert all(tick == int(tick) <= most for tick in scale.ticks)
    assert 2 <= len(scale.ticks) <= 6
