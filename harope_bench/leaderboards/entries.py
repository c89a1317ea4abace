"""Rows that a user puts into a table: named runs as rows of their own (`--add`), or in one of the table's own rows (`--row`)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from harope_bench.core.errors import OptionError, UnknownName
from harope_bench.core.record_base import check_label, shorten
from harope_bench.core.schema import Result
from harope_bench.data.result_paths import run_of
from harope_bench.data.result_store import StoredResult, read_results
from harope_bench.leaderboards.match_runs import SCALES, Scale, contenders, fits, has_network, stands_beside
from harope_bench.leaderboards.table_spec import Column, EntryRow, Row, Table
from harope_bench.models.load_checkpoint import checkpoint

LISTED = 40  # runs that one note names
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
    """What `--add` and `--row` ask for; `root` is the folder that holds the runs, by which these are named."""

    additions: tuple[Addition, ...] = ()
    substitutions: tuple[Substitution, ...] = ()
    root: Path | None = None

    @property
    def names(self) -> list[str]:
        """Return every name that runs are asked for by."""
        return [*(addition.name for addition in self.additions), *(substitution.name for substitution in self.substitutions)]


NO_ENTRIES = Entries()


def parse_entries(add: Iterable[str], row: Iterable[str], root: Path | None = None) -> Entries:
    """Return the entries of `NAME[=LABEL]` and `ROW_ID=NAME` texts.

    Args:
        root: The folder that holds the runs; a name with `=` in it (a folder `cfg=1.5`) is found there.

    Raises:
        OptionError: an empty name, a label that is none, a name or row that is given twice, or a text that names two runs.
    """
    add = list(add)
    found = read_results(root) if root is not None and root.is_dir() and any("=" in text for text in add) else []
    entries = Entries(tuple(_addition(text, found, root) for text in add), tuple(map(_substitution, row)), root)
    keys = [("--add", entry.name) for entry in entries.additions] + [("--row", entry.row) for entry in entries.substitutions]
    if repeated := [key for key in keys if keys.count(key) > 1]:
        option, name = repeated[0]
        raise OptionError(f"{option} {shorten(name, 60)!r} is given twice; give it once")
    return entries


def _addition(text: str, found: Sequence[StoredResult], root: Path | None) -> Addition:
    """Return the name and label of a text; names and labels may hold `=`, so the runs that are there decide where it is split."""
    places = [i for i, character in enumerate(text) if character == "="]
    splits = [*((text[:i], text[i + 1 :]) for i in places), (text, None)]
    runs = {split: paths for split in splits if (paths := _paths_named(split[0], found, root))}
    if len(set(runs.values())) > 1:
        names = " or ".join(repr(shorten(name, 60)) for name, _ in runs)
        raise OptionError(f"--add {shorten(text, 60)!r} names run {names}; give the one that is meant by its folder, as ./FOLDER")
    name, label = next(iter(runs), splits[0])
    if not name.strip():
        raise OptionError(f"--add {shorten(text, 60)!r} names no run; write --add NAME or --add NAME=LABEL")
    return Addition(name, None if label is None else check_label(label))


def _paths_named(name: str, found: Sequence[StoredResult], root: Path | None) -> tuple[str, ...]:
    """Return the results of the runs of that name, empty where there is none."""
    try:
        return tuple(sorted(str(item.path) for item in runs_named(name, found, root)))
    except UnknownName:
        return ()


def _substitution(text: str) -> Substitution:
    row, _, name = text.partition("=")
    if not row.strip() or not name.strip():
        raise OptionError(f"--row {shorten(text, 60)!r} is not ROW_ID=NAME; row ids stand in the table's csv")
    return Substitution(row, name)


# ------------------------------------------------------------------------------------------- names to runs


def run_folder(item: StoredResult) -> Path:
    """Return the folder of the run that a result belongs to; what a network costs lies one folder below it."""
    folder = run_of(item.path)
    return folder.parent if folder.name == "cost" and item.result.evaluator == "cost" else folder


def run_path(item: StoredResult, root: Path | None) -> str:
    """Return a run's folder relative to the folder of all runs."""
    folder = run_folder(item)
    if root is None or not folder.is_relative_to(root):
        return folder.as_posix()
    path = folder.relative_to(root).as_posix()
    return root.resolve().name if path == "." else path


