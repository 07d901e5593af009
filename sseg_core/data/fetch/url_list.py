"""Lists of image URLs with captions, read row by row however long they are.

A list comes from strangers: a line that cannot be used is a row without URL, and costs only itself.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

from sseg_core.data.shards import clean_caption
from sseg_core.errors import ConfigError, DataError, did_you_mean, printable

_URLS = ("url", "image_url", "img_url", "urls", "link", "src", "image")
_CAPTIONS = ("caption", "captions", "text", "alt_text", "alt", "title", "raw_caption")
_SUFFIXES = (".tsv", ".csv", ".jsonl", ".parquet")
_MAX_FIELD = 2**20  # characters of a cell, or of a line of JSON
_MAX_ANNOTATIONS = 2**31  # bytes of one file of RedCaps
_HINT = (
    "A .tsv or .csv with a column of URLs and one of captions, a .jsonl with such fields, or a "
    ".parquet; name other columns with --set fetch.url_column=NAME and fetch.caption_column=NAME."
)


class UrlRow(NamedTuple):
    """One image of a list; the URL is empty where its line cannot be used."""

    url: str
    caption: str


_BAD = UrlRow("", "")


@dataclass(frozen=True)
class UrlList:
    """A list of image URLs.

    Attributes:
        length: number of rows, usable or not.
        sha256: of the file.
        rows: reads the list from its beginning.
    """

    length: int
    sha256: str
    rows: Callable[[], Iterator[UrlRow]]


def open_url_list(file: Path, url_column: str | None, caption_column: str | None) -> UrlList:
    """Open a list: .tsv, .csv or .jsonl (also with .gz), or .parquet, by its suffix.

    The columns are named, or found by their usual names in any case. A .tsv or .csv without a
    header has two columns, of which the one that holds a URL in the first line is that of the URLs
    (Conceptual Captions 3M has the caption first, 12M the URL).

    Raises:
        DataError: the file cannot be read, is of another kind or empty.
        ConfigError: it has no such columns, or pyarrow is missing for a .parquet.
    """
    suffix = Path(file.name.removesuffix(".gz")).suffix.lower()
    if suffix not in _SUFFIXES:
        raise DataError(f"{printable(file)} is no {', '.join(_SUFFIXES)} file.", _HINT)
    try:
        digest = _sha256(file)
        if suffix == ".parquet":
            rows, length = _parquet(file, url_column, caption_column)
            return UrlList(length, digest, rows)
        if suffix == ".jsonl":

            def rows() -> Iterator[UrlRow]:
                return _json_rows(file, url_column, caption_column)
        else:
            delimiter = "\t" if suffix == ".tsv" else ","

            def rows() -> Iterator[UrlRow]:
                return _table_rows(file, delimiter, url_column, caption_column)

        length = sum(1 for _ in rows())
    except (OSError, EOFError, zlib.error) as error:
        reason = (getattr(error, "strerror", None) or str(error) or "it is damaged").lower()
        raise DataError(f"Cannot read {printable(file)}: {reason}.", "Check the file.") from error
    if not length:
        raise DataError(f"{printable(file)} lists no images.", _HINT)
    return UrlList(length, digest, rows)


def open_redcaps(file: Path) -> UrlList:
    """Open the archive of RedCaps's annotation files, `annotations/SUBREDDIT_YEAR.json`.

    The rows are in the order of the file names, and within a file as they stand there; the archive
    is read as it is, one file of it in memory at a time.

    Raises:
        DataError: it cannot be read, or holds no annotations.
    """

    def rows() -> Iterator[UrlRow]:
        with zipfile.ZipFile(file) as archive:
            for name in sorted(archive.namelist()):
                if not name.endswith(".json"):
                    continue
                if archive.getinfo(name).file_size > _MAX_ANNOTATIONS:
                    raise ValueError("a file of annotations is too large")
                for record in json.loads(archive.read(name))["annotations"]:
                    yield _row(record.get("url"), record.get("caption"))

    try:
        length = sum(1 for _ in rows())
        digest = _sha256(file)
    except (OSError, ValueError, LookupError, AttributeError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{printable(file)} cannot be read as the annotations of RedCaps.",
            "Remove the file and run the same command again, which fetches it anew.",
        ) from error
    if not length:
        raise DataError(f"{printable(file)} holds no annotations.", "Remove the file.")
    return UrlList(length, digest, rows)


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def _text(file: Path) -> Iterator[IO[str]]:
    opened = gzip.open if file.suffix.lower() == ".gz" else open
    with (
        opened(file, "rb") as binary,
        io.TextIOWrapper(binary, "utf-8-sig", "replace", newline="") as text,
    ):
        yield text


def _table_rows(
    file: Path, delimiter: str, url_column: str | None, caption_column: str | None
) -> Iterator[UrlRow]:
    csv.field_size_limit(_MAX_FIELD)
    # A tsv by custom quotes nothing, so a quotation mark there is part of the caption.
    with _text(file) as stream:
        if delimiter == "\t":
            lines = csv.reader(stream, delimiter=delimiter, quoting=csv.QUOTE_NONE)
        else:
            lines = csv.reader(stream, delimiter=delimiter)
        url = caption = -1
        while True:
            try:
                cells = next(lines)
            except StopIteration:
                return
            except csv.Error:
                if url < 0:
                    raise DataError(
                        f"The first line of {printable(file)} cannot be read.", _HINT
                    ) from None
                yield _BAD
                continue
            if not cells:
                continue
            if url < 0:
                url, caption, is_header = _table_columns(cells, file, url_column, caption_column)
                if is_header:
                    continue
            if len(cells) <= max(url, caption):
                yield _BAD
            else:
                yield _row(cells[url], cells[caption])


def _table_columns(
    cells: Sequence[str], file: Path, url_column: str | None, caption_column: str | None
) -> tuple[int, int, bool]:
    """Return the positions of URL and caption, and whether the line is a header."""
    names = [cell.strip() for cell in cells]
    holds_url = [name.lower().startswith(("http://", "https://")) for name in names]
    if any(holds_url) and url_column is None:
        if len(names) != 2:
            raise ConfigError(
                f"{printable(file)} has {len(names)} columns and no header that names them.",
                "Add a first line such as: url<TAB>caption",
            )
        return holds_url.index(True), 1 - holds_url.index(True), False
    url = names.index(_column(names, url_column, _URLS, "URLs", file))
    return url, names.index(_column(names, caption_column, _CAPTIONS, "captions", file)), True


def _json_rows(file: Path, url_column: str | None, caption_column: str | None) -> Iterator[UrlRow]:
    url = caption = None
    with _text(file) as stream:
        while line := stream.readline(_MAX_FIELD):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                record = None
            if not isinstance(record, dict):
                yield _BAD
                continue
            if url is None or caption is None:
                names = list(record)
                url = _column(names, url_column, _URLS, "URLs", file)
                caption = _column(names, caption_column, _CAPTIONS, "captions", file)
            yield _row(record.get(url), record.get(caption))


def _parquet(
    file: Path, url_column: str | None, caption_column: str | None
) -> tuple[Callable[[], Iterator[UrlRow]], int]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ConfigError(
            "A .parquet list needs pyarrow.", "Run: pip install 'sseg[parquet]'"
        ) from error
    try:
        with pq.ParquetFile(file) as opened:
            length, names = opened.metadata.num_rows, list(opened.schema_arrow.names)
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise DataError(f"{printable(file)} is no Parquet file.", _HINT) from error
    if not length:
        raise DataError(f"{printable(file)} lists no images.", _HINT)
    url = _column(names, url_column, _URLS, "URLs", file)
    caption = _column(names, caption_column, _CAPTIONS, "captions", file)

    def rows() -> Iterator[UrlRow]:
        try:
            with pq.ParquetFile(file) as opened:
                for batch in opened.iter_batches(batch_size=4096, columns=[url, caption]):
                    columns = (batch.column(name).to_pylist() for name in (url, caption))
                    yield from map(_row, *columns)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise DataError(f"{printable(file)} is damaged.", "Fetch it again.") from error

    return rows, length


def _column(
    names: Sequence[str], asked: str | None, usual: Sequence[str], what: str, file: Path
) -> str:
    if asked is not None:
        if asked in names:
            return asked
        hint = did_you_mean(asked, [printable(name, 40) for name in names])
        raise ConfigError(f"{printable(file)} has no column {printable(asked)!r}.", hint)
    by_lower = {name.lower(): name for name in reversed(names)}
    found = next((by_lower[name] for name in usual if name in by_lower), None)
    if found is None:
        listed = ", ".join(repr(printable(name, 40)) for name in names[:10]) or "none"
        raise ConfigError(f"{printable(file)} has no column of {what} (found: {listed}).", _HINT)
    return found


def _row(url: Any, caption: Any) -> UrlRow:
    if isinstance(caption, list):
        caption = caption[0] if caption else ""
    if not isinstance(url, str) or not isinstance(caption, str):
        return _BAD
    return UrlRow(url.strip(), clean_caption(caption))
