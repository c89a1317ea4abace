"""Text from outside at the doors of a terminal, a csv file and a page: one function a door.

Control characters steer a terminal and break XML, marks of writing direction show another text than
is there, a cell that begins like a
formula is run by a spreadsheet. What cannot be printed becomes a blank, so that a length stays what
it was.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable

MESSAGE_LENGTH = 20_000  # characters of an error; the keys that a large network lacks are listed
USAGE_LENGTH = 1_500  # characters of an error of usage
FORMULA_STARTS = ("=", "+", "-", "@")
BLANKS = "\u00a0\u2007\u2008\u2009\u200a\u202f"  # blanks of a certain width, which typesetting uses
NUMBER_PATTERN = re.compile(r"[+-]?(\d[\d,]*\.?\d*|\.\d+)([eE][+-]?\d+)?%?|[+-]?(inf|nan)|[+-]")


def printable_line(text: str) -> str:
    """Return the text on one line, without the characters that steer a terminal or break a file's
    form.
    """
    return _replace_unprintable(" ".join(text.split()))


def _replace_unprintable(text: str, allowed: str = "") -> str:
    return (
        text
        if text.isprintable()
        else "".join(c if c.isprintable() or c in allowed else " " for c in text)
    )


def message_line(text: str) -> str:
    """Return a message as one line of at most MESSAGE characters, and how many more there are."""
    line = printable_line(text)
    return (
        line
        if len(line) <= MESSAGE_LENGTH
        else f"{line[:MESSAGE_LENGTH]} ... and {len(line) - MESSAGE_LENGTH:,} characters more"
    )


def usage_text(text: str) -> str:
    """Return what is wrong with the words of a command, which may repeat them, cut to USAGE
    characters.
    """
    shown = terminal_text(text)
    return shown if len(shown) <= USAGE_LENGTH else f"{shown[:USAGE_LENGTH]} ..."


def shorten_list(names: Iterable[str], max_names: int = 8) -> str:
    """Return the first names, each cut to 80 characters, and how many more there are; `nothing`
    where there is none.
    """
    known = sorted(names)
    shown = [name[:80] for name in known[:max_names]] + (
        [f"{len(known) - max_names:,} more"] if len(known) > max_names else []
    )
    return ", ".join(shown) or "nothing"


def csv_text(rows: Iterable[Iterable[object]]) -> str:
    """Return rows of values as csv; `csv_cell` says what a cell holds."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(
        [csv_cell(value) for value in row] for row in rows
    )
    return text.getvalue()


def terminal_text(text: str) -> str:
    """Return text of several lines without the characters that steer a terminal; line feeds stay, a
    tab becomes a blank.
    """
    return _replace_unprintable(text, "\n" + BLANKS)


def progress_text(text: str) -> str:
    """Return the output of another program; carriage returns, which move a progress bar, stay
    too.
    """
    return _replace_unprintable(text, "\n\r\t")


def page_text(text: str) -> str:
    """Return text for HTML or XML, to be escaped after: without control characters, of which XML
    allows none but white space.
    """
    return _replace_unprintable(text, "\n\t" + BLANKS)


def csv_cell(value: object) -> object:
    """Return what a csv file holds of a value: text on one line, with an apostrophe before what a
    spreadsheet reads as a formula.

    Numbers, also as text, stay what they are; None is empty.
    """
    if not isinstance(value, str):
        return "" if value is None else value
    text = _replace_unprintable(value)
    is_formula = text.lstrip().startswith(FORMULA_STARTS) and not NUMBER_PATTERN.fullmatch(text)
    return f"'{text}" if is_formula else text
