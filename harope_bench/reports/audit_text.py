"""Text and JSON of the paper audit and of the noise assessment."""

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
MAX_LISTED_CELLS = 6
ABBREVIATIONS = {"independent": "indep.", "clustered": "clust.", " at best": ""}


def findings_text(findings: Sequence[AuditFinding]) -> str:
    """Return one paragraph per finding, then the number of findings by severity."""
    paragraphs = ["\n".join(_finding_lines(finding)) for finding in findings]
    counts = Counter(SEVERITY_LABELS[finding.severity] for finding in findings)
    total = ", ".join(
        f"{counts[label]} {label}{'s' if label != 'info' and counts[label] != 1 else ''}"
        for label in SEVERITY_LABELS.values()
    )
    return "\n\n".join([*paragraphs, total])


def _finding_lines(finding: AuditFinding) -> list[str]:
    """Return the lines of one finding: cells, printed value, recomputed value, arithmetic."""
    heading = " ".join(filter(None, (finding.flag_id, SEVERITY_LABELS[finding.severity])))
    cells = (
        ", ".join(finding.cells)
        if len(finding.cells) <= MAX_LISTED_CELLS
        else f"{len(finding.cells)} cells, {finding.cells[0]} to {finding.cells[-1]}"
    )
    lines = [
        f"{heading}: {cells or finding.table}",
        f"  printed     {finding.printed_value}",
        f"  recomputed  {finding.recomputed_value}",
    ]
    return lines + textwrap.wrap(
        finding.arithmetic, LINE_WIDTH, initial_indent="  arithmetic  ", subsequent_indent=" " * 14
    )


def findings_json(findings: Sequence[AuditFinding]) -> dict[str, object]:
    """Return the findings and their counts by severity as one JSON object."""
    return {
        "findings": [asdict(finding) for finding in findings],
        "counts": dict(Counter(finding.severity for finding in findings)),
    }


def noise_text(report: NoiseReport) -> str:
    """Return the differences by column, the verdict counts and the assumptions."""
    lines = [f"{report.table.display_name}. {report.table.title}", f"Evidence {report.evidence}"]
    for column in dict.fromkeys(d.column for d in report.differences):
        differences = [d for d in report.differences if d.column == column]
        verdict_counts = Counter(d.verdict for d in differences)
        counts_text = ", ".join(f"{count} {verdict}" for verdict, count in verdict_counts.items())
        plural = "s" if len(differences) != 1 else ""
        lines += [
            "",
            f"{column}: {len(differences)} difference{plural}, {counts_text}",
            *_aligned_lines(differences),
        ]
    lines += ["", "Assumed:", *_assumption_lines(report.assumptions)]
    lines += [text for note in report.notes for text in textwrap.wrap(note, LINE_WIDTH)]
    if report.columns_without_model:
        lines.append(f"No noise is assumed for: {', '.join(report.columns_without_model)}.")
    return "\n".join(lines)


def _assumption_lines(assumptions: Iterable[NoiseAssumption]) -> list[str]:
    """Return the wrapped lines of the assumptions."""
    texts = (
        f"{assumption.name}: {assumption.value} ({assumption.source})" for assumption in assumptions
    )
    return [
        line
        for text in texts
        for line in textwrap.wrap(text, LINE_WIDTH, initial_indent="  ", subsequent_indent="    ")
    ]


def _aligned_lines(differences: Sequence[PublishedDifference]) -> list[str]:
    """Return the differences of one column as aligned text columns, with a header line."""
    statistic_names = list(differences[0].test_statistics)
    headers = [
        *(["block"] if any(difference.group for difference in differences) else []),
        "comparison",
        "printed",
        "change",
        *map(_abbreviate, statistic_names),
        "verdict",
    ]
    rows = [
        headers,
        *(_row(difference, statistic_names, "block" in headers) for difference in differences),
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(len(headers))]
    return [f"  {'  '.join(map(_align_cell, headers, row, widths)).rstrip()}" for row in rows]


def _align_cell(header: str, cell: str, width: int) -> str:
    """Return a cell padded to its width: text to the left, numbers to the right."""
    return (
        cell.ljust(width)
        if header in ("block", "comparison", "printed", "verdict")
        else cell.rjust(width)
    )


def _row(
    difference: PublishedDifference, statistic_names: Sequence[str], has_block: bool
) -> list[str]:
    """Return the cells of one difference."""
    verdict = f"{difference.verdict} ({difference.note})" if difference.note else difference.verdict
    printed_text = f"{difference.printed_values[0]} -> {difference.printed_values[1]}"
    decimals = max(len(text.partition(".")[2]) for text in difference.printed_values)
    statistics = [
        format_statistic(name, difference.test_statistics[name]) for name in statistic_names
    ]
    change = f"{difference.delta:+.{decimals}f}"
    return [
        *([difference.group] if has_block else []),
        f"{difference.first_label} -> {difference.second_label}",
        printed_text,
        change,
        *statistics,
        verdict,
    ]


def _abbreviate(name: str) -> str:
    """Return a statistic's name with long words abbreviated."""
    for word, abbreviation in ABBREVIATIONS.items():
        name = name.replace(word, abbreviation)
    return name


def format_statistic(name: str, value: float) -> str:
    """Return a z or p value as text.

    z has one decimal (none from 15 on), p has two (three below 0.02).
    """
    if name.startswith("z") or name.endswith("z"):
        return f"{value:+.0f}" if abs(value) >= 15 else f"{value:+.1f}"
    if value < 0.0005:
        return "<.001"
    return f"{value:.3f}" if value < 0.0195 else f"{value:.2f}"


def _difference_json(difference: PublishedDifference) -> dict[str, object]:
    """Return a difference as JSON values, its group by the key `block` of earlier releases."""
    fields = asdict(difference)
    return {("block" if name == "group" else name): value for name, value in fields.items()}


def noise_json(report: NoiseReport) -> dict[str, object]:
    """Return the noise assessment of a table as JSON values."""
    return {
        "table": report.table.id,
        "evidence": report.evidence,
        "differences": [_difference_json(difference) for difference in report.differences],
        "assumptions": [assumption._asdict() for assumption in report.assumptions],
        "notes": list(report.notes),
        "columns_without_model": list(report.columns_without_model),
    }
