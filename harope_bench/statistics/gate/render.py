"""The gate's answer as a terminal table, JUnit XML, a Markdown summary and JSON."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np

from harope_bench.core.checksums import check_recorded_hash
from harope_bench.core.errors import StorageError
from harope_bench.core.escaping import printable_line
from harope_bench.core.json_lines import append_text, read_lines_by_field
from harope_bench.core.regular_file import check_replaceable
from harope_bench.core.storage import check_overwrite, convert_os_errors, make_folder, write_bytes
from harope_bench.statistics.compare import (
    align_columns,
    format_interval,
    format_number,
    group_by_reason,
)
from harope_bench.statistics.compare import comparison_json as comparison_facts
from harope_bench.statistics.gate.decide import Decision, GateResult
from harope_bench.statistics.pairing import pair_contributions

SUMMARY_BYTES = 60_000  # a pull-request comment takes 65,536 characters
MAX_CHANGED = 3
TITLE = "harope-bench gate"  # of the JUnit suite, by which a later call knows its own file
TABLE_HEADER = ("metric", "baseline", "new", "worse by", "interval", "margin", "outcome")


class ChangedSample(NamedTuple):
    """A sample whose contribution moved most, and its image in the new run where that is known."""

    sample: int
    change: float
    file: str | None


def gate_text(verdict: GateResult) -> list[str]:
    """The answer as lines of text, the outcome last."""
    found = verdict.comparison
    told = [
        f"baseline  {found.baseline.title}  ({found.baseline.path})",
        f"new       {found.new.title}  ({found.new.path})",
    ]
    told += [f"evidence  {found.evidence}", *(f"note      {note}" for note in found.notes), ""]
    told += align_columns([TABLE_HEADER, *(_table_cells(d) for d in verdict.decisions)])
    told += [
        "",
        *group_by_reason(
            [(d.metric_comparison.measurement_name, d.reason) for d in verdict.decisions]
        ),
    ]
    if (moved := most_changed_samples(verdict)) is not None:
        told += [
            "",
            f"changed most ({moved[0]}): " + ", ".join(_sample_text(item) for item in moved[1]),
        ]
    return [*told, "", f"gate: {verdict.outcome}"]


def _table_cells(decision: Decision) -> tuple[str, ...]:
    line = decision.metric_comparison
    digits = decision.metric_comparison.metric.decimals + 1
    return (
        line.measurement_name,
        format_number(line.baseline, digits),
        format_number(line.new, digits),
        format_number(decision.worsening, digits, "+"),
        f"{format_interval(decision.low, decision.high, digits)} ({decision.rule.confidence:.0%})",
        format_number(decision.margin, digits),
        decision.outcome,
    )


def _sample_text(item: ChangedSample) -> str:
    return f"{item.file or f'sample {item.sample}'} ({item.change:+.3g})"


def most_changed_samples(verdict: GateResult) -> tuple[str, list[ChangedSample]] | None:
    """The samples whose contributions to the first paired metric moved most; None where nothing is
    paired or nothing moved.
    """
    baseline = verdict.comparison.baseline
    new = verdict.comparison.new
    if len(baseline.runs) > 1 or len(new.runs) > 1:
        return None
    for decision in verdict.decisions:
        name = decision.metric_comparison.metric.name
        found = [
            next((f for f in side.runs[0] if f.result.find_measurement(name)), None)
            for side in (baseline, new)
        ]
        if decision.data_outcome == "not comparable" or found[0] is None or found[1] is None:
            continue
        rows = pair_contributions(name, found[0], found[1])
        if not rows.has_sample_rows:
            continue
        if (
            rows.baseline is None
            or rows.new is None
            or rows.prompt_pairs is not None
            or not (rows.new != rows.baseline).any()
        ):
            continue
        return decision.metric_comparison.measurement_name, _largest_changes(
            rows.new - rows.baseline, new.path
        )
    return None


def _largest_changes(moves: np.ndarray, run: Path) -> list[ChangedSample]:
    path = run / "samples.jsonl"
    check_recorded_hash(path, "bring that one back, or generate the run again in another folder")
    records = (
        {index: line.get("file") for index, line in read_lines_by_field(path, "index", int).items()}
        if run.is_dir()
        else {}
    )
    order = sorted(records) if len(records) == len(moves) else list(range(len(moves)))
    chosen = np.argsort(-np.abs(moves), kind="stable")[:MAX_CHANGED]
    return [
        ChangedSample(order[i], float(moves[i]), records.get(order[i])) for i in chosen.tolist()
    ]


def check_outputs(junit: Path | None, summary: Path | None) -> None:
    """Raise StorageError, before anything is written, where one of the gate's files cannot be
    written at these places.
    """
    if junit is not None:
        check_overwrite(junit, f'name="{TITLE}"', "JUnit XML of the gate")
    if summary is not None:
        with convert_os_errors(summary):
            check_replaceable(summary)


def write_junit(verdict: GateResult, path: Path) -> None:
    """Write JUnit XML, a test a metric: a regression is a failure, cannot tell and not comparable
    are errors.

    Raises:
        StorageError: Something other than the gate's JUnit XML stands at `path`, or the disk
            refuses.
    """
    check_outputs(path, None)
    counts = {
        word: sum(d.outcome in kinds for d in verdict.decisions)
        for word, kinds in _JUNIT_COUNTS.items()
    }
    suite = ElementTree.Element(
        "testsuite", name=TITLE, tests=str(len(verdict.decisions)), skipped="0"
    )
    suite.attrib.update({word: str(count) for word, count in counts.items()})
    for decision in verdict.decisions:
        case = ElementTree.SubElement(
            suite,
            "testcase",
            classname="harope-bench.gate",
            name=printable_line(decision.metric_comparison.measurement_name),
            time="0",
        )
        told = " | ".join(
            f"{head} {cell}"
            for head, cell in zip(TABLE_HEADER[1:], _table_cells(decision)[1:], strict=True)
        )
        if decision.outcome != "pass":
            kind = "failure" if decision.outcome == "regression" else "error"
            ElementTree.SubElement(
                case, kind, type=decision.outcome, message=printable_line(told)
            ).text = printable_line(decision.reason)
        ElementTree.SubElement(case, "system-out").text = printable_line(
            f"{told} | {decision.reason}"
        )
    write_bytes(path, ElementTree.tostring(suite, encoding="utf-8", xml_declaration=True))


_JUNIT_COUNTS = {"failures": ("regression",), "errors": ("cannot tell", "not comparable")}


def add_summary(verdict: GateResult, path: Path) -> None:
    """Adds the Markdown summary to a file, as GITHUB_STEP_SUMMARY wants it; StorageError where the
    file cannot be written.
    """
    make_folder(path.parent)
    append_text(path, markdown(verdict))


def markdown(verdict: GateResult) -> str:
    """The summary, under 60 kB. Names from files are put so that they cannot become markup."""
    found = verdict.comparison
    lines = [
        f"## harope-bench gate: {verdict.outcome}",
        "",
        (
            f"{_escape_markdown(found.new.title)} against {_escape_markdown(found.baseline.title)}."
            f" {found.evidence}"
        ),
    ]
    notes = [f"- {_escape_markdown(note)}" for note in found.notes]
    lines += ["", *notes] if notes else []
    lines += ["", f"| {' | '.join(TABLE_HEADER)} | |", f"|{'---|' * (len(TABLE_HEADER) + 1)}"]
    lines += [
        f"| {' | '.join(map(_escape_markdown, (*_table_cells(d), d.reason)))} |"
        for d in verdict.decisions
    ]
    if (moved := most_changed_samples(verdict)) is not None:
        lines += [
            "",
            f"Changed most ({_escape_markdown(moved[0])}): "
            + ", ".join(_escape_markdown(_sample_text(item)) for item in moved[1]),
        ]
    text = "\n".join(lines) + "\n"
    if len(text.encode()) >= SUMMARY_BYTES:
        raise StorageError(
            f"the summary of {len(verdict.decisions)} metrics is over 60 kB; name fewer metrics in"
            " gate.toml"
        )
    return text


def _escape_markdown(text: str) -> str:
    marks = {
        "&": "&amp;",
        "<": "&lt;",
        ">": "&gt;",
        "|": "&#124;",
        "`": "&#96;",
        "[": "&#91;",
        "]": "&#93;",
        "*": "&#42;",
        "@": "&#64;",
        "_": "&#95;",
    }
    return "".join(marks.get(c, c) for c in printable_line(text))


def gate_json(verdict: GateResult) -> dict[str, object]:
    """The answer as plain JSON values."""
    decisions = [
        {
            "metric": d.metric_comparison.metric.name,
            "number": d.metric_comparison.measurement_name,
            "worsening": d.worsening,
            "low": d.low,
            "high": d.high,
            "margin": d.margin,
            "confidence": d.rule.confidence,
            "found": d.data_outcome,
            "outcome": d.outcome,
            "why": d.reason,
        }
        for d in verdict.decisions
    ]
    return {
        "outcome": verdict.outcome,
        "decisions": decisions,
        "comparison": comparison_facts(verdict.comparison),
    }
