"""The table of parsers: a valid folder, which of its files may be hostile, and how it is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

Files = Mapping[str, bytes]


@dataclass(frozen=True)
class Parser:
    """A reader of outside files.

    files: a valid folder, made when it is asked for. read: reads it. mutable: names of files that
    may be hostile, all where empty.
    errors: what it may raise beside BenchError, as its docstring says.
    """

    name: str
    files: Callable[[], Files]
    read: Callable[[Path], object]
    mutable: tuple[str, ...] = ()
    errors: tuple[type[BaseException], ...] = ()


class Table:
    """Parsers in the order in which they were added."""

    def __init__(self) -> None:
        self.parsers: list[Parser] = []

    def add(
        self,
        name: str,
        files: Files | Callable[[], Files],
        read: Callable[[Path], object],
        *mutable: str,
        errors: tuple[type[BaseException], ...] = (),
    ) -> None:
        """Add a parser; `files` is a valid folder, or makes one when it is asked for."""
        self.parsers.append(
            Parser(name, files if callable(files) else lambda: files, read, mutable, errors)
        )
