"""A table as data: columns, rows, published strings, flags. Read from TOML or from another
package's dict.
"""

from __future__ import annotations

import re
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from harope_bench.core import registry
from harope_bench.core.errors import BenchError
from harope_bench.core.record_base import Name, Option, Record, validation_summary

PAPER_FOLDER = Path(__file__).parent / "paper"
DASH = "\N{EN DASH}"
TableKey = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]
NameTuple = Annotated[
    tuple[str, ...], BeforeValidator(lambda given: (given,) if isinstance(given, str) else given)
]
PERCENT_PATTERN = re.compile(r"\(\+(\d+\.\d+)%\)")
LEADING_NUMBER_PATTERN = re.compile(r"-?\d+(?:\.(\d+))?")
FIELD_PATTERN = re.compile(r"\{(printed|model|res|training_steps)\}")


class RowHeader(Record):
    """One row-header column; `text` names row facts in braces, `span` merges equal neighbours."""

    printed: str
    text: str = "{printed}"
    span: bool = False


class MatchCriteria(Record):
    """What a run must be to belong to a cell; what is None or empty is not asked. `micro` names the
    checkpoint of the small world.
    """

    suite: Name | None = None
    encoding: Name | None = None
    backbone: Name | None = None
    micro: Name | None = None
    config: dict[str, Option] = {}
    options: dict[str, Option] = {}


class Column(MatchCriteria):
    """One printed column. `decimals` is None where the paper mixes them; `metric` where it is not
    the key.

    of: whether its numbers are of a suite's images or of the network itself, which any suite's run
    has. percent: whether a row with a
    baseline also prints by how much it is above it, cut after one decimal as the paper does.
    """

    key: TableKey
    printed: str
    group: str | None = None
    direction: Literal["higher", "lower"]
    unit: str = "none"
    decimals: int | None = Field(default=None, ge=0, le=9)
    evaluator: Name | None = None
    metric: Name | None = None
    of: Literal["images", "network"] = "images"
    percent: bool = False
    n_prompts: int | None = None
    n_images: int | None = None
    derived: str | None = None

    @property
    def metric_name(self) -> str:
        """The metric's name in a Result."""
        return self.metric or self.key


class Row(MatchCriteria):
    """One printed row: its published strings by column, and the facts by which a run finds it.

    micro_res: the side in the place of `res` in the small world. micro_suffix: what a row adds to
    the checkpoint that its column names.
    """

    id: TableKey
    printed: str
    model: str | None = None
    res: int | None = None
    micro_res: int | None = None
    micro_suffix: str = ""
    training_steps: int | None = None
    same_as: str | None = None
    published: dict[str, str] = {}

    def header_text(self, head: RowHeader) -> str:
        """What stands in a row-header column."""
        return FIELD_PATTERN.sub(lambda match: str(self.head_facts[match[1]] or ""), head.text)

    @property
    def head_facts(self) -> dict[str, str | int | None]:
        """Return the facts that a row-header column can name, by name."""
        return {
            "printed": self.printed,
            "model": self.model,
            "res": self.res,
            "training_steps": self.training_steps,
        }


class EntryRow(Row):
    """A row that named runs fill, whatever the table's own facts say: an added row, or one of the
    table's own by `--row`.

    scale: of these runs. name: as the user named them. results: paths of their result files.
    micro_suite: the suite of its cells
    at micro scale. label_head: text of the row-header column that shows the label where none shows
    `printed`. note: what a reader
    must know of the row.
    """

    scale: Literal["micro", "paper"]
    run_name: str
    result_paths: tuple[str, ...]
    is_added: bool = True
    micro_suite: Name | None = None
    label_header: str | None = None
    note: str | None = None

    def text(self, head: RowHeader) -> str:
        """Return what stands in a row-header column."""
        return self.printed if head.text == self.label_header else super().header_text(head)


class ScaleCriteria(MatchCriteria):
    """Which runs of one scale belong to the table, and the rows that differences are shown
    against.
    """

    baseline: NameTuple = ()


class Claim(Record):
    """A cell that the paper's prose singles out."""

    row: str
    column: str
    claim: str
    against: str | None = None


class Flag(Record):
    """A note that a reader of the printed numbers needs; cells are table/row/column. beside: what
    is added to it of our own counts.
    """

    id: TableKey
    severity: Literal["info", "warn", "conflict"]
    tables: tuple[str, ...] = ()
    cells: tuple[str, ...] = ()
    text: str
    beside: str = ""


