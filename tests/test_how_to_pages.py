"""The how-to pages about prompts and endpoints: every command runs and prints what they show."""

from __future__ import annotations

import re
from pathlib import Path

import image_server
import pytest
from guide_pages import real_output, saved_files, shown_commands, write_saved_files

ROOT = Path(__file__).parent.parent
PAGES = ("images-api", "prompts-of-my-own")
ADDRESS = "http://127.0.0.1:8000"  # of the server in the pages
HOME = "/home/you/.harope-bench"
pytestmark = pytest.mark.skipif(
    not (ROOT / "docs").exists(), reason="the documents are not beside the tests"
)


def page_text(name: str) -> str:
    return (ROOT / f"docs/guides/{name}.md").read_text()


@pytest.mark.parametrize("name", PAGES)
def test_a_page_shows_what_its_commands_print(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bench_home: Path
) -> None:
    text = page_text(name)
    write_saved_files(text, tmp_path)
    monkeypatch.chdir(tmp_path)
    with image_server.running_server() as server:
        replacements = {ADDRESS: server.url, HOME: str(bench_home)}
        commands = shown_commands(text)
        assert len(commands) >= 3
        for line, output in commands:
            assert real_output(line, replacements) == output, line


@pytest.mark.parametrize("name", PAGES)
def test_a_page_has_numbered_steps_and_files(name: str) -> None:
    text = page_text(name)
    numbers = [int(number) for number in re.findall(r"^## (\d+)\. ", text, re.M)]
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) >= 3
    assert saved_files(text)


@pytest.mark.parametrize("name", PAGES)
def test_no_line_of_a_page_is_longer_than_those_of_other_pages(name: str) -> None:
    prose = re.sub(r"^```.*?^```$", "", page_text(name), flags=re.M | re.S)
    lines = [line for line in prose.splitlines() if not line.startswith("|")]  # rows do not break
    assert max(map(len, lines)) <= 140
