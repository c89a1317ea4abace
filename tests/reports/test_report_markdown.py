"""The report as Markdown: what a reader of a pull request sees, and that it is never too long."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import fake_runs as fake
import pytest
from click.testing import CliRunner
from document import HOSTILE, Document

from harope_bench.cli import main
from harope_bench.core.errors import StorageError
from harope_bench.reports.report_markdown import (
    MARKDOWN_MARKER,
    MAX_BYTES,
    render_report_markdown,
    write_report_markdown,
)
from harope_bench.reports.report_page import build_report_page
from harope_bench.reports.run_card import ReportCheck


@pytest.fixture(scope="module")
def micro(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six micro runs of Table 2."""
    return fake.micro_table(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def text(micro: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The report of those runs."""
    return write_report_markdown(micro, tmp_path_factory.mktemp("out") / "r.md").read_text()


def test_the_answer_is_at_the_top(text: str) -> None:
    lines = text.splitlines()
    assert lines[0] == MARKDOWN_MARKER
    assert lines[2].startswith("# Does the positional encoding change how good")
    assert lines[4].startswith("▲ **Against 2D-RoPE (Axial), HARoPE is better in FID-500 and IS")
    assert lines[6].startswith("How sure: ") and "evidence L1" in lines[6]
    assert lines[8].startswith("Micro scale: ")
    assert lines[10].startswith("## Table 2. Class-conditional")


def test_the_table_is_that_of_the_page(text: str) -> None:
    titles = next(line for line in text.splitlines() if line.startswith("| Run | "))
    assert "Paper's row | published FID-50K |" in titles and "measured FID-500 |" in titles
    assert "delta" not in titles, "a difference of unlike scales"
    row = next(line for line in text.splitlines() if line.startswith("| dit-micro, HARoPE, "))
    assert "| HARoPE | **8.90** |" in row and "**13.20 ± 0.95**" in row
    assert "Numbers: measured (micro, digits, 500 images, profile adm)." in text


def test_notes_have_the_numbers_of_their_cells(text: str) -> None:
    row = next(line for line in text.splitlines() if "| Vanilla RoPE |" in line)
    number = re.search(r"9\.81 \[(\d+)\]", row)
    assert number is not None
    assert f"\n{number[1]}. F05 (warning): " in text


def test_differences_notes_and_evidence_are_there(text: str) -> None:
    assert "<details><summary>Differences (20)</summary>" in text
    assert "<details><summary>Notes</summary>" in text
    assert "**Evidence** L1: this checkpoint against that checkpoint" in text
    assert "judge digits-net@1 is of class micro" in text
    difference = next(line for line in text.splitlines() if line.startswith("| HARoPE | FID-500"))
    assert "▲ better" in difference and "paired by sample" in difference


def test_other_tables_are_one_line_each(text: str) -> None:
    lines = [line for line in text.splitlines() if line.startswith("- Table ")]
    assert [line.split(".")[0] for line in lines] == ["- Table 6", "- Table 8", "- Table 9"]
    assert all(re.search(r": runs in \d+ of \d+ rows \(`--table \d`\)$", line) for line in lines)


def test_a_table_that_was_asked_for_is_shown(micro: Path, tmp_path: Path) -> None:
    text = write_report_markdown(micro, tmp_path / "r.md", tables=["8", "2"]).read_text()
    titles = [line for line in text.splitlines() if line.startswith("## Table")]
    assert [title.split(".")[0] for title in titles] == ["## Table 8", "## Table 2"]


def test_every_row_has_as_many_cells_as_the_header(text: str) -> None:
    table: list[int] = []
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            table.append(len(re.split(r"(?<!\\)\|", line)))
        else:
            assert len(set(table)) <= 1
            table = []


def test_equal_records_give_equal_bytes(micro: Path, text: str, tmp_path: Path) -> None:
    shutil.copytree(micro, tmp_path / "elsewhere")
    again = write_report_markdown(tmp_path / "elsewhere", tmp_path / "again.md")
    assert again.read_text() == text


def test_a_long_report_is_shortened_and_says_so(micro: Path) -> None:
    page = build_report_page(micro)
    section = page.sections[0]
    long_section = replace(section, comparisons=section.comparisons * 40)
    text = render_report_markdown(replace(page, sections=(long_section, *page.sections[1:])))
    assert len(text.encode()) <= MAX_BYTES
    assert "This text is shortened" in text and "760 more differences are not shown" in text
    assert text.index("is better in") < text.index("| Run | ")
    # even the longest page ends below the limit
    longest_page = replace(page, runs=page.runs * 600, checks=page.checks * 600)
    assert len(render_report_markdown(longest_page).encode()) <= MAX_BYTES
    long_warning = ReportCheck("no", "\N{GREEK SMALL LETTER THETA}" * 50_000)
    cut_text = render_report_markdown(replace(page, checks=(long_warning, *page.checks)))
    assert len(cut_text.encode()) <= MAX_BYTES and cut_text.endswith("has all of it.\n")


def test_hostile_texts_stay_text(tmp_path: Path) -> None:
    fake.micro_run(tmp_path / "a", "rope-axial")
    fake.write_result(
        tmp_path / "b",
        fake.result(None, [fake.measurement("fid", 3.0)], target=f"@octocat {HOSTILE}"),
    )
    folder = tmp_path / "x @octocat <script>"
    fake.micro_run(folder, "harope", source=HOSTILE)
    text = render_report_markdown(build_report_page(tmp_path))
    assert not re.search(r"(?<!\\)<(script|img)", text)
    assert not re.search(r"(?<!\w)@\w", text), "GitHub would notify a user of that name"
    assert "x @<!-- -->octocat" in text


def test_runs_of_no_table_are_side_by_side(tmp_path: Path) -> None:
    for name, value in (("theirs", 33.3), ("ours", 30.1)):
        result = fake.result(None, [fake.measurement("fid", value, 1.1, n=12)], target=name)
        fake.write_result(tmp_path / name, result)
    text = render_report_markdown(build_report_page(tmp_path))
    row = next(line for line in text.splitlines() if line.startswith("| FID-12 (lower is better)"))
    assert "33.30 ± 1.10" in row and "30.10 ± 1.10" in row


def test_the_suffix_or_the_format_decides(micro: Path, tmp_path: Path) -> None:
    def call(*options: str) -> str:
        command_result = CliRunner().invoke(main, ["report", str(runs), *options])
        assert command_result.exit_code == 0, command_result.output
        return Path(command_result.output.strip()).read_text()

    runs = tmp_path / "runs"
    shutil.copytree(micro, runs)
    assert call("-o", str(tmp_path / "a.md")).startswith(MARKDOWN_MARKER)
    assert call("--format", "md").startswith(MARKDOWN_MARKER) and (runs / "report.md").is_file()
    assert call("-o", str(tmp_path / "b.txt"), "--format", "markdown").startswith(MARKDOWN_MARKER)
    assert Document(call()).tags["h1"] == 1 and (runs / "report.html").is_file()


def test_another_file_is_not_overwritten(micro: Path, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("# mine")
    with pytest.raises(StorageError, match="is no report"):
        write_report_markdown(micro, tmp_path / "README.md")
    path = write_report_markdown(micro, tmp_path / "report.md")
    assert write_report_markdown(micro, path) == path
