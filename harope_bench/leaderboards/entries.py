"""Rows that a user puts into a table: named runs as rows of their own (`--add`), or in one of the
table's own rows (`--row`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from harope_bench.core.errors import OptionError, UnknownNameError
from harope_bench.core.record_base import check_label, shorten
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
SHARED_FACTS = {"model", "res", "micro_res", "backbone", "suite"}  # of the rows of a block


class Addition(NamedTuple):
    """Runs that get rows of their own, and the text of these rows where the user gave one."""

    name: str
    label: str | None = None


class Substitution(NamedTuple):
    """Runs that stand in a row of the table in place of what would be found."""

    row: str
    name: str


@dataclass(frozen=True)
class Entries:
    """What `--add` and `--row` ask for; `root` is the folder that holds the runs, by which these
    are named.
    """

    additions: tuple[Addition, ...] = ()
    substitutions: tuple[Substitution, ...] = ()
    runs_folder: Path | None = None

    @property
    def run_names(self) -> list[str]:
        """Return every name that runs are asked for by."""
        return [
            *(addition.name for addition in self.additions),
            *(substitution.name for substitution in self.substitutions),
        ]


NO_ENTRIES = Entries()


def parse_entries(
    add: Iterable[str], row: Iterable[str], runs_folder: Path | None = None
) -> Entries:
    """Return the entries of `NAME[=LABEL]` and `ROW_ID=NAME` texts.

    Args:
        root: The folder that holds the runs; a name with `=` in it (a folder `cfg=1.5`) is found
            there.

    Raises:
        OptionError: an empty name, a label that is none, a name or row that is given twice, or a
            text that names two runs.
    """
    add = list(add)
    found = (
        read_results(runs_folder)
        if runs_folder is not None and runs_folder.is_dir() and any("=" in text for text in add)
        else []
    )
    entries = Entries(
        tuple(_parse_addition(text, found, runs_folder) for text in add),
        tuple(map(_parse_substitution, row)),
        runs_folder,
    )
    keys = [("--add", entry.name) for entry in entries.additions] + [
        ("--row", entry.row) for entry in entries.substitutions
    ]
    if repeated := [key for key in keys if keys.count(key) > 1]:
        option, name = repeated[0]
        raise OptionError(f"{option} {shorten(name, 60)!r} is given twice; give it once")
    return entries


def _parse_addition(text: str, found: Sequence[StoredResult], root: Path | None) -> Addition:
    """Return the name and label of a text; names and labels may hold `=`, so the runs that are
    there decide where it is split.
    """
    places = [i for i, character in enumerate(text) if character == "="]
    splits = [*((text[:i], text[i + 1 :]) for i in places), (text, None)]
    runs = {
        split: paths for split in splits if (paths := _find_result_paths(split[0], found, root))
    }
    if len(set(runs.values())) > 1:
        names = " or ".join(repr(shorten(name, 60)) for name, _ in runs)
        raise OptionError(
            f"--add {shorten(text, 60)!r} names run {names}; give the one that is meant by its"
            " folder, as ./FOLDER"
        )
    name, label = next(iter(runs), splits[0])
    if not name.strip():
        raise OptionError(
            f"--add {shorten(text, 60)!r} names no run; write --add NAME or --add NAME=LABEL"
        )
    return Addition(name, None if label is None else check_label(label))


def _find_result_paths(
    name: str, found: Sequence[StoredResult], root: Path | None
) -> tuple[str, ...]:
    """Return the results of the runs of that name, empty where there is none."""
    try:
        return tuple(sorted(str(item.path) for item in find_runs(name, found, root)))
    except UnknownNameError:
        return ()


def _parse_substitution(text: str) -> Substitution:
    row, _, name = text.partition("=")
    if not row.strip() or not name.strip():
        raise OptionError(
            f"--row {shorten(text, 60)!r} is not ROW_ID=NAME; row ids stand in the table's csv"
        )
    return Substitution(row, name)


# ------------------------------------------------------------------------------------------- names
# to runs


def result_run_folder(item: StoredResult) -> Path:
    """Return the folder of the run that a result belongs to; what a network costs lies one folder
    below it.
    """
    folder = run_folder_of(item.path)
    return folder.parent if folder.name == "cost" and item.result.evaluator == "cost" else folder


def run_path(item: StoredResult, root: Path | None) -> str:
    """Return a run's folder relative to the folder of all runs."""
    folder = result_run_folder(item)
    if root is None or not folder.is_relative_to(root):
        return folder.as_posix()
    path = folder.relative_to(root).as_posix()
    return root.resolve().name if path == "." else path


