"""Escaping of text from outside for a terminal, a csv file or a page: one function for each.

Control characters can control a terminal and break XML. Marks of writing direction make a text look
different from what it is. A spreadsheet runs a cell that begins like a formula. An unprintable
character becomes a blank, so the length of a text does not change.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable

MESSAGE_LENGTH = 20_000  # characters of an error message; long because it may list missing keys
USAGE_LENGTH = 1_500  # characters of a message about wrong command-line options
FORMULA_STARTS = ("=", "+", "-", "@")
BLANKS = "\u00a0\u2007\u2008\u2009\u200a\u202f"  # non-breaking and narrow blanks of typesetting
NUMBER_PATTERN = re.compile(r"[+-]?(\d[\d,]*\.?\d*|\.\d+)([eE][+-]?\d+)?%?|[+-]?(inf|nan)|[+-]")


def printable_line(text: str) -> str:
    """Return the text as one line, its unprintable characters replaced by blanks."""
    return _replace_unprintable(" ".join(text.split()))


def _replace_unprintable(text: str, allowed_characters: str = "") -> str:
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in allowed_characters else " " for c in text)


def message_line(text: str) -> str:
    """Return a message as one line of at most MESSAGE_LENGTH characters.

    A longer message is cut, and the number of further characters follows.
    """
    line = printable_line(text)
    n_further = len(line) - MESSAGE_LENGTH
    if n_further <= 0:
        return line
    return f"{line[:MESSAGE_LENGTH]} ... and {n_further:,} characters more"


def usage_text(text: str) -> str:
    """Return a message about wrong command-line options, cut to USAGE_LENGTH characters."""
    printable_text = terminal_text(text)
    if len(printable_text) <= USAGE_LENGTH:
        return printable_text
    return f"{printable_text[:USAGE_LENGTH]} ..."


def shorten_list(names: Iterable[str], max_names: int = 8) -> str:
    """Return the sorted names as one text, at most `max_names` of them and 80 characters of each.

    The number of further names follows. Without names the text is `nothing`.
    """
    sorted_names = sorted(names)
    parts = [name[:80] for name in sorted_names[:max_names]]
    n_further = len(sorted_names) - max_names
    if n_further > 0:
        parts.append(f"{n_further:,} more")
    return ", ".join(parts) or "nothing"


def csv_text(rows: Iterable[Iterable[object]]) -> str:
    """Return rows of values as csv, each value converted by `csv_cell`."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([csv_cell(value) for value in row] for row in rows)
    return text.getvalue()


def terminal_text(text: str) -> str:
    """Return text for a terminal, unprintable characters replaced by blanks. Line feeds stay."""
    return _replace_unprintable(text, "\n" + BLANKS)


def progress_text(text: str) -> str:
    """Return the output of another program for a terminal.

    Carriage returns, which redraw a progress bar, stay, as do line feeds and tabs.
    """
    return _replace_unprintable(text, "\n\r\t")


def page_text(text: str) -> str:
    """Return text for HTML or XML without control characters. Its markup is not escaped yet."""
    return _replace_unprintable(text, "\n\t" + BLANKS)


def csv_cell(value: object) -> object:
    """Return a value as it is written into a csv file.

    Text becomes one line, with an apostrophe before what a spreadsheet would run as a formula.
    Numbers, also as text, stay unchanged. None becomes an empty cell.
    """
    if not isinstance(value, str):
        return "" if value is None else value
    text = _replace_unprintable(value)
    is_formula = text.lstrip().startswith(FORMULA_STARTS) and not NUMBER_PATTERN.fullmatch(text)
    return f"'{text}" if is_formula else text
