"""Numbers with intervals on an axis."""

from __future__ import annotations

import math

import pytest

from sseg_core.evaluation.report.whiskers import Axis, Measured, Whisker


def test_percents_get_an_axis_with_room() -> None:
    """It begins and ends at whole numbers beyond the intervals, and never beyond 0 and 100."""
    values = [Measured(40.0, 35.5, 44.5), Measured(50.0), Measured(None), Measured(math.nan)]
    assert Axis.of_percents(values) == Axis(34, 51)
    assert Axis.of_percents([Measured(0.0), Measured(100.0)]) == Axis(0, 100)
    assert Axis.of_percents([Measured(None)]) == Axis(0, 100)


def test_a_whisker_lies_where_its_numbers_are() -> None:
    """Places are percent of the axis, the text has all numbers."""
    axis = Axis(20, 60)
    assert axis.whisker(Measured(40.0, 30.0, 50.0)) == Whisker("40.0 (30.0 to 50.0)", 50, 25, 50)
    assert axis.whisker(Measured(60.0)) == Whisker("60.0", 100)
    assert axis.whisker(Measured(60.0, math.nan, math.nan)) == Whisker("60.0", 100)
    assert axis.whisker(Measured(None)) == Whisker("-")


def test_differences_have_zero_in_the_middle_and_a_sign() -> None:
    """The axis reaches a little beyond the largest number to both sides."""
    axis = Axis.of_differences([Measured(-2.0, -4.0, 0.0), Measured(1.0)])
    assert (axis.begin, axis.end) == pytest.approx((-4.4, 4.4))
    whisker = axis.whisker(Measured(-2.0, -4.0, 0.0))
    assert whisker.text == "\u22122.0 (\u22124.0 to +0.0)"
    assert axis.whisker(Measured(0.0)).place == pytest.approx(50)
    assert Axis.of_differences([Measured(0.0, 0.0, 0.0)]).end > 0
