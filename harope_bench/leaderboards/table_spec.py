"""Published tables as data: columns, rows, printed strings and flags.

A table is read from a TOML file, or from the dict of another installed package.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from harope_bench.core import registry
from harope_bench.core.errors import BenchError, UnknownNameError
from harope_bench.core.record_base import Name, Option, Record, validation_summary

PAPER_FOLDER = Path(__file__).parent / "paper"
DASH = "\N{EN DASH}"
TableKey = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]
NameTuple = Annotated[
    tuple[str, ...], BeforeValidator(lambda names: (names,) if isinstance(names, str) else names)
]
# "(+2.8%)" behind a number
PERCENT_PATTERN = re.compile(r"\(\+(\d+\.\d+)%\)")
LEADING_NUMBER_PATTERN = re.compile(r"-?\d+(?:\.(\d+))?")
# fields of a row that the text of a row header may name, as "{title}"
FIELD_PATTERN = re.compile(r"\{(title|model|resolution|training_steps)\}")


class RowHeader(Record):
    """One row-header column of a table.

    title: the column's heading as printed.
    text: the cell's text, with names of row fields in braces.
    is_merged: whether equal neighbouring cells are printed as one cell.
    """

    title: str
    text: str = "{title}"
    is_merged: bool = False


class MatchCriteria(Record):
    """What a run must have to fill a cell. A field that is None or empty is not checked.

    micro_checkpoint: the registered checkpoint that fills the cell at micro scale.
    """

    suite: Name | None = None
    encoding: Name | None = None
    backbone: Name | None = None
    micro_checkpoint: Name | None = None
    config: dict[str, Option] = {}
    options: dict[str, Option] = {}


class Column(MatchCriteria):
    """One printed column of numbers.

    decimals: printed decimals, None where the paper mixes them.
    metric: the metric's name, None where it is the column's key.
    measured_on: "images" of a suite, or "network" for counts that do not depend on a suite.
    has_percentage: whether rows with a baseline also print their increase over it in percent,
        truncated (not rounded) to one decimal as in the paper.
    derivation: how the column follows from other columns, in words.
    """

    key: TableKey
    title: str
    group: str | None = None
    direction: Literal["higher", "lower"]
    unit: str = "none"
    decimals: int | None = Field(default=None, ge=0, le=9)
    evaluator: Name | None = None
    metric: Name | None = None
    measured_on: Literal["images", "network"] = "images"
    has_percentage: bool = False
    n_prompts: int | None = None
    n_images: int | None = None
    derivation: str | None = None

    @property
    def metric_name(self) -> str:
        """Return the metric's name in a Result."""
        return self.metric or self.key


class Row(MatchCriteria):
    """One printed row: its published strings by column key, and the criteria a run must meet.

    resolution, micro_resolution: side of the images in pixels at paper and at micro scale.
    micro_checkpoint_suffix: appended to the column's micro checkpoint name.
    repeated_row: id of the original row, TABLE/ROW, if this row repeats one of another table.
    """

    id: TableKey
    title: str
    model: str | None = None
    resolution: int | None = None
    micro_resolution: int | None = None
    micro_checkpoint_suffix: str = ""
    training_steps: int | None = None
    repeated_row: str | None = None
    published: dict[str, str] = {}

    def header_text(self, header: RowHeader) -> str:
        """Return the text of one row-header cell."""
        return FIELD_PATTERN.sub(lambda match: str(self.header_fields[match[1]] or ""), header.text)

    @property
    def header_fields(self) -> dict[str, str | int | None]:
        """Return the row's fields that a row header may print, by name."""
        return {
            "title": self.title,
            "model": self.model,
            "resolution": self.resolution,
            "training_steps": self.training_steps,
        }


class EntryRow(Row):
    """A row that the user fills with runs of a given name.

    It is an additional row (`--add`) or replaces the runs of a published row (`--row`).

    scale: scale of these runs.
    run_name: name of the runs as the user typed it.
    result_paths: paths of their result files.
    is_added: False for a published row that is filled by `--row`.
    micro_suite: suite of the row's cells at micro scale.
    label_header: text of the row header that shows the label if no header prints the title.
    note: note that is printed under the table.
    """

    scale: Literal["micro", "paper"]
    run_name: str
    result_paths: tuple[str, ...]
    is_added: bool = True
    micro_suite: Name | None = None
    label_header: str | None = None
    note: str | None = None

    def header_text(self, header: RowHeader) -> str:
        """Return the text of one row-header cell."""
        return self.title if header.text == self.label_header else super().header_text(header)


