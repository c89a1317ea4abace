"""The contract of a table of the paper."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from harope_bench.testing.contract_violations import ContractViolations

if TYPE_CHECKING:
    from harope_bench.leaderboards.table_spec import Column, Row, Table


PUBLISHED_PATTERN = re.compile(r"(-?\d+(?:\.(\d+))?)(?: ?\([+-]\d+(?:\.\d+)?%\))?")


def check_table(name: str) -> int:
    """Check a registered table: published texts are numbers, decimals agree, best cells are best.

    Returns:
        The number of checks.

    Raises:
        AssertionError: The table violates the contract; every violation is listed.
        BenchError: The table does not load.
    """
    from harope_bench.leaderboards.board import load_table

    contract = _TableContract(load_table(name), ContractViolations(f"table {name}"))
    return contract.violations.run_checks(
        [
            contract.check_numeric_cells,
            contract.check_decimals,
            contract.check_best_cells,
            contract.check_unique_titles,
        ]
    )


class _TableContract:
    """The contract of one table, one method for each requirement."""

    def __init__(self, table: Table, violations: ContractViolations):
        self.table = table
        self.violations = violations
        self.expect = violations.expect

    def cells(self) -> list[tuple[Row, Column, str]]:
        """Return row, column and published text of every published cell."""
        pairs = [(row, column) for row in self.table.rows for column in self.table.columns]
        return [
            (row, column, row.published[column.key])
            for row, column in pairs
            if column.key in row.published
        ]

    def check_numeric_cells(self) -> None:
        """Check that a published text is a decimal number, with at most a percentage after it."""
        for row, column, text in self.cells():
            self.expect(
                PUBLISHED_PATTERN.fullmatch(text),
                f"{row.id}/{column.key} prints {text!r}, wanted a number, or a number and (+x.y%)",
            )
        self.expect(
            self.cells() or self.table.number is None,
            "is a published table without a published number",
        )

    def check_decimals(self) -> None:
        """Check that every published number has the decimals that its column declares."""
        for row, column, text in self.cells():
            match = PUBLISHED_PATTERN.fullmatch(text)
            if match and column.decimals is not None:
                self.expect(
                    len(match[2] or "") == column.decimals,
                    f"{row.id}/{column.key} prints {text!r}, its column has {column.decimals}"
                    " decimals",
                )

    def check_best_cells(self) -> None:
        """Check that a cell marked best is the best of its block in its column's direction."""
        from decimal import Decimal

        values = {
            (row.id, column.key): Decimal(match[1])
            for row, column, text in self.cells()
            if (match := PUBLISHED_PATTERN.fullmatch(text))
        }
        for row, column, _ in self.cells():
            if not self.table.is_best(row, column) or (row.id, column.key) not in values:
                continue
            block_values = [
                values[r.id, c.key]
                for r, c, _ in self.cells()
                if (r.id, c.key) in values
                and self.table.block_key(r, c) == self.table.block_key(row, column)
            ]
            best_value = max(block_values) if column.direction == "higher" else min(block_values)
            value = values[row.id, column.key]
            self.expect(
                value == best_value,
                f"{row.id}/{column.key} is marked best with {value}, the best of its block is"
                f" {best_value}",
            )

    def check_unique_titles(self) -> None:
        """Check that rows and columns have titles, and that no two rows have the same."""
        titles = [
            tuple(row.header_text(head) for head in self.table.row_headers)
            for row in self.table.rows
        ]
        for row, texts in zip(self.table.rows, titles, strict=True):
            self.expect(any(text.strip() for text in texts), f"row {row.id} has no title")
            self.expect(
                titles.count(texts) == 1, f"row {row.id} has the same title as another: {texts}"
            )
        for column in self.table.columns:
            self.expect(column.title.strip(), f"column {column.key} has no title")
