"""Claims of a run folder: parts that start together, files that others left, and links."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from harope_bench.core.errors import RunBusyError
from harope_bench.core.index_ranges import IndexRanges
from harope_bench.data import run_claim
from harope_bench.data.run_claim import (
    RunPart,
    claim_run,
    folders_in_parts,
    has_live_part,
    part_folders,
    remove_empty_parts,
)

N_WRITERS = 12
WRITER = {"host": "node7", "process": 11, "start_time": "2026", "boot": "another"}


def part(number: int, indices: IndexRanges | None = None) -> RunPart:
    """A part of ten samples, or of others."""
    own_indices = IndexRanges([(number * 10, number * 10 + 9)]) if indices is None else indices
    return RunPart(f"part-{number}", own_indices, IndexRanges([(0, 10 * N_WRITERS - 1)]))


@pytest.mark.parametrize("attempt", range(5))
def test_parts_that_start_at_one_moment_do_not_exclude_each_other(
    tmp_path: Path, attempt: int
) -> None:
    """To look at the claims of others takes locks for a moment, which are no claims."""
    start, end = threading.Barrier(N_WRITERS), threading.Barrier(N_WRITERS)
    errors: list[RunBusyError] = []

    def claim(number: int) -> None:
        start.wait()
        try:
            with claim_run(tmp_path / "run", part(number)):
                has_live_part(tmp_path / "run")
                remove_empty_parts(tmp_path / "run")
                end.wait()
        except RunBusyError as error:
            errors.append(error)
            end.wait()

    threads = [threading.Thread(target=claim, args=(number,)) for number in range(N_WRITERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


@pytest.mark.parametrize("is_first", [True, False])
def test_a_part_without_samples_excludes_no_other(tmp_path: Path, is_first: bool) -> None:
    """As where there are more shards than padded batches."""
    parts = [part(0, IndexRanges([])), part(1)]
    outer, inner = parts if is_first else parts[::-1]
    errors: list[RunBusyError] = []

    def claim() -> None:
        try:
            with claim_run(tmp_path / "run", inner):
                pass
        except RunBusyError as error:
            errors.append(error)

    with claim_run(tmp_path / "run", outer):
        thread = threading.Thread(target=claim)
        thread.start()
        thread.join()
    assert errors == []


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{",
        json.dumps(WRITER | {"indices": 5}),
        json.dumps(WRITER | {"host": {"a": 1}}),
        json.dumps(WRITER | {"process": "eleven"}),
        json.dumps(WRITER | {"start_time": "9" * 100_000}),
        json.dumps(WRITER | {"unknown": 1}),
    ],
)
def test_a_damaged_writer_file_is_no_claim(tmp_path: Path, content: str) -> None:
    path = tmp_path / run_claim.WRITER_FILE
    path.write_text(content)
    with claim_run(tmp_path):
        assert json.loads(path.read_text())["process"] == os.getpid()


@pytest.mark.parametrize("seconds", [-3600.0, 3600.0])
def test_a_sign_of_another_time_is_no_claim(tmp_path: Path, seconds: float) -> None:
    """The folder was copied, or the clock of the file system was set back."""
    path = tmp_path / run_claim.WRITER_FILE
    path.write_text(json.dumps(WRITER))
    os.utime(path, (time.time() + seconds, time.time() + seconds))
    with claim_run(tmp_path):
        assert json.loads(path.read_text())["process"] == os.getpid()


def test_a_claim_of_another_machine_is_named_in_printable_text(tmp_path: Path) -> None:
    path = tmp_path / run_claim.WRITER_FILE
    path.write_text(json.dumps(WRITER | {"host": "node\x1b[31m7\n"}))
    with pytest.raises(RunBusyError) as error_info, claim_run(tmp_path):
        pass
    assert "process 11 on node" in str(error_info.value)
    assert str(error_info.value).isprintable()


def test_links_are_no_parts(tmp_path: Path) -> None:
    """A run folder that came from elsewhere may hold them."""
    other_run, run = tmp_path / "other", tmp_path / "run"
    (other_run / "features/digits-net").mkdir(parents=True)
    (run / "parts/mine").mkdir(parents=True)
    (run / "parts/evil").symlink_to(other_run)
    (run / "parts/mine/features").symlink_to(other_run / "features")
    assert part_folders(run) == [run / "parts/mine"]
    assert folders_in_parts(run, "features", "digits-net") == []
    remove_empty_parts(run)
    assert (other_run / "features/digits-net").is_dir()

    (tmp_path / "linked").mkdir()
    (tmp_path / "linked/parts").symlink_to(run / "parts")
    assert part_folders(tmp_path / "linked") == []


def test_a_claim_within_a_claim_may_spell_the_folder_otherwise(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    with claim_run(tmp_path / "folder/run"):
        for path in (tmp_path / "link/run", tmp_path / "link/../folder/run"):
            with claim_run(path):
                assert (tmp_path / "folder/run" / run_claim.WRITER_FILE).is_file()


def test_a_part_that_ends_stops_none_that_starts(tmp_path: Path) -> None:
    """The lock of an ending claim is no claim of an unknown process."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run/file").touch()
    errors: list[RunBusyError] = []
    end = time.monotonic() + 1.5

    def claim_often(number: int) -> None:
        while time.monotonic() < end:
            try:
                with claim_run(tmp_path / "run", part(number)):
                    pass
            except RunBusyError as error:
                errors.append(error)

    threads = [threading.Thread(target=claim_often, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert not (tmp_path / "run/parts").exists()


@pytest.mark.parametrize("claimed_part", [None, part(0)])
def test_a_claim_that_does_nothing_leaves_an_existing_folder_as_it_was(
    tmp_path: Path, claimed_part: RunPart | None
) -> None:
    (tmp_path / "run").mkdir()
    with claim_run(tmp_path / "run", claimed_part):
        pass
    assert [*(tmp_path / "run").iterdir()] == []


def test_a_folder_that_was_removed_while_it_was_claimed_stays_removed(tmp_path: Path) -> None:
    with claim_run(tmp_path / "runs/run"):
        shutil.rmtree(tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("error", [NotImplementedError, OSError])
def test_without_locks_of_the_file_system_the_process_in_the_file_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def have_no_locks(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(run_claim.FileLock, "acquire", have_no_locks)
    (tmp_path / "run").mkdir()
    path = tmp_path / "run" / run_claim.WRITER_FILE
    writer = {**WRITER, "boot": run_claim.boot_token()}
    path.write_text(json.dumps({**writer, "process": os.getpid()}))
    with (
        pytest.raises(RunBusyError, match=f"process {os.getpid()} on node7"),
        claim_run(tmp_path / "run"),
    ):
        pass
    path.write_text(json.dumps({**writer, "process": 2**22 + 1}))  # above every process number
    with claim_run(tmp_path / "run"):
        assert json.loads(path.read_text())["process"] == os.getpid()
    assert not path.exists()


def test_a_part_whose_folder_is_removed_at_the_last_moment_is_still_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by another process that looks for empty parts."""
    acquire = run_claim._acquire

    def remove_and_acquire(lock: Any, claim_folder: Path, folder: Path) -> bool:
        claim_folder.rmdir()
        return acquire(lock, claim_folder, folder)

    monkeypatch.setattr(run_claim, "_acquire", remove_and_acquire)
    with claim_run(tmp_path / "run", part(0)):
        assert (tmp_path / "run/parts/part-0" / run_claim.WRITER_FILE).is_file()
        assert run_claim._live_writer(tmp_path / "run/parts/part-0") is not None


def test_a_folder_that_links_to_itself_raises_its_own_error(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with claim_run(tmp_path / "loop"):
        pass
