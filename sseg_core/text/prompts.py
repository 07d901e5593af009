"""Class names and the sentence around them, as users write them."""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from sseg_core.errors import ConfigError, printable

# Line breaks and other controls garble terminals and tables; surrogates cannot be written at all.
_REFUSED_CATEGORIES = {"Cc", "Cs", "Zl", "Zp"}

_LONGEST = 1000
"""Characters of a name: longer ones are no names, and an encoder reads some 77 tokens anyway."""

_ARTICLE = re.compile(r"\b([Aa])n? $")
# Names spoken with a vowel first: written with one, unless it sounds like "you" or "one"; a mute
# h; a letter spelled out ("x-ray").
_VOWEL_SOUND = re.compile(
    r"""(?! eu | ewe | uni(?![mn]) | u[krst][aeiou] | ufo | u- | one\b | once\b )
        (?: [aeiou] | hour | honest | honou?r | heir | [fhlmnrsx]- )""",
    re.IGNORECASE | re.VERBOSE,
)


def fill_template(template: str, name: str, *, articles: bool = True) -> str:
    """Return `template` with every `{}` replaced by `name`, and "a" or "an" as `name` needs it.

    "a photo of a {}." and "airplane" give "a photo of an airplane.". Literal braces are doubled.

    Args:
        template: the text around the name.
        name: of a class.
        articles: False leaves the template's article as it is.

    Raises:
        ConfigError: the template has no `{}`, another field such as `{0}`, or a single brace.
    """
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise _template_error(template) from error
    fields = [part[1:] for part in parts if part[1] is not None]
    if not fields or any(field != ("", "", None) for field in fields):
        raise _template_error(template)
    article = r"\1n " if _VOWEL_SOUND.match(name) else r"\1 "

    def before(literal: str) -> str:
        return _ARTICLE.sub(article, literal) if articles else literal

    return "".join(
        literal if field is None else before(literal) + name for literal, field, _, _ in parts
    )


def check_class_names(names: Iterable[str]) -> tuple[str, ...]:
    """Return the names stripped and in Unicode's composed form (NFC).

    Raises:
        ConfigError: there is no name, an empty one, one with a control character, one of more than
            1,000 characters, or the same name twice; upper and lower case are the same, as to the
            tokenizer.
    """
    checked = tuple(unicodedata.normalize("NFC", name.strip()) for name in names)
    if not checked:
        raise ConfigError(
            "There are no class names.", 'Give at least one: "tiger, minion", or @names.txt.'
        )
    seen: dict[str, str] = {}
    for position, name in enumerate(checked, start=1):
        if not name:
            raise ConfigError(
                f"Class name {position} of {len(checked)} is empty.",
                "Separate the names by single commas.",
            )
        if any(unicodedata.category(character) in _REFUSED_CATEGORIES for character in name):
            raise ConfigError(
                f"The class name {name!a} contains a control character.",
                "Names are words of plain text; remove the character.",
            )
        if len(name) > _LONGEST:
            raise ConfigError(
                f"Class name {position} of {len(checked)} has {len(name):,} characters: "
                f"{printable(name[:40])!r}...",
                f"A name is a few words, {_LONGEST:,} characters at most.",
            )
        if (first := seen.get(name.casefold())) is not None:
            raise ConfigError(
                f"The class names {first!r} and {name!r} are the same.",
                "Remove one of them; upper and lower case do not differ for the model.",
            )
        seen[name.casefold()] = name
    return checked


def split_synonyms(text: str) -> tuple[str, tuple[str, ...]]:
    """Return the name of a class and the words that are asked for it.

    "tiger" is asked for by its name, "tv=television|tv monitor" by two words instead, and
    "couch|sofa" by two words of which the first is its name.

    Raises:
        ConfigError: there is no name or no word, or `check_class_names` refuses them.
    """
    name, equals, rest = text.partition("=")
    words = (rest if equals else name).split("|")
    if not all(word.strip() for word in (name, *words)):
        raise ConfigError(
            f"The class {printable(text)!r} has an empty name or word.",
            'Write "tiger", "tv=television|tv monitor", or "couch|sofa".',
        )
    asked = check_class_names(words)
    return (check_class_names([name])[0] if equals else asked[0]), asked


def read_class_names(text: str) -> tuple[str, ...]:
    """Return the class names of "tiger, minion", or of a file named as "@names.txt".

    The file is UTF-8 text, with names on lines or between commas; empty lines and lines that
    start with `#` are skipped. A class may have synonyms, see `split_synonyms`.

    Raises:
        ConfigError: the file cannot be read, or `check_class_names` refuses the names.
    """
    if not text.startswith("@"):
        # No text at all is no name, not one empty name.
        return check_class_names(text.split(",") if text.strip() else ())
    path = Path(text[1:]).expanduser()
    try:
        content = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(
            f"Cannot read the class names in {str(path)!r}: {reason}.",
            "Write one name per line after @FILE, for example --classes @names.txt.",
        ) from error
    lines = (line.strip() for line in content.splitlines())
    return check_class_names(
        name
        for line in lines
        if not line.startswith("#")
        for name in line.split(",")
        if name.strip()
    )


def _template_error(template: str) -> ConfigError:
    return ConfigError(
        f"The template {template!r} cannot hold a class name.",
        'Put {} in its place, once or more: "a photo of a {}."',
    )
