"""What became of the samples of a source: how many are usable, and why the others are not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sseg_core.data.shards import Sample
from sseg_core.errors import DataError

_EXAMPLES = 5  # names kept per reason
_MENDS = {"": "Mend them and run the same command again"}


@dataclass(frozen=True)
class Skipped:
    """A sample that cannot be used.

    Attributes:
        reason: why, in one to three words to count by.
        name: its name as it may be shown.
    """

    reason: str
    name: str


@dataclass
class Tally:
    """What became of the samples of one shard, or of all; noted with each finished shard.

    Attributes:
        images: usable ones.
        captions: of these.
        bytes: of their image files.
        skipped: the others, by reason.
        examples: names of some of these, by reason.
    """

    images: int = 0
    captions: int = 0
    bytes: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    @classmethod
    def from_note(cls, note: Mapping[str, Any]) -> Tally:
        """Return the tally that `note` returned; what else stands in a note is left out."""
        known = {name: note[name] for name in cls.__dataclass_fields__}
        return cls(**{**known, "skipped": Counter(known["skipped"])})

    @classmethod
    def of(cls, tallies: Iterable[Tally]) -> Tally:
        """Return the sum of some."""
        total = cls()
        for tally in tallies:
            total.add(tally)
        return total

    def note(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {**vars(self), "skipped": dict(self.skipped)}

    def add(self, other: Tally) -> None:
        """Add the counts of another one."""
        self.images += other.images
        self.captions += other.captions
        self.bytes += other.bytes
        self.skipped.update(other.skipped)
        for reason, names in other.examples.items():
            known = self.examples.setdefault(reason, [])
            known.extend(names[: _EXAMPLES - len(known)])

    def add_sample(self, item: Sample | Skipped) -> None:
        """Count one sample."""
        if isinstance(item, Sample):
            self.add(Tally(1, len(item.captions), len(item.image)))
        else:
            self.add(Tally(skipped=Counter([item.reason]), examples={item.reason: [item.name]}))

    def check(self, length: int, min_success: float, mends: Mapping[str, str] = _MENDS) -> None:
        """Raise once fewer than the least share of all `length` samples can be usable, or none.

        Args:
            length: samples, those to come among them.
            min_success: share of these, 0 to 1.
            mends: what the user can do, by reason, "" for others, as the beginning of a sentence.

        Raises:
            DataError: with the most frequent reason; what was made so far stays in the draft.
        """
        bad = self.skipped.total()
        if bad <= (1 - min_success) * length and bad < length:
            return
        reason, count = self.skipped.most_common(1)[0]
        raise DataError(
            f"{bad:,} of {length:,} images cannot be used, most often because of: {reason} "
            f"({count:,}, for example {self.examples[reason][0]}).",
            mends.get(reason, mends[""])
            + (", or allow it with --min-success 0." if bad < length else "."),
        )
