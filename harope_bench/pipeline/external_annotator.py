"""Runs a judge's runner in another Python: the questions lie in a folder, the answers appear beside
them (judges/runners/common.py).
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from io import BufferedReader
from pathlib import Path
from typing import NamedTuple

from harope_bench.core.errors import JudgeError, OptionError, StorageError
from harope_bench.core.escaping import progress_text
from harope_bench.core.json_lines import drop_partial_line, read_lines, read_lines_by_field
from harope_bench.core.storage import convert_os_errors

ASKS = "queries.jsonl"
ANSWERS = "annotations.jsonl"
JUDGE = "judge.json"
# What the other Python gets of our environment: where it finds programs, libraries, caches and
# devices; never our PYTHONPATH.
PASSED_VARIABLES = (
    "PATH", "HOME", "USER", "LANG", "LC_ALL", "TMPDIR", "TEMP", "TMP", "SYSTEMROOT", "LD_LIBRARY_PATH", "CUDA_HOME", "CUDA_VISIBLE_DEVICES",
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "HF_HOME", "TORCH_HOME", "XDG_CACHE_HOME", "MODELSCOPE_CACHE",
)  # fmt: skip
SET_VARIABLES = {"HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"}
TAIL_BYTES = 4000  # bytes of its output that are kept for the error


class AnnotationCounts(NamedTuple):
    """How many questions have an answer now, and how many an error in its place."""

    n_annotated: int
    n_failed: int


def run_annotator(
    python: Path, runner: Path, folder: Path, extra: Mapping[str, str]
) -> AnnotationCounts:
    """Has another Python answer the folder's questions; what it says goes to our standard error as
    it comes.

    Args:
        python: the other environment's interpreter. runner: the file it executes. folder: holds
            asks.jsonl. extra: `--name value` each.

    Raises:
        OptionError: no such interpreter. JudgeError: it failed, with its last line, or a question
            is without answer and error.
    """
    words = [interpreter_path(python), str(runner.resolve()), "--folder", str(folder.resolve())]
    words += [word for name, value in extra.items() for word in (f"--{name}", value)]
    code, last = _run_and_stream(words)
    if code:
        how = f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
        raise JudgeError(
            f"{runner.name} in {python} {how}: {last or 'it said nothing'}; the answers so far are"
            " kept, run eval again"
        )
    return count_annotations(folder, runner)


def interpreter_path(python: Path) -> str:
    """Where an interpreter lies; OptionError where there is none."""
    if not python.is_file() or not os.access(python, os.X_OK):
        raise OptionError(
            f"--judge-python {python} is no program; give an environment's bin/python"
        )
    return os.path.abspath(
        python
    )  # with its links: a virtual environment is known by the place of the link


def _run_and_stream(words: list[str]) -> tuple[int, str]:
    """Exit code and last line of a program; its output is passed on."""
    environment = {
        name: os.environ[name] for name in PASSED_VARIABLES if name in os.environ
    } | SET_VARIABLES
    try:
        process = subprocess.Popen(
            words,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
    except OSError as error:
        raise OptionError(
            f"--judge-python {words[0]} does not start ({error.strerror}); give an environment's"
            " bin/python"
        ) from error
    tail = b""
    with process:
        try:
            assert isinstance(process.stdout, BufferedReader)
            while piece := process.stdout.read1(65536):
                tail = (tail + piece)[-TAIL_BYTES:]
                sys.stderr.write(progress_text(piece.decode("utf-8", "replace")))
                sys.stderr.flush()
        except BaseException:  # our own end, by Ctrl-C too, must not leave it at work
            process.kill()
            raise
    lines = [
        line.strip()
        for line in tail.decode("utf-8", "replace").replace("\r", "\n").split("\n")
        if line.strip()
    ]
    return process.returncode, lines[-1] if lines else ""


def count_annotations(folder: Path, runner: Path) -> AnnotationCounts:
    """Counts what the folder's questions got; JudgeError where one got nothing, or nobody
    signed.
    """
    if not (folder / JUDGE).is_file():
        raise JudgeError(
            f"{runner.name} did not say who answers ({folder / JUDGE} is missing); mend the runner"
        )
    if not (folder / ASKS).is_file():
        raise StorageError(f"{folder / ASKS} is not there; run eval again")
    with convert_os_errors(folder):
        drop_partial_line(folder / ANSWERS)
    asked = read_lines_by_field(folder / ASKS, "key", str).keys()
    lines = [
        line
        for line in read_lines(folder / ANSWERS)
        if isinstance(line.get("key"), str) and line["key"] in asked
    ]
    answered = {line["key"] for line in lines if "annotation" in line}
    failed = {line["key"] for line in lines} - answered
    if silent := len(asked) - len(answered) - len(failed):
        raise JudgeError(
            f"{runner.name} left {silent:,} of {len(asked):,} questions without an answer; run eval"
            " again"
        )
    return AnnotationCounts(len(answered), len(failed))
