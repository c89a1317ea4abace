"""Rows that a user adds to a table (`--add`), and runs that a user puts in its rows (`--row`)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from harope_bench.core.errors import OptionError, UnknownNameError
from harope_bench.core.record_base import shorten_text, validate_user_label
from harope_bench.core.schema import Result
from harope_bench.data.result_paths import run_folder_of
from harope_bench.data.result_store import StoredResult, read_results
from harope_bench.leaderboards.match_runs import (
    SCALES,
    Scale,
    cell_candidates,
    has_network,
    is_allowed_in_cell,
    is_result_of_cell,
)
from harope_bench.leaderboards.table_spec import Column, EntryRow, Row, Table
from harope_bench.models.load_checkpoint import load_checkpoint_record

MAX_LISTED_RUNS = 40  # runs that one note names
# fields in which the rows of one block agree
BLOCK_FIELDS = {"model", "resolution", "micro_resolution", "backbone", "suite"}


class Addition(NamedTuple):
    """Runs of one name that get rows of their own, with the label of these rows if there is one."""

    name: str
    label: str | None = None


class Substitution(NamedTuple):
    """Runs of one name that fill a published row in place of the runs that would match it."""

    row: str
    name: str


@dataclass(frozen=True)
class Entries:
    """The values of `--add` and `--row`, and the folder of all runs, which run names start from."""

    additions: tuple[Addition, ...] = ()
    substitutions: tuple[Substitution, ...] = ()
    runs_folder: Path | None = None

    @property
    def run_names(self) -> list[str]:
        """Return every run name of the additions and substitutions."""
        return [
            *(addition.name for addition in self.additions),
            *(substitution.name for substitution in self.substitutions),
        ]


NO_ENTRIES = Entries()


def parse_entries(
    addition_texts: Iterable[str],
    substitution_texts: Iterable[str],
    runs_folder: Path | None = None,
) -> Entries:
    """Parse the values of `--add` and `--row` and check that none is repeated.

    Args:
        addition_texts: values of `--add`, like `NAME` or `NAME=LABEL`.
        substitution_texts: values of `--row`, like `ROW_ID=NAME`.
        runs_folder: folder of all runs. It decides where a name that contains `=` is split
            (a run folder may be called `cfg=1.5`).

    Raises:
        OptionError: a name is empty, a label is invalid, a name or row is repeated, or a text
            is ambiguous because two of its splits name a run.
    """
    addition_texts = list(addition_texts)
    # the results are needed only to split texts that contain "="
    results: Sequence[StoredResult] = ()
    if (
        runs_folder is not None
        and runs_folder.is_dir()
        and any("=" in text for text in addition_texts)
    ):
        results = read_results(runs_folder)
    entries = Entries(
        tuple(_parse_addition(text, results, runs_folder) for text in addition_texts),
        tuple(map(_parse_substitution, substitution_texts)),
        runs_folder,
    )
    _check_repeated("--add", [addition.name for addition in entries.additions])
    _check_repeated("--row", [substitution.row for substitution in entries.substitutions])
    return entries


def _check_repeated(option: str, names: Sequence[str]) -> None:
    """Raise OptionError if a name occurs twice among the values of an option."""
    for name in names:
        if names.count(name) > 1:
            raise OptionError(f"{option} {shorten_text(name, 60)!r} is given twice; give it once")


def _parse_addition(
    text: str, results: Sequence[StoredResult], runs_folder: Path | None
) -> Addition:
    """Return the run name and the label of a `NAME[=LABEL]` text.

    Names and labels may contain `=`, so the text is split where the left part names a run.
    """
    equals_indices = [i for i, character in enumerate(text) if character == "="]
    splits = [*((text[:i], text[i + 1 :]) for i in equals_indices), (text, None)]
    paths_by_split = {
        split: paths
        for split in splits
        if (paths := _find_result_paths(split[0], results, runs_folder))
    }
    if len(set(paths_by_split.values())) > 1:
        names = " or ".join(repr(shorten_text(name, 60)) for name, _ in paths_by_split)
        raise OptionError(
            f"--add {shorten_text(text, 60)!r} may mean run {names}; name the run by its folder, as"
            " ./FOLDER"
        )
    # a name without a run is rejected later, where the runs of a table are matched
    name, label = next(iter(paths_by_split), splits[0])
    if not name.strip():
        raise OptionError(
            f"--add {shorten_text(text, 60)!r} names no run; write --add NAME or --add NAME=LABEL"
        )
    return Addition(name, None if label is None else validate_user_label(label))


def _find_result_paths(
    name: str, results: Sequence[StoredResult], runs_folder: Path | None
) -> tuple[str, ...]:
    """Return the sorted result paths of the runs of that name, empty where there is none."""
    try:
        return tuple(
            sorted(
                str(stored_result.path) for stored_result in find_runs(name, results, runs_folder)
            )
        )
    except UnknownNameError:
        return ()


def _parse_substitution(text: str) -> Substitution:
    """Return the row id and the run name of a `ROW_ID=NAME` text."""
    row, _, name = text.partition("=")
    if not row.strip() or not name.strip():
        raise OptionError(
            f"--row {shorten_text(text, 60)!r} is not ROW_ID=NAME; `harope-bench table"
            " NAME --format csv` lists the row ids"
        )
    return Substitution(row, name)


# -----------------------------------------------------------------------------------------------
# runs by name


def result_run_folder(stored_result: StoredResult) -> Path:
    """Return the run folder of a result. Results of the evaluator `cost` are one level below."""
    folder = run_folder_of(stored_result.path)
    return (
        folder.parent
        if folder.name == "cost" and stored_result.result.evaluator == "cost"
        else folder
    )


def run_path(stored_result: StoredResult, runs_folder: Path | None) -> str:
    """Return a run's folder relative to the folder of all runs, with forward slashes."""
    folder = result_run_folder(stored_result)
    if runs_folder is None or not folder.is_relative_to(runs_folder):
        return folder.as_posix()
    path = folder.relative_to(runs_folder).as_posix()
    return runs_folder.resolve().name if path == "." else path


