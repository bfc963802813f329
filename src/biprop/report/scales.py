"""From values to coordinates: axes, their ranges and ticks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

LARGEST = 1e15
"""Values beyond it are not drawn: their differences lose all digits, or overflow."""


def drawable(value: object) -> float | None:
    """A number that can be drawn: finite and within `LARGEST`; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) <= LARGEST else None  # nan is not <= anything


def plain(value: float) -> str:
    """A number in few characters: 0.25, 12, 1.2e+06."""
    return f"{value:.6g}"


def byte_count(value: float) -> str:
    """Bytes in few characters: 900 B, 11 kB, 2.5 MB."""
    for unit, factor in (("MB", 1e6), ("kB", 1e3)):
        if value >= factor:
            return f"{value / factor:.3g} {unit}"
    return f"{value:.3g} B"


@dataclass(frozen=True)
class Axis:
    """What an axis shows.

    Attributes:
        label: quantity and unit.
        is_log: logarithmic; for values above 0.
        low, high: limits beyond which the margin around the values does not go.
        least_span: smallest difference of the ends: values that differ by less look equal.
        text: makes the label of a tick.
        whole: ticks are at whole numbers.
    """

    label: str
    is_log: bool = False
    low: float = -math.inf
    high: float = math.inf
    least_span: float = 0.0
    text: Callable[[float], str] = plain
    whole: bool = False

    def scale(self, values: Iterable[float], start: float, end: float) -> Scale:
        """The scale of an axis that shows all `values`, from coordinate `start` to `end`."""
        positions = [math.log10(value) if self.is_log else value for value in values]
        low, high = min(positions), max(positions)
        least_span = max(self.least_span, 1.0 if self.whole else 0.0)
        margin = max(0.04 * (high - low), (least_span - (high - low)) / 2)
        margin = margin or self._margin_of_one(low)
        if not self.is_log:
            return Scale(max(self.low, low - margin), min(self.high, high + margin), start, end)
        return Scale(low - margin, high + margin, start, end, is_log=True)

    def _margin_of_one(self, value: float) -> float:
        """The margin where all values are equal."""
        return 0.3 if self.is_log else 0.1 * abs(value) or 1.0

    def ticks(self, scale: Scale) -> list[float]:
        """Values at which the axis has ticks."""
        if scale.is_log:
            return _log_ticks(scale.low, scale.high)
        return round_ticks(scale.low, scale.high, least_step=1 if self.whole else 0)


@dataclass(frozen=True)
class Scale:
    """A map of values to coordinates.

    Attributes:
        low, high: values (their logarithms to base 10, if `is_log`) at the coordinates `start` and
            `end`.
    """

    low: float
    high: float
    start: float
    end: float
    is_log: bool = False

    def __call__(self, value: float) -> float:
        """The coordinate of a value."""
        position = math.log10(value) if self.is_log else value
        share = (position - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)


def round_ticks(low: float, high: float, most: int = 5, least_step: float = 0) -> list[float]:
    """About `most` multiples of 1, 2 or 5 times a power of ten, from `low` to `high`."""
    rough = 0.85 * (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    step = max(step, least_step)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def _log_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round values between 10**low and 10**high: 1, 2, 5 in each power of ten, or fewer."""
    powers = range(math.floor(low), math.ceil(high) + 1)
    ticks: list[float] = []
    for factors in ((1, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        values = [factor * 10.0**power for power in powers for factor in factors]
        ticks = [value for value in values if low <= math.log10(value) <= high]
        if len(ticks) <= most:
            return ticks
    return ticks[:: math.ceil(len(ticks) / most)]
