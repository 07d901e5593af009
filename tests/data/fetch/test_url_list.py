"""URL lists: every kind of file, columns found or named, and lines that cannot be used."""

from __future__ import annotations

import gzip
import hashlib
import json
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sseg_core.data.fetch.url_list import UrlRow, open_redcaps, open_url_list
from sseg_core.errors import ConfigError, DataError

ROWS = [UrlRow("http://a.example/1.jpg", "A cat."), UrlRow("https://b.example/2.jpg", "Two dogs")]


def _rows(file: Path, url: str | None = None, caption: str | None = None) -> list[UrlRow]:
    opened = open_url_list(file, url, caption)
    rows = list(opened.rows())
    assert opened.length == len(rows)
    assert rows == list(opened.rows())  # it can be read again
    assert opened.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    return rows


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("cc3m.tsv", "A cat.\t{0}\nTwo dogs\t{1}\n"),  # as Conceptual Captions is published
        ("cc12m.tsv", "{0}\tA cat.\n{1}\tTwo dogs\n"),  # as Conceptual 12M is
        ("header.tsv", "id\tCaption\tURL\n7\tA cat.\t{0}\n8\t Two  dogs\t{1}\n"),
        ("comma.csv", 'text,image_url\r\n"A cat.",{0}\r\nTwo dogs,{1}\r\n'),
        ("bom.csv", "\ufeffurl,caption\n{0},A cat.\n\n{1},Two dogs"),
        (
            "lines.jsonl",
            '{{"url": "{0}", "text": "A cat."}}\n{{"text": ["Two dogs", "x"], "url": "{1}"}}',
        ),
    ],
)  # fmt: skip
@pytest.mark.parametrize("packed", [False, True])
def test_lists_are_read(tmp_path: Path, name: str, text: str, packed: bool) -> None:
    """Whatever the order of the columns, with a header or not, packed or not."""
    content = text.format(*(row.url for row in ROWS)).encode()
    file = tmp_path / (f"{name}.gz" if packed else name)
    file.write_bytes(gzip.compress(content) if packed else content)
    assert _rows(file) == ROWS


def test_parquet_is_read(tmp_path: Path) -> None:
    """With missing values as rows that cannot be used."""
    file = tmp_path / "list.parquet"
    table = {
        "TEXT": [ROWS[0].caption, None, ROWS[1].caption],
        "URL": [ROWS[0].url, "http://c.example/3.jpg", ROWS[1].url],
        "NSFW": ["no", "no", "no"],
    }
    pq.write_table(pa.table(table), file)
    assert _rows(file) == [ROWS[0], UrlRow("", ""), ROWS[1]]


def test_columns_can_be_named(tmp_path: Path) -> None:
    """For a file whose columns have other names, or several that would do."""
    file = tmp_path / "list.csv"
    file.write_text("url,thumb,caption,alt_fr\nhttp://a/1,http://a/2,Hi,Salut\n")
    assert _rows(file) == [UrlRow("http://a/1", "Hi")]
    assert _rows(file, "thumb", "alt_fr") == [UrlRow("http://a/2", "Salut")]
    with pytest.raises(ConfigError, match="has no column 'thum'") as caught:
        open_url_list(file, "thum", None)
    assert "'thumb'" in caught.value.hint