def run_names(stored_result: StoredResult, runs_folder: Path | None) -> set[str]:
    """Return every name of a result's run.

    These are checkpoint, target, label, folder name, and the paths of the folder and its parents
    below the folder of all runs.
    """
    result = stored_result.result
    path = run_path(stored_result, runs_folder)
    folders = {path, *(parent.as_posix() for parent in Path(path).parents)} - {".", "/"}
    checkpoint_names = {result.plan.checkpoint.name} if result.plan else set()
    return {
        result.target,
        *({result.label} if result.label else ()),
        *checkpoint_names,
        Path(path).name,
        *folders,
    }


def find_runs(
    name: str, results: Sequence[StoredResult], runs_folder: Path | None
) -> list[StoredResult]:
    """Return the results of the runs of that name.

    A name with a slash (`./my-pe`) is a folder if there is such a folder.

    Raises:
        UnknownNameError: no run has this name. The message offers the nearest names.
    """
    path = Path(name).as_posix()
    matches = []
    if "/" in name:
        matches = [
            stored_result
            for stored_result in results
            if path in _folder_and_parents(run_path(stored_result, runs_folder))
        ]

    # a target or label may contain a slash too
    if not matches:
        matches = [
            stored_result
            for stored_result in results
            if name in run_names(stored_result, runs_folder)
        ]
    if not matches:
        valid_names = {
            shorten_text(text, 60)
            for stored_result in results
            for text in run_names(stored_result, runs_folder)
        }
        raise UnknownNameError("run", shorten_text(name, 60), valid_names)
    return matches


def _folder_and_parents(path: str) -> list[str]:
    return [path, *(parent.as_posix() for parent in Path(path).parents)]


# -----------------------------------------------------------------------------------------------
# rows of these runs


