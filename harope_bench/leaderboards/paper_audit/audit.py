"""Arithmetic audit of the published tables: whether the printed numbers agree with each other.

A finding has the printed value, the recomputed value, and the arithmetic. The rules (one module
per kind) read only the cells of the tables. The recorded flags are looked up afterwards to give
a finding its flag id.
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
    """Return all findings, sorted by severity (conflict, warn, info), then by table.

    Args:
        flags: known discrepancies of the paper, whose ids the findings on the same cells get;
            None for those of leaderboards/paper/flags.toml.
    """
    known_flags = load_published_flags() if flags is None else tuple(flags)
    findings = [finding for rule in AUDIT_RULES for finding in rule(tables)]
    table_order = {table.id: i for i, table in enumerate(tables)}
    findings.sort(
        key=lambda finding: (SEVERITY_ORDER.index(finding.severity), table_order[finding.table])
    )
    return [replace(finding, flag_id=find_flag_id(finding, known_flags)) for finding in findings]


def find_flag_id(finding: AuditFinding, flags: Iterable[Flag]) -> str | None:
    """Return the id of the known discrepancy that a finding is about, None if it is new.

    Severity and table must agree. A finding without cells matches a flag without cells.
    """
    for flag in flags:
        has_shared_cell = bool(set(finding.cells) & set(flag.cells))
        has_no_cells = not finding.cells and not flag.cells
        if (
            (has_shared_cell or has_no_cells)
            and flag.severity == finding.severity
            and finding.table in flag.tables
        ):
            return flag.id
    return None


AUDIT_RULES: tuple[Callable[[Sequence[Table]], Iterable[AuditFinding]], ...] = (
    find_wrong_means,
    find_impossible_counts,
    find_cost_conflicts,
    find_truncated_percentages,
    find_duplicates,
    count_possible_fractions,
    count_cost_agreements,
    check_repeated_rows,
    find_equalities,
)
