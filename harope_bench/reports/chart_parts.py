"""A chart of a report before it is rendered: panels, a table of the numbers and the numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harope_bench.reports.svg_elements import Panel

MAX_OPEN_ROWS = 14  # a table with more rows is folded


@dataclass(frozen=True)
class ChartTable:
    """The numbers of a chart as text; the first column names the row."""

    caption: str
    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    @property
    def is_folded(self) -> bool:
        """Return whether the table is long enough to be folded."""
        return len(self.rows) > MAX_OPEN_ROWS


@dataclass(frozen=True)
class ChartParts:
    """What a chart consists of.

    Attributes:
        anchor: Id that the page gives the chart if no other chart has it.
        csv_rows: The numbers in full, the names of the columns first; empty if there are too many
            for a page.
    """

    anchor: str
    title: str
    caption: str
    panels: tuple[Panel, ...]
    table: ChartTable
    csv_rows: Sequence[Sequence[object]]