def add_entries(
    table: Table, results: Sequence[StoredResult], scale: Scale, entries: Entries
) -> Table:
    """Return the table with the rows of the user's runs at a scale.

    A name whose runs fill no cell of the table changes nothing.

    Raises:
        UnknownNameError: no run has a name.
        OptionError: several different runs fit one cell of a row.
    """
    if not entries.run_names:
        return table
    scale_results = [
        stored_result for stored_result in results if stored_result.result.scale == scale
    ]
    rows = list(table.rows)

    # runs in published rows
    for substitution in entries.substitutions:
        runs = find_runs(substitution.name, results, entries.runs_folder)
        run_results = _select_results(scale_results, runs)
        rows = [_substitute_row(table, row, substitution, run_results, scale) for row in rows]

    # runs in rows of their own, each behind the last row of its block
    for addition in entries.additions:
        runs = find_runs(addition.name, results, entries.runs_folder)
        run_results = _select_results(scale_results, runs)
        for row in _make_added_rows(table, addition, run_results, scale):
            rows.insert(_end_of_block(table, rows, row), _with_unique_id(row, rows))

    extended_table = table.model_copy(update={"rows": tuple(rows)})
    _check_equal_runs(extended_table, scale_results, scale, entries.runs_folder)
    return extended_table


def _select_results(
    results: Sequence[StoredResult], runs: Sequence[StoredResult]
) -> list[StoredResult]:
    """Return the results whose path is one of the runs' result paths."""
    paths = {str(stored_result.path) for stored_result in runs}
    return [stored_result for stored_result in results if str(stored_result.path) in paths]


def _substitute_row(
    table: Table,
    row: Row,
    substitution: Substitution,
    run_results: Sequence[StoredResult],
    scale: Scale,
) -> Row:
    """Return the row with the results of the substitution's runs in its cells.

    A row is returned unchanged if it is not the substitution's or if no result fits a cell of it.
    """
    if row.id != substitution.row or not run_results:
        return row
    note = f"Row {row.id} shows the runs of {shorten_text(substitution.name, 60)} (--row)."
    fields = {**row.model_dump(), "is_added": False, "note": note}
    filled_row = _entry_row(table, row, run_results, scale, substitution.name, fields)
    return filled_row if _fits_column(table, filled_row, run_results) else row


def _make_added_rows(
    table: Table, addition: Addition, run_results: Sequence[StoredResult], scale: Scale
) -> list[EntryRow]:
    """Return an added row for each block of the table that the results of the named runs fit.

    Results whose network or image size is that of no block get one row outside of the blocks.
    """
    label = addition.label or _shared_label(run_results) or shorten_text(addition.name) or "run"
    rows = []
    for block_rows in _blocks(table, scale):
        added_rows = [
            _make_block_row(table, block_row, run_results, scale, addition.name, label)
            for block_row in block_rows
        ]
        is_block_of_runs = any(
            _is_of_block(table, block_row, added_row, stored_result.result)
            for stored_result in run_results
            for block_row, added_row in zip(block_rows, added_rows, strict=True)
        )
        if is_block_of_runs:
            rows.append(added_rows[0])
    return rows or _make_separate_row(table, run_results, scale, addition.name, label)


def _is_of_block(table: Table, block_row: Row, added_row: EntryRow, result: Result) -> bool:
    """Return whether a result has the network and image size of a block and fits a column.

    Args:
        block_row: a published row of the block.
        added_row: the row that the user's runs would get in this block.
    """
    expected_side = (
        added_row.micro_resolution if added_row.scale == "micro" else added_row.resolution
    )
    is_any_size_allowed = expected_side is None or table.block not in ("resolution", "model")
    return (
        (is_any_size_allowed or result.side is not None)
        and has_network(table, block_row, result)
        and any(is_allowed_in_cell(table, added_row, column, result) for column in table.columns)
    )


