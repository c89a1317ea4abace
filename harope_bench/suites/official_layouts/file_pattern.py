"""Patterns of file names: from '{prompt_index}/{copy}.png' to the keys in a path."""

from __future__ import annotations

import re
from itertools import pairwise
from string import Formatter
from typing import NamedTuple

from harope_bench.core.errors import OptionError
from harope_bench.suites.official_layouts.image_keys import (
    KEYS,
    NUMBER_KEYS,
    TEXT_KEYS,
    check_prompt_keys,
)

NUMBER = "[0-9]{1,9}"
TEXT = "[^/]+"


class PatternPart(NamedTuple):
    """A literal text of a pattern and the placeholder after it, None at the end."""

    literal: str
    name: str | None


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """Return the expression for a whole relative path, whose groups are the placeholders.

    Raises:
        OptionError: A placeholder is unknown or repeated, or the pattern is ambiguous.

    >>> compile_pattern("{prompt_index}_{copy}.png").fullmatch("12_3.png").groupdict()
    {'prompt_index': '12', 'copy': '3'}
    """
    parts = _parts(pattern)
    names = [part.name for part in parts if part.name is not None]
    _check_placeholders(pattern, names)
    _check_unambiguous(pattern, parts)
    check_prompt_keys(set(names), f"--pattern {pattern!r}")

    pieces = []
    for literal, name in parts:
        pieces.append(re.escape(literal))
        if name is not None:
            pieces.append(f"(?P<{name}>{NUMBER if name in NUMBER_KEYS else TEXT})")
    return re.compile("".join(pieces))


def _parts(pattern: str) -> list[PatternPart]:
    """Return the parts of a pattern; raise OptionError for an open brace or a format spec."""
    try:
        fields = list(Formatter().parse(pattern))
    except ValueError as error:
        raise OptionError(
            f"--pattern {pattern!r} has an open brace ({error}); write {{{{ for a brace"
        ) from error
    formatted_names = [
        name for _, name, spec, conversion in fields if name is not None and (spec or conversion)
    ]
    if formatted_names:
        raise OptionError(
            f"--pattern {pattern!r}: write {{{formatted_names[0]}}} alone, numbers may have"
            " leading zeros"
        )
    return [PatternPart(literal, name) for literal, name, _, _ in fields]


def _check_placeholders(pattern: str, names: list[str]) -> None:
    """Raise OptionError for an unknown or repeated placeholder, or a path outside the folder."""
    unknown_names = [name for name in names if name not in KEYS]
    if unknown_names:
        placeholders = ", ".join(f"{{{key}}}" for key in KEYS)
        raise OptionError(
            f"--pattern {pattern!r}: {{{unknown_names[0]}}} is no placeholder; write {placeholders}"
        )
    repeated_names = [name for name in names if names.count(name) > 1]
    if repeated_names:
        raise OptionError(
            f"--pattern {pattern!r} has {{{repeated_names[0]}}} more than once; write it once"
        )
    if pattern.startswith("/") or ".." in pattern.split("/"):
        raise OptionError(
            f"--pattern {pattern!r} leaves the folder; write it relative to the folder"
        )


def _check_unambiguous(pattern: str, parts: list[PatternPart]) -> None:
    """Raise OptionError where a path could be read in two ways.

    A number ends where its digits end, so two placeholders need a character between them that is no
    digit. A text has no such end, so a path segment can have only one text.
    """
    for part, next_part in pairwise(parts):
        if part.name is None or next_part.name is None:
            continue
        if not next_part.literal or next_part.literal.isdigit():
            raise OptionError(
                f"--pattern {pattern!r} can be read in two ways at"
                f" {{{part.name}}}{next_part.literal}{{{next_part.name}}}; put a character that is"
                " no digit between them"
            )
    for segment in pattern.split("/"):
        if all(f"{{{name}}}" in segment for name in TEXT_KEYS):
            raise OptionError(
                f"--pattern {pattern!r} has two texts in {segment!r}; leave one of them out"
            )
