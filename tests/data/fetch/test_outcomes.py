"""Tables of outcomes."""

from __future__ import annotations

from pathlib import Path

import pytest

from sseg_core.data.fetch.outcomes import FETCHED, Outcome, read_outcomes, write_outcomes
from sseg_core.errors import DataError


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    """And equal tables are equal files."""
    outcomes = [
        Outcome("000000000", "http://a/\u00e9\n", FETCHED, "0123456789abcdef", "ff00ff00ff00ff00"),
        Outcome("000000001", "http://b/", "http 404"),
        Outcome("000000002", "", "bad line"),
    ]
    for name in ("a", "b"):
        write_outcomes(tmp_path / name, outcomes)
    assert list(read_outcomes(tmp_path / "a")) == outcomes
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    with pytest.raises(DataError, match="Cannot write"):
        write_outcomes(tmp_path / "no folder" / "a", outcomes)