def _make_separate_row(
    table: Table, run_results: Sequence[StoredResult], scale: Scale, name: str, label: str
) -> list[EntryRow]:
    """Return one row outside of the table's blocks, or none if the results fit no column.

    It is for results of the table's suites whose network or image size is that of no row.
    """
    for block_rows in _blocks(table, scale):
        row = _make_block_row(table, block_rows[0], run_results, scale, name, label)
        if table.block != "none":
            row = row.model_copy(
                update={"resolution": None, "micro_resolution": None, "model": None}
            )
        if _fits_column(table, row, run_results):
            note = (
                f"{label}: no row of this table has its network and image size, or these were not"
                " recorded."
            )
            return [row.model_copy(update={"note": note})]
    return []


def _blocks(table: Table, scale: Scale) -> list[list[Row]]:
    """Return the rows of each block that runs of a scale can belong to.

    All rows are one block where the table has no blocks of rows.
    """
    blocks: dict[str, list[Row]] = {}
    for row in table.rows:
        has_micro_runs = any(table.micro_checkpoint_name(row, c) for c in table.columns)
        if scale == "paper" or has_micro_runs:
            # block_value is None for every row of a table without blocks of rows
            blocks.setdefault(str(table.block_value(row)), []).append(row)
    return list(blocks.values())


def _make_block_row(
    table: Table,
    block_row: Row,
    run_results: Sequence[StoredResult],
    scale: Scale,
    name: str,
    label: str,
) -> EntryRow:
    """Return an added row with the fields in which the rows of a block agree."""
    has_title_header = any("{title}" in header.text for header in table.row_headers)
    fields = {
        "id": "added",
        "title": label,
        **block_row.model_dump(include=BLOCK_FIELDS),
        "label_header": None if has_title_header else table.row_headers[0].text,
    }
    return _entry_row(table, block_row, run_results, scale, name, fields)


def _entry_row(
    table: Table,
    block_row: Row,
    run_results: Sequence[StoredResult],
    scale: Scale,
    name: str,
    fields: Mapping[str, object],
) -> EntryRow:
    """Return an EntryRow of these fields and results."""
    return EntryRow.model_validate(
        {
            **fields,
            "scale": scale,
            "run_name": name,
            "result_paths": tuple(str(i.path) for i in run_results),
            "micro_suite": _micro_suite(table, block_row) if scale == "micro" else None,
        }
    )


def _micro_suite(table: Table, row: Row) -> str | None:
    """Return the suite of a row at micro scale.

    It is the table's, or the suite that the row's checkpoint was trained for.
    """
    if table.micro_scale is None:
        return None
    if table.micro_scale.suite:
        return table.micro_scale.suite
    names = [name for column in table.columns if (name := table.micro_checkpoint_name(row, column))]
    return load_checkpoint_record(names[0]).suite if names else None


def _fits_column(table: Table, row: EntryRow, run_results: Sequence[StoredResult]) -> bool:
    """Return whether a result has the metric of a column of the row and may fill its cell."""
    return any(
        _has_metric(column, stored_result.result)
        and is_allowed_in_cell(table, row, column, stored_result.result)
        for stored_result in run_results
        for column in table.columns
    )


def _has_metric(column: Column, result: Result) -> bool:
    return result.find_measurement(column.metric_name) is not None


def _shared_label(run_results: Sequence[StoredResult]) -> str | None:
    """Return the label of all results, None where they have none or several."""
    labels = {
        stored_result.result.label for stored_result in run_results if stored_result.result.label
    }
    return labels.pop() if len(labels) == 1 else None


def _end_of_block(table: Table, rows: Sequence[Row], row: Row) -> int:
    """Return the index at which to insert a row: after the last row of its block.

    It is the end of the table if the table has no blocks of rows, or none with the row's value.
    """
    if table.block not in ("resolution", "model"):
        return len(rows)
    block = table.block_value(row)  # the row's resolution or model
    return max(
        (i + 1 for i, other in enumerate(rows) if table.block_value(other) == block),
        default=len(rows),
    )