def test_bad_lines_cost_only_themselves(tmp_path: Path) -> None:
    """They stay as rows, so that the positions of the others do not depend on them."""
    file = tmp_path / "list.tsv"
    huge = "x" * 2**21
    file.write_bytes(
        f"url\tcaption\n{ROWS[0].url}\tA cat.\nno tab\n\t\n{huge}\ty\n".encode()
        + b"http://c/\xff\xfe.jpg\tbytes \xff\n"
        + f'{ROWS[1].url}\tTwo dogs\n"\t"quoted\n'.encode()
    )
    rows = _rows(file)
    assert [rows[0], rows[5]] == ROWS
    assert [row.url for row in rows[1:4]] == ["", "", ""]
    assert rows[4].url.startswith("http://c/")
    assert rows[6] == UrlRow('"', '"quoted')
    lines = tmp_path / "list.jsonl"
    good = {"url": ROWS[0].url, "caption": ROWS[0].caption}
    bad = ["[1]", "{", '{"url": 3, "caption": "x"}', '{"caption": "x"}', "[" * 5000]
    lines.write_text("\n".join([json.dumps(good), *bad, json.dumps(good)]))
    assert _rows(lines) == [ROWS[0], *[UrlRow("", "")] * len(bad), ROWS[0]]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("list.txt", b"http://a/1", "is no .tsv, .csv, .jsonl, .parquet file"),
        ("empty.tsv", b"", "lists no images"),
        ("head.tsv", b"url\tcaption\n", "lists no images"),
        ("three.tsv", b"http://a/1\tx\ty\n", "has 3 columns and no header"),
        ("other.csv", b"foo,bar\n1,2\n", "has no column of URLs .found: 'foo', 'bar'"),
        ("bad.parquet", b"PAR0", "is no Parquet file"),
        ("bad.tsv.gz", b"\x1f\x8bxx", "Cannot read"),
        ("no.jsonl", b'{"link": "http://a"}', "has no column of captions .found: 'link'"),
    ],
)
def test_a_file_that_is_no_list_is_one_sentence(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    """With what it should look like."""
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises((ConfigError, DataError), match=message) as caught:
        open_url_list(file, None, None)
    assert caught.value.hint
    with pytest.raises(DataError, match="Cannot read"):
        open_url_list(tmp_path / "missing.tsv", None, None)


def test_a_damaged_list_is_one_sentence(tmp_path: Path) -> None:
    """Wherever the damage is: packed text is found when it is opened, Parquet at the latest when
    its rows are read."""
    text = "url\tcaption\n" + "".join(f"http://a/{n}\tphoto {n * n}\n" for n in range(3000))
    packed = bytearray(gzip.compress(text.encode()))
    packed[len(packed) // 2 : len(packed) // 2 + 40] = b"?" * 40
    (tmp_path / "list.tsv.gz").write_bytes(packed)
    with pytest.raises(DataError, match="Cannot read"):
        open_url_list(tmp_path / "list.tsv.gz", None, None)
    table = {"url": [f"http://a/{n}" for n in range(3000)], "caption": ["x"] * 3000}
    pq.write_table(pa.table(table), tmp_path / "list.parquet", compression="gzip")
    data = bytearray((tmp_path / "list.parquet").read_bytes())
    data[200:900] = bytes(700)
    (tmp_path / "list.parquet").write_bytes(data)
    with pytest.raises(DataError, match="is damaged"):
        list(open_url_list(tmp_path / "list.parquet", None, None).rows())


def test_redcaps_is_read_in_the_order_of_its_files(tmp_path: Path) -> None:
    """Its annotation files are named SUBREDDIT_YEAR.json; one without a URL is a bad row."""
    file = tmp_path / "redcaps.zip"
    record = {"image_id": "x", "author": "y", "raw_caption": "A CAT", "subreddit": "cats"}
    files = {
        "annotations/cats_2018.json": [{**record, "url": ROWS[1].url, "caption": "two dogs"}],
        "annotations/alpaca_2017.json": [
            {**record, "url": ROWS[0].url, "caption": "A cat."},
            {**record, "caption": "lost"},
        ],
        "README.md": None,
    }
    with zipfile.ZipFile(file, "w") as archive:
        for name, records in files.items():
            content = json.dumps({"info": {}, "annotations": records}) if records else "hi"
            archive.writestr(name, content)
    opened = open_redcaps(file)
    assert opened.length == 3
    assert list(opened.rows()) == [ROWS[0], UrlRow("", ""), UrlRow(ROWS[1].url, "two dogs")]
    file.write_bytes(b"no zip")
    with pytest.raises(DataError, match="cannot be read as the annotations"):
        open_redcaps(file)