class Table(Record):
    """One published table."""

    id: TableKey
    number: int | None = None
    title: str
    question: str | None = None
    note: str | None = None
    readings: tuple[str, ...] = ()  # where the paper is silent, what our runs do
    block: Literal["none", "res", "model", "row"] = "none"
    protocol: dict[str, str | int] = {}
    paper: ScaleCriteria = ScaleCriteria()
    micro: ScaleCriteria | None = None
    heads: tuple[RowHeader, ...] = (RowHeader(printed="Method"),)
    columns: tuple[Column, ...] = Field(min_length=1)
    rows: tuple[Row, ...] = Field(min_length=1)
    best_by_value: dict[str, dict[str, tuple[str, ...]]] = {}
    emphasis: tuple[Claim, ...] = ()
    flags: tuple[Flag, ...] = ()

    @model_validator(mode="after")
    def _check_names(self) -> Table:
        rows = [row.id for row in self.rows]
        columns = [column.key for column in self.columns]
        for what, names in (("row id", rows), ("column key", columns)):
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise ValueError(f"{what} {twice[0]!r} stands twice")
        named = [(row.id, key) for row in self.rows for key in row.published]
        named += [(claim.row, claim.column) for claim in self.emphasis]
        named += [
            (name, key)
            for cells in self.best_by_value.values()
            for key, best in cells.items()
            for name in best
        ]
        named += [
            (name, columns[0])
            for name in (*self.paper.baseline, *(self.micro.baseline if self.micro else ()))
        ]
        for name, key in named:
            if name not in rows or key not in columns:
                raise ValueError(f"cell {name}/{key} is not in the table")
        for text in (text for row in self.rows for text in row.published.values()):
            count_decimals(text)
        return self

    @property
    def display_name(self) -> str:
        """How a reader calls it."""
        return f"Table {self.number}" if self.number else self.id

    def find_row(self, row: str) -> Row:
        """The row of that id."""
        return next(r for r in self.rows if r.id == row)

    def find_column(self, key: str) -> Column:
        """The column of that key."""
        return next(c for c in self.columns if c.key == key)

    def block_fact(self, row: Row) -> str | int | None:
        """Return the fact of a row that tells its block; None where no fact does."""
        return row.res if self.block == "res" else row.model if self.block == "model" else None

    def block_key(self, row: Row, column: Column) -> tuple[str, str]:
        """Cells of one block are ranked together; where a block is a row, its columns are."""
        if self.block == "row":
            return (row.id, "")
        return (str(self.block_fact(row)) if self.block != "none" else "all", column.key)

    def baseline_row(self, row: Row, scale: str) -> Row | None:
        """The baseline row of this row's block at this scale; None for a baseline itself or where
        none is named.
        """
        scope = self.micro if scale == "micro" else self.paper
        if scope is None or row.id in scope.baseline or self.block == "row":
            return None
        first = self.columns[0]
        fitting = [self.find_row(name) for name in scope.baseline]
        return next(
            (base for base in fitting if self.block_key(base, first) == self.block_key(row, first)),
            None,
        )

    def micro_checkpoint_name(self, row: Row, column: Column) -> str | None:
        """The checkpoint of the small world that a cell is measured with; None where there is
        none.
        """
        named = row.micro or column.micro
        return f"{named}{row.micro_suffix}" if named else None

    def suite_name(self, row: Row, column: Column) -> str | None:
        """The suite that a cell is measured on at paper scale; None where the table does not say
        it.
        """
        return next((facts.suite for facts in (row, column, self.paper) if facts.suite), None)

    def is_best(self, row: Row, column: Column) -> bool:
        """Whether a "bold the best of its block" rule marks this published cell."""
        return any(row.id in cells.get(column.key, ()) for cells in self.best_by_value.values())


def count_decimals(printed: str) -> int:
    """Printed decimals of the leading number; ValueError where there is none."""
    match = LEADING_NUMBER_PATTERN.match(printed)
    if match is None:
        raise ValueError(f"published {printed!r} does not begin with a number")
    return len(match[1] or "")


def leading_number(printed: str) -> Decimal:
    """The leading number of a published cell, exactly as printed: '2.46 (+4.1%)' is 2.46."""
    count_decimals(printed)
    return Decimal(LEADING_NUMBER_PATTERN.match(printed)[0])  # type: ignore[index]


def half_unit(printed: str) -> Decimal:
    """Half of the last printed digit: how far rounding alone may have moved the number."""
    return Decimal(5).scaleb(-count_decimals(printed) - 1)


def load_table(name: str) -> Table:
    """A registered table by its name or its number: "table2" or "2".

    Raises:
        UnknownName: no such table; the nearest are offered. BenchError: its facts do not fit
            together.
    """
    return _load_entry(registry.find_entry("tables", f"table{name}" if name.isdigit() else name))


def load_tables() -> list[Table]:
    """Every registered table; the installed packages are looked through once."""
    return [_load_entry(entry) for entry in registry.list_entries("tables").values()]


def _load_entry(entry: registry.RegistryEntry) -> Table:
    if entry.path is None:
        return parse_table(registry.load_by_name("tables", entry.name), entry.origin)
    table = parse_table(registry.read_toml(entry.path), entry.origin)
    flags = tuple(flag for flag in load_published_flags() if table.id in flag.tables)
    return table.model_copy(update={"flags": table.flags + flags})


def parse_table(fields: object, origin: str) -> Table:
    """A table from plain facts; BenchError names the place and the field."""
    try:
        return Table.model_validate(fields)
    except ValidationError as error:
        raise BenchError(
            f"table of {origin}: {validation_summary(error)}; correct the field"
        ) from error


@lru_cache(maxsize=1)
def load_published_flags() -> tuple[Flag, ...]:
    """All flags of the published tables, in the order of their ids."""
    return tuple(
        Flag.model_validate(flag)
        for flag in registry.read_toml(PAPER_FOLDER / "flags.toml")["flags"]
    )
