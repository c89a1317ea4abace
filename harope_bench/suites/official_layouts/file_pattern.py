"""Patterns of file names: from '{prompt_index}/{copy}.png' to the keys in a path."""

from __future__ import annotations

import re
from collections.abc import Mapping
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

PADDING = re.compile("0[1-9]d")  # format of a number in a name that is written
MAX_NAME_BYTES = 240  # of one part of a path; file systems allow 255
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


class NamePattern:
    """A pattern by which images are named, such as '{id}_{copy:02d}.png'.

    The names can be read back with the same pattern. Numbers have no leading zeros unless the
    placeholder says so.

    >>> NamePattern("{prompt_index:05d}/{copy}.png").name({"prompt_index": 12, "copy": 3})
    '00012/3.png'
    """

    def __init__(self, pattern: str):
        """Check a pattern; raise OptionError if it is invalid or names no .png file."""
        if not pattern.isprintable():  # control characters, and bytes that are no UTF-8
            raise OptionError(
                f"--pattern {pattern!r} has a character that is not printable; remove it"
            )
        self.pattern = pattern
        plain_pattern = re.sub(
            r"\{(\w+):([^{}]*)\}", lambda match: f"{{{self._padded_name(match)}}}", pattern
        )
        compile_pattern(plain_pattern)
        if not pattern.lower().endswith(".png"):
            raise OptionError(f"--pattern {pattern!r} does not end in .png; images are PNG files")

    def _padded_name(self, match: re.Match[str]) -> str:
        """Return the name of a placeholder with a format; raise OptionError for a wrong one."""
        name, padding = match.groups()
        if name not in NUMBER_KEYS or not PADDING.fullmatch(padding):
            raise OptionError(
                f"--pattern {self.pattern!r}: {match[0]} is no placeholder; write {{{name}}}, or a"
                " number with leading zeros as {index:06d}"
            )
        return name

    def name(self, keys: Mapping[str, str | int]) -> str:
        """Return the name of an image, a path relative to the folder.

        Raises:
            OptionError: A placeholder has no value, or its text cannot be part of a file name.
        """
        names = [name for _, name, _, _ in Formatter().parse(self.pattern) if name is not None]
        for name in names:
            if name not in keys:
                raise OptionError(
                    f"--pattern {self.pattern!r}: the suite has no {{{name}}}; write"
                    " {prompt_index} and {copy}"
                )
            text = str(keys[name])
            if not text.isprintable() or set(text) & set('/\\:*?"<>|') or not text.strip(". "):
                raise OptionError(
                    f"--pattern {self.pattern!r}: {name} {text[:60]!r} cannot be part of a file"
                    " name; write {id} or {prompt_index}"
                )
        path = self.pattern.format(**keys)
        if any(len(part.encode()) > MAX_NAME_BYTES for part in path.split("/")):
            raise OptionError(
                f"--pattern {self.pattern!r} gives the name {path[:60]!r}..., of more than"
                f" {MAX_NAME_BYTES} bytes; write {{id}} or {{prompt_index}}"
            )
        return path


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
