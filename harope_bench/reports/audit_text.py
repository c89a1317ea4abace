"""The audit and the noise of published tables as plain text and as JSON values."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict

from harope_bench.leaderboards.assumed_noise import (
    NoiseAssumption,
    NoiseReport,
    PublishedDifference,
)
from harope_bench.leaderboards.paper_audit.printed_values import AuditFinding

SEVERITY_LABELS = {"conflict": "conflict", "warn": "note", "info": "info"}
LINE_WIDTH = 132
MOST_CELLS = 6
ABBREVIATIONS = {"independent": "indep.", "clustered": "clust.", " at best": ""}


def findings_text(findings: Sequence[AuditFinding]) -> str:
    """One paragraph a finding, and the counts."""
    paragraphs = ["\n".join(_finding_lines(finding)) for finding in findings]
    counted = Counter(SEVERITY_LABELS[finding.severity] for finding in findings)
    total = ", ".join(
        f"{counted[name]} {name}{'s' if name != 'info' and counted[name] != 1 else ''}"
        for name in SEVERITY_LABELS.values()
    )
    return "\n\n".join([*paragraphs, total])


def _finding_lines(finding: AuditFinding) -> list[str]:
    name = " ".join(filter(None, (finding.flag_id, SEVERITY_LABELS[finding.severity])))
    cells = (
        ", ".join(finding.cells)
        if len(finding.cells) <= 6
        else f"{len(finding.cells)} cells, {finding.cells[0]} to {finding.cells[-1]}"
    )
    lines = [
        f"{name}: {cells or finding.table}",
        f"  printed     {finding.printed_value}",
        f"  recomputed  {finding.recomputed_value}",
    ]
    return lines + textwrap.wrap(
        finding.arithmetic, LINE_WIDTH, initial_indent="  arithmetic  ", subsequent_indent=" " * 14
    )


def findings_json(findings: Sequence[AuditFinding]) -> dict[str, object]:
    """The findings as one JSON object."""
    return {
        "findings": [asdict(finding) for finding in findings],
        "counts": dict(Counter(finding.severity for finding in findings)),
    }


def noise_text(found: NoiseReport) -> str:
    """The differences by column, the words counted, and what was assumed."""
    lines = [f"{found.table.display_name}. {found.table.title}", f"Evidence {found.evidence}"]
    for column in dict.fromkeys(line.column for line in found.differences):
        own = [line for line in found.differences if line.column == column]
        counted = ", ".join(
            f"{n} {word}" for word, n in Counter(line.verdict for line in own).items()
        )
        lines += [
            "",
            f"{column}: {len(own)} difference{'s' if len(own) != 1 else ''}, {counted}",
            *_aligned_lines(own),
        ]
    lines += ["", "Assumed:", *_assumption_lines(found.assumptions)]
    lines += [line for remark in found.notes for line in textwrap.wrap(remark, LINE_WIDTH)]
    if found.columns_without_model:
        lines.append(f"No noise is assumed for: {', '.join(found.columns_without_model)}.")
    return "\n".join(lines)


def _assumption_lines(assumed: Iterable[NoiseAssumption]) -> list[str]:
    texts = (f"{a.name}: {a.value} ({a.source})" for a in assumed)
    return [
        line
        for text in texts
        for line in textwrap.wrap(text, LINE_WIDTH, initial_indent="  ", subsequent_indent="    ")
    ]


def _aligned_lines(lines: Sequence[PublishedDifference]) -> list[str]:
    """Aligned columns: place, comparison, printed values, change, numbers, verdict."""
    names = list(lines[0].test_statistics)
    heads = [
        *(["block"] if any(line.block for line in lines) else []),
        "comparison",
        "printed",
        "change",
        *map(_abbreviate, names),
        "verdict",
    ]
    rows = [heads, *(_row(line, names, "block" in heads) for line in lines)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(heads))]
    return [f"  {'  '.join(map(_align_cell, heads, row, widths)).rstrip()}" for row in rows]


def _align_cell(head: str, cell: str, width: int) -> str:
    return (
        cell.ljust(width)
        if head in ("block", "comparison", "printed", "verdict")
        else cell.rjust(width)
    )


def _row(line: PublishedDifference, names: Sequence[str], has_block: bool) -> list[str]:
    verdict = f"{line.verdict} ({line.note})" if line.note else line.verdict
    printed = f"{line.printed_values[0]} -> {line.printed_values[1]}"
    decimals = max(len(text.partition(".")[2]) for text in line.printed_values)
    numbers = [format_statistic(name, line.test_statistics[name]) for name in names]
    change = f"{line.delta:+.{decimals}f}"
    return [
        *([line.block] if has_block else []),
        f"{line.first_label} -> {line.second_label}",
        printed,
        change,
        *numbers,
        verdict,
    ]


def _abbreviate(name: str) -> str:
    for long, short in ABBREVIATIONS.items():
        name = name.replace(long, short)
    return name


def format_statistic(name: str, value: float) -> str:
    """A z with one decimal (none from 15 on), a p with two (three below 0.02)."""
    if name.startswith("z") or name.endswith("z"):
        return f"{value:+.0f}" if abs(value) >= 15 else f"{value:+.1f}"
    return "<.001" if value < 0.0005 else f"{value:.3f}" if value < 0.0195 else f"{value:.2f}"


def noise_json(found: NoiseReport) -> dict[str, object]:
    """The noise of a table as JSON values."""
    return {
        "table": found.table.id,
        "evidence": found.evidence,
        "differences": [asdict(line) for line in found.differences],
        "assumed": [a._asdict() for a in found.assumptions],
        "remarks": list(found.notes),
        "no_noise_assumed": list(found.columns_without_model),
    }
