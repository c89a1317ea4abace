"""The audit and the noise of published tables as plain text and as JSON values."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict

from harope_bench.leaderboards.assumed_noise import Assumed, Line, Noise
from harope_bench.leaderboards.paper_audit.printed_values import Finding

NAMES = {"conflict": "conflict", "warn": "note", "info": "info"}
WIDTH = 132
MOST_CELLS = 6
SHORT = {"independent": "indep.", "clustered": "clust.", " at best": ""}


def findings_text(findings: Sequence[Finding]) -> str:
    """One paragraph a finding, and the counts."""
    paragraphs = ["\n".join(_finding(finding)) for finding in findings]
    counted = Counter(NAMES[finding.severity] for finding in findings)
    total = ", ".join(f"{counted[name]} {name}{'s' if name != 'info' and counted[name] != 1 else ''}" for name in NAMES.values())
    return "\n\n".join([*paragraphs, total])


def _finding(finding: Finding) -> list[str]:
    name = " ".join(filter(None, (finding.flag, NAMES[finding.severity])))
    cells = (
        ", ".join(finding.cells) if len(finding.cells) <= 6 else f"{len(finding.cells)} cells, {finding.cells[0]} to {finding.cells[-1]}"
    )
    lines = [f"{name}: {cells or finding.table}", f"  printed     {finding.printed}", f"  recomputed  {finding.recomputed}"]
    return lines + textwrap.wrap(finding.arithmetic, WIDTH, initial_indent="  arithmetic  ", subsequent_indent=" " * 14)


def findings_facts(findings: Sequence[Finding]) -> dict[str, object]:
    """The findings as one JSON object."""
    return {"findings": [asdict(finding) for finding in findings], "counts": dict(Counter(finding.severity for finding in findings))}


def noise_text(found: Noise) -> str:
    """The differences by column, the words counted, and what was assumed."""
    lines = [f"{found.table.name}. {found.table.title}", f"Evidence {found.evidence}"]
    for column in dict.fromkeys(line.column for line in found.lines):
        own = [line for line in found.lines if line.column == column]
        counted = ", ".join(f"{n} {word}" for word, n in Counter(line.verdict for line in own).items())
        lines += ["", f"{column}: {len(own)} difference{'s' if len(own) != 1 else ''}, {counted}", *_grid(own)]
    lines += ["", "Assumed:", *_assumed(found.assumed)]
    lines += [line for remark in found.remarks for line in textwrap.wrap(remark, WIDTH)]
    if found.silent:
        lines.append(f"No noise is assumed for: {', '.join(found.silent)}.")
    return "\n".join(lines)


def _assumed(assumed: Iterable[Assumed]) -> list[str]:
    texts = (f"{a.name}: {a.value} ({a.source})" for a in assumed)
    return [line for text in texts for line in textwrap.wrap(text, WIDTH, initial_indent="  ", subsequent_indent="    ")]


def _grid(lines: Sequence[Line]) -> list[str]:
    """Aligned columns: place, comparison, printed values, change, numbers, verdict."""
    names = list(lines[0].numbers)
    heads = [*(["block"] if any(line.place for line in lines) else []), "comparison", "printed", "change", *map(_short, names), "verdict"]
    rows = [heads, *(_row(line, names, "block" in heads) for line in lines)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(heads))]
    return [f"  {'  '.join(map(_aligned, heads, row, widths)).rstrip()}" for row in rows]


def _aligned(head: str, cell: str, width: int) -> str:
    return cell.ljust(width) if head in ("block", "comparison", "printed", "verdict") else cell.rjust(width)


def _row(line: Line, names: Sequence[str], with_place: bool) -> list[str]:
    verdict = f"{line.verdict} ({line.note})" if line.note else line.verdict
    printed = f"{line.printed[0]} -> {line.printed[1]}"
    decimals = max(len(text.partition(".")[2]) for text in line.printed)
    numbers = [shown_number(name, line.numbers[name]) for name in names]
    change = f"{line.change:+.{decimals}f}"
    return [*([line.place] if with_place else []), f"{line.first} -> {line.second}", printed, change, *numbers, verdict]


def _short(name: str) -> str:
    for long, short in SHORT.items():
        name = name.replace(long, short)
    return name


def shown_number(name: str, value: float) -> str:
    """A z with one decimal (none from 15 on), a p with two (three below 0.02)."""
    if name.startswith("z") or name.endswith("z"):
        return f"{value:+.0f}" if abs(value) >= 15 else f"{value:+.1f}"
    return "<.001" if value < 0.0005 else f"{value:.3f}" if value < 0.0195 else f"{value:.2f}"


def noise_facts(found: Noise) -> dict[str, object]:
    """The noise of a table as JSON values."""
    return {
        "table": found.table.id,
        "evidence": found.evidence,
        "differences": [asdict(line) for line in found.lines],
        "assumed": [a._asdict() for a in found.assumed],
        "remarks": list(found.remarks),
        "no_noise_assumed": list(found.silent),
    }
