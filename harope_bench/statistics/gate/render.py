"""The gate's answer as a terminal table, JUnit XML, a Markdown summary and JSON."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np

from harope_bench.core.checksums import check_recorded
from harope_bench.core.errors import StorageError
from harope_bench.core.escaping import printable
from harope_bench.core.json_lines import append_text, lines_by
from harope_bench.core.regular_file import check_replaceable
from harope_bench.core.storage import check_overwritten, disk, make_folder, write_bytes
from harope_bench.statistics.compare import ends, in_columns, shown, together
from harope_bench.statistics.compare import facts as comparison_facts
from harope_bench.statistics.gate.decide import Decision, Verdict
from harope_bench.statistics.pairing import paired_rows

SUMMARY_BYTES = 60_000  # a pull-request comment takes 65,536 characters
CHANGED = 3
TITLE = "harope-bench gate"  # of the JUnit suite, by which a later call knows its own file
HEAD = ("metric", "baseline", "new", "worse by", "interval", "margin", "outcome")


class Changed(NamedTuple):
    """A sample whose contribution moved most, and its image in the new run where that is known."""

    sample: int
    change: float
    file: str | None


def words(verdict: Verdict) -> list[str]:
    """The answer as lines of text, the outcome last."""
    found = verdict.comparison
    told = [f"baseline  {found.baseline.title}  ({found.baseline.path})", f"new       {found.new.title}  ({found.new.path})"]
    told += [f"evidence  {found.evidence}", *(f"note      {note}" for note in found.notes), ""]
    told += in_columns([HEAD, *(_cells(d) for d in verdict.decisions)])
    told += ["", *together([(d.line.number, d.why) for d in verdict.decisions])]
    if (moved := changed(verdict)) is not None:
        told += ["", f"changed most ({moved[0]}): " + ", ".join(_sample(item) for item in moved[1])]
    return [*told, "", f"gate: {verdict.outcome}"]


def _cells(decision: Decision) -> tuple[str, ...]:
    line, digits = decision.line, decision.line.metric.decimals + 1
    return (
        line.number,
        shown(line.baseline, digits),
        shown(line.new, digits),
        shown(decision.worsening, digits, "+"),
        f"{ends(decision.low, decision.high, digits)} ({decision.rule.confidence:.0%})",
        shown(decision.margin, digits),
        decision.outcome,
    )


def _sample(item: Changed) -> str:
    return f"{item.file or f'sample {item.sample}'} ({item.change:+.3g})"


def changed(verdict: Verdict) -> tuple[str, list[Changed]] | None:
    """The samples whose contributions to the first paired metric moved most; None where nothing is paired or nothing moved."""
    baseline, new = verdict.comparison.baseline, verdict.comparison.new
    if len(baseline.runs) > 1 or len(new.runs) > 1:
        return None
    for decision in verdict.decisions:
        name = decision.line.metric.name
        found = [next((f for f in side.runs[0] if f.result.measured(name)), None) for side in (baseline, new)]
        if decision.found == "not comparable" or found[0] is None or found[1] is None:
            continue
        rows = paired_rows(name, found[0], found[1])
        if not rows.is_of_samples:
            continue
        if rows.old is None or rows.new is None or rows.prompts is not None or not (rows.new != rows.old).any():
            continue
        return decision.line.number, _most(rows.new - rows.old, new.path)
    return None


def _most(moves: np.ndarray, run: Path) -> list[Changed]:
    path = run / "samples.jsonl"
    check_recorded(path, "bring that one back, or generate the run again in another folder")
    records = {index: line.get("file") for index, line in lines_by(path, "index", int).items()} if run.is_dir() else {}
    order = sorted(records) if len(records) == len(moves) else list(range(len(moves)))
    chosen = np.argsort(-np.abs(moves), kind="stable")[:CHANGED]
    return [Changed(order[i], float(moves[i]), records.get(order[i])) for i in chosen.tolist()]


def check_outputs(junit: Path | None, summary: Path | None) -> None:
    """Raise StorageError, before anything is written, where one of the gate's files cannot be written at these places."""
    if junit is not None:
        check_overwritten(junit, f'name="{TITLE}"', "JUnit XML of the gate")
    if summary is not None:
        with disk(summary):
            check_replaceable(summary)


