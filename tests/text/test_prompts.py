"""Class names and templates: what is taken, what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from sseg_core.errors import ConfigError
from sseg_core.text.prompts import check_class_names, fill_template, read_class_names


@pytest.mark.parametrize(
    ("template", "name", "expected"),
    [
        ("{}", "tiger", "tiger"),
        ("a photo of a {}.", "tiger", "a photo of a tiger."),
        ("a photo of a {}.", "airplane", "a photo of an airplane."),
        ("a photo of an {}.", "tiger", "a photo of a tiger."),
        ("A {} and a {}", "Eagle", "An Eagle and an Eagle"),
        ("a {}", "unicycle", "a unicycle"),
        ("a {}", "uniform", "a uniform"),
        ("a {}", "umbrella", "an umbrella"),
        ("a {}", "uninteresting wall", "an uninteresting wall"),
        ("a {}", "urinal", "a urinal"),
        ("a {}", "urn", "an urn"),
        ("a {}", "European polecat", "a European polecat"),
        ("a {}", "one-piece swimsuit", "a one-piece swimsuit"),
        ("a {}", "onion", "an onion"),
        ("a {}", "hourglass", "an hourglass"),
        ("a {}", "house", "a house"),
        ("a {}", "x-ray", "an x-ray"),
        ("a {}", "t-shirt", "a t-shirt"),
        ("the {} of a zoo", "ox", "the ox of a zoo"),
        ("pizza {}", "oven", "pizza oven"),
        ("a big {}", "ox", "a big ox"),
        ("{{a {}}}", "ox", "{an ox}"),
        ("a {}", "{x}{0}%s", "a {x}{0}%s"),
    ],
)
def test_a_template_takes_the_name_and_the_right_article(
    template: str, name: str, expected: str
) -> None:
    """`{}` becomes the name, an "a" before it follows the sound, and the rest is left alone."""
    assert fill_template(template, name) == expected


@pytest.mark.parametrize(
    "template",
    ["", "a photo", "{0}", "{name}", "{!r}", "{:>9}", "{} {0}", "{{}}", "{", "}", "{} {"],
)
def test_a_template_without_a_plain_field_is_refused(template: str) -> None:
    """Only `{}` is a place for the name; the hint shows a template that works."""
    with pytest.raises(ConfigError, match="cannot hold a class name") as error:
        fill_template(template, "dog")
    assert "a photo of a {}." in error.value.hint


def test_names_are_stripped_and_composed() -> None:
    """Blanks around a name go, and e + accent equals the letter with the accent."""
    assert check_class_names([" tiger ", "cafe\u0301", "\U0001f469\u200d\U0001f680"]) == (
        "tiger",
        "caf\u00e9",
        "\U0001f469\u200d\U0001f680",
    )


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "no class names"),
        (["dog", "  "], "Class name 2 of 2 is empty"),
        (["dog", "cat", "dog"], "'dog' and 'dog' are the same"),
        (["Dog", "cat", "dOG"], "'Dog' and 'dOG' are the same"),
        (["caf\u00e9", "cafe\u0301"], "are the same"),
        (["do\ng"], r"'do\\ng' contains a control character"),
        (["do\x1b[31mg"], "control character"),
        (["do\u2028g"], r"'do\\u2028g' contains a control character"),
        (["do\udc80g"], r"'do\\udc80g' contains a control character"),
    ],
)
def test_names_that_cannot_be_told_apart_or_shown_are_refused(
    names: list[str], message: str
) -> None:
    """Each refusal names the culprit in printable ASCII escapes and gives a hint."""
    with pytest.raises(ConfigError, match=message) as error:
        check_class_names(names)
    assert error.value.hint
    str(error.value).encode()  # a lone surrogate would break the terminal


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "no class names"), (" ", "no class names"), ("tiger,,ox", "2 of 3 is empty")],
)
def test_a_list_without_names_or_with_a_gap_is_refused(text: str, message: str) -> None:
    """A gap between commas is a typing error, not a class."""
    with pytest.raises(ConfigError, match=message):
        read_class_names(text)


def test_names_come_from_the_command_line() -> None:
    """Commas separate names; blanks inside a name stay."""
    assert read_class_names("tiger, polar bear ,ox") == ("tiger", "polar bear", "ox")


def test_names_come_from_a_file(tmp_path: Path) -> None:
    """A BOM, Windows line ends, comments, blank lines and commas are all taken as meant."""
    path = tmp_path / "names.txt"
    path.write_bytes("\ufeff# animals\r\ntiger\r\n\r\n  polar bear, ox,\r\n#end".encode())
    assert read_class_names(f"@{path}") == ("tiger", "polar bear", "ox")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file"),
        (b"\xff\xfet\x00", "not UTF-8"),
        (b"# nothing\n\n", "no class names"),
        (b"dog\nDog\n", "are the same"),
    ],
)
def test_a_file_that_holds_no_names_is_refused(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    """Missing, not text, empty or with a name twice: one sentence each."""
    path = tmp_path / "names.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        read_class_names(f"@{path}")


@pytest.mark.parametrize("text", ["@", "@{folder}", "@a\0b"])
def test_what_is_not_a_file_is_refused(tmp_path: Path, text: str) -> None:
    """Nothing after @, a folder, or a name no system has: an error of ours, not of Python."""
    with pytest.raises(ConfigError, match="Cannot read the class names"):
        read_class_names(text.replace("{folder}", str(tmp_path)))
