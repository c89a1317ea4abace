"""The gate's result as a terminal table, JUnit XML, a Markdown summary and JSON."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np

from harope_bench.core.checksums import check_recorded_hash
from harope_bench.core.errors import StorageError
from harope_bench.core.escaping import printable_line
from harope_bench.core.json_lines import append_text, read_lines_by_field
from harope_bench.core.regular_file import check_regular_or_missing
from harope_bench.core.storage import check_overwrite, convert_os_errors, make_folder, write_bytes
from harope_bench.data.result_store import StoredResult
from harope_bench.data.run_folder import RECORDS_FILE
from harope_bench.statistics.compare import (
    RunResults,
    align_columns,
    comparison_json,
    format_interval,
    format_number,
    group_by_reason,
)
from harope_bench.statistics.gate.decide import Decision, GateResult
from harope_bench.statistics.pairing import pair_contributions

MAX_SUMMARY_BYTES = 60_000  # a comment on a pull request may have 65,536 characters
MAX_CHANGED = 3
TITLE = "harope-bench gate"  # of the JUnit suite; a later call recognises its own file by it
TABLE_HEADER = ("metric", "baseline", "new", "worse by", "interval", "margin", "outcome")
JUNIT_COUNTS = {"failures": ("regression",), "errors": ("cannot tell", "not comparable")}


class ChangedSample(NamedTuple):
    """A sample whose contribution changed most, and its image in the new run if it is known."""

    sample: int
    change: float
    file: str | None


def gate_text(result: GateResult) -> list[str]:
    """Return the result as lines of text, the outcome last."""
    comparison = result.comparison
    reasons = [(d.metric_comparison.measurement_name, d.reason) for d in result.decisions]
    lines = [
        f"baseline  {comparison.baseline_runs.title}  ({comparison.baseline_runs.path})",
        f"new       {comparison.new_runs.title}  ({comparison.new_runs.path})",
        f"evidence  {comparison.evidence}",
        *(f"note      {note}" for note in comparison.notes),
        "",
        *align_columns([TABLE_HEADER, *map(_table_cells, result.decisions)]),
        "",
        *group_by_reason(reasons),
    ]
    changes = most_changed_samples(result)
    if changes is not None:
        measurement_name, samples = changes
        lines += [
            "",
            f"changed most ({measurement_name}): " + ", ".join(map(_sample_text, samples)),
        ]
    return [*lines, "", f"gate: {result.outcome}"]


def _table_cells(decision: Decision) -> tuple[str, ...]:
    """Return the cells of one row of the table, in the order of TABLE_HEADER."""
    comparison = decision.metric_comparison
    digits = comparison.metric.decimals + 1
    return (
        comparison.measurement_name,
        format_number(comparison.baseline_value, digits),
        format_number(comparison.new_value, digits),
        format_number(decision.worsening, digits, "+"),
        f"{format_interval(decision.low, decision.high, digits)} ({decision.rule.confidence:.0%})",
        format_number(decision.margin, digits),
        decision.outcome,
    )


def _sample_text(sample: ChangedSample) -> str:
    return f"{sample.file or f'sample {sample.sample}'} ({sample.change:+.3g})"


def most_changed_samples(result: GateResult) -> tuple[str, list[ChangedSample]] | None:
    """Return the samples whose contributions to the first paired metric changed most.

    Returns:
        Name of the measurement and the samples; None if no metric is paired by sample or nothing
        changed.
    """
    baseline_runs = result.comparison.baseline_runs
    new_runs = result.comparison.new_runs
    if len(baseline_runs.runs) > 1 or len(new_runs.runs) > 1:
        return None
    for decision in result.decisions:
        if decision.data_outcome == "not comparable":
            continue
        metric = decision.metric_comparison.metric.name
        changes = _contribution_changes(metric, baseline_runs.runs[0], new_runs.runs[0])
        if changes is not None and (changes != 0).any():
            measurement_name = decision.metric_comparison.measurement_name
            return measurement_name, _largest_changes(changes, new_runs.path)
    return None


def _contribution_changes(
    metric: str, baseline_run: RunResults, new_run: RunResults
) -> np.ndarray | None:
    """Return new minus baseline contributions of samples (N,); None if samples are not paired."""
    baseline_result = _find_result(metric, baseline_run)
    new_result = _find_result(metric, new_run)
    if baseline_result is None or new_result is None:
        return None
    pairs = pair_contributions(metric, baseline_result, new_result)
    if not pairs.has_sample_rows or pairs.prompt_pairs is not None:
        return None
    if pairs.baseline_contributions is None or pairs.new_contributions is None:
        return None
    return np.asarray(pairs.new_contributions - pairs.baseline_contributions)


def _find_result(metric: str, run: RunResults) -> StoredResult | None:
    """Return the result of a run that holds the metric; None if none does."""
    for stored_result in run:
        if stored_result.result.find_measurement(metric):
            return stored_result
    return None


def _largest_changes(changes: np.ndarray, run: Path) -> list[ChangedSample]:
    """Return the samples with the largest changes (N,), the largest first."""
    path = run / RECORDS_FILE
    check_recorded_hash(
        path, "restore the recorded file, or generate the run again in another folder"
    )
    file_by_index: dict[int, str | None] = {}
    if run.is_dir():
        lines_by_index = read_lines_by_field(path, "index", int)
        file_by_index = {index: line.get("file") for index, line in lines_by_index.items()}

    # Contributions are in the order of sample indices.
    indices = list(range(len(changes)))
    if len(file_by_index) == len(changes):
        indices = sorted(file_by_index)
    largest = np.argsort(-np.abs(changes), kind="stable")[:MAX_CHANGED]
    return [
        ChangedSample(indices[i], float(changes[i]), file_by_index.get(indices[i]))
        for i in largest.tolist()
    ]


def check_outputs(junit: Path | None, summary: Path | None) -> None:
    """Raise StorageError if an output file cannot be written, before anything is written."""
    if junit is not None:
        check_overwrite(junit, f'name="{TITLE}"', "JUnit XML of the gate")
    if summary is not None:
        with convert_os_errors(summary):
            check_regular_or_missing(summary)


def write_junit(result: GateResult, path: Path) -> None:
    """Write JUnit XML with one test per metric.

    A regression is a failure. "cannot tell" and "not comparable" are errors.

    Raises:
        StorageError: The existing file is not the gate's JUnit XML, or the disk rejects the file.
    """
    check_outputs(path, summary=None)
    suite = ElementTree.Element(
        "testsuite", name=TITLE, tests=str(len(result.decisions)), skipped="0"
    )
    for name, outcomes in JUNIT_COUNTS.items():
        count = sum(decision.outcome in outcomes for decision in result.decisions)
        suite.set(name, str(count))
    for decision in result.decisions:
        _add_test_case(suite, decision)
    write_bytes(path, ElementTree.tostring(suite, encoding="utf-8", xml_declaration=True))


def _add_test_case(suite: ElementTree.Element, decision: Decision) -> None:
    """Add the test of one metric to the JUnit suite."""
    case = ElementTree.SubElement(
        suite,
        "testcase",
        classname="harope-bench.gate",
        name=printable_line(decision.metric_comparison.measurement_name),
        time="0",
    )
    labelled_cells = zip(TABLE_HEADER[1:], _table_cells(decision)[1:], strict=True)
    text = " | ".join(f"{label} {cell}" for label, cell in labelled_cells)
    if decision.outcome != "pass":
        tag = "failure" if decision.outcome == "regression" else "error"
        failure = ElementTree.SubElement(
            case, tag, type=decision.outcome, message=printable_line(text)
        )
        failure.text = printable_line(decision.reason)
    output = ElementTree.SubElement(case, "system-out")
    output.text = printable_line(f"{text} | {decision.reason}")


def add_summary(result: GateResult, path: Path) -> None:
    """Append the Markdown summary to a file, such as GITHUB_STEP_SUMMARY.

    Raises:
        StorageError: The file cannot be written.
    """
    make_folder(path.parent)
    append_text(path, markdown(result))


def markdown(result: GateResult) -> str:
    """Return the Markdown summary, under 60 kB, with names from files escaped.

    Raises:
        StorageError: The summary is longer.
    """
    comparison = result.comparison
    new_title = _escape_markdown(comparison.new_runs.title)
    baseline_title = _escape_markdown(comparison.baseline_runs.title)
    lines = [
        f"## harope-bench gate: {result.outcome}",
        "",
        f"{new_title} against {baseline_title}. {comparison.evidence}",
    ]
    if comparison.notes:
        lines += ["", *(f"- {_escape_markdown(note)}" for note in comparison.notes)]

    lines += [
        "",
        f"| {' | '.join(TABLE_HEADER)} | reason |",
        f"|{'---|' * (len(TABLE_HEADER) + 1)}",
    ]
    for decision in result.decisions:
        cells = map(_escape_markdown, (*_table_cells(decision), decision.reason))
        lines.append(f"| {' | '.join(cells)} |")

    changes = most_changed_samples(result)
    if changes is not None:
        measurement_name, samples = changes
        sample_list = ", ".join(_escape_markdown(_sample_text(sample)) for sample in samples)
        lines += ["", f"Changed most ({_escape_markdown(measurement_name)}): {sample_list}"]

    text = "\n".join(lines) + "\n"
    if len(text.encode()) >= MAX_SUMMARY_BYTES:
        raise StorageError(
            f"the summary of {len(result.decisions)} metrics is over 60 kB; name fewer metrics in"
            " gate.toml"
        )
    return text


def _escape_markdown(text: str) -> str:
    """Return text without control characters and with Markdown's special characters escaped."""
    entities = {
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
    return "".join(entities.get(character, character) for character in printable_line(text))


def gate_json(result: GateResult) -> dict[str, object]:
    """Return the result as JSON values."""
    return {
        "outcome": result.outcome,
        "decisions": [_decision_json(decision) for decision in result.decisions],
        "comparison": comparison_json(result.comparison),
    }


def _decision_json(decision: Decision) -> dict[str, object]:
    """Return the decision on one metric as JSON values."""
    return {
        "metric": decision.metric_comparison.metric.name,
        "measurement_name": decision.metric_comparison.measurement_name,
        "worsening": decision.worsening,
        "low": decision.low,
        "high": decision.high,
        "margin": decision.margin,
        "confidence": decision.rule.confidence,
        "data_outcome": decision.data_outcome,
        "outcome": decision.outcome,
        "reason": decision.reason,
    }
