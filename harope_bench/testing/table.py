"""The contract of a paper table."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from harope_bench.testing.contract_violations import ContractViolations

if TYPE_CHECKING:
    from harope_bench.leaderboards.table_spec import Column, Row, Table


PRINTED_PATTERN = re.compile(r"(-?\d+(?:\.(\d+))?)(?: ?\([+-]\d+(?:\.\d+)?%\))?")


def check_table(name: str) -> None:
    """Holds a registered table to its contract: printed strings are numbers, decimals agree, the
    best are the best.

    Raises:
        AssertionError: lists every promise that does not hold. BenchError: the table does not load
            at all.
    """
    from harope_bench.leaderboards.board import load_table

    bench = _TableContract(load_table(name), ContractViolations(f"table {name}"))
    bench.complaints.run_checks(
        [
            bench.has_numeric_cells,
            bench.has_consistent_decimals,
            bench.has_correct_best_cells,
            bench.has_unique_titles,
        ]
    )


class _TableContract:
    """One table on the bench, one method a promise."""

    def __init__(self, table: Table, complaints: ContractViolations):
        self.table = table
        self.complaints = complaints
        self.expect = complaints.expect

    def cells(self) -> list[tuple[Row, Column, str]]:
        """Row, column and printed string of every published cell."""
        pairs = [(row, column) for row in self.table.rows for column in self.table.columns]
        return [
            (row, column, row.published[column.key])
            for row, column in pairs
            if column.key in row.published
        ]

    def has_numeric_cells(self) -> None:
        """A published string is a decimal number, with at most a bracketed percentage after it."""
        for row, column, printed in self.cells():
            self.expect(
                PRINTED_PATTERN.fullmatch(printed),
                f"{row.id}/{column.key} prints {printed!r}, wanted a number, or a number and"
                " (+x.y%)",
            )
        self.expect(
            self.cells() or self.table.number is None,
            "is a published table without a published number",
        )

    def has_consistent_decimals(self) -> None:
        """Where a column states its decimals, every printed number of it has that many."""
        for row, column, printed in self.cells():
            match = PRINTED_PATTERN.fullmatch(printed)
            if match and column.decimals is not None:
                found = len(match[2] or "")
                self.expect(
                    found == column.decimals,
                    f"{row.id}/{column.key} prints {printed!r}, its column has {column.decimals}"
                    " decimals",
                )

    def has_correct_best_cells(self) -> None:
        """A cell marked best has the best number of its block, by its column's direction."""
        from decimal import Decimal

        values = {
            (row.id, column.key): Decimal(match[1])
            for row, column, printed in self.cells()
            if (match := PRINTED_PATTERN.fullmatch(printed))
        }
        for row, column, _ in self.cells():
            if not self.table.is_best(row, column) or (row.id, column.key) not in values:
                continue
            block = [
                values[r.id, c.key]
                for r, c, _ in self.cells()
                if (r.id, c.key) in values
                and self.table.block_key(r, c) == self.table.block_key(row, column)
            ]
            best = max(block) if column.direction == "higher" else min(block)
            mine = values[row.id, column.key]
            self.expect(
                mine == best,
                f"{row.id}/{column.key} is marked best with {mine}, the best of its block is"
                f" {best}",
            )

    def has_unique_titles(self) -> None:
        """Rows and columns have something to print, and rows can be told apart."""
        heads = [
            tuple(row.header_text(head) for head in self.table.row_headers) for row in self.table.rows
        ]
        for row, texts in zip(self.table.rows, heads, strict=True):
            self.expect(any(text.strip() for text in texts), f"row {row.id} prints no name")
            self.expect(
                heads.count(texts) == 1, f"row {row.id} prints the same name as another: {texts}"
            )
        for column in self.table.columns:
            self.expect(column.title.strip(), f"column {column.key} prints no head")
