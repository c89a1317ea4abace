"""Numbered notes under a table: flags of the paper, and what a reader must know of our runs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from harope_bench.leaderboards.table_spec import Column, Flag, Row, Table

SEVERITY_NAMES = {"conflict": "conflict", "warn": "warning", "info": "information", "run": "run"}


@dataclass(frozen=True)
class Note:
    """A numbered note under the table: a flag of the paper, or something a reader must know of a
    run.
    """

    number: int
    id: str | None
    severity: Literal["info", "warn", "conflict", "run"]
    text: str

    @property
    def full_text(self) -> str:
        """The note as it is printed."""
        return f"{self.id} ({SEVERITY_NAMES[self.severity]}): {self.text}" if self.id else self.text


@dataclass
class Notes:
    """Numbers notes as they come; equal texts share a number."""

    flags: tuple[Flag, ...]
    all: list[Note] = field(default_factory=list)

    def __post_init__(self) -> None:
        for flag in self.flags:
            self.all.append(
                Note(
                    len(self.all) + 1, flag.id, flag.severity, f"{flag.text} {flag.beside}".strip()
                )
            )

    def of_cell(self, table: Table, row: Row, column: Column) -> list[Flag]:
        """The flags that name this cell."""
        return [flag for flag in self.flags if f"{table.id}/{row.id}/{column.key}" in flag.cells]

    def of_table(self, table: Table) -> tuple[int, ...]:
        """Numbers of the notes that belong to the table as a whole."""
        elsewhere = {
            flag.id
            for flag in self.flags
            if not any(cell.startswith(f"{table.id}/") for cell in flag.cells)
        }
        return tuple(note.number for note in self.all if note.id in elsewhere)

    def mark(self, flag: Flag) -> int:
        """The number of a flag."""
        return next(note.number for note in self.all if note.id == flag.id)

    def add(self, text: str) -> int:
        """The number of a note about runs."""
        for note in self.all:
            if note.id is None and note.text == text:
                return note.number
        self.all.append(Note(len(self.all) + 1, None, "run", text))
        return self.all[-1].number

    def general(self, texts: Iterable[str]) -> None:
        """Notes that hang on no cell."""
        for text in texts:
            self.add(text)
