"""How-to pages whose commands are run, and whose shown output is compared with the real one."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import NamedTuple

from click.testing import CliRunner

from harope_bench.cli import main


class ShownCommand(NamedTuple):
    """A command of a page with the output that the page shows of it."""

    line: str
    output: str


def saved_files(text: str) -> dict[str, str]:
    """The files that a page tells to save, by name: "Save ... as `my.csv`" before a block."""
    pairs = re.findall(r"[Ss]ave [^\n]*?`([^`\n]+)`[^\n]*\n\n```\w+\n(.*?)^```$", text, re.M | re.S)
    return dict(pairs)


def shown_commands(text: str) -> list[ShownCommand]:
    """The commands of a page, in order, each with its output."""
    commands = []
    for block in re.findall(r"^```console\n(.*?)^```$", text, re.M | re.S):
        for part in re.split(r"^\$ ", block, flags=re.M)[1:]:
            line, _, output = part.partition("\n")
            commands.append(ShownCommand(line, output))
    return commands


def real_output(line: str, replacements: dict[str, str]) -> str:
    """The output of a command, standard output and error as they come.

    replacements: texts of the page, such as an address, and what stands for them here.
    """
    for page_text, text in replacements.items():
        line = line.replace(page_text, text)
    program, *words = shlex.split(line)
    assert program == "harope-bench"
    output = CliRunner().invoke(main, words, prog_name="harope-bench").output
    for page_text, text in replacements.items():
        output = output.replace(text, page_text)
    return output


def write_saved_files(text: str, folder: Path) -> None:
    """Write the files that a page tells to save."""
    for name, content in saved_files(text).items():
        (folder / name).write_text(content)