def names_of(item: StoredResult, root: Path | None) -> set[str]:
    """Return every name of a result's run: checkpoint, target, label, folder and the folders above it below the root."""
    result, path = item.result, run_path(item, root)
    folders = {path, *(parent.as_posix() for parent in Path(path).parents)} - {".", "/"}
    plan = {result.plan.checkpoint.name} if result.plan else set()
    return {result.target, *({result.label} if result.label else ()), *plan, Path(path).name, *folders}


def runs_named(name: str, found: Sequence[StoredResult], root: Path | None) -> list[StoredResult]:
    """Return the results of the runs of that name; a name with a slash (`./my-pe`) is a folder's where there is such a folder.

    Raises:
        UnknownName: no run has it; the nearest are offered.
    """
    path = Path(name).as_posix()
    chosen = [item for item in found if path in _folders(run_path(item, root))] if "/" in name else []
    chosen = chosen or [item for item in found if name in names_of(item, root)]  # targets and labels may have a slash
    if not chosen:
        known = {shorten(text, 60) for item in found for text in names_of(item, root)}
        raise UnknownName("run", shorten(name, 60), known)
    return chosen


def _folders(path: str) -> list[str]:
    return [path, *(parent.as_posix() for parent in Path(path).parents)]


# ------------------------------------------------------------------------------------------- runs to rows


def enter(table: Table, found: Sequence[StoredResult], scale: Scale, entries: Entries) -> Table:
    """Return the table with the rows that the named runs fill at a scale; a name that fills no cell of it changes nothing.

    Raises:
        UnknownName: a name that no run has. OptionError: several runs fit one cell of a row.
    """
    if not entries.names:
        return table
    of_scale = [item for item in found if item.result.scale == scale]
    rows = list(table.rows)
    for entry in entries.substitutions:
        named = {str(item.path) for item in runs_named(entry.name, found, entries.root)}
        rows = [_substituted(table, row, entry, [i for i in of_scale if str(i.path) in named], scale) for row in rows]
    for addition in entries.additions:
        named = {str(item.path) for item in runs_named(addition.name, found, entries.root)}
        for row in _added(table, addition, [i for i in of_scale if str(i.path) in named], scale):
            rows.insert(_end_of_block(table, rows, row), _with_own_id(row, rows))
    entered = table.model_copy(update={"rows": tuple(rows)})
    _check_single(entered, of_scale, scale, entries.root)
    return entered


def _substituted(table: Table, row: Row, entry: Substitution, items: Sequence[StoredResult], scale: Scale) -> Row:
    """Return the row filled by these results if it is the one that is named and they fit a cell of it."""
    if row.id != entry.row or not items:
        return row
    note = f"Row {row.id} holds {shorten(entry.name, 60)}, as --row says."
    filled = _entry_row(table, row, items, scale, entry.name, {**row.model_dump(), "is_added": False, "note": note})
    return filled if _placed(table, filled, items) else row


def _added(table: Table, addition: Addition, items: Sequence[StoredResult], scale: Scale) -> list[EntryRow]:
    """Return a row for each block of the table that these results belong to; one apart where they are of no block's network or side."""
    label = addition.label or _label_of(items) or shorten(addition.name) or "run"
    rows = []
    for peers in _blocks(table, scale):
        candidates = [_beside(table, peer, items, scale, addition.name, label) for peer in peers]
        strict = [i for i in items if any(_is_peer(table, peer, row, i.result) for peer, row in zip(peers, candidates, strict=True))]
        if strict:
            rows.append(candidates[0].model_copy(update={"results": tuple(str(i.path) for i in items)}))
    return rows or _apart(table, items, scale, addition.name, label)


def _is_peer(table: Table, peer: Row, row: EntryRow, result: Result) -> bool:
    """Return whether a result is of the network and side of a table's row, and fits one of its columns."""
    side = row.micro_res if row.scale == "micro" else row.res
    has_side = side is None or table.block not in ("res", "model") or result.side is not None
    return has_side and has_network(table, peer, result) and any(stands_beside(table, row, column, result) for column in table.columns)


def _apart(table: Table, items: Sequence[StoredResult], scale: Scale, name: str, label: str) -> list[EntryRow]:
    """Return a row outside the table's blocks for results of its suites whose network or side is no row's; empty where none fits."""
    for peers in _blocks(table, scale):
        row = _beside(table, peers[0], items, scale, name, label)
        if table.block != "none":
            row = row.model_copy(update={"res": None, "micro_res": None, "model": None})
        if _placed(table, row, items):
            note = f"{label}: its network or the side of its images is not that of a row here, or was not recorded."
            return [row.model_copy(update={"note": note})]
    return []


