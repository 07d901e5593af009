"""What a download will take, before it starts."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from sseg_core.config import DownloadConfig
from sseg_core.errors import DataError, printable

_BYTES_PER_PIXEL = 0.4  # of photos as JPEG of quality 92 with full chroma: 0.35 to 0.45
_RESERVE = 2**28

FEWER_OR_SMALLER = "--limit N, --part 1/4 or --set short_side=256 take less"
"""How to take less of captioned images."""


@dataclass(frozen=True)
class DownloadPlan:
    """What a download will take.

    Attributes:
        source: its name.
        contents: what it is, in a few words.
        origin: where it comes from.
        licence: in a few words.
        terms: address of the page with the terms; empty where the user knows them.
        folder: where it goes.
        images: how many; None if unknown.
        download_bytes: to fetch, about; None if unknown.
        disk_bytes: that it needs at most while it runs, about; None if unknown.
        less: how to take less, as half a sentence; empty where there is no way.
        notes: further lines for the user.
    """

    source: str
    contents: str
    origin: str
    folder: Path
    licence: str = ""
    terms: str = ""
    images: int | None = None
    download_bytes: int | None = None
    disk_bytes: int | None = None
    less: str = ""
    notes: tuple[str, ...] = ()

    @property
    def free_bytes(self) -> int:
        """Free space where it goes."""
        return free_bytes(self.folder)

    def sentence(self) -> str:
        """Return the plan as one line."""
        parts = [] if self.images is None else [f"{self.images:,} images"]
        if self.download_bytes:
            parts.append(f"about {size_text(self.download_bytes)} to fetch")
        if self.disk_bytes:
            parts.append(f"about {size_text(self.disk_bytes)} on disk")
        parts.append(f"{size_text(self.free_bytes)} free in {printable(self.folder)}")
        return f"{self.contents}: {', '.join(parts)}"

    def check_space(self, there: int = 0) -> None:
        """Raise where the disk cannot hold it.

        Args:
            there: bytes that an earlier run has written.

        Raises:
            DataError: with what is needed and what is free.
        """
        needed = (self.disk_bytes or 0) - there
        if needed <= 0 or needed + _RESERVE <= self.free_bytes:
            return
        raise DataError(
            f"{printable(self.source)} needs about {size_text(needed)}, but only "
            f"{size_text(self.free_bytes)} are free in {printable(self.folder)}.",
            "Make room, or choose another disk" + (f"; {self.less}." if self.less else "."),
        )


def free_bytes(folder: Path) -> int:
    """Return the free space where a folder is, or would be made."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def expected_bytes(images: int, config: DownloadConfig) -> int | None:
    """Return about how much shards of so many photos take; None if they keep their size."""
    sides = []  # the short sides of a photo of 4 to 3, as most are
    if config.max_side is not None:
        sides.append(config.max_side * 3 / 4)
    if config.short_side is not None:
        sides.append(config.short_side)
    if not sides:
        return None
    return round(images * min(sides) ** 2 * 4 / 3 * _BYTES_PER_PIXEL)


def size_text(count: float) -> str:
    """Return a number of bytes in the unit that suits it, such as `1.4 GB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if count >= 10 or unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:,.0f} TB" if count >= 10 else f"{count:.1f} TB"