class ScaleCriteria(MatchCriteria):
    """The runs of one scale that belong to the table, and the rows that are its baselines."""

    baseline: NameTuple = ()


class Claim(Record):
    """A cell that the paper's text emphasises, and the row it is compared with."""

    row: str
    column: str
    claim: str
    compared_row: str | None = None


class Flag(Record):
    """A known discrepancy of the paper: a note on printed numbers, such as a contradiction.

    cells: TABLE/ROW/COLUMN of the cells concerned.
    recount_note: what this project's own counts say of these cells.
    """

    id: TableKey
    severity: Literal["info", "warn", "conflict"]
    tables: tuple[str, ...] = ()
    cells: tuple[str, ...] = ()
    text: str
    recount_note: str = ""


class Table(Record):
    """One published table.

    question: the question that the table answers, used as a heading.
    assumptions: what runs of harope-bench do where the paper states nothing.
    block: the cells that are ranked together: all of a column ("none"), those of one resolution
        or model, or the columns of one row.
    protocol: settings that the paper states, by name.
    paper_scale, micro_scale: criteria of the runs at each scale.
    best_by_value: rows with the best printed value, by block and column.
    """

    id: TableKey
    number: int | None = None
    title: str
    question: str | None = None
    note: str | None = None
    assumptions: tuple[str, ...] = ()
    block: Literal["none", "resolution", "model", "row"] = "none"
    protocol: dict[str, str | int] = {}
    paper_scale: ScaleCriteria = ScaleCriteria()
    micro_scale: ScaleCriteria | None = None
    row_headers: tuple[RowHeader, ...] = (RowHeader(title="Method"),)
    columns: tuple[Column, ...] = Field(min_length=1)
    rows: tuple[Row, ...] = Field(min_length=1)
    best_by_value: dict[str, dict[str, tuple[str, ...]]] = {}
    claims: tuple[Claim, ...] = ()
    flags: tuple[Flag, ...] = ()

    @model_validator(mode="after")
    def _check_cells(self) -> Table:
        """Raise ValueError for repeated ids, unknown cells and published texts without a number.

        Cells are named by published values, claims, best values and baselines.
        """
        row_ids = [row.id for row in self.rows]
        column_keys = [column.key for column in self.columns]
        _check_unique("row id", row_ids)
        _check_unique("column key", column_keys)

        for row_id, key in self._referenced_cells():
            if row_id not in row_ids or key not in column_keys:
                raise ValueError(f"cell {row_id}/{key} is not in the table")

        for row in self.rows:
            for text in row.published.values():
                count_decimals(text)  # raises ValueError if the text is no number
        return self

    def _referenced_cells(self) -> Iterator[tuple[str, str]]:
        """Yield (row id, column key) of every cell that another field of the table names."""
        for row in self.rows:
            for key in row.published:
                yield row.id, key
        for claim in self.claims:
            yield claim.row, claim.column
        for best_rows in self.best_by_value.values():
            for key, row_ids in best_rows.items():
                for row_id in row_ids:
                    yield row_id, key

        # a baseline names a row alone: any column will do
        micro_baseline = self.micro_scale.baseline if self.micro_scale else ()
        for row_id in (*self.paper_scale.baseline, *micro_baseline):
            yield row_id, self.columns[0].key

    @property
    def display_name(self) -> str:
        """Return the table's name for readers, "Table 2" or its id."""
        return f"Table {self.number}" if self.number else self.id

    def find_row(self, row_id: str) -> Row:
        """Return the row of that id."""
        return next(r for r in self.rows if r.id == row_id)

    def find_column(self, key: str) -> Column:
        """Return the column of that key."""
        return next(c for c in self.columns if c.key == key)

    def block_value(self, row: Row) -> str | int | None:
        """Return the row's resolution or model if the blocks are made by it, else None."""
        if self.block == "resolution":
            return row.resolution
        return row.model if self.block == "model" else None

    def block_key(self, row: Row, column: Column) -> tuple[str, str]:
        """Return the key of a cell's block; cells with one key are ranked together."""
        if self.block == "row":
            return (row.id, "")
        return (str(self.block_value(row)) if self.block != "none" else "all", column.key)

    def baseline_row(self, row: Row, scale: str) -> Row | None:
        """Return the baseline of a row: the baseline row of its block at this scale.

        None for a baseline itself, and where the scale has no baseline for the block.
        """
        criteria = self.micro_scale if scale == "micro" else self.paper_scale
        if criteria is None or row.id in criteria.baseline or self.block == "row":
            return None
        # without blocks by row, the block of a row is the same in every column
        first_column = self.columns[0]
        block = self.block_key(row, first_column)
        for baseline in map(self.find_row, criteria.baseline):
            if self.block_key(baseline, first_column) == block:
                return baseline
        return None

    def micro_checkpoint_name(self, row: Row, column: Column) -> str | None:
        """Return the checkpoint that fills a cell at micro scale, None where there is none."""
        checkpoint_name = row.micro_checkpoint or column.micro_checkpoint
        return f"{checkpoint_name}{row.micro_checkpoint_suffix}" if checkpoint_name else None

    def suite_name(self, row: Row, column: Column) -> str | None:
        """Return the suite of a cell at paper scale, None where the table does not state it."""
        return row.suite or column.suite or self.paper_scale.suite

    def is_best(self, row: Row, column: Column) -> bool:
        """Return whether the cell has the best printed value of its block."""
        return any(row.id in cells.get(column.key, ()) for cells in self.best_by_value.values())