def _blocks(table: Table, scale: Scale) -> list[list[Row]]:
    """Return the rows of each block that runs of a scale can belong to; where every row is a block, all together."""
    blocks: dict[str, list[Row]] = {}
    for row in table.rows:
        if scale == "paper" or any(table.micro_of(row, column) for column in table.columns):
            blocks.setdefault(str(table.block_fact(row)) if table.block in ("res", "model") else "", []).append(row)
    return list(blocks.values())


def _beside(table: Table, peer: Row, items: Sequence[StoredResult], scale: Scale, name: str, label: str) -> EntryRow:
    """Return an added row with the facts that the rows of a block share."""
    facts = {"id": "added", "printed": label, **peer.model_dump(include=SHARED_FACTS)}
    shows_label = any("{printed}" in head.text for head in table.heads)
    return _entry_row(table, peer, items, scale, name, {**facts, "label_head": None if shows_label else table.heads[0].text})


def _entry_row(table: Table, peer: Row, items: Sequence[StoredResult], scale: Scale, name: str, facts: Mapping[str, object]) -> EntryRow:
    suite = _micro_suite(table, peer) if scale == "micro" else None
    return EntryRow.model_validate(
        {**facts, "scale": scale, "name": name, "results": tuple(str(i.path) for i in items), "micro_suite": suite}
    )


def _micro_suite(table: Table, peer: Row) -> str | None:
    """Return the suite of a row at micro scale: the table's, or the one that the row's checkpoint was trained for."""
    if table.micro is None or table.micro.suite:
        return table.micro.suite if table.micro else None
    names = [name for column in table.columns if (name := table.micro_of(peer, column))]
    return checkpoint(names[0]).suite if names else None


def _placed(table: Table, row: EntryRow, items: Sequence[StoredResult]) -> bool:
    return any(_measures(column, i.result) and stands_beside(table, row, column, i.result) for i in items for column in table.columns)


def _measures(column: Column, result: Result) -> bool:
    return result.measured(column.measures) is not None


def _label_of(items: Sequence[StoredResult]) -> str | None:
    """Return the label that results share; None where they have none, or several."""
    labels = {item.result.label for item in items if item.result.label}
    return labels.pop() if len(labels) == 1 else None


def _end_of_block(table: Table, rows: Sequence[Row], row: Row) -> int:
    """Return where an added row goes: behind the last row of its block, else behind all."""
    if table.block not in ("res", "model"):
        return len(rows)
    return max((i + 1 for i, r in enumerate(rows) if table.block_fact(r) == table.block_fact(row)), default=len(rows))


def _with_own_id(row: EntryRow, rows: Sequence[Row]) -> EntryRow:
    taken = {other.id for other in rows}
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", row.name[:60]).strip("-") or "added"
    stem = f"r{row.res}-{stem}" if row.res is not None else stem
    ids = [stem, *(f"{stem}-{i}" for i in range(2, len(taken) + 3))]
    return row.model_copy(update={"id": next(text for text in ids if text not in taken)})


def _check_single(table: Table, found: Sequence[StoredResult], scale: Scale, root: Path | None) -> None:
    """OptionError where runs of a row that a user named differ in more than their count and seed."""
    for row, column, same, _ in contenders(table, found, scale):
        if isinstance(row, EntryRow) and len({_identity(item.result) for item, _ in same}) > 1 and column.of == "images":
            paths = sorted({run_path(item, root) for item, _ in same})
            listed = ", ".join(f"./{shorten(path, 60)}" for path in paths[:LISTED])
            raise OptionError(
                f"{shorten(row.name, 60)!r} names {len(paths)} runs that fit {column.printed} of {table.name} and differ in more "
                f"than count and seed: {listed}; name one by its folder"
            )


def _identity(result: Result) -> str:
    """Return what two results must share to be of one thing drawn with other counts or seeds."""
    if result.plan is None:
        return result.samples_sha256
    facts = result.plan.deciding()
    settings = {key: value for key, value in facts["settings"].items() if key not in ("seed", "pos_scaling", "device", "tile")}
    return json.dumps({**facts, "settings": settings}, sort_keys=True)


# ------------------------------------------------------------------------------------------- what must be said


