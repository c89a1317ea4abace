"""The notes of a page: each text once, numbered in the order in which the tables name them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from harope_bench.leaderboards.board import Board
from harope_bench.reports.table_layout import legend


@dataclass(frozen=True)
class PageNote:
    """One note of the page, with the tables that it belongs to."""

    number: int
    text: str
    tables: tuple[str, ...]


@dataclass
class PageNotes:
    """The notes of all tables of a page. Tables that have a note in common share its number."""

    tables_by_text: dict[str, list[str]] = field(default_factory=dict)

    def add_board(self, board: Board) -> Mapping[int, int]:
        """Add the notes and the legend of a board; return page numbers by the board's numbers."""
        name = board.table.display_name
        numbers = {note.number: self.add(note.full_text, name) for note in board.notes}
        for text in legend(board):
            self.add(text, name)
        return numbers

    def add(self, text: str, table_name: str) -> int:
        """Add a note of a table unless its text is there already; return its number."""
        tables = self.tables_by_text.setdefault(text, [])
        if table_name not in tables:
            tables.append(table_name)
        return list(self.tables_by_text).index(text) + 1

    def numbers_of(self, table_name: str) -> tuple[int, ...]:
        """Return the numbers of all notes of a table."""
        return tuple(
            number
            for number, tables in enumerate(self.tables_by_text.values(), 1)
            if table_name in tables
        )

    def page_notes(self) -> tuple[PageNote, ...]:
        """Return the notes in the order of their numbers."""
        return tuple(
            PageNote(number, text, tuple(tables))
            for number, (text, tables) in enumerate(self.tables_by_text.items(), 1)
        )


def number_ranges(numbers: Iterable[int]) -> str:
    """Return sorted numbers as a text such as "1-4, 7"."""
    ranges: list[list[int]] = []
    for number in sorted(numbers):
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ", ".join(
        str(first) if first == last else f"{first}\N{EN DASH}{last}" for first, last in ranges
    )
