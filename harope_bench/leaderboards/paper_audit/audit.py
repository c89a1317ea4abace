"""Arithmetic audit of published tables: what the printed digits alone say of each other.

A finding states what is printed, what the arithmetic gives, and the arithmetic. The rules (one module a kind) read the
tables' cells and never the recorded flags; flags are looked up at the end, to name the finding (`label`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from harope_bench.leaderboards.paper_audit.costs import cost_census, cost_rule, cut_percentages
from harope_bench.leaderboards.paper_audit.counts import count_census, derived_means, impossible_counts
from harope_bench.leaderboards.paper_audit.printed_values import Finding, Severity
from harope_bench.leaderboards.paper_audit.repeats import duplicates, equalities, repeated_rows
from harope_bench.leaderboards.table_spec import Flag, Table, published_flags

ORDER: tuple[Severity, ...] = ("conflict", "warn", "info")


def check(tables: Sequence[Table], flags: Iterable[Flag] | None = None) -> list[Finding]:
    """All findings, conflicts first, then by table.

    Args:
        flags: the recorded flags by which findings are named; the published ones if None.
    """
    known = published_flags() if flags is None else tuple(flags)
    found = [finding for rule in RULES for finding in rule(tables)]
    place = {table.id: i for i, table in enumerate(tables)}
    found.sort(key=lambda finding: (ORDER.index(finding.severity), place[finding.table]))
    return [replace(finding, flag=label(finding, known)) for finding in found]


def label(finding: Finding, flags: Iterable[Flag]) -> str | None:
    """The id of the flag of the same severity that names one of the cells, or the table where there are no cells."""
    for flag in flags:
        named = set(finding.cells) & set(flag.cells) or not (finding.cells or flag.cells)
        if named and flag.severity == finding.severity and finding.table in flag.tables:
            return flag.id
    return None


RULES: tuple[Callable[[Sequence[Table]], Iterable[Finding]], ...] = (
    derived_means, impossible_counts, cost_rule, cut_percentages, duplicates, count_census, cost_census, repeated_rows, equalities,
)  # fmt: skip
