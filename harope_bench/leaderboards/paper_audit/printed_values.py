"""One published cell in its place, and what a finding says of such cells."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction
from typing import Literal, NamedTuple

from harope_bench.core.record_base import Option
from harope_bench.leaderboards.table_spec import Column, Row, Table, leading_number

Severity = Literal["conflict", "warn", "info"]


@dataclass(frozen=True)
class AuditFinding:
    """One statement about printed cells (table/row/column). `flag` is the recorded flag on the same
    cells, if any.
    """

    rule: str
    severity: Severity
    table: str
    cells: tuple[str, ...]
    printed_value: str
    recomputed_value: str
    arithmetic: str
    flag_id: str | None = None


class PublishedCell(NamedTuple):
    """One published cell in its place."""

    table: Table
    row: Row
    column: Column
    text: str

    @property
    def id(self) -> str:
        """table/row/column."""
        return f"{self.table.id}/{self.row.id}/{self.column.key}"

    @property
    def value(self) -> Fraction:
        """The leading number, exactly."""
        return Fraction(leading_number(self.text))

    @property
    def encoding(self) -> str | None:
        """The encoding of the row, or of the column where columns are the variants."""
        return self.row.encoding or self.column.encoding

    @property
    def options(self) -> dict[str, Option]:
        """Options of that encoding that the row or the column asks for."""
        return {**self.column.options, **self.row.options}


def published_cells(table: Table) -> Iterator[PublishedCell]:
    """Every cell that holds a number, row by row."""
    for row in table.rows:
        for column in table.columns:
            if column.key in row.published:
                yield PublishedCell(table, row, column, row.published[column.key])


def format_fraction(value: Fraction, decimals: int) -> str:
    """A fraction rounded half up to so many decimals."""
    exact = Decimal(value.numerator) / Decimal(value.denominator)
    return str(exact.quantize(Decimal(1).scaleb(-decimals), ROUND_HALF_UP))