def _check_unique(field: str, names: Sequence[str]) -> None:
    """Raise ValueError if a name occurs twice."""
    for name in sorted(set(names)):
        if names.count(name) > 1:
            raise ValueError(f"{field} {name!r} occurs twice")


def count_decimals(text: str) -> int:
    """Return how many decimals the leading number of a published cell has.

    Raises:
        ValueError: the text does not begin with a number.
    """
    match = LEADING_NUMBER_PATTERN.match(text)
    if match is None:
        raise ValueError(f"published {text!r} does not begin with a number")
    return len(match[1] or "")


def leading_number(text: str) -> Decimal:
    """Return the leading number of a published cell exactly: 2.46 for '2.46 (+4.1%)'."""
    count_decimals(text)
    return Decimal(LEADING_NUMBER_PATTERN.match(text)[0])  # type: ignore[index]


def half_unit(text: str) -> Decimal:
    """Return half a unit of the last printed digit: the largest error that rounding makes."""
    return Decimal(5).scaleb(-count_decimals(text) - 1)


def load_table(name: str) -> Table:
    """Return a registered table by its name or its number: "table2" or "2".

    Raises:
        UnknownNameError: no table has this name. The message offers the nearest names.
        BenchError: a field of the table is missing or wrong.
    """
    entries = registry.list_entries("tables")
    table_id = f"table{name}" if name.isdigit() else name
    if table_id not in entries:
        raise UnknownNameError("table", name, entries)
    return _load_entry(entries[table_id])


def load_tables() -> list[Table]:
    """Return every registered table. The installed packages are scanned once."""
    return [_load_entry(entry) for entry in registry.list_entries("tables").values()]


def _load_entry(entry: registry.RegistryEntry) -> Table:
    if entry.path is None:
        return parse_table(registry.load_by_name("tables", entry.name), entry.origin)
    table = parse_table(registry.read_toml(entry.path), entry.origin)
    flags = tuple(flag for flag in load_published_flags() if table.id in flag.tables)
    return table.model_copy(update={"flags": table.flags + flags})


def parse_table(fields: object, origin: str) -> Table:
    """Return the table that a dict describes.

    Args:
        fields: the table's fields as plain values.
        origin: file or package of the fields, for the error message.

    Raises:
        BenchError: a field is missing or wrong. The message names the origin and the field.
    """
    try:
        return Table.model_validate(fields)
    except ValidationError as error:
        raise BenchError(
            f"table of {origin}: {validation_summary(error)}; correct the field"
        ) from error


@lru_cache(maxsize=1)
def load_published_flags() -> tuple[Flag, ...]:
    """Return all flags of the published tables, in the order of their ids."""
    return tuple(
        Flag.model_validate(flag)
        for flag in registry.read_toml(PAPER_FOLDER / "flags.toml")["flags"]
    )
