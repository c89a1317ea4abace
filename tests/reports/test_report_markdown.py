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
    table_start = lines.index(next(line for line in lines if line.startswith("| ")))
    top = "\n".join(lines[:table_start])
    assert "Against 2D-RoPE (Axial); 20 of 20 differences are paired" in top
    assert "▲ **better** 2 of 20: HARoPE (FID-500, IS)" in top
    assert "○ **not resolved**" in top


def test_micro_numbers_stand_without_those_of_the_paper(text: str) -> None:
    row = next(line for line in text.splitlines() if line.startswith("| HARoPE "))
    assert "13.20 ± 0.95" in row and "8.90" not in row and "delta" not in text
    assert "Micro scale: small networks" in text
    assert "F05" not in text, "a flag of the paper without the paper's numbers"


def test_differences_notes_and_evidence_are_there(text: str) -> None:
    assert "<details><summary>Differences (20)</summary>" in text
    assert "<details><summary>Notes</summary>" in text
    assert "**Evidence** L1: this checkpoint against that checkpoint" in text
    assert "judge digits-net@1 is of class micro" in text
    difference = next(line for line in text.splitlines() if line.startswith("| HARoPE | FID-500"))
    assert "▲ better" in difference and "paired by sample" in difference
    n_cells = {len(re.split(r"(?<!\\)\|", line)) for line in text.splitlines() if "| p, " in line}
    assert n_cells == {9}


def test_other_tables_are_one_line_each(text: str) -> None:
    lines = [line for line in text.splitlines() if line.startswith("- Table ")]
    assert [line.split(".")[0] for line in lines] == ["- Table 6", "- Table 8", "- Table 9"]
    assert all(re.search(r": \d+ of \d+ cells measured$", line) for line in lines)


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
    assert text.index("**better**") < text.index("| Position Embedding")
    # even the longest page ends below the limit
    longest_page = replace(page, runs=page.runs * 600, checks=page.checks * 600)
    assert len(render_report_markdown(longest_page).encode()) <= MAX_BYTES


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


def test_runs_of_no_table_are_listed_with_their_numbers(tmp_path: Path) -> None:
    result = fake.result(None, [fake.measurement("fid", 33.3, 1.1, n=12)])
    fake.write_result(tmp_path / "theirs", result)
    text = render_report_markdown(build_report_page(tmp_path))
    assert "| theirs | fidelity | fid-12 | 33.3 ± 1.1 | 12 of 12 |" in text


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