def run_names(item: StoredResult, root: Path | None) -> set[str]:
    """Return every name of a result's run: checkpoint, target, label, folder and the folders above
    it below the root.
    """
    result = item.result
    path = run_path(item, root)
    folders = {path, *(parent.as_posix() for parent in Path(path).parents)} - {".", "/"}
    plan = {result.plan.checkpoint.name} if result.plan else set()
    return {
        result.target,
        *({result.label} if result.label else ()),
        *plan,
        Path(path).name,
        *folders,
    }


def find_runs(name: str, found: Sequence[StoredResult], root: Path | None) -> list[StoredResult]:
    """Return the results of the runs of that name; a name with a slash (`./my-pe`) is a folder's
    where there is such a folder.

    Raises:
        UnknownName: no run has it; the nearest are offered.
    """
    path = Path(name).as_posix()
    chosen = (
        [item for item in found if path in _folder_and_parents(run_path(item, root))]
        if "/" in name
        else []
    )
    chosen = chosen or [
        item for item in found if name in run_names(item, root)
    ]  # targets and labels may have a slash
    if not chosen:
        known = {shorten(text, 60) for item in found for text in run_names(item, root)}
        raise UnknownNameError("run", shorten(name, 60), known)
    return chosen


def _folder_and_parents(path: str) -> list[str]:
    return [path, *(parent.as_posix() for parent in Path(path).parents)]


# ------------------------------------------------------------------------------------------- runs
# to rows


def add_entries(
    table: Table, found: Sequence[StoredResult], scale: Scale, entries: Entries
) -> Table:
    """Return the table with the rows that the named runs fill at a scale; a name that fills no cell
    of it changes nothing.

    Raises:
        UnknownName: a name that no run has. OptionError: several runs fit one cell of a row.
    """
    if not entries.run_names:
        return table
    of_scale = [item for item in found if item.result.scale == scale]
    rows = list(table.rows)
    for entry in entries.substitutions:
        named = {str(item.path) for item in find_runs(entry.name, found, entries.runs_folder)}
        rows = [
            _substitute_row(table, row, entry, [i for i in of_scale if str(i.path) in named], scale)
            for row in rows
        ]
    for addition in entries.additions:
        named = {str(item.path) for item in find_runs(addition.name, found, entries.runs_folder)}
        for row in _make_added_rows(
            table, addition, [i for i in of_scale if str(i.path) in named], scale
        ):
            rows.insert(_end_of_block(table, rows, row), _with_unique_id(row, rows))
    entered = table.model_copy(update={"rows": tuple(rows)})
    _check_single(entered, of_scale, scale, entries.runs_folder)
    return entered


def _substitute_row(
    table: Table, row: Row, entry: Substitution, items: Sequence[StoredResult], scale: Scale
) -> Row:
    """Return the row filled by these results if it is the one that is named and they fit a cell of
    it.
    """
    if row.id != entry.row or not items:
        return row
    note = f"Row {row.id} holds {shorten(entry.name, 60)}, as --row says."
    filled = _entry_row(
        table, row, items, scale, entry.name, {**row.model_dump(), "is_added": False, "note": note}
    )
    return filled if _is_placeable(table, filled, items) else row


