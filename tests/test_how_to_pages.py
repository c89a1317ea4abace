"""The how-to pages about prompts and endpoints: every command runs and prints what they show."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import time
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


def wait_for_server(port: int) -> None:
    """Return when a server accepts connections; raise TimeoutError after a minute."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise TimeoutError(f"no server at port {port}")


def test_the_server_of_the_page_serves_its_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bench_home: Path
) -> None:
    text = page_text("images-api")
    write_saved_files(text, tmp_path)
    monkeypatch.chdir(tmp_path)
    with socket.socket() as free_socket:
        free_socket.bind(("127.0.0.1", 0))
        port = free_socket.getsockname()[1]
    source = (tmp_path / "server.py").read_text()
    assert "8000" in source
    process = subprocess.Popen(
        [sys.executable, "-c", source.replace("8000", str(port))], stderr=subprocess.DEVNULL
    )
    try:
        wait_for_server(port)
        replacements = {ADDRESS: f"http://127.0.0.1:{port}", HOME: str(bench_home)}
        for line, output in shown_commands(text):
            assert real_output(line, replacements) == output, line
    finally:
        process.kill()
        process.wait()


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