def check_entries(tables: Sequence[Table], found: Sequence[StoredResult], entries: Entries, scales: Sequence[Scale] = SCALES) -> None:
    """Raise for what no table takes.

    Raises:
        UnknownName: a name that no run has, or a row that no table has. OptionError: runs that fit no column of the tables.
    """
    row_ids = {row.id for table in tables for row in table.rows}
    for substitution in entries.substitutions:
        if substitution.row not in row_ids:
            raise UnknownName(f"row of {_called(tables)}", shorten(substitution.row, 60), row_ids)
    entered = [enter(table, found, scale, entries) for table in tables for scale in scales]
    rows = [row for table in entered for row in table.rows if isinstance(row, EntryRow)]
    for addition in entries.additions:
        if not any(row.is_added and row.name == addition.name for row in rows):
            raise OptionError(_misfit(tables, runs_named(addition.name, found, entries.root), addition.name, "a column"))
    for entry in entries.substitutions:
        if not any(not row.is_added and (row.id, row.name) == entry for row in rows):
            raise OptionError(_misfit(tables, runs_named(entry.name, found, entries.root), entry.name, f"row {entry.row}"))


def _misfit(tables: Sequence[Table], items: Sequence[StoredResult], name: str, place: str) -> str:
    held = sorted({f"{i.result.evaluator} on suite {i.result.suite_name or 'not recorded'} ({i.result.scale})" for i in items})
    suites = sorted({suite for table in tables for suite in suites_of(table)})
    return (
        f"{shorten(name, 60)!r} has no result that fits {place} of {_called(tables)}: it has {', '.join(held)}; "
        f"evaluate it for {' or '.join(suites)}, or name another table"
    )


def suites_of(table: Table) -> set[str]:
    """Return the suites that a table's cells are measured on, at both scales."""
    paper = {suite for row in table.rows for column in table.columns if (suite := table.suite_of(row, column))}
    peers = [peers[0] for peers in _blocks(table, "micro")]
    return paper | {suite for peer in peers if (suite := _micro_suite(table, peer))}


def _called(tables: Sequence[Table]) -> str:
    names = [table.name for table in tables]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def unplaced_note(tables: Sequence[Table], found: Sequence[StoredResult], entries: Entries = NO_ENTRIES) -> str | None:
    """Return a note that names every run which fits no row of these tables at its scale; None where each fits one."""
    entered = {scale: [enter(table, found, scale, entries) for table in tables] for scale in SCALES}
    runs: dict[Path, list[StoredResult]] = {}
    for item in found:
        runs.setdefault(run_folder(item), []).append(item)
    strangers = [items for items in runs.values() if not any(_has_place(entered[i.result.scale], i) for i in items)]
    if not strangers:
        return None
    groups: dict[str, int] = {}
    for items in sorted(strangers, key=lambda items: not _could_enter(tables, items)):
        name = _run_text(items[0])
        groups[name] = groups.get(name, 0) + 1
    texts = [text if count == 1 else f"{text[:-1]}, {count} runs)" for text, count in groups.items()]
    rest = f" and {len(texts) - LISTED} more" if len(texts) > LISTED else ""
    verb = "runs fit" if len(strangers) > 1 else "run fits"
    how = "--add NAME puts one in" if len(strangers) > 1 else "--add NAME puts it in"
    return f"{len(strangers)} {verb} no row of {_called(tables)}: {', '.join(texts[:LISTED])}{rest}; {how}."


def _has_place(tables: Sequence[Table], item: StoredResult) -> bool:
    return any(
        _measures(column, item.result) and _fits_row(table, row, column, item)
        for table in tables
        for row in table.rows
        for column in table.columns
    )


def _fits_row(table: Table, row: Row, column: Column, item: StoredResult) -> bool:
    if isinstance(row, EntryRow):
        return str(item.path) in row.results and stands_beside(table, row, column, item.result)
    return fits(table, row, column, item.result)


def _could_enter(tables: Sequence[Table], items: Sequence[StoredResult]) -> bool:
    return any(_added(table, Addition("run"), items, items[0].result.scale) for table in tables)


def _run_text(item: StoredResult) -> str:
    result = item.result
    name = result.label or (result.plan.checkpoint.name if result.plan else result.target)
    return f"{shorten(name, 60)} (suite {result.suite_name or 'not recorded'})"


def notes_of(table: Table) -> list[str]:
    """Return what a reader must know of the entered rows of a table."""
    return [row.note for row in table.rows if isinstance(row, EntryRow) and row.note]
