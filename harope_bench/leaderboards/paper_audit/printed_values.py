"""One published cell in its place, and what a finding says of such cells."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction
from typing import Literal, NamedTuple

from harope_bench.core.record_base import Option
from harope_bench.leaderboards.table_spec import Column, Row, Table, value_of

Severity = Literal["conflict", "warn", "info"]


@dataclass(frozen=True)
class Finding:
    """One statement about printed cells (table/row/column). `flag` is the recorded flag on the same cells, if any."""

    rule: str
    severity: Severity
    table: str
    cells: tuple[str, ...]
    printed: str
    recomputed: str
    arithmetic: str
    flag: str | None = None


class Printed(NamedTuple):
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
        return Fraction(value_of(self.text))

    @property
    def encoding(self) -> str | None:
        """The encoding of the row, or of the column where columns are the variants."""
        return self.row.encoding or self.column.encoding

    @property
    def options(self) -> dict[str, Option]:
        """Options of that encoding that the row or the column asks for."""
        return {**self.column.options, **self.row.options}


def printed_cells(table: Table) -> Iterator[Printed]:
    """Every cell that holds a number, row by row."""
    for row in table.rows:
        for column in table.columns:
            if column.key in row.published:
                yield Printed(table, row, column, row.published[column.key])


def shown(value: Fraction, decimals: int) -> str:
    """A fraction rounded half up to so many decimals."""
    exact = Decimal(value.numerator) / Decimal(value.denominator)
    return str(exact.quantize(Decimal(1).scaleb(-decimals), ROUND_HALF_UP))
