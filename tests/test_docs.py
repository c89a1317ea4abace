"""The documents lead where a newcomer goes, and say nothing that the package does not know."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from doc_blocks import read_blocks

from harope_bench.cli import main
from harope_bench.commands.check import EXIT_UNDECIDED
from harope_bench.commands.options import EXIT_NO, EXIT_NOT_CHECKED
from harope_bench.statistics.gate.decide import EXIT_CODES

ROOT = Path(__file__).parent.parent
PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md")),
]
MAX_README_LINES = 150
ENVIRONMENT_PAGE = "docs/reference/environment.md"
BENCH_ERROR_EXIT = 1  # the default of `_exit_with` in cli.py
pytestmark = pytest.mark.skipif(
    not (ROOT / "README.md").exists(), reason="the documents are not beside the tests"
)


def commands(page: str) -> list[list[str]]:
    """Every harope-bench command line of a page, split into words."""
    text = (ROOT / page).read_text().replace("\\\n", " ")
    code = "".join(block.text for block in read_blocks(ROOT / page))
    lines = re.findall(r"^(?:\$ )?harope-bench ([a-z][^\n#;]*)", code, re.M)
    lines += re.findall(r"`harope-bench ([a-z][^`]*)`", text)
    return [line.split() for line in lines]


def test_readme_is_short_and_leads_with_the_two_commands() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= MAX_README_LINES
    first_match = re.search(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert first_match is not None
    assert [line.split("#")[0].strip() for line in first_match[1].strip().splitlines()] == [
        "make demo",
        "make test",
    ]


@pytest.mark.parametrize("page", PAGES)
def test_commands_in_the_documents_exist_with_their_flags(page: str) -> None:
    for verb, *words in commands(page):
        assert verb in main.commands, f"{page}: harope-bench {verb}"
        command = main.commands[verb]
        while isinstance(command, click.Group) and words:
            command = command.commands[words.pop(0)]
        known_flags = {
            flag
            for parameter in command.params
            for flag in (*parameter.opts, *parameter.secondary_opts)
        }
        assert {word.split("=")[0] for word in words if word.startswith("--")} <= known_flags, (
            f"{page}: harope-bench {verb} {words}"
        )


@pytest.mark.parametrize("page", PAGES)
def test_links_and_pictures_are_there(page: str) -> None:
    for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", (ROOT / page).read_text()):
        assert ((ROOT / page).parent / target).exists(), f"{page} points to {target}"


# --------------------------------------------------------------------------------- reference pages


def test_the_page_of_file_formats_is_that_of_the_models() -> None:
    check = subprocess.run(
        [sys.executable, str(ROOT / ".ci/format_page"), "--check"], capture_output=True, text=True
    )
    assert check.returncode == 0, check.stderr


def first_column(page: str) -> list[str]:
    """Cells of the first column of all tables of a page, headings and rules aside."""
    rows = re.findall(r"^\| `?([^|`]+?)`? \|", (ROOT / page).read_text(), re.M)
    return [cell for cell in rows if cell not in ("variable", "code") and "---" not in cell]


def test_every_environment_variable_of_the_code_is_documented() -> None:
    sources = [path.read_text() for path in (ROOT / "harope_bench").rglob("*.py")]
    names = {name for text in sources for name in re.findall(r"\bHAROPE_BENCH_[A-Z0-9_]+", text)}
    names.discard("HAROPE_BENCH_GENERATE_DEVICE")  # an example of a command's own variable
    documented_names = {
        name for name in first_column(ENVIRONMENT_PAGE) if name.startswith("HAROPE")
    }
    assert documented_names - {"HAROPE_BENCH_COMMAND_OPTION"} == names


def test_the_exit_codes_are_those_of_the_code() -> None:
    documented_codes = {int(cell) for cell in first_column(ENVIRONMENT_PAGE) if cell.isdigit()}
    usage_error = click.UsageError("").exit_code
    interrupt = 130
    codes = {0, BENCH_ERROR_EXIT, usage_error, EXIT_NO, EXIT_NOT_CHECKED, EXIT_UNDECIDED, interrupt}
    assert documented_codes == codes | set(EXIT_CODES.values())
    assert f"exit_code={interrupt}" in (ROOT / "harope_bench/cli.py").read_text()
