"""The published cells, and the findings of the audit."""

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
    """One statement on printed cells (TABLE/ROW/COLUMN).

    arithmetic: how the recomputed value follows, as a text.
    flag_id: the recorded flag on the same cells, None where there is none.
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
    """One published cell with its table, row and column. `text` is the string as printed."""

    table: Table
    row: Row
    column: Column
    text: str

    @property
    def id(self) -> str:
        """Return the cell's id, TABLE/ROW/COLUMN."""
        return f"{self.table.id}/{self.row.id}/{self.column.key}"

    @property
    def value(self) -> Fraction:
        """Return the leading number exactly."""
        return Fraction(leading_number(self.text))

    @property
    def encoding(self) -> str | None:
        """Return the encoding of the row, or of the column where each column is an encoding."""
        return self.row.encoding or self.column.encoding

    @property
    def options(self) -> dict[str, Option]:
        """Return the encoding's options that the row and the column state."""
        return {**self.column.options, **self.row.options}


def published_cells(table: Table) -> Iterator[PublishedCell]:
    """Yield every cell that has a number, row by row."""
    for row in table.rows:
        for column in table.columns:
            if column.key in row.published:
                yield PublishedCell(table, row, column, row.published[column.key])


def format_fraction(value: Fraction, decimals: int) -> str:
    """Return a fraction rounded half up to this many decimals."""
    quotient = Decimal(value.numerator) / Decimal(value.denominator)
    return str(quotient.quantize(Decimal(1).scaleb(-decimals), ROUND_HALF_UP))
