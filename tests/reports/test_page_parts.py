"""Parts of the report: sentences of the verdict, names of runs, which table is shown."""

from __future__ import annotations

from pathlib import Path

import fake_runs as fake
import pytest

from harope_bench.data.result_store import read_results
from harope_bench.leaderboards.comparisons import RowComparison
from harope_bench.leaderboards.entries import parse_entries
from harope_bench.reports.page_comparisons import ComparedColumn, ComparisonTexts, headline_key
from harope_bench.reports.page_notes import number_ranges
from harope_bench.reports.page_tables import choose_tables
from harope_bench.reports.page_verdict import join_words, write_verdict
from harope_bench.reports.run_names import short_run_names, slug, unique_anchors, unique_run_names
from harope_bench.reports.runs import read_runs
from harope_bench.statistics.significance import Difference, Verdict, not_comparable

COLUMNS = {
    key: ComparedColumn(title, "lower" if key == "fid" else "higher", "none", 3)
    for key, title in (("fid", "FID-500"), ("is", "IS"), ("recall", "Recall"))
}
LABELS = {"axial": "axial RoPE", "harope": "HARoPE", "ape": "APE", "mine": "MyPE (ours)"}


def compare(row: str, column: str, verdict: Verdict, reason: str = "other seeds") -> RowComparison:
    """A comparison with axial RoPE that has this verdict."""
    difference = Difference(0.5, 0.1, 0.3, 0.7, 0.01, True, verdict, "paired by sample")
    if verdict == "not comparable":
        difference = not_comparable(reason)
    return RowComparison(
        "micro", row, "axial", column, column, 500, difference, 0.01, 0.28, verdict
    )


def answer(*comparisons: RowComparison, added_rows: frozenset[str] = frozenset()) -> str:
    """The first sentence of the verdict on comparisons."""
    texts = ComparisonTexts(comparisons, LABELS, COLUMNS, added_rows)
    return write_verdict(texts).answer.text


def test_better_and_worse_rows_are_named_with_their_numbers() -> None:
    assert answer(
        compare("ape", "fid", "worse"),
        compare("harope", "fid", "better"),
        compare("harope", "is", "better"),
        compare("harope", "recall", "not resolved"),
    ) == (
        "Against axial RoPE, HARoPE is better in FID-500 and IS; APE is worse in FID-500; 1 of 4"
        " differences is not resolved."
    )
    assert "HARoPE is better in all 3 numbers." in answer(
        *[compare("harope", column, "better") for column in COLUMNS]
    )


def test_the_added_row_is_named_first() -> None:
    comparisons = (
        compare("harope", "fid", "better"),
        compare("harope", "is", "better"),
        compare("mine", "fid", "better"),
    )
    assert answer(*comparisons).startswith("Against axial RoPE, HARoPE is better")
    assert answer(*comparisons, added_rows=frozenset({"mine"})).startswith(
        "Against axial RoPE, MyPE (ours) is better"
    )


def test_no_difference_is_not_called_equality() -> None:
    assert answer(compare("harope", "fid", "not resolved")) == (
        "Against axial RoPE, HARoPE is not shown to be better or worse: the only difference is not"
        " resolved."
    )
    text = answer(
        compare("harope", "fid", "not comparable", "other seeds; and more"),
        compare("ape", "is", "not resolved"),
    )
    assert text.startswith("Against axial RoPE, no row is shown to be better or worse: ")
    assert "1 of 2 differences is not comparable (FID-500: other seeds)" in text


def test_how_sure_states_images_level_adjustment_and_smallest_difference() -> None:
    comparisons = tuple(compare("harope", column, "not resolved") for column in COLUMNS)
    assert write_verdict(ComparisonTexts(comparisons, LABELS, COLUMNS)).certainty.text == (
        "How sure: one run each, with 500 images scored, so this compares checkpoints, not methods"
        " (evidence L1); p values are Holm-adjusted over 3 tests (5% level), all of"
        " them paired; in FID-500, a difference below 0.280 can be missed."
    )


def test_the_first_plot_is_of_the_overall_score() -> None:
    assert headline_key(["dpg", "overall"]) == "overall"
    assert headline_key(["is", "fid"]) == "fid"
    assert headline_key(["precision", "recall"]) == "precision"
    assert headline_key([]) is None


@pytest.mark.parametrize(
    ("numbers", "text"), [((), ""), ((3,), "3"), ((1, 2, 3, 7, 9, 10), "1–3, 7, 9–10")]
)
def test_numbers_of_notes_are_ranges(numbers: tuple[int, ...], text: str) -> None:
    assert number_ranges(numbers) == text


def test_words_are_joined() -> None:
    assert [join_words(list(words)) for words in ("", "a", "ab", "abc")] == [
        "",
        "a",
        "a and b",
        "a, b and c",
    ]


def test_runs_are_named_by_what_was_run_and_told_apart(tmp_path: Path) -> None:
    fake.micro_run(tmp_path / "a", "harope")
    fake.micro_run(tmp_path / "b", "rope-axial")
    runs = read_runs(tmp_path)
    assert unique_run_names(runs) == {
        "a": "dit-micro, HARoPE, 28 px",
        "b": "dit-micro, axial RoPE, 28 px",
    }
    assert short_run_names(runs) == {"a": "HARoPE", "b": "axial RoPE"}

    # two runs of one checkpoint are told apart by their folders
    fake.micro_run(tmp_path / "c", "harope", seed=1)
    names = unique_run_names(read_runs(tmp_path))
    assert names["a"] == "dit-micro, HARoPE, 28 px, digits-harope, a"
    assert names["b"] == "dit-micro, axial RoPE, 28 px"


def test_ids_are_safe_and_unique() -> None:
    assert slug('"><script>') == "script" and slug("…") == "unnamed"
    assert unique_anchors(["a/b", "a b", "A-B"], "run") == {
        "a/b": "run-a-b",
        "a b": "run-a-b--2",
        "A-B": "run-a-b--3",
    }


def test_a_table_that_nobody_asked_for_is_shown_if_runs_fill_most_of_it(tmp_path: Path) -> None:
    def shown_tables(*addition_texts: str) -> list[str]:
        entries = parse_entries(addition_texts, [], tmp_path)
        choice = choose_tables(read_results(tmp_path), entries)
        return [table.display_name for table, _ in choice.shown_tables]

    for encoding in ("rope-axial", "harope"):
        fake.micro_run(tmp_path / encoding, encoding)
    assert shown_tables() == []
    assert shown_tables("harope=HARoPE again") == ["Table 2"]
    for encoding in ("ape", "string", "videorope"):
        fake.micro_run(tmp_path / encoding, encoding)
    assert shown_tables() == ["Table 2"]
