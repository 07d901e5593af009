"""Where captioned images come from: a captions file beside a folder of images.

A captions file is the user's own, so one bad line stops with its number before anything is
written. What it points at may come from strangers: a missing, bad or stray image costs only itself.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sseg_core.data.images import ImageError
from sseg_core.data.shards import clean_caption
from sseg_core.errors import DataError, printable

_IMAGE_FIELDS = ("image", "file", "filename", "path")
_CAPTION_FIELDS = ("captions", "caption", "text")
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_FORMAT_HINT = (
    'One line per image: {"image": "cat.jpg", "captions": ["A cat sleeps."]} in a .jsonl file, or '
    "the columns image and caption in a .csv or .tsv file."
)


@dataclass(frozen=True)
class Pair:
    """An image and its captions, as a captions file lists them.

    Attributes:
        image: path of the image as written there; check it with `image_path` before use.
        captions: one line each, none empty; there may be none.
        line: where the image is first mentioned, from 1.
    """

    image: str
    captions: tuple[str, ...]
    line: int


def read_pairs(file: Path) -> list[Pair]:
    """Read a captions file: jsonl, csv or tsv, by its suffix; lines of one image are merged.

    A csv or tsv has a header line with an image column (image, file, filename or path) and a
    caption column (captions, caption or text), or no header and just these two columns.

    Raises:
        DataError: the file is missing, of another kind, empty, or has a bad line, which is named.
    """
    text = _read_text(file)
    suffix = file.suffix.lower()
    if suffix == ".jsonl":
        rows = _json_rows(text, file)
    elif suffix in _DELIMITERS:
        rows = _table_rows(text, file, _DELIMITERS[suffix])
    else:
        raise DataError(f"{printable(file)} is no .jsonl, .csv or .tsv file.", _FORMAT_HINT)
    first_lines: dict[str, int] = {}
    captions: dict[str, list[str]] = {}
    for line, image, texts in rows:
        first_lines.setdefault(image, line)
        cleaned = (clean_caption(text) for text in texts)
        captions.setdefault(image, []).extend(text for text in cleaned if text)
    if not captions:
        raise DataError(f"{printable(file)} lists no images.", _FORMAT_HINT)
    return [Pair(image, tuple(captions[image]), line) for image, line in first_lines.items()]


def image_path(root: Path, image: str) -> Path:
    """Return the path of an image that a captions file names, which must lie below `root`.

    The check is made on the path as written: a link that the user put into the folder is followed.

    Raises:
        ImageError: the path leads out of `root` (reason "outside root").
    """
    folder = os.path.abspath(root)
    path = Path(os.path.normpath(os.path.join(folder, image)))
    if not path.is_relative_to(folder):
        raise ImageError("outside root", f"is outside of {printable(root)}", printable(image))
    return path


def _read_text(file: Path) -> str:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise DataError(
            f"Cannot read {printable(file)}: {(error.strerror or 'unknown error').lower()}.",
            "Check the path.",
        ) from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise _bad_line(file, line, "is not UTF-8 text", "Save the file as UTF-8.") from error


def _json_rows(text: str, file: Path) -> Iterator[tuple[int, str, Sequence[str]]]:
    # Not splitlines(): it also splits at separators that JSON allows inside a string.
    for line, content in enumerate(text.split("\n"), start=1):
        if not content.strip():
            continue
        try:
            record = json.loads(content)
        except (ValueError, RecursionError) as error:
            detail = f" ({error.msg.lower()})" if isinstance(error, json.JSONDecodeError) else ""
            raise _bad_line(file, line, f"is not valid JSON{detail}", _FORMAT_HINT) from error
        if not isinstance(record, dict):
            raise _bad_line(file, line, "is no JSON object", _FORMAT_HINT)
        image = record[_field(_IMAGE_FIELDS, record, file, line)]
        captions = record[_field(_CAPTION_FIELDS, record, file, line)]
        if isinstance(captions, str):
            captions = [captions]
        if not isinstance(image, str) or not image:
            raise _bad_line(file, line, "has an image that is no path", _FORMAT_HINT)
        if not isinstance(captions, list) or not all(isinstance(c, str) for c in captions):
            raise _bad_line(file, line, "has captions that are no texts", _FORMAT_HINT)
        yield line, image, captions


def _table_rows(text: str, file: Path, delimiter: str) -> Iterator[tuple[int, str, Sequence[str]]]:
    stream = io.StringIO(text, newline="")
    if delimiter == "\t":
        # A tsv by custom quotes nothing, so a quotation mark there is part of the caption.
        reader = csv.reader(stream, delimiter=delimiter, quoting=csv.QUOTE_NONE)
    else:
        reader = csv.reader(stream, delimiter=delimiter, strict=True)
    columns: tuple[int, int] | None = None
    width = 2
    try:
        for row in reader:
            if not any(cell.strip() for cell in row):
                continue
            if columns is None:
                columns, width = _columns(row, file, reader.line_num), len(row)
                if row[columns[0]].strip().lower() in _IMAGE_FIELDS:
                    continue
            if len(row) != width:
                problem = f"has {len(row)} columns instead of {width}"
                hint = "Put a caption that holds commas between double quotes."
                raise _bad_line(file, reader.line_num, problem, hint)
            if not row[columns[0]].strip():
                raise _bad_line(file, reader.line_num, "names no image", _FORMAT_HINT)
            yield reader.line_num, row[columns[0]].strip(), [row[columns[1]]]
    except csv.Error as error:
        problem = f"cannot be read ({error})"
        hint = 'Inside a quoted caption, double the quotation marks: "".'
        raise _bad_line(file, reader.line_num, problem, hint) from error


def _columns(row: Sequence[str], file: Path, line: int) -> tuple[int, int]:
    """Return the positions of the image and the caption, from a header or a first line of data."""
    names = [cell.strip().lower() for cell in row]
    if set(names) & {*_IMAGE_FIELDS, *_CAPTION_FIELDS}:
        image, caption = (
            _field(fields, names, file, line) for fields in (_IMAGE_FIELDS, _CAPTION_FIELDS)
        )
        return names.index(image), names.index(caption)
    # Without an extension in its first cell the line looks like a header with other names.
    if len(row) != 2 or not Path(names[0]).suffix:
        raise _no_field(_IMAGE_FIELDS, row, file, line)
    return 0, 1


def _field(names: Sequence[str], found: Iterable[str], file: Path, line: int) -> str:
    """Return the first of `names` that is among the fields `found`."""
    present = list(found)
    for name in names:
        if name in present:
            return name
    raise _no_field(names, present, file, line)


def _no_field(names: Sequence[str], found: Sequence[str], file: Path, line: int) -> DataError:
    listed = ", ".join(repr(printable(name, 40)) for name in found[:10]) or "none"
    return _bad_line(file, line, f"has no field {names[0]!r} (found: {listed})", _FORMAT_HINT)


def _bad_line(file: Path, line: int, problem: str, hint: str) -> DataError:
    return DataError(f"{printable(file.name)} line {line} {problem}.", hint)
