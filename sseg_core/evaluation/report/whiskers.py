"""Values with their intervals, placed on an axis that the page draws."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from sseg_core.evaluation.report.wording import number, signed


@dataclass(frozen=True)
class Measured:
    """A number with an interval; any of them may be missing or NaN.

    Attributes:
        value: the number.
        low: lower end of its interval.
        high: upper end of its interval.
    """

    value: float | None
    low: float | None = None
    high: float | None = None

    @property
    def numbers(self) -> list[float]:
        """Those of the three that are there."""
        ends = (self.value, self.low, self.high)
        return [end for end in ends if end is not None and math.isfinite(end)]


@dataclass(frozen=True)
class Whisker:
    """A number with its interval on an axis.

    Attributes:
        text: the numbers.
        place: of the value, in percent of the axis; None without a value.
        begin: of the interval, likewise; None without one.
        extent: of the interval, likewise.
    """

    text: str
    place: float | None = None
    begin: float | None = None
    extent: float = 0.0


@dataclass(frozen=True)
class Axis:
    """Where a row of whiskers begins and ends.

    Attributes:
        begin: the number at the left edge.
        end: the number at the right edge, larger.
        differences: the numbers are differences, shown with their sign.
    """

    begin: float
    end: float
    differences: bool = False

    @classmethod
    def of_percents(cls, values: Iterable[Measured]) -> Axis:
        """Return an axis with room for all values, within 0 to 100, from whole to whole number."""
        ends = [end for value in values for end in value.numbers]
        if not ends:
            return cls(0, 100)
        return cls(max(0, math.floor(min(ends)) - 1), min(100, math.ceil(max(ends)) + 1))

    @classmethod
    def of_differences(cls, values: Iterable[Measured]) -> Axis:
        """Return an axis with 0 in the middle and room for all values."""
        reach = max((abs(end) for value in values for end in value.numbers), default=1.0)
        reach = 1.1 * max(reach, 1e-6)
        return cls(-reach, reach, differences=True)

    def whisker(self, measured: Measured) -> Whisker:
        """Place a number on the axis."""
        show = signed if self.differences else number
        if measured.value is None or not math.isfinite(measured.value):
            return Whisker("-")
        text, place = show(measured.value), self._place(measured.value)
        low, high = measured.low, measured.high
        if low is None or high is None or not math.isfinite(high - low):
            return Whisker(text, place)
        begin = self._place(low)
        return Whisker(
            f"{text} ({show(low)} to {show(high)})", place, begin, self._place(high) - begin
        )

    def _place(self, value: float) -> float:
        return 100 * (value - self.begin) / (self.end - self.begin)
