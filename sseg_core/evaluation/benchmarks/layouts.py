"""The folders of a benchmark as it was published: found, and complete."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sseg_core.errors import DataError, printable


def find_home(
    root: Path, *, below: Iterable[str], signs: Iterable[str], what: str, layout: str
) -> Path:
    """Return the first of `root` and the folders `below` it that holds one of `signs`.

    Raises:
        DataError: there is none.
    """
    if not root.is_dir():
        raise DataError(f"There is no folder {printable(root, None)}.", layout)
    for home in (root, *(root / name for name in below)):
        if any((home / sign).exists() for sign in signs):
            return home
    raise DataError(f"There is no {what} in {printable(root, None)}.", layout)


def names_in(folder: Path, layout: str) -> set[str]:
    """Return the names in a folder, hidden ones left out: unpacking leaves such files behind.

    Raises:
        DataError: there is no such folder, or it cannot be read.
    """
    try:
        names = os.listdir(folder)
    except FileNotFoundError as error:
        raise DataError(f"The folder {printable(folder, None)} is missing.", layout) from error
    except OSError as error:
        reason = (error.strerror or "unknown error").lower()
        raise DataError(
            f"The folder {printable(folder, None)} cannot be read: {reason}.", layout
        ) from error
    return {name for name in names if not name.startswith(".")}


@dataclass(frozen=True)
class KeyedFiles:
    """Files of one kind, each named by its key.

    Attributes:
        folder: that holds them.
        suffix: of their names, after the key.
        subfolders: of `folder`, if the files lie in these; a key is then SUBFOLDER/NAME.
        names: a pattern that tells the files from others of the same suffix.
    """

    folder: Path
    suffix: str
    subfolders: tuple[str, ...] = ()
    names: str = ".+"

    def path(self, key: str) -> Path:
        """Return the path of a key, which must be one of `keys` or checked otherwise."""
        return self.folder / f"{key}{self.suffix}"

    def keys(self, layout: str) -> set[str]:
        """Return the keys of all files there are; see `names_in`."""
        if not self.subfolders:
            return self._names(names_in(self.folder, layout))
        return {
            f"{subfolder}/{name}"
            for subfolder in self.subfolders
            for name in self._names(names_in(self.folder / subfolder, layout))
        }

    def _names(self, files: Iterable[str]) -> set[str]:
        matches = re.compile(self.names, re.DOTALL).fullmatch
        names = (file.removesuffix(self.suffix) for file in files if file.endswith(self.suffix))
        return {name for name in names if matches(name)}


def read_split(folder: Path, split: str, layout: str) -> tuple[str, ...]:
    """Return the lines of the list `SPLIT.txt` in a folder.

    Raises:
        DataError: there is no such list, or it is empty or names something twice.
    """
    present = sorted(KeyedFiles(folder, ".txt").keys(layout))
    if split not in present:
        raise no_such_split(split, folder, present, layout)
    path = folder / f"{split}.txt"
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    keys = [line.strip() for line in lines if line.strip()]
    if not keys:
        raise DataError(f"{printable(path, None)} names no image.", layout)
    if len(set(keys)) < len(keys):
        ((twice, _),) = Counter(keys).most_common(1)
        raise DataError(f"{printable(path, None)} names {printable(twice)!r} twice.", layout)
    return tuple(keys)


def no_such_split(split: str, where: Path, present: Sequence[str], layout: str) -> DataError:
    """Return the error that names the splits there are."""
    hint = f"It has: {', '.join(map(printable, present))}." if present else layout
    return DataError(f"There is no split {printable(split)!r} in {printable(where, None)}.", hint)


def require_files(
    keys: Sequence[str], present: Collection[str], files: KeyedFiles, *, what: str, layout: str
) -> None:
    """Check that every key has its file.

    Args:
        keys: of the split.
        present: those that have it.
        files: where they should be.
        what: the files, as in "of 100 label images that val.txt names".
        layout: of the benchmark, for the hint.

    Raises:
        DataError: how many are missing, and the first.
    """
    missing = [key for key in keys if key not in present]
    if missing:
        first = printable(files.path(missing[0]), None)
        others = f" and {len(missing) - 1:,} more are missing" if missing[1:] else " is missing"
        raise DataError(f"{first}{others}, of {len(keys):,} {what}.", layout)


def paired_keys(images: KeyedFiles, truths: KeyedFiles, layout: str) -> tuple[str, ...]:
    """Return the keys, sorted, of a split that no list names.

    Raises:
        DataError: there is none, or an image or its label image is missing, as when only half of
            the archives was unpacked.
    """
    of_images, of_truths = images.keys(layout), truths.keys(layout)
    keys = tuple(sorted(of_images | of_truths))
    if not keys:
        raise DataError(f"There is no image in {printable(images.folder, None)}.", layout)
    require_files(keys, of_images, images, what="images of the split", layout=layout)
    require_files(keys, of_truths, truths, what="label images of the split", layout=layout)
    return keys


def truth_source(truth: str, *, found: int, published: int | None) -> str:
    """Return what a score says of its truth: a part of a split is never taken for all of it."""
    if published is None or found == published:
        return truth
    return f"{truth}, {found:,} of the {published:,} images"
