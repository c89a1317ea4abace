"""Every command has a help page with an example that runs, and a place in the documentation
(docs/reference/commands.md).

The examples run in one folder, in the order in which a user would need them, with fewer images.
Examples that need files of other people are parsed and not run.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from plugin_package import install_plugins

from harope_bench.cli import SECTIONS, main
from harope_bench.testing.new_plugin import EXAMPLES as EXAMPLES_OF_PLUGINS

ROOT = Path(__file__).parents[2]
# Words of examples that need weights, prompts or hours that a test does not have.
NOT_RUN = (
    "my-flux",  # FLUX.1-dev
    "my-server",  # an image endpoint
    "dit-harope",  # weights of a DiT on latents
    "results.jsonl",  # GenEval's prompts
    "--to geneval",
    "inception-2015",
    "Qwen2-VL-2B-Instruct",
    "Qwen/Qwen-Image",
    "train digits-dit",  # eleven minutes
)
# Further options by the start of a command, so that it is quick, or works with ten images.
SMALLER = {
    "figure attention-distance": ["--count", "4", "--timesteps", "500"],
    "plan": ["--value", "40"],  # ten images give no FID
}
SMALL_COUNTS = {"500": "10", "100": "4"}


def walk(group: click.Group, path: str = "harope-bench") -> Iterator[tuple[str, click.Command]]:
    """Yield every command below a group with its path, groups before their commands."""
    for name, command in group.commands.items():
        yield f"{path} {name}", command
        if isinstance(command, click.Group):
            yield from walk(command, f"{path} {name}")


COMMANDS = dict(walk(main))


def examples_of(command: click.Command) -> list[str]:
    """Return the command lines of a help page, without comments and line breaks."""
    help_text = (command.help or "").replace("\\\n", " ")
    lines = [" ".join(line.split()) for line in help_text.splitlines()]
    return [line for line in lines if line.startswith("harope-bench ")]


EXAMPLES = list(
    dict.fromkeys(line for command in (main, *COMMANDS.values()) for line in examples_of(command))
)


def arguments_of(example: str, folder: Path) -> list[str]:
    """Return the arguments of an example with small counts and expanded patterns."""
    words = shlex.split(example.partition(" > ")[0])[1:]
    arguments: list[str] = []
    for previous, word in zip(["", *words], words, strict=False):
        if previous == "--count":
            word = SMALL_COUNTS.get(word, word)
        paths = sorted(folder.glob(word)) if "*" in word else []
        matches = [str(path.relative_to(folder)) for path in paths]
        arguments += matches or [word]
    return arguments


def run(*words: str, exit_codes: tuple[int, ...] = (0,)) -> None:
    result = CliRunner().invoke(main, list(words))
    assert result.exit_code in exit_codes, f"{words}: {result.output}\n{result.exception!r}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A user's folder with two evaluated runs, a run of prompts, a checkpoint and small files."""
    path = tmp_path_factory.mktemp("user")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        patch.setenv("HAROPE_BENCH_HOME", str(path / "home"))
        encoding = (EXAMPLES_OF_PLUGINS / "my_encoding.py").read_text()
        install_plugins(patch, path / "plugins", encoding, {"encodings": {"my-pe": "PLUGIN"}})
        run("export", "digits-harope", "my.safetensors")
        run("register", "my-pe", "--weights", "my.safetensors")
        for name in ("harope", "rope-axial"):
            run("eval", f"digits-{name}", "--count", "10", "--out", f"runs/{name}")
        run("eval", "shapes-harope", "--count", "67", "--out", "runs/shapes-harope")
        run("reproduce", "table2", "--scale", "micro", "--count", "10", "--out", "runs/table2")
        run("eval", "my-pe", "--count", "10", "--out", "runs/table2/my-pe")
        shutil.copytree("runs/harope", "runs/old")
        shutil.copytree("runs/rope-axial", "runs/new")
        run("gate", "baseline.json", "runs/old", "--update", "--reason", "first release")
        Path("gate.toml").write_text("[metric.FID]\nmargin = '50%'\n")
        log = Path("runs/train/harope/log.csv")
        log.parent.mkdir(parents=True)
        log.write_text("step,loss,run\n100,0.9,harope\n200,0.5,harope\n")
        prompt = {"tag": "single_object", "include": [{"class": "cat", "count": 1}]}
        Path("evaluation_metadata.jsonl").write_text(
            json.dumps({**prompt, "prompt": "a photo of a cat"}) + "\n"
        )
        Path("my.csv").write_text("id,prompt\nfox,a red fox\n")
        Path("captions.jsonl").write_text(json.dumps({"text": "a photo of a cat"}) + "\n")
        yield path


