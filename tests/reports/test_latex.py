"""LaTeX tables: caption, width, marks, rows alone, and that TeX compiles them with no cut line."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import fake_runs as fake
import pytest
from click.testing import CliRunner, Result
from document import HOSTILE

from harope_bench.cli import main
from harope_bench.data.result_store import read_results
from harope_bench.leaderboards.board import Board, Show, build_board, load_table
from harope_bench.leaderboards.entries import parse_entries
from harope_bench.reports.latex import MAX_FLOAT_NOTES, escape_latex, render_latex
from harope_bench.reports.table_layout import BEST_MARK_NOTE, TableStyle
from harope_bench.reports.tables import render_table

GREEK = "\N{GREEK SMALL LETTER THETA} \N{GREEK CAPITAL LETTER DELTA} \N{GREATER-THAN OR EQUAL TO}"

NUMBERS = [str(n) for n in range(1, 11)]
SHOWS: tuple[Show, ...] = ("published", "measured", "both")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six micro runs of Table 2, and a run of the user's own encoding."""
    folder = fake.micro_table(tmp_path_factory.mktemp("runs"))
    own_run = fake.micro_run(folder / "my-pe", "harope", seed=3)
    for path in (own_run / "plan.json", own_run / "results/fidelity.json"):
        path.write_text(path.read_text().replace("digits-harope", "my-pe"))
    return folder


def filled_board(runs: Path, number: str = "2", show: Show = "measured", label: str = "") -> Board:
    """A table with the measured runs, and the user's row if it has a label."""
    entries = parse_entries([f"my-pe={label}"] if label else [], [], runs)
    return build_board(load_table(number), read_results(runs), show, None, entries)


def table_output(runs: Path, *options: str) -> Result:
    """Call `table 2` for measured runs."""
    arguments = ["table", "2", "--runs", str(runs), "--show", "measured", *options]
    return CliRunner().invoke(main, arguments)


def body_rows(text: str) -> dict[str, list[str]]:
    """The cells of each body row by its title."""
    body = text.partition(r"\midrule")[2] or text
    rows = [line[:-3].split(" & ") for line in body.splitlines() if line.endswith(r" \\")]
    return {title: cells for title, *cells in rows}


def test_the_caption_does_not_repeat_the_number_of_the_table() -> None:
    for number in NUMBERS:
        text = render_latex(build_board(load_table(number), [], "published"))
        assert rf"\caption{{{load_table(number).title}"[:40] in text
        assert not re.search(r"\\caption\{Table", text)
        assert text.startswith(f"% Table {number} of the HARoPE paper; needs ")


def test_numbers_without_standard_errors(runs: Path) -> None:
    text = table_output(runs, "--format", "latex", "--no-se").output
    assert body_rows(text)["HARoPE"][0] == r"\textbf{13.20}"
    assert r"\pm" not in text
    assert "±" not in table_output(runs, "--format", "md", "--no-se").output
    assert "±" in table_output(runs, "--format", "md").output


def test_the_best_value_is_bold_and_the_second_underlined(runs: Path) -> None:
    rows = body_rows(render_latex(filled_board(runs), TableStyle(False, "best")))
    assert [title for title, cells in rows.items() if r"\textbf" in cells[0]] == ["HARoPE"]
    assert [title for title, cells in rows.items() if r"\underline" in cells[0]] == [
        "STRING/Rethinking RoPE"
    ]
    # by default those that are not shown to be worse are bold too, and nothing is underlined
    default_text = render_latex(filled_board(runs))
    assert default_text.count(r"\textbf") > 4 and r"\underline" not in default_text


def test_values_that_print_alike_are_marked_alike(runs: Path) -> None:
    rows = body_rows(render_latex(filled_board(runs), TableStyle(False, "best")))
    for column in range(4):
        texts = {cells[column] for cells in rows.values()}
        numbers = [re.sub(r"\\\w+\{|\}", "", text) for text in texts]
        assert len(set(numbers)) == len(numbers)


def test_the_second_of_published_numbers_is_underlined() -> None:
    board = build_board(load_table("2"), [], "published")
    rows = body_rows(render_latex(board, TableStyle(mark_rule="best")))
    assert rows["HARoPE"][0] == r"\textbf{8.90}"
    assert rows["STRING/Rethinking RoPE"][0] == r"\underline{9.31}"
    text = render_table(board, "md", TableStyle(mark_rule="best"))
    assert "**8.90**" in text and "<ins>9.31</ins>" in text and "the second is underlined" in text
    assert "<u>9.31</u>" in render_table(board, "html", TableStyle(mark_rule="best"))


def test_the_note_explains_the_marks_that_are_used(runs: Path) -> None:
    board = filled_board(runs)
    for kind in ("md", "tex", "html"):
        best_text = render_table(board, kind, TableStyle(mark_rule="best"))
        default_text = render_table(board, kind)
        assert BEST_MARK_NOTE[:40] in best_text and BEST_MARK_NOTE[:40] not in default_text
        assert "not shown to be worse" in default_text and "not shown to be" not in best_text


def test_numbers_that_may_not_be_ranked_together_get_no_mark(tmp_path: Path) -> None:
    """A run of 400 images among runs of 500 is left out, though its value is the best."""
    folder = fake.micro_table(tmp_path)
    shutil.rmtree(folder / "digits-harope")
    fake.micro_run(folder / "digits-harope", "harope", n=400)
    rows = body_rows(render_latex(filled_board(folder), TableStyle(False, "best")))
    assert rows["HARoPE"][0].startswith("13.20")
    assert rows["STRING/Rethinking RoPE"][0].startswith(r"\textbf{15.50}")


