"""Arithmetic audit of published tables: what the printed digits alone say of each other.

A finding states what is printed, what the arithmetic gives, and the arithmetic. The rules (one
module a kind) read the
tables' cells and never the recorded flags; flags are looked up at the end, to name the finding
(`label`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from harope_bench.leaderboards.paper_audit.costs import (
    count_cost_agreements,
    find_cost_conflicts,
    find_truncated_percentages,
)
from harope_bench.leaderboards.paper_audit.counts import (
    count_possible_fractions,
    find_impossible_counts,
    find_wrong_means,
)
from harope_bench.leaderboards.paper_audit.printed_values import AuditFinding, Severity
from harope_bench.leaderboards.paper_audit.repeats import (
    check_repeated_rows,
    find_duplicates,
    find_equalities,
)
from harope_bench.leaderboards.table_spec import Flag, Table, load_published_flags

SEVERITY_ORDER: tuple[Severity, ...] = ("conflict", "warn", "info")


def audit_tables(
    tables: Sequence[Table], flags: Iterable[Flag] | None = None
) -> list[AuditFinding]:
    """All findings, conflicts first, then by table.

    Args:
        flags: the recorded flags by which findings are named; the published ones if None.
    """
    known = load_published_flags() if flags is None else tuple(flags)
    found = [finding for rule in AUDIT_RULES for finding in rule(tables)]
    place = {table.id: i for i, table in enumerate(tables)}
    found.sort(key=lambda finding: (SEVERITY_ORDER.index(finding.severity), place[finding.table]))
    return [replace(finding, flag_id=find_flag_id(finding, known)) for finding in found]


def find_flag_id(finding: AuditFinding, flags: Iterable[Flag]) -> str | None:
    """The id of the flag of the same severity that names one of the cells, or the table where there
    are no cells.
    """
    for flag in flags:
        named = set(finding.cells) & set(flag.cells) or not (finding.cells or flag.cells)
        if named and flag.severity == finding.severity and finding.table in flag.tables:
            return flag.id
    return None


AUDIT_RULES: tuple[Callable[[Sequence[Table]], Iterable[AuditFinding]], ...] = (
    find_wrong_means, find_impossible_counts, find_cost_conflicts, find_truncated_percentages, find_duplicates, count_possible_fractions, count_cost_agreements, check_repeated_rows, find_equalities,
)  # fmt: skip