def test_each_command_is_in_one_section_of_the_help() -> None:
    sections = [command.name for commands in SECTIONS.values() for command in commands]
    assert sorted(sections) == sorted(main.commands)
    page = CliRunner().invoke(main, ["--help"]).output
    assert [title for title in SECTIONS if f"\n{title}:\n" not in page] == []


def test_no_summary_is_cut() -> None:
    for path, command in [("harope-bench", main), *COMMANDS.items()]:
        if isinstance(command, click.Group):
            page = CliRunner().invoke(main, [*path.split()[1:], "--help"]).output
            assert "..." not in page.split("Options:")[-1], path


@pytest.mark.parametrize("path", COMMANDS)
def test_each_command_has_help_and_an_example_of_its_own(path: str) -> None:
    command = COMMANDS[path]
    summary = (command.help or "").splitlines()[0]
    assert summary.endswith("."), summary
    assert summary.split()[0].lower() not in ("the", "a", "this", "command"), "not imperative"
    assert any(line.startswith(path) for line in examples_of(command)), "no example"
    options = [p for p in command.params if isinstance(p, click.Option) and p.name != "help"]
    assert [option.name for option in options if not option.help] == []


@pytest.mark.parametrize("path", COMMANDS)
def test_each_command_has_a_place_in_the_documentation(path: str) -> None:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    assert any(path in page.read_text() for page in pages), f"no page names `{path}`"


@pytest.mark.parametrize("example", EXAMPLES)
def test_each_example_is_accepted(example: str, folder: Path) -> None:
    """Its command exists, and takes these arguments and options."""
    words = arguments_of(example, folder)
    command: click.Command = main
    context = click.Context(main)
    while isinstance(command, click.Group):
        command = command.commands[words.pop(0)]
        context = click.Context(command, parent=context)
    command.parse_args(context, words)


@pytest.mark.parametrize("example", [e for e in EXAMPLES if not any(w in e for w in NOT_RUN)])
def test_each_example_runs(example: str, folder: Path) -> None:
    is_gate = example.startswith("harope-bench gate baseline.json runs/new")
    exit_codes = (0, 3, 4) if is_gate else (0,)  # of ten images the gate may say anything
    if example.startswith("harope-bench unregister"):
        run("register", "my-pe", "--weights", "my.safetensors")
    command = example.removeprefix("harope-bench ")
    options = [o for start, words in SMALLER.items() if command.startswith(start) for o in words]
    run(*arguments_of(example, folder), *options, exit_codes=exit_codes)


def test_the_page_of_commands_is_that_of_the_help_pages() -> None:
    check = subprocess.run(
        [sys.executable, str(ROOT / ".ci/command_page"), "--check"], capture_output=True, text=True
    )
    assert check.returncode == 0, check.stderr


@pytest.mark.parametrize(
    ("shell", "words", "expected"),
    [
        ("bash", "harope-bench eval digits-ha", "digits-harope"),
        ("zsh", "harope-bench generate shapes-ha", "shapes-harope"),
        ("fish", "harope-bench list sui", "suites"),
        ("bash", "harope-bench eval x --suite shapes,digits-1", "shapes,digits-16"),
        ("bash", "harope-bench eval x --judge shapes-n", "shapes-net"),
        ("zsh", "harope-bench compare a b --metric single", "single_object"),
        ("fish", "harope-bench eval x --device cp", "cpu"),
        ("bash", "harope-bench table table1", "table10"),
        ("bash", "harope-bench train digits-d", "digits-dit"),
        ("bash", "harope-bench check enc", "encodings"),
        ("bash", "harope-bench check encoding har", "harope"),
        ("zsh", "harope-bench new feature", "feature-extractor"),
        ("bash", "harope-bench compare a b --metric FI", "fid"),
        ("fish", "harope-bench eval x --profile torch", "torch-fidelity"),
    ],
)
def test_names_are_completed(
    shell: str, words: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    last_word = words.split()[-1]
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", last_word if shell == "fish" else str(len(words.split()) - 1))
    result = CliRunner().invoke(
        main, prog_name="harope-bench", env={"_HAROPE_BENCH_COMPLETE": f"{shell}_complete"}
    )
    # bash and fish get lines `type,value`, zsh a line each for type, value and help.
    completions = {line.removeprefix("plain,") for line in result.output.splitlines()}
    assert expected in completions, result.output


def test_python_m_runs_the_same_commands() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "harope_bench", "list", "suites"], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert "digits" in result.stdout.split()
