"""What a paper printed beside what was measured here, so that nobody takes one for the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sseg_core.evaluation.report.wording import number, plain, signed


@dataclass(frozen=True)
class AsPublished:
    """A comparison with a row of a paper, in words.

    Attributes:
        row: of the paper's table, such as `table3:S-Seg`.
        verdict: agrees, below, above or not comparable.
        published: the paper's mIoU in percent; empty where it has none.
        source: where it was printed.
        measured: ours in percent.
        difference: ours less the paper's with the tolerance; empty where they do not compare.
        reasons: why they do not compare.
        remarks: what weakens the comparison, and the paper's own notes.
        classes: label, the paper's IoU, ours.
    """

    row: str
    verdict: str
    published: str
    source: str
    measured: str
    difference: str
    reasons: tuple[str, ...]
    remarks: tuple[str, ...]
    classes: tuple[tuple[str, str, str], ...]


def as_published(stats: Mapping[str, Any]) -> AsPublished | None:
    """Return the comparison that a scores artifact holds; None if none was asked for."""
    check = stats.get("check")
    if not check:
        return None
    difference = ""
    if check.get("difference") is not None:
        difference = (
            f"{signed(check['difference'], 2)} points; tolerance {check['tolerance']:.2f}, "
            f"{plain(check['tolerance_rule'])}"
        )
    remarks = [*(check.get("remarks") or ()), *filter(None, [check.get("published_note")])]
    ours = stats.get("iou") or {}
    return AsPublished(
        row=plain(check["row"]),
        verdict=plain(check["verdict"]),
        published=number(check["published_miou"]) if "published_miou" in check else "",
        source=plain(check.get("published_in", "")),
        measured=number(stats["miou"]),
        difference=difference,
        reasons=tuple(map(plain, check.get("reasons") or ())),
        remarks=tuple(map(plain, remarks)),
        classes=tuple(
            (plain(label), number(iou), number(ours.get(label)))
            for label, iou in (check.get("published_iou") or {}).items()
        ),
    )