def _make_added_rows(
    table: Table, addition: Addition, items: Sequence[StoredResult], scale: Scale
) -> list[EntryRow]:
    """Return a row for each block of the table that these results belong to; one apart where they
    are of no block's network or side.
    """
    label = addition.label or _shared_label(items) or shorten(addition.name) or "run"
    rows = []
    for peers in _blocks(table, scale):
        candidates = [
            _make_peer_row(table, peer, items, scale, addition.name, label) for peer in peers
        ]
        strict = [
            i
            for i in items
            if any(
                _is_peer(table, peer, row, i.result)
                for peer, row in zip(peers, candidates, strict=True)
            )
        ]
        if strict:
            rows.append(
                candidates[0].model_copy(update={"results": tuple(str(i.path) for i in items)})
            )
    return rows or _make_separate_row(table, items, scale, addition.name, label)


def _is_peer(table: Table, peer: Row, row: EntryRow, result: Result) -> bool:
    """Return whether a result is of the network and side of a table's row, and fits one of its
    columns.
    """
    side = row.micro_res if row.scale == "micro" else row.res
    has_side = side is None or table.block not in ("res", "model") or result.side is not None
    return (
        has_side
        and has_network(table, peer, result)
        and any(is_allowed_in_cell(table, row, column, result) for column in table.columns)
    )


def _make_separate_row(
    table: Table, items: Sequence[StoredResult], scale: Scale, name: str, label: str
) -> list[EntryRow]:
    """Return a row outside the table's blocks for results of its suites whose network or side is no
    row's; empty where none fits.
    """
    for peers in _blocks(table, scale):
        row = _make_peer_row(table, peers[0], items, scale, name, label)
        if table.block != "none":
            row = row.model_copy(update={"res": None, "micro_res": None, "model": None})
        if _is_placeable(table, row, items):
            note = (
                f"{label}: its network or the side of its images is not that of a row here, or was"
                " not recorded."
            )
            return [row.model_copy(update={"note": note})]
    return []


def _blocks(table: Table, scale: Scale) -> list[list[Row]]:
    """Return the rows of each block that runs of a scale can belong to; where every row is a block,
    all together.
    """
    blocks: dict[str, list[Row]] = {}
    for row in table.rows:
        if scale == "paper" or any(
            table.micro_checkpoint_name(row, column) for column in table.columns
        ):
            blocks.setdefault(
                str(table.block_fact(row)) if table.block in ("res", "model") else "", []
            ).append(row)
    return list(blocks.values())


def _make_peer_row(
    table: Table, peer: Row, items: Sequence[StoredResult], scale: Scale, name: str, label: str
) -> EntryRow:
    """Return an added row with the facts that the rows of a block share."""
    facts = {"id": "added", "printed": label, **peer.model_dump(include=SHARED_FACTS)}
    shows_label = any("{printed}" in head.text for head in table.heads)
    return _entry_row(
        table,
        peer,
        items,
        scale,
        name,
        {**facts, "label_head": None if shows_label else table.heads[0].text},
    )


def _entry_row(
    table: Table,
    peer: Row,
    items: Sequence[StoredResult],
    scale: Scale,
    name: str,
    fields: Mapping[str, object],
) -> EntryRow:
    suite = _micro_suite(table, peer) if scale == "micro" else None
    return EntryRow.model_validate(
        {
            **fields,
            "scale": scale,
            "name": name,
            "results": tuple(str(i.path) for i in items),
            "micro_suite": suite,
        }
    )


def _micro_suite(table: Table, peer: Row) -> str | None:
    """Return the suite of a row at micro scale: the table's, or the one that the row's checkpoint
    was trained for.
    """
    if table.micro is None or table.micro.suite:
        return table.micro.suite if table.micro else None
    names = [
        name for column in table.columns if (name := table.micro_checkpoint_name(peer, column))
    ]
    return load_checkpoint_record(names[0]).suite if names else None


