"""Numbered notes under a table: flags of the paper, and notes on measured numbers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from harope_bench.leaderboards.table_spec import Column, Flag, Row, Table

SEVERITY_NAMES = {"conflict": "conflict", "warn": "warning", "info": "information", "run": "run"}


@dataclass(frozen=True)
class Note:
    """A numbered note under a table: a flag of the paper (with its id), or on measured numbers."""

    number: int
    id: str | None
    severity: Literal["info", "warn", "conflict", "run"]
    text: str

    @property
    def full_text(self) -> str:
        """Return the note as it is printed."""
        return f"{self.id} ({SEVERITY_NAMES[self.severity]}): {self.text}" if self.id else self.text


@dataclass
class Notes:
    """The notes of a board, numbered in the order in which they are added."""

    flags: tuple[Flag, ...]
    notes: list[Note] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Add a note for each flag."""
        for flag in self.flags:
            text = f"{flag.text} {flag.recount_note}".strip()
            self.notes.append(Note(len(self.notes) + 1, flag.id, flag.severity, text))

    def cell_flags(self, table: Table, row: Row, column: Column) -> list[Flag]:
        """Return the flags on a cell."""
        return [flag for flag in self.flags if f"{table.id}/{row.id}/{column.key}" in flag.cells]

    def table_note_numbers(self, table: Table) -> tuple[int, ...]:
        """Return the numbers of the flags that name no cell of this table."""
        table_flag_ids = {
            flag.id
            for flag in self.flags
            if not any(cell.startswith(f"{table.id}/") for cell in flag.cells)
        }
        return tuple(note.number for note in self.notes if note.id in table_flag_ids)

    def flag_number(self, flag: Flag) -> int:
        """Return the number of a flag's note."""
        return next(note.number for note in self.notes if note.id == flag.id)

    def add_note(self, text: str) -> int:
        """Add a note on measured numbers unless its text is there already; return its number."""
        for note in self.notes:
            if note.id is None and note.text == text:
                return note.number
        self.notes.append(Note(len(self.notes) + 1, id=None, severity="run", text=text))
        return self.notes[-1].number

    def add_general_notes(self, texts: Iterable[str]) -> None:
        """Add notes that belong to no cell."""
        for text in texts:
            self.add_note(text)
