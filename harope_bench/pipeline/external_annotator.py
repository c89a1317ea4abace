"""Annotators that run in another Python environment.

Queries are written to a folder. A stand-alone script (judges/runners/common.py) reads them and
writes the annotations beside them.
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

QUERIES_FILE = "queries.jsonl"
ANNOTATIONS_FILE = "annotations.jsonl"
JUDGE_FILE = "judge.json"
# Environment variables for the other Python: where programs, libraries, caches and devices are.
# PYTHONPATH is not passed, because it would import our packages there.
PASSED_VARIABLES = (
    "PATH",
    "HOME",
    "USER",
    "LANG",
    "LC_ALL",
    "TMPDIR",
    "TEMP",
    "TMP",
    "SYSTEMROOT",
    "LD_LIBRARY_PATH",
    "CUDA_HOME",
    "CUDA_VISIBLE_DEVICES",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "HF_HOME",
    "TORCH_HOME",
    "XDG_CACHE_HOME",
    "MODELSCOPE_CACHE",
)
SET_VARIABLES = {"HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"}
TAIL_BYTES = 4000  # bytes of the script's last output, for the error message


class AnnotationCounts(NamedTuple):
    """Numbers of queries with an annotation, and of queries with an error instead."""

    n_annotated: int
    n_failed: int


def run_annotator(
    python: Path, runner: Path, folder: Path, runner_options: Mapping[str, str]
) -> AnnotationCounts:
    """Run a stand-alone script in another Python that annotates the queries of a folder.

    The output of the script is passed on to standard error.

    Args:
        python: the interpreter of the other environment.
        runner: the script.
        folder: holds the queries.
        runner_options: options of the script, `--name value` each.

    Raises:
        OptionError: There is no such interpreter.
        JudgeError: The script failed (the message has its last line), or left a query without
            annotation or error.
    """
    command = [interpreter_path(python), str(runner.resolve()), "--folder", str(folder.resolve())]
    command += [word for name, value in runner_options.items() for word in (f"--{name}", value)]
    exit_code, last_line = _run_and_stream(command)
    if exit_code:
        ending = (
            f"was ended by signal {-exit_code}" if exit_code < 0 else f"ended with code {exit_code}"
        )
        raise JudgeError(
            f"{runner.name} in {python} {ending}: {last_line or 'it printed nothing'}",
            advice="finished annotations are stored, run eval again",
        )
    return count_annotations(folder, runner)


def interpreter_path(python: Path) -> str:
    """Return the absolute path of an interpreter; raise OptionError where there is none."""
    if not python.is_file() or not os.access(python, os.X_OK):
        raise OptionError(
            f"--judge-python {python} is no program; give an environment's bin/python"
        )
    # Links are not resolved: Python finds its virtual environment by the path of the link.
    return os.path.abspath(python)


def _run_and_stream(command: list[str]) -> tuple[int, str]:
    """Run a program, pass its output on, and return its exit code and last line of output."""
    environment = {name: os.environ[name] for name in PASSED_VARIABLES if name in os.environ}
    environment |= SET_VARIABLES
    try:
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
    except OSError as error:
        raise OptionError(
            f"--judge-python {command[0]} does not start ({error.strerror}); give an environment's"
            " bin/python"
        ) from error

    tail = b""
    with process:
        try:
            assert isinstance(process.stdout, BufferedReader)
            while chunk := process.stdout.read1(65536):
                tail = (tail + chunk)[-TAIL_BYTES:]
                sys.stderr.write(progress_text(chunk.decode("utf-8", "replace")))
                sys.stderr.flush()
        except BaseException:  # when this process is interrupted, the script must stop too
            process.kill()
            raise
    text = tail.decode("utf-8", "replace").replace("\r", "\n")
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    return process.returncode, lines[-1] if lines else ""


def count_annotations(folder: Path, runner: Path) -> AnnotationCounts:
    """Return how many queries of a folder were annotated and how many failed.

    Raises:
        JudgeError: A query has neither, or the script did not write its judge record.
        StorageError: The queries are missing.
    """
    if not (folder / JUDGE_FILE).is_file():
        raise JudgeError(
            f"{runner.name} did not write its judge record {folder / JUDGE_FILE}; mend the runner"
        )
    if not (folder / QUERIES_FILE).is_file():
        raise StorageError(f"{folder / QUERIES_FILE} is not there; run eval again")
    with convert_os_errors(folder):
        drop_partial_line(folder / ANNOTATIONS_FILE)
    query_keys = read_lines_by_field(folder / QUERIES_FILE, "key", str).keys()
    lines = [
        line
        for line in read_lines(folder / ANNOTATIONS_FILE)
        if isinstance(line.get("key"), str) and line["key"] in query_keys
    ]
    annotated_keys = {line["key"] for line in lines if "annotation" in line}
    failed_keys = {line["key"] for line in lines} - annotated_keys
    missing_count = len(query_keys) - len(annotated_keys) - len(failed_keys)
    if missing_count:
        raise JudgeError(
            f"{runner.name} left {missing_count:,} of {len(query_keys):,} queries without an"
            " annotation; run eval again"
        )
    return AnnotationCounts(len(annotated_keys), len(failed_keys))
