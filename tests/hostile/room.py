"""What every hostile case shares: a room of small files, a table's row, and the check of what a
case left.

A row says what is put into the room, the command or call, and the answer that is wanted. The check
holds for all of them: one line of
error or a right result, no code of a payload run, files that were there unchanged, and nothing new
but what the row names.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import os
import re
import shutil
import signal
import stat
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import tiny
from click.testing import CliRunner
from PIL import Image

from harope_bench.cli import main
from harope_bench.core import checksums, registry
from harope_bench.core.array_archive import encode_npz
from harope_bench.core.errors import BenchError, StorageError
from harope_bench.core.escaping import BLANKS
from harope_bench.core.storage import sha256_bytes
from harope_bench.pipeline.evaluate import FeatureScoring, evaluate
from harope_bench.pipeline.generate import generate, make_plan

COUNT = 4
HASHED_COUNT = 1 << 24  # bytes; larger files are sparse ones, which would take hours
SIDE = 28
LONGEST = 2000  # characters of a line
LIMIT = 60  # seconds after which a case hangs; the slowest takes one
# What a command prints to stderr before it generates: checkpoint, suite, settings, device.
GENERATION_LINE = re.compile(r"[\w.-]+, suite [\w-]+: .*, seed \d+, float32, (cpu|cuda|mps)")
RUN, HOME, REFERENCE, IMAGES, CANARY = "run", "home", "reference.npz", "pictures", "canary"
MOMENTS = encode_npz(
    {"mu": np.zeros(64), "sigma": np.eye(64)}
)  # without images nothing has neighbours to look for
RESULT = f"{RUN}/results/fidelity_ref-{sha256_bytes(MOMENTS)[:8]}.json"


class Room(NamedTuple):
    """A folder of a case: `run`, `home`, `reference.npz` and `pictures` in it, and the file that a
    payload would make.
    """

    folder: Path
    patch: pytest.MonkeyPatch

    @property
    def run(self) -> Path:
        """A finished run of four samples, scored."""
        return self.folder / RUN

    @property
    def home(self) -> Path:
        """What HAROPE_BENCH_HOME names: a registered checkpoint `tiny`."""
        return self.folder / HOME

    @property
    def pictures(self) -> Path:
        """An image folder of three good files."""
        return self.folder / IMAGES

    @property
    def canary(self) -> Path:
        """What is there only if a payload was run."""
        return self.folder / CANARY


class Payload:
    """An object whose unpickling makes the canary."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> Any:
        return (os.system, (f"touch '{self.path}'",))


class Outcome(NamedTuple):
    """How a call ended: exit code, both streams, and the traceback of an exception that is none of
    this package.
    """

    code: int
    stdout: str
    stderr: str
    crash: str = ""


class Case(NamedTuple):
    """A row of a table.

    id: unique in its table. build: puts what is hostile into the room. call: words of a command, or
    a function of the room. code: exit
    code. words: a regular expression that the answer holds. left: patterns of files that the call
    may leave, relative to the room.
    check: what else must hold of the room afterwards. is_forged: SHA256SUMS has the hashes of the
    files as they were built, so that the
    case is about their content; else it has the hashes of the good files. `verify` always gets the
    latter.
    """

    id: str
    build: Callable[[Room], Any] | None
    call: tuple[str, ...] | Callable[[Room], Any]
    code: int
    words: str
    left: tuple[str, ...] = ()
    check: Callable[[Room, Outcome], None] | None = None
    is_forged: bool = True

    @property
    def is_verify(self) -> bool:
        """Whether the call is the command that compares files with their records, and answers with
        a list.
        """
        return isinstance(self.call, tuple) and self.call[0] == "verify"


def table(*cases: Case) -> pytest.MarkDecorator:
    """Parametrise a test over the rows of a table."""
    ids = [case.id for case in cases]
    assert len(set(ids)) == len(ids), sorted(name for name in ids if ids.count(name) > 1)
    return pytest.mark.parametrize("case", cases, ids=ids)


