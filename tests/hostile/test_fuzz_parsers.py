"""Every parser on files with one thing wrong: a value or one line of a named error, never anything else."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harope_bench.errors import BenchError
from hostile import documents, parsers
from hostile.parsers import PARSERS, Files, Parser
from hostile.strategies import changed_file

# More examples, and others each time, where somebody looks for faults: HAROPE_BENCH_FUZZ=2000 pytest tests/hostile/test_fuzz_parsers.py
DEEP = int(os.environ.get("HAROPE_BENCH_FUZZ", "0"))
EXAMPLES = 25
CPU_SECONDS = 30  # of one example on any machine; without a bound it would be for ever
MEMORY = 1 << 30  # bytes that the process may grow by at one parser
fuzz = settings(max_examples=DEEP or EXAMPLES, deadline=None, derandomize=not DEEP, database=None, print_blob=True)


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for all examples, with the benchmarks' prompts in its `prompts`."""
    folder = tmp_path_factory.mktemp("fuzz")
    parsers.PROMPT_HOME = folder / "prompts"
    write(folder / "prompts", {**documents.prompt_home(), "dpg_script.csv": documents.dpg_table()})
    return folder


def write(folder: Path, files: Files) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


@contextmanager
def bounded() -> Iterator[None]:
    """Stop what takes more than CPU_SECONDS; time of other processes does not count."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"a parser took more than {CPU_SECONDS} CPU seconds")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def peak() -> int:
    """The most memory that the process had so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def read(parser: Parser, room: Path, files: Files) -> BaseException | None:
    """Read a folder of these files in a place of its own; return the error that it may give, None where it gives a value."""
    folder = Path(tempfile.mkdtemp(dir=room))
    try:
        write(folder, files)
        with bounded():
            parser.read(folder)
    except (BenchError, *parser.errors) as error:
        return error
    finally:
        shutil.rmtree(folder)
    return None


@pytest.mark.parametrize("parser", PARSERS, ids=lambda parser: parser.name)
def test_a_file_with_one_thing_wrong_is_a_value_or_one_line_of_a_named_error(parser: Parser, room: Path) -> None:
    files, memory = parser.files(), peak()

    @fuzz
    @given(st.data())
    def run(data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(parser.mutable or sorted(files)), label="file")
        changed = data.draw(changed_file(name, files[name]), label="bytes")
        error = read(parser, room, {**files, name: changed})
        if isinstance(error, BenchError):
            assert str(error) and str(error).isprintable(), f"no single printable line: {str(error)!r}"

    run()
    assert peak() - memory < MEMORY
