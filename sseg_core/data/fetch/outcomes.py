"""What became of every URL of a list: a table for each shard.

`NNNNNN.outcomes.jsonl.gz` beside `NNNNNN.tar` has a line for each row of the list, in order:
`{"key": "000000012", "url": "https://...", "outcome": "fetched"}` or why not. Fetched ones also
have `sha256`, the beginning of the digest of what came, and `look`, see `duplicates.py`.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from sseg_core.data.shards import cannot_write

FETCHED = "fetched"
TABLE = ".outcomes.jsonl.gz"
"""What follows the number of a shard in the name of its table."""


@dataclass(frozen=True)
class Outcome:
    """What became of one URL.

    Attributes:
        key: of its sample.
        url: as the list has it.
        outcome: `fetched`, or why not.
        sha256: first 16 digits of the SHA-256 of the file that came; empty if none did.
        look: 16 hexadecimal digits, see `duplicates.look_of`; empty likewise.
    """

    key: str
    url: str
    outcome: str
    sha256: str = ""
    look: str = ""


def write_outcomes(path: Path, outcomes: Iterable[Outcome]) -> None:
    """Write the table of a shard; equal tables give equal bytes.

    Raises:
        DataError: the disk is full, or the file cannot be written for another reason.
    """
    try:
        with path.open("wb") as stream, gzip.GzipFile("", "wb", 6, stream, mtime=0) as packed:
            for outcome in outcomes:
                record = {name: value for name, value in asdict(outcome).items() if value}
                packed.write(json.dumps(record, ensure_ascii=True).encode() + b"\n")
    except OSError as error:
        raise cannot_write(path, error) from error


def read_outcomes(path: Path) -> Iterator[Outcome]:
    """Yield the lines of a table."""
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        for line in stream:
            record: Mapping[str, str] = json.loads(line)
            yield Outcome(**{"key": "", "url": "", "outcome": "", **record})
