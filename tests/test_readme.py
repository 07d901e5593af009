"""The README and the examples show commands that exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer

from sseg_cli.app import app

ROOT = Path(__file__).parents[1]
FILES = [ROOT / "README.md", *sorted((ROOT / "examples").glob("*.sh"))]


def commands(path: Path) -> list[str]:
    """Every `sseg ...` at the beginning of a line or in backticks, continued lines joined."""
    text = path.read_text(encoding="utf-8").replace("\\\n", " ")
    found = re.findall(r"^\s*(sseg [^#\n>`]+)", text, re.MULTILINE)
    lines = [line.partition(" | ")[0] for line in found]  # synonyms stand without blanks
    return lines + re.findall(r"`(sseg [^`]+)`", text)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_command_shown_exists_with_its_options(path: Path) -> None:
    """Commands and long options in README and examples are those of the program."""
    group = typer.main.get_command(app)
    for line in commands(path):
        _, name, *arguments = shlex.split(line)
        if name.startswith("-"):
            continue
        known = group.commands  # type: ignore[attr-defined]
        assert name in known, line
        options = {opt for param in known[name].params for opt in param.opts} | {"--help"}
        shown = {argument for argument in arguments if argument.startswith("--")}
        assert shown <= options, line


def test_the_readme_is_short_and_its_links_lead_somewhere() -> None:
    """At most 290 lines; every relative link and picture is a file."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 290
    assert "@@" not in text
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
        assert (ROOT / target).exists(), target


def test_the_examples_are_executable() -> None:
    """The shell scripts can be run as the README says."""
    for path in FILES[1:]:
        assert path.stat().st_mode & 0o100, path
