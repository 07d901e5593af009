"""A confusion matrix as a table that can be read: shares by row, and few enough labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sseg_core.evaluation.report.wording import plain

_MOST_LABELS = 30  # as many cells stand side by side in a window of 1100 pixels
_TOP = 8  # confusions that are told in words


@dataclass(frozen=True)
class Cell:
    """How much of a true label was predicted as another.

    Attributes:
        pixels: how many.
        share: in percent of the pixels of the true label.
        right: the two labels are the same.
    """

    pixels: int
    share: float
    right: bool

    @property
    def weight(self) -> float:
        """Of the colour, 0 to 1; the root, so that few percent can be seen."""
        return math.sqrt(self.share / 100)


@dataclass(frozen=True)
class HeatRow:
    """A true label: its name, its pixels, and where they went."""

    name: str
    pixels: int
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Confusion:
    """One wrong answer: `share` percent of the pixels of `truth` were taken for `prediction`."""

    truth: str
    prediction: str
    share: float
    pixels: int


@dataclass(frozen=True)
class HeatMap:
    """A confusion matrix, less the labels that are confused least.

    Attributes:
        columns: names of the predicted labels.
        rows: by true label.
        left_out: number of labels without a row and a column.
        confusions: the most frequent wrong answers, of all labels.
    """

    columns: tuple[str, ...]
    rows: tuple[HeatRow, ...]
    left_out: int
    confusions: tuple[Confusion, ...]


def heat_map(labels: Sequence[str], confusion: npt.NDArray[np.int64]) -> HeatMap:
    """Return the table of a confusion matrix.

    Of more than 30 labels those are shown that take part in the most frequent confusions; what was
    predicted as one of the others is summed up in a column.

    Args:
        labels: names of the C labels.
        confusion: [C, C + 1] pixels by true label (row) and predicted label (column), the last
            column for pixels that were given none.
    """
    count = len(labels)
    assert confusion.shape == (count, count + 1), (confusion.shape, count)
    names = [*map(plain, labels), "(no class)"]
    wrong = confusion.copy()
    np.fill_diagonal(wrong, 0)
    shown = _most_confused(wrong) if count > _MOST_LABELS else list(range(count))
    table = confusion[:, shown]
    columns = [names[index] for index in shown]
    if len(shown) < count:
        others = np.delete(confusion[:, :count], shown, axis=1).sum(axis=1)
        table = np.column_stack([table, others])
        columns.append("(other labels)")
    if confusion[:, count].any():
        table = np.column_stack([table, confusion[:, count]])
        columns.append(names[count])
    pixels = confusion.sum(axis=1)
    return HeatMap(
        columns=tuple(columns),
        rows=tuple(
            HeatRow(
                names[index],
                int(pixels[index]),
                tuple(
                    Cell(value, 100 * value / max(1, int(pixels[index])), place == column)
                    for column, value in enumerate(table[index].tolist())
                ),
            )
            for place, index in enumerate(shown)
        ),
        left_out=count - len(shown),
        confusions=tuple(
            Confusion(names[row], names[column], 100 * wrong[row, column] / pixels[row], value)
            for row, column, value in _largest(wrong, _TOP)
        ),
    )


def _most_confused(wrong: npt.NDArray[np.int64]) -> list[int]:
    """Return the labels of the largest cells, pair by pair, so that both ends of one are shown."""
    chosen: set[int] = set()
    for row, column, _ in _largest(wrong[:, :-1], _MOST_LABELS**2):
        if len(chosen | {row, column}) > _MOST_LABELS:
            break
        chosen |= {row, column}
    return sorted(chosen)


def _largest(wrong: npt.NDArray[np.int64], most: int) -> list[tuple[int, int, int]]:
    """Return row, column and value of the largest positive cells, the largest first."""
    flat = wrong.ravel()
    order = np.argsort(-flat, kind="stable")[:most]
    cells = ((*divmod(int(place), wrong.shape[1]), int(flat[place])) for place in order)
    return [cell for cell in cells if cell[2] > 0]
