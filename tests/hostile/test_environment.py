"""Variables of the environment that say nothing, point nowhere, or change how text goes out."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from hostile.room import IMAGES, RUN, Case, Room, file_writer, odd_file, run_case, table

ROOT = Path(__file__).parents[2]


def variable(name: str, value: str | None) -> Callable[[Room], None]:
    """Set a variable for the call, or take it away."""
    if value is None:
        return lambda room: room.patch.delenv(name, raising=False)
    return lambda room: room.patch.setenv(name, value.format(room=room.folder))


def variables(
    *pairs: tuple[str, str | None], also: Callable[[Room], object] | None = None
) -> Callable[[Room], None]:
    def build(room: Room) -> None:
        for name, value in pairs:
            variable(name, value)(room)
        if also is not None:
            also(room)

    return build


LIST = ("list", "checkpoints")
GENERATE = ("generate", "tiny", "--count", "2", "--out", "new")
REGISTER = ("register", "mine", "--weights", "tiny.safetensors", "--encoding", "rope-axial", "--config", "heads=2", "--config", "size=28",
            "--suite", "digits", "--sampler", "flow")  # fmt: skip
TABLE = ("table", "2", "--runs", ".")
COMPARE = ("compare", RUN, RUN)
H = "HAROPE_BENCH_HOME"


def moved_weights(room: Room) -> None:
    (room.folder / "tiny.safetensors").write_bytes(
        (room.home / "checkpoints/tiny.safetensors").read_bytes()
    )


CASES = [
    # where a user's own things are
    Case("home-nowhere", variable(H, "{room}/nowhere"), LIST, 0, "digits-harope"),
    Case("home-a-file", variables((H, "{room}/file"), also=file_writer("file", b"x")), LIST, 0, "digits-harope"),
    Case("home-a-device", variable(H, "/dev/null"), LIST, 0, "digits-harope"),
    Case("home-empty-text", variables((H, ""), ("HOME", "{room}")), LIST, 0, "digits-harope"),
    Case("home-of-nobody", variable(H, "~nobody-at-all/x"), LIST, 1, "HAROPE_BENCH_HOME"),
    Case("user-home-unknown", lambda room: _unknown_user(room), LIST, 1, "set HAROPE_BENCH_HOME"),
    Case("home-relative", variable(H, "home"), GENERATE, 0, "2 generated", ("new*",)),
    Case("home-steers", variable(H, "{room}/\x1b[2J"), ("generate", "nobody", "--out", "new"), 1, "no checkpoint named"),
    Case("home-nul-free-but-long", variable(H, "{room}/" + "x" * 300), LIST, 0, "digits-harope"),
    Case("home-very-long", variable(H, "/" + "x/" * 5000), LIST, 0, "digits-harope"),
    Case("home-a-file-register", variables((H, "{room}/file"), also=lambda room: (file_writer("file", b"x")(room), moved_weights(room))), REGISTER, 1, "cannot use"),
    Case("home-a-device-register", variables((H, "/dev/null"), also=moved_weights), REGISTER, 1, "cannot use"),
    Case("home-in-proc", variables((H, "/proc/nowhere"), also=moved_weights), REGISTER, 1, "cannot use"),
    Case("user-home-missing", variables((H, None), ("HOME", "{room}/nowhere")), LIST, 0, "digits-harope"),
    Case("user-home-a-file", variables((H, None), ("HOME", "{room}/file"), also=file_writer("file", b"x")), LIST, 0, "digits-harope"),
    Case("user-home-relative", variables((H, None), ("HOME", ".")), LIST, 0, "digits-harope"),
    # options by variables: as wrong as on the command line
    Case("option-of-text", variable("HAROPE_BENCH_GENERATE_COUNT", "many"), ("generate", "tiny", "--out", "new"), 2, "many"),
    Case("option-huge", variable("HAROPE_BENCH_GENERATE_COUNT", "9" * 30), ("generate", "tiny", "--out", "new"), 2, "more than 1,000,000"),
    Case("option-nan", variable("HAROPE_BENCH_GENERATE_GUIDANCE", "nan"), GENERATE, 2, "finite"),
    Case("option-steers", variable("HAROPE_BENCH_GENERATE_DEVICE", "\x1b[2J"), GENERATE, 2, "device"),
    Case("option-out-a-pipe", variables(("HAROPE_BENCH_GENERATE_OUT", "{room}/pipe"), also=odd_file("pipe", "pipe")), GENERATE[:4], 1, "pipe"),
    Case("debug-of-text", variable("HAROPE_BENCH_DEBUG", "maybe"), LIST, 2, "maybe"),
    # where temporary files go
    Case("tmp-missing", variable("TMPDIR", "{room}/nowhere"), GENERATE, 0, "2 generated", ("new*",)),
    Case("tmp-a-file", variables(("TMPDIR", "{room}/file"), also=file_writer("file", b"x")), COMPARE, 0, "baseline"),
    # how text goes out
    Case("columns-zero", variable("COLUMNS", "0"), TABLE, 0, "Table 2"),
    Case("columns-of-text", variable("COLUMNS", "wide"), TABLE, 0, "Table 2"),
    Case("columns-negative", variable("COLUMNS", "-5"), ("--help",), 0, "generate"),
    Case("columns-huge", variable("COLUMNS", "9" * 30), ("--help",), 0, "generate"),
    Case("lines-zero", variable("LINES", "0"), TABLE, 0, "Table 2"),
    Case("no-color", variable("NO_COLOR", "1"), TABLE, 0, "Table 2"),
    Case("force-color", variable("FORCE_COLOR", "1"), TABLE, 0, "Table 2"),
    Case("term-unknown", variable("TERM", "\x1b[2J"), TABLE, 0, "Table 2"),
    Case("pager-a-command", variable("PAGER", "touch canary"), TABLE, 0, "Table 2"),
    Case("editor-a-command", variable("EDITOR", "touch canary"), TABLE, 0, "Table 2"),
    # programs that are looked for
    Case("path-empty", variable("PATH", ""), GENERATE, 0, "2 generated", ("new*",)),
    Case("path-of-here", variables(("PATH", "."), also=lambda room: _program(room, "git")), GENERATE, 0, "2 generated", ("new*",)),
    Case("path-of-here-gs", variables(("PATH", "."), also=lambda room: _program(room, "gs")), ("convert", IMAGES, "out.npz", "--to", "adm"), 0, "3 images", ("out.npz",)),
]  # fmt: skip


def _program(room: Room, name: str) -> None:
    """Put a program in the working directory that makes the canary."""
    path = room.folder / name
    path.write_text(f"#!/bin/sh\ntouch {room.canary}\n")
    path.chmod(0o755)


def _unknown_user(room: Room) -> None:
    """A container's user that no list of users has."""
    for name in (H, "HOME"):
        room.patch.delenv(name, raising=False)

    def raise_unknown_user(number: int) -> None:
        raise KeyError(number)

    room.patch.setattr("pwd.getpwuid", raise_unknown_user)


