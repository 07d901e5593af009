"""When there are too many unusable samples to go on."""

from __future__ import annotations

from collections import Counter

from sseg_core.data.order import listed
from sseg_core.errors import DataError

JUDGED_AFTER = 200
"""Samples before the share of unusable ones means something."""


def check_skip_rate(
    bad: int, usable: int, skipped: Counter[str], limit: float, made_of: str
) -> None:
    """Raise where more than the share `limit` of the samples so far is unusable.

    Args:
        bad: unusable samples.
        usable: the others.
        skipped: what was passed over, by reason, for the message.
        limit: `loader.max_skip_rate`.
        made_of: what may be made again.

    Raises:
        DataError: there are too many.
    """
    if bad + usable >= JUDGED_AFTER and bad > limit * (bad + usable):
        raise DataError(
            f"{bad} of {bad + usable} samples are unusable, more than max_skip_rate={limit}"
            f" allows{listed(skipped)}.",
            f"Make the {made_of} again, or set loader.max_skip_rate higher.",
        )