def test_the_own_row_is_the_last_one_behind_a_space(runs: Path) -> None:
    lines = render_latex(filled_board(runs, label="MyPE (ours)")).splitlines()
    end = lines.index(r"\bottomrule")
    assert lines[end - 1].startswith("MyPE (ours) &") and lines[end - 2] == r"\addlinespace"
    assert lines[end - 3].startswith("HARoPE &")


def test_rows_alone_have_no_notes_and_no_environment(runs: Path) -> None:
    text = table_output(runs, "--format", "latex", "--rows-only").output
    assert text.startswith("% rows of Table 2: Position Embedding & measured")
    assert not re.search(r"\\begin|\\caption|\\toprule|\\textsuperscript", text)
    assert len(body_rows(text)) == 6


@pytest.mark.parametrize(
    "options",
    [
        ("--format", "csv", "--no-se"),
        ("--format", "json", "--mark", "best"),
        ("--format", "md", "--rows-only"),
    ],
)
def test_a_style_that_a_format_does_not_have_is_rejected(
    runs: Path, options: tuple[str, ...]
) -> None:
    command_result = table_output(runs, *options)
    assert command_result.exit_code == 2 and "appl" in command_result.output


def test_wide_tables_take_the_page_and_wider_ones_are_turned(runs: Path) -> None:
    def environment(board: Board) -> str:
        match = re.search(r"\\begin\{([a-z*]*table[a-z*]*)\}", render_latex(board))
        assert match is not None
        return match[1]

    assert environment(build_board(load_table("3"), [], "published")) == "table"
    assert environment(build_board(load_table("4"), [], "published")) == "table*"
    turned_board = filled_board(runs, show="both")
    assert environment(turned_board) == "sidewaystable*"
    assert r"\usepackage{rotating}" in render_latex(turned_board).splitlines()[0]


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("show", SHOWS)
def test_environments_are_closed_and_long_notes_leave_the_float(
    runs: Path, number: str, show: Show
) -> None:
    text = render_latex(filled_board(runs, number, show))
    assert text.isascii()
    open_environments: list[str] = []
    for kind, name in re.findall(r"\\(begin|end)\{([a-z*]+)\}", text):
        if kind == "begin":
            open_environments.append(name)
        else:
            assert open_environments.pop() == name
    assert not open_environments
    braces = re.sub(r"\\[{}]", "", text)
    assert braces.count("{") == braces.count("}")
    match = re.search(r"\\begin\{minipage\}.*?\\end\{minipage\}", text, re.DOTALL)
    assert match is None or len(match[0]) < MAX_FLOAT_NOTES + 200


def compile_pages(folder: Path, source: str, document_class: str) -> tuple[str, str]:
    """The log of pdflatex and the text of its pages."""
    packages = r"\usepackage{booktabs,graphicx,amssymb,rotating}"
    page = r"\usepackage[a4paper,margin=25mm]{geometry}"
    (folder / "tables.tex").write_text(
        rf"\documentclass[{document_class}]{{article}}{packages}{page}"
        rf"\begin{{document}}{source}\end{{document}}"
    )
    process = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "tables"],
        cwd=folder,
        capture_output=True,
        text=True,
        errors="replace",
    )
    assert process.returncode == 0, process.stdout[-3000:]
    if shutil.which("pdftotext"):
        subprocess.run(["pdftotext", "-layout", "tables.pdf"], cwd=folder, check=True)
        return process.stdout, (folder / "tables.txt").read_text()
    return process.stdout, ""


def test_greek_letters_are_commands() -> None:
    assert escape_latex("\N{GREEK SMALL LETTER THETA}=1") == r"$\theta$=1"
    assert escape_latex("\N{GREEK CAPITAL LETTER DELTA}") == r"$\Delta$"
    assert escape_latex("\N{GREEK SMALL LETTER LAMDA}") == r"$\lambda$"
    assert escape_latex("\N{GREEK CAPITAL LETTER ALPHA}") == "A"
    assert escape_latex("\N{GREEK SMALL LETTER ALPHA WITH TONOS}") == "\u03ac"  # no plain letter


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="needs TeX Live; .ci/latex installs it")
@pytest.mark.parametrize("document_class", ["twocolumn", "11pt"])
def test_latex_compiles_every_table(runs: Path, document_class: str, tmp_path: Path) -> None:
    boards = [filled_board(runs, number, show) for number in NUMBERS for show in SHOWS]
    boards.append(
        filled_board(
            runs,
            "2",
            "both",
            f"My {HOSTILE[:30]} PE {GREEK}",
        )
    )
    styles = (TableStyle(), TableStyle(False, "best"))
    texts = [render_latex(board, style) for board in boards for style in styles]
    log, pages = compile_pages(tmp_path, "\n\\clearpage\n".join(texts), document_class)
    assert "Overfull \\hbox" not in log, "a line is wider than the page"
    assert "Float too large" not in log, "a table is longer than the page"
    if pages:
        assert not re.search(r"Table \d+: Table", pages)
        assert "13.20" in pages and "My <script>" in pages


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="needs TeX Live; .ci/latex installs it")
def test_rows_alone_fit_a_tabular_of_the_user(runs: Path, tmp_path: Path) -> None:
    rows = render_latex(filled_board(runs), TableStyle(False, "best", is_rows_only=True))
    (tmp_path / "rows.tex").write_text(rows)
    source = (
        "\\begin{tabular}{lrrrr}\n\\toprule\n"
        "\\csname @@input\\endcsname rows\n\\bottomrule\n\\end{tabular}\n"
    )
    log, _ = compile_pages(tmp_path, source, "11pt")
    assert "Output written" in log
