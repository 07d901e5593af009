"""Class lists are in the order of the labels, and mistakes in them are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from sseg_core.errors import DataError
from sseg_core.evaluation.benchmarks.class_lists import check_order, read_class_list
from sseg_core.evaluation.benchmarks.folder import known_class_lists
from sseg_core.evaluation.benchmarks.pascal import VOC_CLASSES


def _list(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "classes.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_the_lines_are_the_names(tmp_path: Path) -> None:
    """A byte-order mark, Windows line ends, blanks and comments do not matter."""
    path = _list(tmp_path, "\ufeff# ours\r\nbackground\r\n  hot dog \r\ndoor, double door\r\n\r\n")
    assert read_class_list(path, "") == ("background", "hot dog", "door, double door")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is empty"),
        ("\n# nothing\n", "is empty"),
        ("cat\n\ndog\n", "Line 2 of the class list .* is empty"),
        ("cat\ndog\nCat\n", "class names 'cat' and 'Cat' are the same"),
        ("cat\nd\x1bog\n", "control character"),
        (b"cat\n\xff\n", "is not UTF-8 text"),
        ("\n".join(map(str, range(32768))), "more than 32,767 names"),
    ],
)
def test_a_list_that_leaves_doubt_is_refused(
    tmp_path: Path, text: str | bytes, problem: str
) -> None:
    """The place of a name is its label, so that nothing in a list is repaired silently."""
    path = _list(tmp_path, text)
    with pytest.raises(DataError, match=problem) as caught:
        read_class_list(path, "Expected: this.")
    assert "classes.txt" in caught.value.message


def test_a_missing_list_shows_the_layout(tmp_path: Path) -> None:
    """The hint is the layout."""
    with pytest.raises(DataError, match=r"classes\.txt cannot be read: No such file"):
        read_class_list(tmp_path / "classes.txt", "Expected: this.")


@pytest.mark.parametrize("benchmark", sorted(known_class_lists()))
def test_a_known_list_in_another_order_is_found_out(benchmark: str) -> None:
    """The first name that differs is told; the right order, in any case, passes."""
    known = known_class_lists()
    names = list(known[benchmark])
    path = Path("classes.txt")
    check_order([name.upper() for name in names], known, path)
    names[3], names[7] = names[7], names[3]
    with pytest.raises(DataError) as caught:
        check_order(names, known, path)
    assert f"classes of {benchmark} in another order" in caught.value.message
    assert f"class 4 is {names[3]!r}, in {benchmark} it is {names[7]!r}" in caught.value.message


def test_other_names_have_no_order() -> None:
    """A list with one name less or another one is nobody's but the user's."""
    known = known_class_lists()
    check_order(VOC_CLASSES[::-1][:-1], known, Path("classes.txt"))
    check_order([*VOC_CLASSES[:0:-1], "plane"], known, Path("classes.txt"))