def _with_unique_id(row: EntryRow, rows: Sequence[Row]) -> EntryRow:
    """Return the row with an id that no other row has, made from its run name."""
    used_ids = {table_row.id for table_row in rows}
    base_id = re.sub(r"[^A-Za-z0-9_-]+", "-", row.run_name[:60]).strip("-") or "added"
    base_id = f"r{row.resolution}-{base_id}" if row.resolution is not None else base_id
    ids = [base_id, *(f"{base_id}-{i}" for i in range(2, len(used_ids) + 3))]
    return row.model_copy(update={"id": next(text for text in ids if text not in used_ids)})


def _check_equal_runs(
    table: Table, results: Sequence[StoredResult], scale: Scale, runs_folder: Path | None
) -> None:
    """Raise OptionError if runs of one entered row differ in more than count and seed."""
    for row, column, candidates, _ in cell_candidates(table, results, scale):
        if not isinstance(row, EntryRow) or column.measured_on != "images":
            continue
        identities = {_generation_identity(stored_result.result) for stored_result, _ in candidates}
        if len(identities) > 1:
            paths = sorted(
                {run_path(stored_result, runs_folder) for stored_result, _ in candidates}
            )
            path_list = ", ".join(f"./{shorten_text(path, 60)}" for path in paths[:MAX_LISTED_RUNS])
            raise OptionError(
                f"{shorten_text(row.run_name, 60)!r} names {len(paths)} runs that fit"
                f" {column.title} of {table.display_name} and differ in more than"
                f" count and seed: {path_list};"
                " name one by its folder"
            )


def _generation_identity(result: Result) -> str:
    """Return a text that is equal for results of one model and settings, whatever their seed."""
    if result.plan is None:
        return result.samples_sha256
    fields = result.plan.digest_fields()
    settings = {
        key: value
        for key, value in fields["settings"].items()
        if key not in ("seed", "pos_scaling", "device", "tile")
    }
    return json.dumps({**fields, "settings": settings}, sort_keys=True)


# -----------------------------------------------------------------------------------------------
# errors and notes


def check_entries(
    tables: Sequence[Table],
    results: Sequence[StoredResult],
    entries: Entries,
    scales: Sequence[Scale] = SCALES,
) -> None:
    """Raise an error for entries that no table can show.

    Raises:
        UnknownNameError: no run has a name, or no table has a row.
        OptionError: the runs of an entry fit no column of the tables.
    """
    row_ids = {row.id for table in tables for row in table.rows}
    for substitution in entries.substitutions:
        if substitution.row not in row_ids:
            raise UnknownNameError(
                f"row of {_join_table_names(tables)}", shorten_text(substitution.row, 60), row_ids
            )
    extended_tables = [
        add_entries(table, results, scale, entries) for table in tables for scale in scales
    ]
    rows = [row for table in extended_tables for row in table.rows if isinstance(row, EntryRow)]

    for addition in entries.additions:
        if not any(row.is_added and row.run_name == addition.name for row in rows):
            runs = find_runs(addition.name, results, entries.runs_folder)
            raise OptionError(_misfit_message(tables, runs, addition.name, "a column"))

    for substitution in entries.substitutions:
        if not any(not row.is_added and (row.id, row.run_name) == substitution for row in rows):
            runs = find_runs(substitution.name, results, entries.runs_folder)
            target = f"row {substitution.row}"
            raise OptionError(_misfit_message(tables, runs, substitution.name, target))


def _misfit_message(
    tables: Sequence[Table], run_results: Sequence[StoredResult], name: str, target: str
) -> str:
    """Return the error message for runs that fit no cell: what they have, and what would fit."""
    descriptions = sorted(
        {
            f"{result.evaluator} on suite {result.suite_name or 'not recorded'} ({result.scale})"
            for result in (stored_result.result for stored_result in run_results)
        }
    )
    suites = sorted({suite for table in tables for suite in table_suites(table)})
    return (
        f"{shorten_text(name, 60)!r} has no result that fits {target} of"
        f" {_join_table_names(tables)}: it has"
        f" {', '.join(descriptions)}; evaluate it for {' or '.join(suites)}, or"
        " name another table"
    )


