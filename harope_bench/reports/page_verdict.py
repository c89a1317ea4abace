"""The verdict of a report in two sentences: which row is better, and how sure that is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harope_bench.leaderboards.comparisons import RowComparison
from harope_bench.reports.page_comparisons import (
    ComparisonTexts,
    compared_keys,
    headline_key,
)
from harope_bench.reports.table_layout import VERDICT_GLYPHS, format_standard_error

MAX_LISTED_ROWS = 3  # of one verdict; further rows are counted
MAX_LISTED_COLUMNS = 4  # of one row; further columns are counted
MAX_REASON_CHARACTERS = 90
NO_COMPARISON = "Nothing can be compared yet"


@dataclass(frozen=True)
class AnswerSentence:
    """A sentence of the verdict. `glyph` is the sign of the verdict it begins with, or empty."""

    text: str
    glyph: str = ""


@dataclass(frozen=True)
class PageVerdict:
    """Which row is better, and how sure that is."""

    answer: AnswerSentence
    certainty: AnswerSentence


def write_verdict(texts: ComparisonTexts) -> PageVerdict:
    """Return the verdict on comparisons, of which there is at least one."""
    return PageVerdict(_answer(texts), AnswerSentence(_certainty(texts)))


def missing_verdict(reason: str, evidence: str) -> PageVerdict:
    """Return the verdict of a page without a comparison, with the reason."""
    return PageVerdict(AnswerSentence(f"{NO_COMPARISON}: {reason}."), AnswerSentence(evidence))


def _answer(texts: ComparisonTexts) -> AnswerSentence:
    """Return which rows are better and worse than their baselines, and in which columns."""
    by_verdict = {
        verdict: [comparison for comparison in texts.comparisons if comparison.verdict == verdict]
        for verdict in VERDICT_GLYPHS
    }
    clauses = [
        clause
        for verdict in ("better", "worse")
        for clause in _verdict_clauses(texts, by_verdict[verdict], verdict)
    ]
    n_all = len(texts.comparisons)
    for verdict in ("not resolved", "not comparable"):
        if n := len(by_verdict[verdict]):
            reason = (
                _shared_reason(texts, by_verdict[verdict]) if verdict == "not comparable" else ""
            )
            clauses.append(_count_clause(n, n_all, verdict) + reason)
    first_verdict = next(verdict for verdict in VERDICT_GLYPHS if by_verdict[verdict])
    start = f"Against {_baseline_text(texts)}, "
    if not by_verdict["better"] and not by_verdict["worse"]:
        rows = {comparison.row for comparison in texts.comparisons}
        subject = texts.labels[rows.pop()] if len(rows) == 1 else "no row"
        verb = "is" if subject == "no row" else "is not"
        start += f"{subject} {verb} shown to be better or worse: "
    return AnswerSentence(f"{start}{'; '.join(clauses)}.", VERDICT_GLYPHS[first_verdict])


def _shared_reason(texts: ComparisonTexts, comparisons: Sequence[RowComparison]) -> str:
    """Return why values are not comparable, in brackets, where all have one short reason."""
    reasons = {comparison.difference.reason.partition(";")[0] for comparison in comparisons}
    reason = reasons.pop()
    if reasons or len(reason) > MAX_REASON_CHARACTERS:
        return ""
    titles = {texts.columns[comparison.column].title for comparison in comparisons}
    return f" ({titles.pop()}: {reason})" if len(titles) == 1 else f" ({reason})"


def _count_clause(n: int, n_all: int, verdict: str) -> str:
    """Return how many differences have a verdict that names no better row."""
    if n == n_all:
        return (
            "the only difference is " + verdict if n == 1 else f"all {n} differences are {verdict}"
        )
    return f"{n} of {n_all} differences {'is' if n == 1 else 'are'} {verdict}"


def _baseline_text(texts: ComparisonTexts) -> str:
    """Return the baseline, or that each row has the baseline of its block."""
    labels = texts.baseline_labels
    if len(labels) == 1:
        return labels[0]
    return f"the baseline of each block ({', '.join(labels)})"


def _verdict_clauses(
    texts: ComparisonTexts, comparisons: Sequence[RowComparison], verdict: str
) -> Iterable[str]:
    """Yield a clause for each of the rows with most comparisons of this verdict, then the rest."""
    columns_by_row: dict[str, list[str]] = {}
    for comparison in comparisons:
        columns_by_row.setdefault(comparison.row, []).append(texts.columns[comparison.column].title)
    n_columns = {
        row: sum(comparison.row == row for comparison in texts.comparisons)
        for row in columns_by_row
    }
    rows = sorted(
        columns_by_row, key=lambda row: (row not in texts.added_rows, -len(columns_by_row[row]))
    )
    for row in rows[:MAX_LISTED_ROWS]:
        columns = _columns_text(columns_by_row[row], n_columns[row])
        yield f"{texts.labels[row]} is {verdict} in {columns}"
    n_others = len(rows) - MAX_LISTED_ROWS
    if n_others > 0:
        yield f"{n_others} more {'row is' if n_others == 1 else 'rows are'} {verdict} in some"


def _columns_text(titles: Sequence[str], n_all: int) -> str:
    """Return the titles of columns as a list, their number where a row has many."""
    if len(titles) == n_all and n_all > 2:
        return f"all {n_all} numbers"
    if len(titles) > MAX_LISTED_COLUMNS:
        return f"{len(titles)} of {n_all} numbers"
    return join_words(titles)


def join_words(words: Sequence[str]) -> str:
    """Return words as "a", "a and b" or "a, b and c"."""
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} and {words[-1]}"


def _certainty(texts: ComparisonTexts) -> str:
    """Return how sure the verdicts are: images, pairing, adjustment, smallest difference, level."""
    compared = [
        comparison for comparison in texts.comparisons if comparison.difference.delta is not None
    ]
    counts = sorted({comparison.n_scored for comparison in compared or texts.comparisons})
    images = f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"
    n_tested = sum(comparison.p_adjusted is not None for comparison in texts.comparisons)
    n_paired = sum(
        comparison.difference.is_paired
        for comparison in texts.comparisons
        if comparison.p_adjusted is not None
    )
    noun = "image" if counts == [1] else "images"
    clauses = [
        f"one run each, with {images} {noun} scored, so this compares checkpoints, not methods"
        " (evidence L1)"
    ]
    if n_tested > 1:
        paired_text = "all" if n_paired == n_tested else f"{n_paired}"
        clauses.append(
            f"p values are Holm-adjusted over {n_tested} tests (5% level), {paired_text} of them"
            " paired"
        )
    if detectable := _detectable_text(texts):
        clauses.append(detectable)
    return f"How sure: {'; '.join(clauses)}."


def _detectable_text(texts: ComparisonTexts) -> str:
    """Return which differences in the headline column are too small to be found."""
    key = headline_key(compared_keys(texts))
    values = [
        comparison.detectable_difference
        for comparison in texts.comparisons
        if comparison.column == key and comparison.detectable_difference is not None
    ]
    if key is None or not values:
        return ""
    column = texts.columns[key]
    texts_of_values = [
        format_standard_error(value, column.decimals) for value in (min(values), max(values))
    ]
    value_range = " to ".join(dict.fromkeys(texts_of_values))
    return f"in {column.title}, a difference below {value_range} can be missed"
