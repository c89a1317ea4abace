"""A package of one plug-in of each kind, made and used as the guides say: every command of
docs/guides runs, against a real installation.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import doc_blocks
import pytest
from click.testing import CliRunner

import harope_bench
from harope_bench.cli import main
from harope_bench.testing.new_plugin import EXAMPLES, STARTERS

ROOT = Path(__file__).parents[2]
# Encodings come before the table, which has a row for the encoding that was trained.
ORDER = ("encoding", "recipe", "backbone", "suite", "judge", "evaluator", "table")
GUIDES = [path for name in ORDER if (path := ROOT / f"docs/guides/{name}.md").exists()]
DRIVER = ROOT / "tests/helpers/run_commands.py"
PACKAGE_FOLDER = "my-plugins"
REPRODUCE = "harope-bench reproduce my-table --scale micro --count 20 --out runs/my-table"
TABLE = "harope-bench table my-table --runs runs/my-table"
TABLE_WITH_ROW = f"{TABLE} --add digits-string=STRING"
SOURCE_FOLDER = f"{PACKAGE_FOLDER}/src/my_plugins"
# Plug-ins that a guide needs beside its subject. Their names are not those of other guides, so that
# one folder can hold the plug-ins of all guides.
FURTHER_PLUGINS = {
    ("recipe", "short-recipe"),
    ("evaluator", "thumbnail-evaluator"),
    ("prompt-evaluator", "colour-evaluator"),
}
pytestmark = pytest.mark.skipif(not GUIDES, reason="the guides are not beside the tests")


def guide_text(name: str) -> str:
    return (ROOT / f"docs/guides/{name}.md").read_text()


def command_lines(name: str) -> list[str]:
    return re.findall(r"^\$ (.+)$", guide_text(name), re.M)


def is_new(line: str) -> bool:
    return line.startswith("harope-bench new ")


def blocks(name: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", guide_text(name), re.M | re.S)


# ------------------------------------------------------------------------------------ the pages


def test_there_is_a_guide_for_every_kind() -> None:
    assert [path.stem for path in GUIDES] == list(ORDER)
    example_kinds = {
        tuple(line.split()[2:4]) for name in ORDER for line in command_lines(name) if is_new(line)
    }
    assert example_kinds == {
        *((kind, starter.example) for kind, starter in STARTERS.items()),
        *FURTHER_PLUGINS,
    }


def test_no_two_guides_make_a_plug_in_of_one_name() -> None:
    names = [line.split()[3] for name in ORDER for line in command_lines(name) if is_new(line)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("name", ORDER)
def test_code_in_a_guide_is_that_of_the_example(name: str) -> None:
    sources = [path.read_text() for path in EXAMPLES.glob("*.py")]
    assert blocks(name, "python")
    for block in blocks(name, "python"):
        assert any(block in source for source in sources), block


def test_the_examples_are_shown_and_are_no_plug_ins_of_the_package() -> None:
    guide_code = "".join(block for name in ORDER for block in blocks(name, "python"))
    for starter in STARTERS.values():
        source = (EXAMPLES / f"{starter.example.replace('-', '_')}.py").read_text()
        assert source in guide_code or starter.example in ("my-backbone", "my-sampler")
    process = CliRunner().invoke(main, ["list"])
    assert process.exit_code == 0 and "my-" not in process.output


def outputs_of_new(name: str) -> dict[str, str]:
    """What a guide shows of the commands that make plug-ins, by line."""
    shown_outputs = re.findall(
        r"^\$ (harope-bench new [^\n]+)\n(.*?)(?=^\$|^```)", guide_text(name), re.M | re.S
    )
    return dict(shown_outputs)


@pytest.mark.parametrize("name", ORDER)
def test_a_guide_shows_what_new_prints_in_an_empty_folder(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for line, shown_output in outputs_of_new(name).items():
        process = CliRunner().invoke(main, shlex.split(line)[1:])
        assert (process.exit_code, process.output) == (0, shown_output)


# -------------------------------------------------------------------------------------- the way


def write_files(name: str, folder: Path) -> None:
    """Write the files that a guide tells to save."""
    for file, text in re.findall(
        r"^Save this recipe as `([^`]+)`.*?^```toml\n(.*?)^```$", guide_text(name), re.M | re.S
    ):
        (folder / file).write_text(text)


def install(folder: Path, target: Path) -> None:
    """Install the package for real, without its dependencies and without network."""
    command = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    command += ["--no-build-isolation", "--no-deps", "--no-index", "--target", str(target)]
    process = subprocess.run(
        [*command, str(folder)], capture_output=True, text=True, check=False, env=environment()
    )
    assert process.returncode == 0, process.stderr


def environment(*paths: Path) -> dict[str, str]:
    source = Path(harope_bench.__file__).parents[1]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (*paths, source)))}


def run_lines(lines: list[str], folder: Path, site: Path) -> dict[str, str]:
    """Run commands in one process and return their outputs by line."""
    (folder / "lines.json").write_text(json.dumps(lines))
    process = subprocess.run(
        [sys.executable, str(DRIVER), "lines.json"],
        cwd=folder,
        env=environment(site),
        capture_output=True,
        text=True,
        check=False,
    )
    results = [json.loads(row) for row in process.stdout.splitlines() if row.startswith("{")]
    failures = [result for result in results if result["code"] != 0]
    assert not failures and len(results) == len(lines), (failures, process.stderr[-2000:])
    home = os.environ["HAROPE_BENCH_HOME"]
    return {result["line"]: result["output"].replace(home, doc_blocks.HOME) for result in results}


def test_the_commands_of_the_guides_run_against_an_installed_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [line for name in ORDER for line in command_lines(name)]

    # One package with all plug-ins of all guides.
    for line in filter(is_new, lines):
        process = CliRunner().invoke(main, shlex.split(line)[1:])
        assert process.exit_code == 0, process.output
    site = tmp_path / "site"
    install(tmp_path / PACKAGE_FOLDER, site)
    assert {line for line in lines if line.startswith("pip ")} == {
        f"pip install -e {PACKAGE_FOLDER}",
        f"pip install 'harope_bench-{harope_bench.__version__}-py3-none-any.whl[torch]'",
    }

    # All other commands, in the order of the guides. An installation that is no link to the source
    # has a folder of its own.
    for name in ORDER:
        write_files(name, tmp_path)
    run = dict.fromkeys(line for line in lines if not is_new(line) and not line.startswith("pip "))
    outputs = run_lines(
        ["harope-bench list", *(line.replace(SOURCE_FOLDER, "site/my_plugins") for line in run)],
        tmp_path,
        site,
    )

    for name in ORDER:
        check_shown_outputs(name, outputs)
    listed_names = outputs["harope-bench list"].split()
    assert {starter.example for starter in STARTERS.values()} <= set(listed_names)
    checks = [line for line in outputs if line.startswith("harope-bench check ")]
    assert len(checks) == len(STARTERS)
    for line, output in outputs.items():
        if line.startswith("harope-bench compare "):
            assert re.search(r"better|worse|not resolved", output), (line, output)
        if line.startswith("harope-bench eval "):
            assert re.search(r"^  [a-z0-9-]+ +[0-9.]+ ", output, re.M), (line, output)
    assert "runs/my-table/my-table.md" in outputs[REPRODUCE].splitlines()
    assert measured_rows(outputs[TABLE]) == ["APE", "Axial RoPE", "HARoPE"]
    assert measured_rows(outputs[TABLE_WITH_ROW]) == ["APE", "Axial RoPE", "HARoPE", "STRING"]


def check_shown_outputs(name: str, outputs: dict[str, str]) -> None:
    """Check that the commands of a guide, run once for all guides, printed what it shows."""
    for command in doc_blocks.page_commands(ROOT / f"docs/guides/{name}.md"):
        line = command.line.replace(SOURCE_FOLDER, "site/my_plugins")
        if line in outputs:
            shown_lines = [
                text.replace(SOURCE_FOLDER, "site/my_plugins") for text in command.shown_lines
            ]
            difference = doc_blocks.find_difference(shown_lines, outputs[line])
            assert difference is None, f"{name}: {line}\nno {difference!r} in\n{outputs[line]}"


def measured_rows(table: str) -> list[str]:
    """Titles of the rows of a printed table that have a measured number with its error."""
    rows = [line.split("|") for line in table.splitlines() if line.startswith("| ")]
    return [cells[1].strip() for cells in rows if "\N{PLUS-MINUS SIGN}" in "".join(cells)]
