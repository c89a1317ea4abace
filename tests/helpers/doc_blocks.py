"""Code blocks of README and docs: reading them, running their commands, comparing the outputs.

    python tests/helpers/doc_blocks.py docs/guides/compare.md   # write the outputs into the page

A block of language `console` has command lines after `$ ` and what they print. All command lines of
a page run in one folder, in their order. A block under the comment `<!-- not run: REASON -->` is
not run; every block of language `bash` has one.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
DRIVER = ROOT / "tests/helpers/run_commands.py"
BLOCK = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```$", re.M | re.S)
REASON = re.compile(r"<!-- not run: (\S[^>]*) -->\s*\Z")
HOME = "/home/you/.harope-bench"  # as the pages show it
NUMBER = re.compile(r"[-+]?\d+(?:,\d{3})*(?:\.\d+)?(?:e[-+]?\d+)?")
# Times, hashes and single images on a threshold differ between machines and versions.
UNSTABLE = re.compile(r"\b\d+(?:\.\d+)? s\b|\b[0-9a-f]{8,64}\b|\b\d+ (?:won|lost|alike)\b")
# Libraries and processors change the last bits of images, which may move one image of 100 over a
# threshold.
RELATIVE_TOLERANCE = 0.05
ABSOLUTE_TOLERANCE = 0.06


class Block(NamedTuple):
    """A fenced block: its language, its text, why it is not run, and where its text starts."""

    language: str
    text: str
    reason: str
    start: int


class Command(NamedTuple):
    """A command line and the lines that a page shows below it."""

    line: str
    shown_lines: list[str]


def read_blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page."""
    text = page.read_text()
    blocks = []
    for match in BLOCK.finditer(text):
        reason = REASON.search(text[: match.start()])
        blocks.append(Block(match[2], match[3], reason[1] if reason else "", match.start(3)))
    return blocks


def split_commands(block: str) -> list[Command]:
    """Return the command lines of a console block, each with its output."""
    commands: list[Command] = []
    for line in block.replace("\\\n", " ").splitlines():
        if line.startswith("$ "):
            commands.append(Command(" ".join(line[2:].split()), []))
        elif commands:
            commands[-1].shown_lines.append(line)
        else:
            raise ValueError(f"a console block starts with {line!r}, wanted a line after '$ '")
    return commands


def run_blocks(page: Path) -> list[Block]:
    """Return the console blocks of a page that are run."""
    return [b for b in read_blocks(page) if b.language == "console" and not b.reason]


def page_commands(page: Path) -> list[Command]:
    """Return all commands of the console blocks of a page, without installations."""
    commands = [command for block in run_blocks(page) for command in split_commands(block.text)]
    return [command for command in commands if is_run(command)]


def is_run(command: Command) -> bool:
    """Return whether a command line is run: all but installations."""
    return not command.line.startswith(("pip ", "make "))


def write_files(page: Path, folder: Path) -> None:
    """Write the files that a page tells to save: "Save ... as `NAME`" above a block."""
    text = page.read_text()
    pattern = r"^Save [^`]*?as `([^`]+)`[^`]*?^```\w+\n(.*?)^```$"
    for name, content in re.findall(pattern, text, re.M | re.S):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def run_commands(lines: list[str], folder: Path) -> list[dict[str, str]]:
    """Run command lines in one process; return their outputs, with HOME for the user's folder."""
    (folder / "lines.json").write_text(json.dumps(lines))
    home = folder / "home"
    environment = {**os.environ, "HAROPE_BENCH_HOME": str(home), "OMP_NUM_THREADS": "1"}
    environment["HAROPE_BENCH_DEVICE"] = "cpu"
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), *sys.path]))
    process = subprocess.run(
        [sys.executable, str(DRIVER), "lines.json"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    results = [json.loads(row) for row in process.stdout.splitlines() if row.startswith("{")]
    failures = [result for result in results if result["code"] != 0]
    if failures or len(results) != len(lines):
        raise RuntimeError(f"{failures} {process.stderr[-2000:]}")
    for result in results:
        for key in ("output", "stdout"):
            result[key] = result[key].replace(str(home), HOME)
    return results


def find_difference(shown_lines: list[str], output: str) -> str | None:
    """Return the first shown line that the output does not have; None if it has all in order.

    A page may leave lines out. Numbers with decimals may differ by the tolerances, counts not.
    """
    lines = iter(output.splitlines())
    for shown_line in shown_lines:
        if shown_line.strip() in ("", "..."):
            continue
        if not any(is_same_line(shown_line, line) for line in lines):
            return shown_line
    return None


def is_same_line(shown_line: str, line: str) -> bool:
    """Return whether two lines have the same words, and numbers within the tolerances."""
    shown_text, text = (
        " ".join(UNSTABLE.sub("?", raw_line).split()) for raw_line in (shown_line, line)
    )
    if strip_numbers(shown_text) != strip_numbers(text):
        return False
    pairs = zip(NUMBER.findall(shown_text), NUMBER.findall(text), strict=True)
    return all(is_close(shown_number, number) for shown_number, number in pairs)


def strip_numbers(text: str) -> str:
    """Return a text without its numbers; rules of tables have one length."""
    return re.sub(r"-{3,}:?", "---", " ".join(NUMBER.sub("#", text).split()))


def is_close(shown_number: str, number: str) -> bool:
    """Return whether two numbers are equal, or close if one has decimals."""
    if "." not in shown_number + number:
        return shown_number == number
    shown_value, value = (float(digits.replace(",", "")) for digits in (shown_number, number))
    tolerance = ABSOLUTE_TOLERANCE + RELATIVE_TOLERANCE * abs(shown_value)
    return abs(shown_value - value) <= tolerance


def write_outputs(page: Path) -> None:
    """Run the commands of a page and write what they print below them."""
    with tempfile.TemporaryDirectory() as folder:
        write_files(page, Path(folder))
        lines = [command.line for command in page_commands(page)]
        results = run_commands(lines, Path(folder))
    text = page.read_text()
    for block in reversed(run_blocks(page)):
        parts = []
        commands = split_commands(block.text)
        n_run = len([command for command in commands if is_run(command)])
        block_results = iter(results[len(results) - n_run :])
        del results[len(results) - n_run :]
        for command in commands:
            parts.append(f"$ {command.line}\n")
            result = next(block_results) if is_run(command) else {}
            if not result or not command.shown_lines:
                continue
            is_registration = command.line.startswith("harope-bench register")
            parts.append(result["output" if is_registration else "stdout"])
        text = text[: block.start] + "".join(parts) + text[block.start + len(block.text) :]
    page.write_text(text)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        write_outputs(Path(name))