@table(*CASES)
def test_a_variable_is_an_answer_or_one_line(case: Case, room: Room) -> None:
    run_case(case, room)


# ------------------------------------------------------------------------------------------------
# what acts on Python itself


class StartCase(NamedTuple):
    """A row of what acts before the program begins: variables, words, exit code, and what the
    answer holds.
    """

    variables: dict[str, str]
    words: tuple[str, ...]
    code: int
    holds: str


STARTED_FIELDS: dict[str, StartCase] = {
    "ascii-locale": StartCase(
        {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        ("table", "2"),
        0,
        "Table 2",
    ),
    "latin-output": StartCase(
        {"PYTHONIOENCODING": "latin-1"}, ("compare", RUN, RUN), 0, "baseline"
    ),
    "threads-of-text": StartCase(
        {"OMP_NUM_THREADS": "many", "MKL_NUM_THREADS": "many"}, ("list", "encodings"), 0, "harope"
    ),
    "threads-huge": StartCase(
        {"OMP_NUM_THREADS": "99999999999"}, ("list", "encodings"), 0, "harope"
    ),
    "optimised": StartCase({"PYTHONOPTIMIZE": "2"}, ("list", "encodings"), 0, "harope"),
    "no-home": StartCase({"HAROPE_BENCH_HOME": "", "HOME": ""}, ("list", "encodings"), 0, "harope"),
}


@pytest.mark.parametrize("name", STARTED_FIELDS)
def test_what_acts_on_python_is_an_answer_or_one_line(name: str, room: Room) -> None:
    row = STARTED_FIELDS[name]
    code = "import sys; from harope_bench.cli import main; sys.argv[0] = 'harope-bench'; main()"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **row.variables}
    process = subprocess.run(
        [sys.executable, "-c", code, *row.words], capture_output=True, env=environment, timeout=120
    )
    text = process.stdout.decode(errors="replace") + process.stderr.decode(errors="replace")
    assert process.returncode == row.code, text
    assert row.holds in text and "Traceback" not in text and "unexpected" not in text
