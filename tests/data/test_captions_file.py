"""Captions files of every kind are read alike, and a bad line is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from sseg_core.data.captions_file import Pair, image_path, read_pairs
from sseg_core.data.images import ImageError
from sseg_core.errors import DataError

EXPECTED = [
    Pair("a.jpg", ("A cat, asleep.", "The cat."), 1),
    Pair("sub/b.jpg", ("Two dogs.",), 3),
]


def written(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    ("name", "content", "lines"),
    [
        (
            "c.jsonl",
            (
                '{"image": "a.jpg", "captions": ["A cat, asleep.", "The cat."]}\n\n'
                '{"file": "sub/b.jpg", "text": "Two dogs."}\n'
            ),
            (1, 3),
        ),
        (
            "c.jsonl",
            (
                '{"path": "a.jpg", "caption": "A cat, asleep."}\n{"filename": "sub/b.jpg", '
                '"caption": "Two dogs."}\n{"image": "a.jpg", "captions": "The cat."}'
            ),
            (1, 2),
        ),
        (
            "c.csv",
            'image,caption\na.jpg,"A cat, asleep."\na.jpg,The cat.\nsub/b.jpg,Two dogs.\n',
            (2, 4),
        ),
        (
            "c.csv",
            (
                'Caption, id ,FILENAME\n"A cat, asleep.",1,a.jpg\n\nTwo dogs.,2,sub/b.jpg\n'
                "The cat.,3,a.jpg\n"
            ),
            (2, 4),
        ),
        ("c.csv", 'a.jpg,"A cat, asleep."\na.jpg,The cat.\nsub/b.jpg,Two dogs.', (1, 3)),
        ("c.TSV", "a.jpg\tA cat, asleep.\nsub/b.jpg\tTwo dogs.\na.jpg\tThe cat.\n", (1, 2)),
        (
            "c.tsv",
            "text\tpath\nA cat, asleep.\ta.jpg\nThe cat.\ta.jpg\nTwo dogs.\tsub/b.jpg",
            (2, 4),
        ),
    ],
)
@pytest.mark.parametrize("windows", [False, True])
def test_every_layout_gives_the_same_pairs(
    tmp_path: Path, name: str, content: str, lines: tuple[int, int], windows: bool
) -> None:
    """jsonl, csv and tsv, with or without header, BOM and Windows line ends give the same pairs."""
    data = content.encode()
    if windows:
        data = b"\xef\xbb\xbf" + data.replace(b"\n", b"\r\n")
    pairs = read_pairs(written(tmp_path, name, data))
    assert [(p.image, p.captions) for p in pairs] == [(p.image, p.captions) for p in EXPECTED]
    assert tuple(p.line for p in pairs) == lines


def test_empty_captions_are_dropped(tmp_path: Path) -> None:
    """Blank captions vanish; an image keeps its place though it has none left."""
    first = '{"image": "a.jpg", "captions": ["", " \\n", "A\\ncat \\ud800"]}'
    content = first + '\n{"image": "b", "text": ""}'
    pairs = read_pairs(written(tmp_path, "c.jsonl", content))
    assert pairs == [Pair("a.jpg", ("A cat ?",), 1), Pair("b", (), 2)]


def test_a_tsv_keeps_its_quotation_marks(tmp_path: Path) -> None:
    """A lone quotation mark in a tsv belongs to the caption and swallows nothing."""
    pairs = read_pairs(written(tmp_path, "c.tsv", 'a.jpg\t"Hello\nb.jpg\tA 5" disk\n'))
    assert [p.captions for p in pairs] == [('"Hello',), ('A 5" disk',)]


def test_unicode_line_separators_do_not_split_a_json_line(tmp_path: Path) -> None:
    """A caption with U+2028, which JSON allows, stays one caption."""
    pairs = read_pairs(written(tmp_path, "c.jsonl", '{"image": "a.jpg", "text": "A\u2028cat"}'))
    assert pairs == [Pair("a.jpg", ("A cat",), 1)]


GOOD = '{"image": "a.jpg", "text": "x"}\n'


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("captions.jsonl", GOOD * 16 + "{bad}\n", r"captions\.jsonl line 17 is not valid JSON"),
        ("c.jsonl", GOOD + "[" * 100_000, "line 2 is not valid JSON"),
        ("c.jsonl", GOOD + "[1]", "line 2 is no JSON object"),
        ("c.jsonl", '{"img": "a", "title": "b"}', "no field 'image' .found: 'img', 'title'."),
        ("c.jsonl", '{"image": "a"}', "no field 'captions' .found: 'image'."),
        ("c.jsonl", '{"image": 3, "text": "x"}', "line 1 has an image that is no path"),
        ("c.jsonl", '{"image": "a", "text": [3]}', "line 1 has captions that are no texts"),
        ("c.csv", "img,title\na.jpg,x\n", "line 1 has no field 'image' .found: 'img', 'title'."),
        ("c.csv", "image,title\na.jpg,x\n", "no field 'captions' .found: 'image', 'title'."),
        ("c.csv", "image,caption\na.jpg,x\nb.jpg,x, y\n", "line 3 has 3 columns instead of 2"),
        ("c.csv", "image,caption\n,x\n", "line 2 names no image"),
        ("c.csv", 'image,caption\na.jpg,"x\nb.jpg,y\n', "line 3 cannot be read .unexpected end"),
        ("c.csv", b"image,caption\na.jpg,x\nb.jpg,\xff\xfe\n", "line 3 is not UTF-8"),
        ("c.csv", "image,caption\n\n", "lists no images"),
        ("c.jsonl", "\n \n", "lists no images"),
        ("c.xlsx", "PK", "no .jsonl, .csv or .tsv"),
    ],
)  # fmt: skip
def test_a_bad_file_is_named_with_its_line(
    tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    """One bad line stops with the file, the line, what is wrong and how it should look."""
    with pytest.raises(DataError, match=message) as caught:
        read_pairs(written(tmp_path, name, content))
    assert caught.value.hint
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    """A captions file that is not there is named."""
    with pytest.raises(DataError, match=r"none\.jsonl: no such file"):
        read_pairs(tmp_path / "none.jsonl")


@pytest.mark.parametrize(
    "image", ["../secret.jpg", "sub/../../secret.jpg", "/etc/passwd", "../root2/a"]
)
def test_paths_out_of_the_root_are_refused(tmp_path: Path, image: str) -> None:
    """A path that leads out of the root is refused, however it is written."""
    root = tmp_path / "root"
    with pytest.raises(ImageError, match="is outside of") as caught:
        image_path(root, image)
    assert caught.value.reason == "outside root"


def test_paths_within_the_root_are_resolved(tmp_path: Path) -> None:
    """Relative, winding and absolute paths below the root lead to the same file."""
    expected = tmp_path / "sub" / "a.jpg"
    for image in ("sub/a.jpg", "./sub/../sub/a.jpg", str(expected)):
        assert image_path(tmp_path, image) == expected
