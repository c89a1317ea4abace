"""The documents lead where a newcomer goes, and say nothing that the package does not know."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from harope_bench.cli import main

ROOT = Path(__file__).parent.parent
PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    "docs/design.md",
    "docs/fidelity.md",
    "docs/gate.md",
    "docs/guides/backbone.md",
    "docs/guides/encoding.md",
    "docs/guides/evaluator.md",
    "docs/guides/images-api.md",
    "docs/guides/judge.md",
    "docs/guides/prompts-of-my-own.md",
    "docs/guides/recipe.md",
    "docs/guides/suite.md",
    "docs/guides/table.md",
    "docs/performance.md",
    "docs/prompts.md",
    "docs/python.md",
]
pytestmark = pytest.mark.skipif(
    not (ROOT / "README.md").exists(), reason="the documents are not beside the tests"
)


def commands(page: str) -> list[list[str]]:
    """Every harope-bench command line of a page, split into words."""
    text = (ROOT / page).read_text().replace("\\\n", " ")
    lines = re.findall(r"harope-bench ([a-z][^`\n#]*)", text)
    return [line.split() for line in lines]


def test_readme_leads_with_the_two_commands() -> None:
    first_match = re.search(r"```\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert first_match is not None
    assert [line.split("#")[0].strip() for line in first_match[1].strip().splitlines()] == [
        "make demo",
        "make test",
    ]


@pytest.mark.parametrize("page", PAGES)
def test_commands_in_the_documents_exist_with_their_flags(page: str) -> None:
    for verb, *words in commands(page):
        if verb not in main.commands:
            assert verb in ("compares", "draws", "generates", "directly"), (
                f"{page}: harope-bench {verb}"
            )
            continue
        command = main.commands[verb]
        while isinstance(command, click.Group):
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
    for target in re.findall(r"\]\(([^)#:]+)\)", (ROOT / page).read_text()):
        assert ((ROOT / page).parent / target).exists(), f"{page} points to {target}"