def table_suites(table: Table) -> set[str]:
    """Return the suites of a table's cells, at both scales."""
    paper_suites = {table.suite_name(row, c) for row in table.rows for c in table.columns}
    micro_suites = {_micro_suite(table, block_rows[0]) for block_rows in _blocks(table, "micro")}
    return {suite for suite in paper_suites | micro_suites if suite}


def _join_table_names(tables: Sequence[Table]) -> str:
    names = [table.display_name for table in tables]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def unmatched_runs_note(
    tables: Sequence[Table], results: Sequence[StoredResult], entries: Entries = NO_ENTRIES
) -> str | None:
    """Return a note that lists the runs which fit no row of these tables at their scale.

    None where every run fits one.
    """
    extended_tables = {
        scale: [add_entries(table, results, scale, entries) for table in tables] for scale in SCALES
    }
    results_by_run: dict[Path, list[StoredResult]] = {}
    for stored_result in results:
        results_by_run.setdefault(result_run_folder(stored_result), []).append(stored_result)
    unmatched_runs = [
        run_results
        for run_results in results_by_run.values()
        if not any(_is_in_any_table(extended_tables[i.result.scale], i) for i in run_results)
    ]
    if not unmatched_runs:
        return None

    # runs of one description are listed once; those that --add accepts come first
    counts_by_run: dict[str, int] = {}
    for run_results in sorted(
        unmatched_runs, key=lambda run_results: not _is_addable(tables, run_results)
    ):
        name = _describe_run(run_results[0])
        counts_by_run[name] = counts_by_run.get(name, 0) + 1
    texts = [
        text if count == 1 else f"{text[:-1]}, {count} runs)"
        for text, count in counts_by_run.items()
    ]

    rest = f" and {len(texts) - MAX_LISTED_RUNS} more" if len(texts) > MAX_LISTED_RUNS else ""
    verb = "runs fit" if len(unmatched_runs) > 1 else "run fits"
    advice = f"--add NAME adds {'one' if len(unmatched_runs) > 1 else 'it'}"
    return (
        f"{len(unmatched_runs)} {verb} no row of {_join_table_names(tables)}:"
        f" {', '.join(texts[:MAX_LISTED_RUNS])}{rest}; {advice}."
    )


def _is_in_any_table(tables: Sequence[Table], stored_result: StoredResult) -> bool:
    """Return whether a result fills a cell of one of these tables."""
    return any(
        _has_metric(column, stored_result.result) and _is_in_cell(table, row, column, stored_result)
        for table in tables
        for row in table.rows
        for column in table.columns
    )


def _is_in_cell(table: Table, row: Row, column: Column, stored_result: StoredResult) -> bool:
    """Return whether a result may fill a cell of a published or an entered row."""
    if isinstance(row, EntryRow):
        return str(stored_result.path) in row.result_paths and is_allowed_in_cell(
            table, row, column, stored_result.result
        )
    return is_result_of_cell(table, row, column, stored_result.result)


def _is_addable(tables: Sequence[Table], run_results: Sequence[StoredResult]) -> bool:
    """Return whether `--add` would give these results a row in one of the tables."""
    return any(
        _make_added_rows(table, Addition("run"), run_results, run_results[0].result.scale)
        for table in tables
    )


def _describe_run(stored_result: StoredResult) -> str:
    """Return a run's label, checkpoint or target, with its suite in brackets."""
    result = stored_result.result
    name = result.label or (result.plan.checkpoint.name if result.plan else result.target)
    return f"{shorten_text(name, 60)} (suite {result.suite_name or 'not recorded'})"


def entry_notes(table: Table) -> list[str]:
    """Return the notes on the rows that the user entered."""
    return [row.note for row in table.rows if isinstance(row, EntryRow) and row.note]
