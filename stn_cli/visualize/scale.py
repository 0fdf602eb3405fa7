"""The scales of a drawing: from values to places on it, with ticks at round numbers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDE_RANGE = 10  # the highest through the lowest positive value, from where on a scale is logarithmic
MOST_TICKS = 7  # of a logarithmic scale, before only powers of ten are left


@dataclass(frozen=True)
class Scale:
    """`low` stands at `start`, `high` at `end`."""

    low: float
    high: float
    ticks: tuple[float, ...]
    start: float
    end: float
    is_log: bool = False

    def at(self, value: float) -> float:
        """Return the place of a value. On a logarithmic scale 0 stands on the lower edge."""
        low, high, value = (self._measure(x) for x in (self.low, self.high, max(value, self.low)))
        return self.start + (self.end - self.start) * (value - low) / (high - low)

    def _measure(self, value: float) -> float:
        return math.log(value) if self.is_log else value


def scale_of_steps(most: float, start: float, end: float) -> Scale:
    """Return a scale from 0 to the last step, with ticks at whole steps."""
    high = max(most, 1.0)
    tick = max(_round_step(high / 5), 1.0)
    return Scale(0.0, high, tuple(i * tick for i in range(int(high / tick) + 1)), start, end)


def scale_of_values(values: Sequence[float], start: float, end: float) -> Scale:
    """Return a scale of finite values that begins and ends at ticks.

    It holds 0, or is logarithmic, where positive values differ by more than WIDE_RANGE and none is negative.
    """
    positive = [value for value in values if value > 0]
    if positive and min(values) >= 0 and max(positive) > WIDE_RANGE * min(positive):
        return _logarithmic(min(positive), max(positive), start, end, has_zeros=min(values) == 0)
    low, high = min(0.0, *values), max(0.0, *values)
    high = high if high > low else low + 1
    tick = _round_step((high - low) / 5)
    first, last = math.floor(low / tick + 1e-9), math.ceil(high / tick - 1e-9)
    ticks = tuple(i * tick for i in range(first, last + 1))
    return Scale(ticks[0], ticks[-1], ticks, start, end)


def _logarithmic(lowest: float, highest: float, start: float, end: float, *, has_zeros: bool) -> Scale:
    powers = range(math.floor(math.log10(lowest)) - 1, math.ceil(math.log10(highest)) + 1)
    round_numbers = [float(f"{digit}e{power}") for power in powers for digit in (1, 2, 5)]
    # With zeros on the lower edge, the lowest positive value stands apart from it.
    low = max(tick for tick in round_numbers if (tick < lowest if has_zeros else tick <= lowest))
    high = min(tick for tick in round_numbers if tick >= highest)
    ticks = [tick for tick in round_numbers if low <= tick <= high]
    if len(ticks) > MOST_TICKS:
        ticks = [tick for tick in ticks if f"{tick:e}".startswith("1.")]
    return Scale(low, high, tuple(ticks), start, end, is_log=True)


def _round_step(rough: float) -> float:
    """Return 1, 2 or 5 times a power of ten, at least `rough`."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(digit * power for digit in (1, 2, 5, 10) if digit * power >= rough * (1 - 1e-9))