# ------------------------------------------------------------------------------------------------
# the room


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A room as every case gets a copy of: made once, on the smallest network."""
    folder = tmp_path_factory.mktemp("room")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HAROPE_BENCH_HOME", str(folder / HOME))
        _register(folder)
        (folder / REFERENCE).write_bytes(MOMENTS)
        patch.chdir(folder)
        generate(make_plan("tiny", None, {}), range(COUNT), Path(RUN))
        evaluate(Path(RUN), Path(RUN), FeatureScoring("digits", Path(REFERENCE)))
    (folder / IMAGES).mkdir()
    for number in range(3):
        Image.fromarray(np.full((SIDE, SIDE, 3), 40 * number, np.uint8)).save(
            folder / IMAGES / f"{number:06d}.png"
        )
    return folder


def _register(folder: Path) -> None:
    """Register tiny with its weights beside its TOML, so that a copy of the home is whole."""
    checkpoints = folder / HOME / "checkpoints"
    tiny.register_tiny(checkpoints)
    record = checkpoints / "tiny.toml"
    record.write_text(
        re.sub(r'(?m)^weights = ".*"$', 'weights = "tiny.safetensors"', record.read_text())
    )


@pytest.fixture
def room(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Room:
    """A copy of the template as working directory and home."""
    folder = tmp_path / "room"
    shutil.copytree(template, folder)
    monkeypatch.setenv("HAROPE_BENCH_HOME", str(folder / HOME))
    monkeypatch.chdir(folder)
    monkeypatch.setattr(registry.metadata, "entry_points", cache(registry.metadata.entry_points))
    return Room(folder, monkeypatch)


# ------------------------------------------------------------------------------------------------
# the call


def run_case(case: Case, room: Room) -> Outcome:
    """Build the case, make its call, and hold it to its row; return how it ended."""
    if case.build is not None:
        case.build(room)
    if case.is_forged and not case.is_verify:
        forge_records(room)
    before = contents(room.folder)
    with _limit():
        outcome = (
            command(*case.call) if isinstance(case.call, tuple) else call(lambda: case.call(room))
        )  # type: ignore[operator]
    _check_answer(case, outcome)
    _check_files(case, before, contents(room.folder))
    if case.check is not None:
        case.check(room, outcome)
    return outcome


def command(*words: str) -> Outcome:
    """Return how a command of the command line ends."""
    command_result = CliRunner().invoke(main, list(words))
    crash = (
        ""
        if command_result.exception is None or isinstance(command_result.exception, SystemExit)
        else _format_error(command_result.exception)
    )
    return Outcome(command_result.exit_code, command_result.stdout, command_result.stderr, crash)


def call(function: Callable[[], Any]) -> Outcome:
    """Return how a function ends, as the command line would print it: a BenchError is one line and
    1.
    """
    try:
        value = function()
    except BenchError as error:
        return Outcome(1, "", f"harope-bench: {error}\n")
    except Exception as error:  # noqa: BLE001 - what is no BenchError is the finding
        return Outcome(1, "", "", _format_error(error))
    return Outcome(0, f"{value}\n", "")


def _format_error(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


@contextmanager
def _limit() -> Iterator[None]:
    """Fail a call that waits for ever, as one that reads from a pipe would."""

    def stop(*_: object) -> None:
        pytest.fail(f"the call was not done in {LIMIT} seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(LIMIT)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


# ------------------------------------------------------------------------------------------------
# the check


def _check_answer(case: Case, outcome: Outcome) -> None:
    text = outcome.stdout + outcome.stderr
    assert not outcome.crash, outcome.crash
    assert "Traceback" not in text and "harope-bench: unexpected" not in text, text
    assert outcome.code == case.code, f"exit {outcome.code}, wanted {case.code}\n{text}"
    steering = {c for c in text if not c.isprintable() and c not in f"\n{BLANKS}"}
    assert not steering, f"characters that steer a terminal: {steering}"
    assert max(map(len, text.splitlines()), default=0) < LONGEST, "a line that nobody reads"
    assert re.search(case.words, text), f"wanted {case.words!r} in\n{text}"
    lines = [
        line
        for line in outcome.stderr.splitlines()
        if line.startswith(("harope-bench: ", "Error: "))
    ]
    if case.code in (1, 2) and not case.is_verify:
        assert len(lines) == 1, f"wanted one line of error\n{outcome.stderr}"
        # A command that began to generate has said so, once and first.
        stderr_lines = outcome.stderr.splitlines()
        generates = isinstance(case.call, tuple) and case.call[0] in ("generate", "eval")
        if generates and GENERATION_LINE.fullmatch(stderr_lines[0]):
            del stderr_lines[0]
        other_lines = [
            line
            for line in stderr_lines
            if line not in lines and not line.startswith(("Usage: ", "Try ")) and line
        ]
        assert other_lines == [], f"more than the one line of error: {other_lines}"


def contents(folder: Path) -> dict[str, str]:
    """Return what a folder holds: kind, size and hash of every file by its relative name, links not
    followed; without locks.
    """
    records = {}
    for path in sorted(folder.rglob("*")):
        if not (path.name.startswith(".") and path.name.endswith(".lock")):
            records[str(path.relative_to(folder))] = _describe_path(path)
    return records


def _describe_path(path: Path) -> str:
    mode = os.lstat(path).st_mode
    if stat.S_ISLNK(mode):
        return f"link {os.readlink(path)}"
    if stat.S_ISREG(mode):
        size = path.stat().st_size
        return f"file {size} {hashlib.sha256(path.read_bytes()).hexdigest() if size < HASHED_COUNT else ''}"
    return f"kind {stat.S_IFMT(mode)}"


def _check_files(case: Case, before: dict[str, str], after: dict[str, str]) -> None:
    assert CANARY not in after or CANARY in before, "a payload was run"

    def is_allowed(name: str) -> bool:
        return any(fnmatch.fnmatch(name, pattern) for pattern in case.left)

    altered_names = [
        name for name in before if after.get(name) != before[name] and not is_allowed(name)
    ]
    assert altered_names == [], f"altered or gone: {altered_names}"
    new_names = [name for name in after if name not in before and not is_allowed(name)]
    assert new_names == [], f"left behind: {new_names}"


# ------------------------------------------------------------------------------------------------
# builders


def forge_records(room: Room) -> None:
    """Let every SHA256SUMS have the hashes of the files as they are now, as one who alters a file
    and knows of the records would.
    """
    for path in sorted(room.folder.rglob(checksums.CHECKSUMS_FILE)):
        try:
            sums = checksums.read_checksums(path.parent)
        except StorageError:
            continue  # the case is about the records
        small_names = [name for name in sums if _is_small(path.parent / name)]
        forged_sha256_bytes = {
            name: sha256_bytes((path.parent / name).read_bytes()) for name in small_names
        }
        if forged_sha256_bytes != sums:
            path.write_text(
                "".join(f"{sha256}  {name}\n" for name, sha256 in forged_sha256_bytes.items())
            )


def _is_small(path: Path) -> bool:
    return path.is_file() and path.stat().st_size < HASHED_COUNT


def file_writer(name: str, data: bytes | str) -> Callable[[Room], None]:
    """Return a builder that writes a file of the room."""

    def build(room: Room) -> None:
        path = room.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data)

    return build


def odd_file(name: str, kind: str) -> Callable[[Room], None]:
    """Return a builder that puts something in a file's place that is no regular file, or none that
    can be read.
    """

    def build(room: Room) -> None:
        path = room.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "device":
            path.symlink_to("/dev/zero")
        elif kind == "loop":
            path.symlink_to(path)
        elif kind == "dangling":
            path.symlink_to("nowhere")
        elif kind == "folder":
            path.mkdir()
        elif kind == "sparse":
            with path.open("wb") as file:
                file.truncate(1 << 40)
        else:
            assert kind == "missing", kind

    return build


def edit_json(name: str, change: Callable[[dict[str, Any]], Any]) -> Callable[[Room], None]:
    """Return a builder that changes a JSON object of the room in place."""

    def build(room: Room) -> None:
        path = room.folder / name
        document = json.loads(path.read_text())
        change(document)
        path.write_text(json.dumps(document))

    return build


def run_builders(*builders: Callable[[Room], Any]) -> Callable[[Room], None]:
    """Return a builder that does several in turn."""

    def build(room: Room) -> None:
        for builder in builders:
            builder(room)

    return build
