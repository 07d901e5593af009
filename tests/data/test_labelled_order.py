"""Every image comes equally often, or those of rare classes more often."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path

import pytest

from sseg_core.data.label_shards import LabelEntry
from sseg_core.data.labelled_order import LabelledOrder
from sseg_core.structures import BACKGROUND, VOID


def entry(number: int, pixels: dict[int, int]) -> LabelEntry:
    height = sum(pixels.values()) // 100
    return LabelEntry(str(number), height, 100, Path("a.tar"), (0, 1), None, pixels, None)


def test_each_pass_shows_every_image_once() -> None:
    """In an order of its own, which the seed decides."""
    entries = [entry(i, {0: 100}) for i in range(17)]
    order = LabelledOrder(entries, 3, 0.0)
    row = [order.index(place) for place in range(51)]
    passes = [row[start : start + 17] for start in (0, 17, 34)]
    assert [sorted(a_pass) for a_pass in passes] == [list(range(17))] * 3
    assert len({tuple(a_pass) for a_pass in passes}) == 3
    backwards = [LabelledOrder(entries, 3, 0.0).index(place) for place in reversed(range(51))]
    assert backwards[::-1] == row
    assert [LabelledOrder(entries, 4, 0.0).index(place) for place in range(51)] != row


@pytest.mark.parametrize("balance", [0.2, 0.5, 1.0])
def test_classes_are_drawn_by_their_share(balance: float) -> None:
    """Of 10 images one shows the rare class, which has 1 % of the pixels; void has none."""
    entries = [entry(i, {BACKGROUND: 900, VOID: 100}) for i in range(9)]
    entries.append(entry(9, {BACKGROUND: 819, 4: 81, VOID: 100}))
    order = LabelledOrder(entries, 0, balance)
    counts = Counter(order.index(place) for place in range(4000))
    rare, common = 0.009 ** (1 - balance), 0.991 ** (1 - balance)
    chance = rare / (rare + common)
    expected = chance + (1 - chance) / 10  # it shows background too
    error = (expected * (1 - expected) / 4000) ** 0.5
    assert counts[9] / 4000 == pytest.approx(expected, abs=4 * error)
    assert all(
        counts[i] / 4000 == pytest.approx((1 - chance) / 10, abs=4 * 0.1**0.5 / 4000**0.5)
        for i in range(9)
    )


def test_a_few_pixels_do_not_show_a_class() -> None:
    """Unless no image has more of it."""
    specks = {0: 9990, 1: 10}  # 0.1 %
    entries = [entry(0, specks), entry(1, specks), entry(2, {0: 9900, 1: 100})]
    drawn = Counter(LabelledOrder(entries, 0, 1.0).index(place) for place in range(600))
    assert drawn[2] > 300
    assert drawn[0] + drawn[1] < 270  # when class 0 is drawn
    order = LabelledOrder([entry(0, {0: 10000}), entry(1, specks)], 0, 1.0)
    drawn = Counter(order.index(place) for place in range(600))
    assert drawn[1] == pytest.approx(450, abs=45)


def test_balanced_places_are_functions_of_their_number() -> None:
    """In any order, in any process."""
    entries = [entry(i, {i % 4: 60, 7: 40}) for i in range(30)]
    row = [LabelledOrder(entries, 5, 0.5).index(place) for place in range(40)]
    order = LabelledOrder(entries, 5, 0.5)
    assert [order.index(place) for place in reversed(range(40))] == row[::-1]
    assert len(set(row)) > 10


def test_without_a_label_that_counts_there_is_nothing_to_balance() -> None:
    """Images of void come in passes as ever."""
    order = LabelledOrder([entry(i, {VOID: 100}) for i in range(5)], 0, 1.0)
    assert sorted(order.index(place) for place in range(5)) == list(range(5))


def test_substitutes_depend_on_the_place() -> None:
    """Each place has a row of its own, over all images."""
    order = LabelledOrder([entry(i, {0: 100}) for i in range(10)], 0, 0.0)
    rows = [list(islice(order.instead(place), 200)) for place in (3, 4, 3)]
    assert rows[0] == rows[2] != rows[1]
    assert set(rows[0]) == set(range(10))