def _is_placeable(table: Table, row: EntryRow, items: Sequence[StoredResult]) -> bool:
    return any(
        _has_metric(column, i.result) and is_allowed_in_cell(table, row, column, i.result)
        for i in items
        for column in table.columns
    )


def _has_metric(column: Column, result: Result) -> bool:
    return result.find_measurement(column.metric_name) is not None


def _shared_label(items: Sequence[StoredResult]) -> str | None:
    """Return the label that results share; None where they have none, or several."""
    labels = {item.result.label for item in items if item.result.label}
    return labels.pop() if len(labels) == 1 else None


def _end_of_block(table: Table, rows: Sequence[Row], row: Row) -> int:
    """Return where an added row goes: behind the last row of its block, else behind all."""
    if table.block not in ("res", "model"):
        return len(rows)
    return max(
        (i + 1 for i, r in enumerate(rows) if table.block_fact(r) == table.block_fact(row)),
        default=len(rows),
    )


def _with_unique_id(row: EntryRow, rows: Sequence[Row]) -> EntryRow:
    taken = {other.id for other in rows}
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", row.run_name[:60]).strip("-") or "added"
    stem = f"r{row.res}-{stem}" if row.res is not None else stem
    ids = [stem, *(f"{stem}-{i}" for i in range(2, len(taken) + 3))]
    return row.model_copy(update={"id": next(text for text in ids if text not in taken)})


def _check_single(
    table: Table, found: Sequence[StoredResult], scale: Scale, root: Path | None
) -> None:
    """OptionError where runs of a row that a user named differ in more than their count and
    seed.
    """
    for row, column, same, _ in cell_candidates(table, found, scale):
        if (
            isinstance(row, EntryRow)
            and len({_generation_identity(item.result) for item, _ in same}) > 1
            and column.of == "images"
        ):
            paths = sorted({run_path(item, root) for item, _ in same})
            listed = ", ".join(f"./{shorten(path, 60)}" for path in paths[:MAX_LISTED_RUNS])
            raise OptionError(
                f"{shorten(row.run_name, 60)!r} names {len(paths)} runs that fit {column.printed}"
                f" of {table.display_name} and differ in more than count and seed: {listed}; name"
                " one by its folder"
            )


def _generation_identity(result: Result) -> str:
    """Return what two results must share to be of one thing drawn with other counts or seeds."""
    if result.plan is None:
        return result.samples_sha256
    facts = result.plan.digest_fields()
    settings = {
        key: value
        for key, value in facts["settings"].items()
        if key not in ("seed", "pos_scaling", "device", "tile")
    }
    return json.dumps({**facts, "settings": settings}, sort_keys=True)


# ------------------------------------------------------------------------------------------- what
# must be said


def check_entries(
    tables: Sequence[Table],
    found: Sequence[StoredResult],
    entries: Entries,
    scales: Sequence[Scale] = SCALES,
) -> None:
    """Raise for what no table takes.

    Raises:
        UnknownName: a name that no run has, or a row that no table has. OptionError: runs that fit
            no column of the tables.
    """
    row_ids = {row.id for table in tables for row in table.rows}
    for substitution in entries.substitutions:
        if substitution.row not in row_ids:
            raise UnknownNameError(
                f"row of {_join_table_names(tables)}", shorten(substitution.row, 60), row_ids
            )
    entered = [add_entries(table, found, scale, entries) for table in tables for scale in scales]
    rows = [row for table in entered for row in table.rows if isinstance(row, EntryRow)]
    for addition in entries.additions:
        if not any(row.is_added and row.run_name == addition.name for row in rows):
            raise OptionError(
                _misfit_message(
                    tables,
                    find_runs(addition.name, found, entries.runs_folder),
                    addition.name,
                    "a column",
                )
            )
    for entry in entries.substitutions:
        if not any(not row.is_added and (row.id, row.run_name) == entry for row in rows):
            raise OptionError(
                _misfit_message(
                    tables,
                    find_runs(entry.name, found, entries.runs_folder),
                    entry.name,
                    f"row {entry.row}",
                )
            )


