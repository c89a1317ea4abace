"""`table` and `list_plugins`: tables of the paper with measured numbers, and registered names."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harope_bench.api.frames import make_frame
from harope_bench.core import registry
from harope_bench.core.errors import OptionError
from harope_bench.data.result_store import read_results
from harope_bench.leaderboards import board as boards
from harope_bench.leaderboards.board import Board, Show
from harope_bench.leaderboards.entries import parse_entries
from harope_bench.reports.tables import render_table

if TYPE_CHECKING:
    from pandas import DataFrame

CELL_COLUMNS = (
    "row",
    "title",
    "column",
    "published",
    "status",
    "measured",
    "se",
    "low",
    "high",
    "n",
    "name",
    "delta",
    "verdict",
    "is_best_measured",
)


@dataclass(frozen=True)
class TableView:
    """A table of the paper with measured numbers.

    Attributes:
        board: The record with all fields.
    """

    board: Board

    @property
    def rows(self) -> list[dict[str, object]]:
        """Return one row for each cell, with the columns of `to_frame`."""
        cell_rows = []
        for row in self.board.table.rows:
            for column in self.board.table.columns:
                cell = self.board.cells[(row.id, column.key)]
                fields: dict[str, object] = {
                    "row": row.id,
                    "title": row.title,
                    "column": column.key,
                    "published": cell.published,
                    "status": cell.status,
                    "measured": cell.measured,
                    "se": cell.se,
                    "low": cell.low,
                    "high": cell.high,
                    "n": cell.n_scored,
                    "name": cell.measurement_name,
                    "delta": cell.delta,
                    "verdict": None if cell.verdict is None else str(cell.verdict),
                    "is_best_measured": cell.is_best_measured,
                }
                cell_rows.append(fields)
        return cell_rows

    def to_frame(self) -> DataFrame:
        """Return the cells as a data frame, one row each; MissingExtraError without pandas."""
        return make_frame(self.rows, CELL_COLUMNS)

    def to_markdown(self) -> str:
        """Return the table in Markdown, with its notes."""
        return render_table(self.board, "md")

    def to_latex(self) -> str:
        """Return the table in LaTeX."""
        return render_table(self.board, "tex")

    def to_csv(self) -> str:
        """Return the table as csv."""
        return render_table(self.board, "csv")

    def __str__(self) -> str:
        """Return the table in Markdown."""
        return self.to_markdown()

    def _repr_html_(self) -> str:
        """Return the table in HTML, for a notebook."""
        return render_table(self.board, "html")


def table(
    name: str | int,
    *,
    runs: str | os.PathLike[str] | None = None,
    add: str | Sequence[str] = (),
    row: str | Sequence[str] = (),
    show: Show | None = None,
) -> TableView:
    """Return a table of the paper, with the measured numbers of runs.

    Args:
        name: 2, "2" or "table2".
        runs: Folder of the runs whose results are the measured numbers.
        add: NAME or NAME=LABEL, or several: runs that get rows of their own.
        row: ROW_ID=NAME, or several: runs that fill a row of the table.
        show: Values to show: "published", "measured" or "both". None takes both with runs.

    Raises:
        UnknownNameError: There is no such table.
        OptionError: Measured values need runs, or a run is in no row.

    Examples:
        >>> table(2).rows[0]["published"]
        '11.47'
    """
    if runs is None and (add or row or show in ("measured", "both")):
        raise OptionError("measured values need the folder of their runs; give runs=FOLDER")
    additions = [add] if isinstance(add, str) else list(add)
    substitutions = [row] if isinstance(row, str) else list(row)
    folder = None if runs is None else Path(runs)
    entries = parse_entries(additions, substitutions, folder)
    results = [] if folder is None else read_results(folder)
    shown_values: Show = show or ("published" if folder is None else "both")
    spec = boards.load_table(str(name))
    (filled_board,) = boards.build_boards([spec], results, shown_values, None, entries)
    return TableView(filled_board)


def list_plugins(kind: str) -> list[str]:
    """Return the registered names of a kind, sorted. Nothing is imported.

    Args:
        kind: checkpoints, encodings, backbones, samplers, suites, judges, evaluators, tables,
            recipes or assets.

    Raises:
        UnknownNameError: There is no such kind.

    Examples:
        >>> "harope" in list_plugins("encodings")
        True
    """
    return registry.list_names(kind)
