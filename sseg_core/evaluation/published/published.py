"""The tables of the paper as data, and how a score of ours compares with a row of them.

The numbers stand in `s_seg.json` as printed, each with its table; nothing in it was measured here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any

from sseg_core.errors import ConfigError, did_you_mean

AUTO = "auto"
"""The row of the model that was scored, where the paper has one."""

TOLERANCE = 1.0
"""Points of mIoU within which a score agrees with a published one, at least (our choice): a
training run differs from the next by about as much, and the paper gives no spread."""

TOLERANCE_RULE = (
    "the larger of 1.0 point and half the 95 % interval of the measured mIoU over images"
)

_FREE = {"sseg": {"threshold"}}
"""What a protocol leaves open, so that another value of it is no other protocol."""

_CHECKPOINT = re.compile(r"[^:]+:v[1-9][0-9]*")


@dataclass(frozen=True)
class Row:
    """What a paper printed for a method on one benchmark.

    Attributes:
        table: number of the table.
        method: as printed, without spaces.
        benchmark: our name of it; `lvis` for the unknown version of it.
        miou: in percent.
        supervision: what the method learned from: none, self, label, text, masks or masks+text.
        background: the rule for it, as in the protocols; None where the paper does not say.
        protocol: ours that the number was computed under; None for another, as of rows that the
            paper quotes from elsewhere.
        note: what a reader should know.
        model: what `sseg eval` calls the model; `checkpoint` for a trained one. Empty where `auto`
            does not lead to this row.
        clustering: of the pseudo-masks, where rows differ in it alone.
        iou: in percent by label (Table 8).
        milliseconds: per image (Table 1).
    """

    table: int
    method: str
    benchmark: str
    miou: float
    supervision: str
    background: str | None
    protocol: str | None
    note: str = ""
    model: str = ""
    clustering: str | None = None
    iou: Mapping[str, float] = field(default_factory=dict)
    milliseconds: float | None = None

    @property
    def reference(self) -> str:
        """What `--check` calls it; the same on all benchmarks of the table."""
        return f"table{self.table}:{self.method}"


def rows_for(
    *, table: int | None = None, method: str | None = None, benchmark: str | None = None
) -> tuple[Row, ...]:
    """Return the rows of a table, a method or a benchmark, in printed order."""
    return tuple(
        row
        for row in _rows()
        if table in {None, row.table}
        and method in {None, row.method}
        and (benchmark is None or benchmark in _names(row.benchmark))
    )


def check_row(reference: str) -> None:
    """Refuse what is no row of the paper, before anything is scored.

    Raises:
        ConfigError: the reference is not `auto` and names no row.
    """
    table, _, method = reference.partition(":")
    methods = [row.method for row in _rows() if f"table{row.table}" == table]
    if reference == AUTO or method in methods:
        return
    if methods:
        raise ConfigError(
            f"Table {table.removeprefix('table')} of the paper has no row {method!r}.",
            did_you_mean(method, set(methods)),
        )
    tables = ", ".join(str(number) for number in sorted({row.table for row in _rows()}))
    raise ConfigError(
        f"The paper has no row {reference!r}.",
        f"Write {AUTO}, or a row such as table3:S-Seg; there are the tables {tables}.",
    )


def check(stats: Mapping[str, Any], reference: str) -> dict[str, Any]:
    """Compare a score with a row of the paper.

    Args:
        stats: of a `scores` artifact; with `limit`, if only the first images were scored.
        reference: `table3:S-Seg` or the like; `auto` for the row of the scored model under its
            rule for background, of a checkpoint that of S-Seg.

    Returns:
        JSON values. `verdict`: `agrees`, `below` or `above` (by more than `tolerance`, in points,
        whose rule is in `tolerance_rule`), or `not comparable`, for the `reasons`. `difference`,
        the measured less the published mIoU, is there only where they compare. `remarks` weaken a
        comparison and do not forbid it. `sentence` says it all but for these. Whatever is called
        published is the paper's.

    Raises:
        ConfigError: no such row.
    """
    check_row(reference)
    row = _row_of(stats, reference)
    if row is None:
        what = f"{stats['model']} under this rule for background"
        what = what if reference == AUTO else reference
        reason = f"the paper has no figure of {what} on {stats['benchmark']}"
        return {
            "verdict": "not comparable",
            "sentence": f"Not comparable: {reason}.",
            "reasons": [reason],
            "row": reference,
        }
    verdict = _verdict(stats, row)
    return {
        **verdict,
        "sentence": _sentence(stats, row, verdict),
        "remarks": _remarks(stats, row),
        "row": row.reference,
        "published_miou": row.miou,
        **({"published_iou": dict(row.iou)} if row.iou else {}),
        **({"published_note": row.note} if row.note else {}),
        "published_in": f"{_paper()['source']}, Table {row.table}",
    }


def _verdict(stats: Mapping[str, Any], row: Row) -> dict[str, Any]:
    if reasons := _reasons(stats, row):
        return {"verdict": "not comparable", "reasons": reasons}
    low, high = stats["miou_interval"]
    tolerance = max(TOLERANCE, round((high - low) / 2, 2))
    difference = round(stats["miou"] - row.miou, 2)
    verdict = "below" if difference < 0 else "above"
    return {
        "verdict": "agrees" if abs(difference) <= tolerance else verdict,
        "difference": difference,
        "tolerance": tolerance,
        "tolerance_rule": TOLERANCE_RULE,
    }


def _sentence(stats: Mapping[str, Any], row: Row, verdict: Mapping[str, Any]) -> str:
    published = f"{row.reference} ({row.miou} mIoU as published)"
    if "difference" not in verdict:
        return f"Not comparable with {published}: {'; '.join(verdict['reasons'])}."
    word = "agrees with" if verdict["verdict"] == "agrees" else f"is {verdict['verdict']}"
    return (
        f"{stats['miou']} mIoU {word} {published}: {verdict['difference']:+} points, "
        f"tolerance {verdict['tolerance']} ({TOLERANCE_RULE})."
    )


def _row_of(stats: Mapping[str, Any], reference: str) -> Row | None:
    rows = rows_for(benchmark=stats["benchmark"])
    if reference != AUTO:
        return next((row for row in rows if row.reference == reference), None)
    protocol = stats["protocol"]
    excluded = protocol["background"] == "exclude"
    for row in rows:
        if (
            row.model == _kind(stats["model"])
            and (row.background is None or excluded == (row.background == "exclude"))
            and row.clustering in {None, protocol.get("clustering")}
        ):
            return row
    return None


def _kind(model: str) -> str:
    return "checkpoint" if _CHECKPOINT.fullmatch(model) else model


def _reasons(stats: Mapping[str, Any], row: Row) -> list[str]:
    """Return why a score does not compare with a row."""
    protocol = stats["protocol"]
    reasons = []
    if stats["miou"] is None:
        reasons.append("nothing was scored")
    if stats["split"] != "val":
        reasons.append(f"the split is {stats['split']}, the paper's is val")
    benchmark = _paper()["benchmarks"][row.benchmark]
    if "unknown" in benchmark:
        reasons.append(benchmark["unknown"])
    elif stats["images"] not in benchmark["images"]:
        scored = f"{stats['images']} images were scored"
        limit = stats.get("limit")
        cause = "" if limit is None else f" (limit {limit})"
        reasons.append(f"{scored}{cause}, the split has {_either(benchmark['images'])}")
    if row.protocol is None:
        reasons.append("the row was computed under a protocol that is none of ours")
    else:
        if protocol["name"] != row.protocol:
            reasons.append(f"the protocol is {protocol['name']}, the row's is {row.protocol}")
        changed = set(protocol.get("changed", ())) - _FREE.get(row.protocol, set())
        if changed:
            reasons.append(f"the protocol was changed: {', '.join(sorted(changed))}")
    if row.background not in {None, protocol["background"]}:
        reasons.append(f"background is {protocol['background']!r}, the row's {row.background!r}")
    if row.protocol == "oracle" and protocol.get("masks", 8) != 8:
        reasons.append(f"{protocol['masks']} pseudo-masks an image, the paper has 8 (App. A.1)")
    return reasons


def _remarks(stats: Mapping[str, Any], row: Row) -> list[str]:
    """Return what weakens a comparison."""
    protocol = stats["protocol"]
    remarks = []
    if row.model not in {"", _kind(stats["model"])}:
        remarks.append(f"the row is of the model {row.model}, scored was {stats['model']}")
    if protocol.get("tuned_on_split"):
        remarks.append("the threshold was chosen on the images that were scored")
    if row.protocol == "sseg" and row.background == "threshold":
        remarks.append(
            f"the paper does not give its threshold for background; here it is "
            f"{protocol.get('threshold')}"
        )
    if row.background is None:
        remarks.append("the paper does not say what it does with background here")
    if row.benchmark == "coco-object" and "merged by class" in stats.get("source", ""):
        remarks.append(
            "the paper combines the instances of a class and does not say which of two classes "
            "counts where they overlap; here it is the smaller instance"
        )
    if row.protocol == "oracle":
        remarks.append("the paper does not say at which image size its oracle is computed")
    return remarks


def _either(numbers: Sequence[int]) -> str:
    return " or ".join(str(number) for number in numbers)


def _names(benchmark: str) -> Sequence[str]:
    names: Sequence[str] = _paper()["benchmarks"][benchmark]["names"]
    return names


@cache
def _paper() -> dict[str, Any]:
    file = resources.files("sseg_core") / "evaluation" / "published" / "s_seg.json"
    paper: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return paper


@cache
def _rows() -> tuple[Row, ...]:
    rows = []
    for table in _paper()["tables"]:
        for printed in table["rows"]:
            own = {name: value for name, value in printed.items() if name not in {"miou", "iou"}}
            iou = dict(zip(table.get("labels", ()), printed.get("iou", ()), strict=True))
            shared = {key: table[key] for key in ("table", "protocol", "background")}
            for benchmark, miou in zip(table["benchmarks"], printed["miou"], strict=True):
                if miou is not None:
                    rows.append(Row(**{**shared, **own}, benchmark=benchmark, miou=miou, iou=iou))
    return tuple(rows)