def _misfit_message(
    tables: Sequence[Table], items: Sequence[StoredResult], name: str, target: str
) -> str:
    held = sorted(
        {
            f"{i.result.evaluator} on suite {i.result.suite_name or 'not recorded'}"
            f" ({i.result.scale})"
            for i in items
        }
    )
    suites = sorted({suite for table in tables for suite in table_suites(table)})
    return (
        f"{shorten(name, 60)!r} has no result that fits {target} of {_join_table_names(tables)}: it"
        f" has {', '.join(held)}; evaluate it for {' or '.join(suites)}, or name another table"
    )


def table_suites(table: Table) -> set[str]:
    """Return the suites that a table's cells are measured on, at both scales."""
    paper = {
        suite
        for row in table.rows
        for column in table.columns
        if (suite := table.suite_name(row, column))
    }
    peers = [peers[0] for peers in _blocks(table, "micro")]
    return paper | {suite for peer in peers if (suite := _micro_suite(table, peer))}


def _join_table_names(tables: Sequence[Table]) -> str:
    names = [table.display_name for table in tables]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def unmatched_runs_note(
    tables: Sequence[Table], found: Sequence[StoredResult], entries: Entries = NO_ENTRIES
) -> str | None:
    """Return a note that names every run which fits no row of these tables at its scale; None where
    each fits one.
    """
    entered = {
        scale: [add_entries(table, found, scale, entries) for table in tables] for scale in SCALES
    }
    runs: dict[Path, list[StoredResult]] = {}
    for item in found:
        runs.setdefault(result_run_folder(item), []).append(item)
    strangers = [
        items
        for items in runs.values()
        if not any(_is_in_any_table(entered[i.result.scale], i) for i in items)
    ]
    if not strangers:
        return None
    groups: dict[str, int] = {}
    for items in sorted(strangers, key=lambda items: not _is_addable(tables, items)):
        name = _describe_run(items[0])
        groups[name] = groups.get(name, 0) + 1
    texts = [
        text if count == 1 else f"{text[:-1]}, {count} runs)" for text, count in groups.items()
    ]
    rest = f" and {len(texts) - MAX_LISTED_RUNS} more" if len(texts) > MAX_LISTED_RUNS else ""
    verb = "runs fit" if len(strangers) > 1 else "run fits"
    how = "--add NAME puts one in" if len(strangers) > 1 else "--add NAME puts it in"
    return (
        f"{len(strangers)} {verb} no row of {_join_table_names(tables)}:"
        f" {', '.join(texts[:MAX_LISTED_RUNS])}{rest}; {how}."
    )


def _is_in_any_table(tables: Sequence[Table], item: StoredResult) -> bool:
    return any(
        _has_metric(column, item.result) and _is_in_cell(table, row, column, item)
        for table in tables
        for row in table.rows
        for column in table.columns
    )


def _is_in_cell(table: Table, row: Row, column: Column, item: StoredResult) -> bool:
    if isinstance(row, EntryRow):
        return str(item.path) in row.result_paths and is_allowed_in_cell(
            table, row, column, item.result
        )
    return is_result_of_cell(table, row, column, item.result)


def _is_addable(tables: Sequence[Table], items: Sequence[StoredResult]) -> bool:
    return any(
        _make_added_rows(table, Addition("run"), items, items[0].result.scale) for table in tables
    )


def _describe_run(item: StoredResult) -> str:
    result = item.result
    name = result.label or (result.plan.checkpoint.name if result.plan else result.target)
    return f"{shorten(name, 60)} (suite {result.suite_name or 'not recorded'})"


def entry_notes(table: Table) -> list[str]:
    """Return what a reader must know of the entered rows of a table."""
    return [row.note for row in table.rows if isinstance(row, EntryRow) and row.note]
