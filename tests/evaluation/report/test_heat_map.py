"""The confusion matrix as a table."""

from __future__ import annotations

import numpy as np

from sseg_core.evaluation.report.heat_map import Confusion, heat_map


def test_cells_are_shares_of_their_row() -> None:
    """Each row adds up to 100 percent, pixels without a class included."""
    counts = np.array([[6, 3, 1], [0, 4, 0]])
    heat = heat_map(("cat", "dog"), counts)
    assert heat.columns == ("cat", "dog", "(no class)")
    assert [[cell.share for cell in row.cells] for row in heat.rows] == [[60, 30, 10], [0, 100, 0]]
    assert [[cell.right for cell in row.cells] for row in heat.rows] == [
        [True, False, False],
        [False, True, False],
    ]
    assert heat.confusions == (
        Confusion("cat", "dog", 30.0, 3),
        Confusion("cat", "(no class)", 10.0, 1),
    )


def test_the_column_of_no_class_is_there_where_it_is_needed() -> None:
    """A model that gives every pixel a class gets no such column; absent labels have no shares."""
    heat = heat_map(("cat", "dog"), np.array([[5, 0, 0], [0, 0, 0]]))
    assert heat.columns == ("cat", "dog")
    assert [row.pixels for row in heat.rows] == [5, 0]
    assert heat.confusions == ()


def test_of_many_labels_the_most_confused_are_shown() -> None:
    """Both ends of the largest confusions are among the 30; the rest is one column."""
    generator = np.random.default_rng(0)
    counts = np.zeros((400, 401), np.int64)
    np.fill_diagonal(counts, 1000)
    for rank in range(40):
        row, column = generator.choice(400, 2, replace=False)
        counts[row, column] = 500 - rank
    names = [f"class {index}" for index in range(400)]
    heat = heat_map(names, counts)
    assert len(heat.rows) <= 30
    assert heat.left_out == 400 - len(heat.rows)
    assert heat.columns[-1] == "(other labels)"
    assert [row.name for row in heat.rows] == list(heat.columns[:-1])
    shown = set(heat.columns)
    assert all({c.truth, c.prediction} <= shown for c in heat.confusions)
    assert [c.pixels for c in heat.confusions] == [500 - rank for rank in range(8)]
    for row in heat.rows:
        assert sum(cell.pixels for cell in row.cells) == row.pixels


def test_many_labels_without_a_confusion_give_an_empty_table() -> None:
    """There is nothing to choose by, and nothing to see."""
    counts = np.zeros((40, 41), np.int64)
    np.fill_diagonal(counts, 7)
    heat = heat_map([str(index) for index in range(40)], counts)
    assert (heat.rows, heat.left_out, heat.confusions) == ((), 40, ())