def write_junit(verdict: Verdict, path: Path) -> None:
    """Write JUnit XML, a test a metric: a regression is a failure, cannot tell and not comparable are errors.

    Raises:
        StorageError: Something other than the gate's JUnit XML stands at `path`, or the disk refuses.
    """
    check_outputs(path, None)
    counts = {word: sum(d.outcome in kinds for d in verdict.decisions) for word, kinds in _KINDS.items()}
    suite = ElementTree.Element("testsuite", name=TITLE, tests=str(len(verdict.decisions)), skipped="0")
    suite.attrib.update({word: str(count) for word, count in counts.items()})
    for decision in verdict.decisions:
        case = ElementTree.SubElement(suite, "testcase", classname="harope-bench.gate", name=printable(decision.line.number), time="0")
        told = " | ".join(f"{head} {cell}" for head, cell in zip(HEAD[1:], _cells(decision)[1:], strict=True))
        if decision.outcome != "pass":
            kind = "failure" if decision.outcome == "regression" else "error"
            ElementTree.SubElement(case, kind, type=decision.outcome, message=printable(told)).text = printable(decision.why)
        ElementTree.SubElement(case, "system-out").text = printable(f"{told} | {decision.why}")
    write_bytes(path, ElementTree.tostring(suite, encoding="utf-8", xml_declaration=True))


_KINDS = {"failures": ("regression",), "errors": ("cannot tell", "not comparable")}


def add_summary(verdict: Verdict, path: Path) -> None:
    """Adds the Markdown summary to a file, as GITHUB_STEP_SUMMARY wants it; StorageError where the file cannot be written."""
    make_folder(path.parent)
    append_text(path, markdown(verdict))


def markdown(verdict: Verdict) -> str:
    """The summary, under 60 kB. Names from files are put so that they cannot become markup."""
    found = verdict.comparison
    lines = [
        f"## harope-bench gate: {verdict.outcome}",
        "",
        f"{_plain(found.new.title)} against {_plain(found.baseline.title)}. {found.evidence}",
    ]
    notes = [f"- {_plain(note)}" for note in found.notes]
    lines += ["", *notes] if notes else []
    lines += ["", f"| {' | '.join(HEAD)} | |", f"|{'---|' * (len(HEAD) + 1)}"]
    lines += [f"| {' | '.join(map(_plain, (*_cells(d), d.why)))} |" for d in verdict.decisions]
    if (moved := changed(verdict)) is not None:
        lines += ["", f"Changed most ({_plain(moved[0])}): " + ", ".join(_plain(_sample(item)) for item in moved[1])]
    text = "\n".join(lines) + "\n"
    if len(text.encode()) >= SUMMARY_BYTES:
        raise StorageError(f"the summary of {len(verdict.decisions)} metrics is over 60 kB; name fewer metrics in gate.toml")
    return text


def _plain(text: str) -> str:
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
    return "".join(marks.get(c, c) for c in printable(text))


def facts(verdict: Verdict) -> dict[str, object]:
    """The answer as plain JSON values."""
    decisions = [
        {
            "metric": d.line.metric.name,
            "number": d.line.number,
            "worsening": d.worsening,
            "low": d.low,
            "high": d.high,
            "margin": d.margin,
            "confidence": d.rule.confidence,
            "found": d.found,
            "outcome": d.outcome,
            "why": d.why,
        }
        for d in verdict.decisions
    ]
    return {"outcome": verdict.outcome, "decisions": decisions, "comparison": comparison_facts(verdict.comparison)}
