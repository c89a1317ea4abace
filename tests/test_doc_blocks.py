"""Every code block of README and docs runs, or says why not, and prints what the page shows."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import doc_blocks
import pytest
from click.testing import CliRunner

from harope_bench.cli import main
from harope_bench.statistics.gate.policy import read_policy

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
# Pages whose blocks other tests run, with the module; without one, some module names the page. The
# plug-in guides need an installed package.
PLUGIN_GUIDES = ("encoding", "recipe", "backbone", "suite", "judge", "evaluator", "table")
RUN_ELSEWHERE = {
    "docs/guides/python.md": "tests/api/test_python_docs.py",
    "docs/reference/commands.md": "tests/commands/test_examples.py",
    **{f"docs/guides/{name}.md": "tests/testing/test_example_package.py" for name in PLUGIN_GUIDES},
    # These need a server or files that their tests make.
    "docs/guides/any-diffusers-model.md": "",
    "docs/guides/images-api.md": "tests/test_how_to_pages.py",
    "docs/guides/prompts-of-my-own.md": "tests/test_how_to_pages.py",
}
LANGUAGES = {"console", "bash", "csv", "python", "toml", "yaml", "json", "text"}
pytestmark = pytest.mark.skipif(len(PAGES) < 3, reason="the documents are not beside the tests")


def page_name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


PAGES_WITH_COMMANDS = [
    page
    for page in PAGES
    if page_name(page) not in RUN_ELSEWHERE and page.exists() and doc_blocks.page_commands(page)
]


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_each_block_is_run_or_says_why_not(page: Path) -> None:
    for block in doc_blocks.read_blocks(page):
        assert block.language in LANGUAGES, f"{block.language!r}: {block.text[:60]}"
        is_code = block.language in ("bash", "python", "yaml")
        is_run = block.language == "python" and (
            page_name(page) in RUN_ELSEWHERE or page.name == "README.md"
        )
        # The page of commands has one bash block, for the startup file of a shell.
        is_startup_file = page_name(page) == "docs/reference/commands.md"
        assert is_run or is_startup_file or not is_code or block.reason, block.text[:80]
        if block.language == "console":
            assert doc_blocks.split_commands(block.text)


@pytest.mark.parametrize("page", [page for page in RUN_ELSEWHERE if (ROOT / page).exists()])
def test_the_test_that_runs_a_page_names_it(page: str) -> None:
    stem = Path(page).stem
    name = RUN_ELSEWHERE[page]
    modules = [ROOT / name] if name else set((ROOT / "tests").rglob("test_*.py")) - {Path(__file__)}
    sources = [path.read_text() for path in modules]
    assert any(f'"{stem}"' in source or f"{stem}.md" in source for source in sources)


@pytest.mark.parametrize("page", PAGES_WITH_COMMANDS, ids=page_name)
def test_the_commands_of_a_page_print_what_it_shows(page: Path, tmp_path: Path) -> None:
    doc_blocks.write_files(page, tmp_path)
    commands = doc_blocks.page_commands(page)
    results = doc_blocks.run_commands([command.line for command in commands], tmp_path)
    for command, result in zip(commands, results, strict=True):
        difference = doc_blocks.find_difference(command.shown_lines, result["output"])
        assert difference is None, f"{command.line}\nno line {difference!r} in\n{result['output']}"


# --------------------------------------------------------------------------------- the comparison


@pytest.mark.parametrize(
    ("shown_line", "line", "is_same"),
    [
        ("fid-100  162.164 +- 28", "fid-100  162.9 +- 28.4", True),
        ("fid-100  162.164 +- 28", "fid-100  192.9 +- 28", False),
        ("100 of 100 images", "99 of 100 images", False),
        ("contract holds (16 checks, 9.3 s)", "contract holds (16 checks, 0.4 s)", True),
        ("verdict better", "verdict worse", False),
        ("ref-86b9ba8a.json", "ref-06b9ba8a.json", True),
    ],
)
def test_numbers_are_compared_with_tolerance_and_words_are_not(
    shown_line: str, line: str, is_same: bool
) -> None:
    assert doc_blocks.is_same_line(shown_line, line) is is_same


def test_a_shown_line_that_is_not_printed_is_found() -> None:
    assert doc_blocks.find_difference(["a", "c"], "a\nb\nc\n") is None
    assert doc_blocks.find_difference(["a", "d"], "a\nb\nc\n") == "d"
    assert doc_blocks.find_difference(["c", "a"], "a\nb\nc\n") == "a"


# ---------------------------------------------------------------------------- the gate's workflow


def test_the_policy_and_the_workflow_of_the_gate_are_valid(tmp_path: Path) -> None:
    page = ROOT / "docs/guides/gate.md"
    blocks = {block.language: block.text for block in doc_blocks.read_blocks(page)}
    (tmp_path / "gate.toml").write_text(blocks["toml"])
    assert set(read_policy(tmp_path / "gate.toml").metric) == set(
        tomllib.loads(blocks["toml"])["metric"]
    )
    yaml = pytest.importorskip("yaml", reason="needs pip install 'harope-bench[docs]'")
    workflow = yaml.safe_load(blocks["yaml"])
    steps = [step["run"] for step in workflow["jobs"]["gate"]["steps"] if "run" in step]
    commands = [shlex.split(step) for step in steps if step.startswith("harope-bench")]
    assert [words[1] for words in commands] == ["register", "eval", "gate"]
    for words in commands:
        flags = {word for word in words if re.fullmatch(r"--[a-z-]+", word)}
        help_page = CliRunner().invoke(main, [words[1], "--help"]).output
        assert {flag for flag in flags if flag not in help_page} == set()
