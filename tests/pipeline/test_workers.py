"""Work cut into units: whatever an executor loses, repeats or reorders, each result comes once."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
import tiny
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from toy_images import COLOURS, write_toy_images
from toy_prompts import ToyEye, annotate_toy_images, toy
from toy_script import annotate_with_script, write_toy_script
from unreliable_executor import UnreliableExecutor

from harope_bench.cli import main
from harope_bench.core.errors import BenchError, LostWorkError, OptionError, UnknownNameError
from harope_bench.pipeline import annotate_externally, worker_options, workers
from harope_bench.pipeline import generate as generation
from harope_bench.pipeline.generate import generate, make_plan
from harope_bench.pipeline.part_sizes import PartSizes
from harope_bench.pipeline.ray_worker import DriverState, WorkerError
from harope_bench.pipeline.worker_options import WorkerOptions
from harope_bench.pipeline.workers import (
    MAX_LOSSES_ALONE,
    Executor,
    SerialExecutor,
    Task,
    build_worker,
    run_units,
    use_executor,
)

__all__ = ["toy"]  # the fixture
DOUBLING = Task(f"{__name__}:DoublingWorker", {}, "cpu")


class DoublingWorker:
    """Doubles numbers."""

    def results(self, units: Iterable[int]) -> Iterator[int]:
        return (2 * unit for unit in units)

    def pack(self, result: int) -> int:
        return result


FATES = st.lists(st.sampled_from(["once", "twice", "lost", "vanished"]), max_size=40)


def collect(executor: UnreliableExecutor, count: int, units_per_part: int) -> tuple[set[int], str]:
    """Return which units came, each once and with its result, and the error at the end."""
    workers.WORKERS["double"] = (
        f"{__name__}:DoublingWorker"  # for hypothesis, which has no fixtures
    )
    finished_units: set[int] = set()
    names = [f"unit {k}." for k in range(count)]
    try:
        for position, value in run_units(DOUBLING, range(count), names, units_per_part, executor):
            assert position not in finished_units
            assert value == 2 * position
            finished_units.add(position)
    except LostWorkError as error:
        return finished_units, str(error)
    return finished_units, ""


@given(FATES, st.booleans(), st.integers(0, 40), st.integers(1, 9))
def test_each_unit_comes_once_or_is_named(
    fates: list[str], is_reversed: bool, count: int, units_per_part: int
) -> None:
    executor = UnreliableExecutor(iter(fates), is_reversed)
    finished_units, error = collect(executor, count, units_per_part)
    missing = {*range(count)} - finished_units
    assert bool(error) == bool(missing)
    # A unit is given up only after MAX_LOSSES_ALONE losses of a part that is this unit alone.
    n_losses = sum(fate in ("lost", "vanished") for fate in fates)
    assert len(missing) <= n_losses / MAX_LOSSES_ALONE
    for k in sorted(missing)[: workers.MAX_NAMED_UNITS]:
        assert f"unit {k}." in error


@given(st.integers(1, 40), st.integers(1, 9), st.sets(st.integers(0, 39), min_size=1, max_size=3))
def test_units_that_end_every_process_are_named_after_all_others_are_done(
    count: int, units_per_part: int, poison: set[int]
) -> None:
    poisonous = frozenset(k % count for k in poison)
    executor = UnreliableExecutor(iter(()), poisonous=poisonous)
    finished_units, error = collect(executor, count, units_per_part)
    assert finished_units == {*range(count)} - poisonous
    for k in poisonous:
        assert f"unit {k}." in error


def test_this_process_does_units_in_order_with_one_stream() -> None:
    calls: list[list[int]] = []

    class Streaming(DoublingWorker):
        def results(self, units: Iterable[int]) -> Iterator[int]:
            calls.append([])
            for unit in units:
                calls[-1].append(unit)
                yield 2 * unit

    results = run_units(DOUBLING, range(5), "abcde", 2, SerialExecutor(Streaming()))
    assert next(results) == (0, 0) and calls == [[0]]  # nothing is done ahead
    assert [*results] == [(k, 2 * k) for k in range(1, 5)]
    assert calls == [[0, 1, 2, 3, 4]]


# ------------------------------------------------------------------------ stages, a bad executor


def test_what_was_generated_before_an_error_is_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where many images are written at once."""
    plan = make_plan(tiny.register_tiny(tmp_path / "weights"), None, {})
    tile = plan.settings.tile
    with (
        use_executor(UnreliableExecutor(iter(()), poisonous=frozenset({1}))),
        pytest.raises(LostWorkError),
    ):
        generate(plan, range(3 * tile), tmp_path / "run", batch=1000)
    assert len(generation.RunFolder(tmp_path / "run").read_records()) == 2 * tile


def test_a_worker_gets_the_variables_that_its_task_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as the API key of an endpoint; no other variable of the user travels."""
    monkeypatch.setenv("MY_KEY", "secret")
    monkeypatch.setenv("OTHER_KEY", "other")
    state = DriverState.of_this_process()
    assert not {"MY_KEY", "OTHER_KEY"} & state.environment.keys()
    environment = state.with_variables(("MY_KEY", "NOT_SET")).environment
    assert environment["MY_KEY"] == "secret"
    assert not {"NOT_SET", "OTHER_KEY"} & environment.keys()


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("is_reversed", [False, True])
def test_generation_ends_in_the_bytes_of_one_process(tmp_path: Path, is_reversed: bool) -> None:
    plan = make_plan(tiny.register_tiny(tmp_path / "weights"), None, {})
    generate(plan, range(130), tmp_path / "straight")
    fates = iter(["twice", "lost", "once", "vanished", "lost"])
    executor = UnreliableExecutor(fates, is_reversed)
    with use_executor(executor):
        generate(plan, range(130), tmp_path / "shared")
    assert executor.n_parts > 6
    assert files(tmp_path / "shared") == files(tmp_path / "straight")


def test_samples_that_end_every_process_are_missing_and_not_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(tiny.register_tiny(tmp_path / "weights"), None, {})
    tile = plan.settings.tile
    with use_executor(UnreliableExecutor(iter(()), poisonous=frozenset({1}))):
        words = rf"samples {tile}-{2 * tile - 1} ended every process"
        with pytest.raises(LostWorkError, match=words):
            generate(plan, range(3 * tile), tmp_path / "run")
    records = generation.RunFolder(tmp_path / "run").read_records()
    assert sorted(records) == [*range(tile), *range(2 * tile, 3 * tile)]
    assert {record.status for record in records.values()} == {"ok"}
    generate(plan, range(3 * tile), tmp_path / "run")  # finished_units by this process alone
    generate(plan, range(3 * tile), tmp_path / "straight")
    assert files(tmp_path / "run") == files(tmp_path / "straight")


def test_scripts_of_another_python_answer_part_by_part(
    toy: ToyEye, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The script of an external judge runs in a temporary folder for each part."""
    monkeypatch.setattr(ToyEye, "runner", write_toy_script(tmp_path / "script"))
    monkeypatch.setattr(annotate_externally, "EXTERNAL_QUERIES_PER_PART", 3)
    write_toy_images(tmp_path / "images", COLOURS)
    executor = UnreliableExecutor(iter(["once", "lost", "twice"]))
    with use_executor(executor):
        shared_lines = annotate_with_script(tmp_path / "images", tmp_path / "two/run")
    assert executor.n_parts > 4
    assert shared_lines == annotate_with_script(tmp_path / "images", tmp_path / "one/run")


class OutOfMemoryError(RuntimeError):
    """Named as torch's."""


def fail_for_memory(*_: object) -> None:
    raise OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def allocate_too_much(*_: object) -> None:
    torch.empty(1 << 60)


@pytest.mark.parametrize("executor", [SerialExecutor(), UnreliableExecutor(iter(()))])
@pytest.mark.parametrize("fail", [fail_for_memory, allocate_too_much])
def test_memory_of_a_device_that_is_too_small_is_named_with_its_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, executor: Executor, fail: Callable[..., None]
) -> None:
    plan = make_plan(tiny.register_tiny(tmp_path / "weights"), None, {})
    monkeypatch.setattr(generation, "_generate_tile", fail)
    message = r"--device cpu has too little free memory for samples 0-3; end"
    with use_executor(executor), pytest.raises(OptionError, match=message):
        generate(plan, range(4), tmp_path / "run")


def test_memory_of_a_device_that_is_too_small_is_not_an_error_of_an_image(
    toy: ToyEye, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ToyEye, "annotate", fail_for_memory)
    images = write_toy_images(tmp_path / "images", COLOURS)
    with pytest.raises(OptionError, match="too little free memory for image 0; end"):
        annotate_toy_images(images, tmp_path / "run")
    assert not (tmp_path / "run/annotations/toy-eye/annotations.jsonl").exists()


def test_memory_that_is_too_small_for_a_network_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DoublingWorker, "__init__", fail_for_memory)
    with pytest.raises(OptionError, match=r"too little free memory for the network \(to"):
        build_worker(DOUBLING)


@pytest.mark.parametrize(
    "error",
    [
        OptionError("wanted 1, found 2; give 1"),
        OptionError("wanted 1, found 2", advice="give 1"),
        UnknownNameError("suite", "digts", ["digits"]),
    ],
)
def test_errors_of_workers_arrive_word_for_word(error: BenchError) -> None:
    copy = WorkerError.of(error).as_error()
    assert (type(copy), str(copy), copy.advice) == (type(error), str(error), error.advice)


# ------------------------------------------------------------------------------------- part sizes


@given(st.integers(0, 300), st.integers(1, 8), st.integers(1, 40), st.floats(0.001, 1000))
def test_parts_hold_each_unit_once_whatever_their_time(
    count: int, n_workers: int, max_units: int, seconds: float
) -> None:
    sizes = PartSizes(n_workers, max_units, 45.0)
    units: list[int] = []
    for part in sizes.cut(count):
        assert 1 <= len(part) <= max_units
        units += part
        sizes.measure(len(part), seconds * len(part))
    assert units == [*range(count)]


def test_parts_grow_to_the_wanted_time_and_shrink_towards_the_end() -> None:
    """Units of two seconds, parts of twenty, four workers."""
    sizes = PartSizes(4, 512, 20.0)
    part_sizes: list[int] = []
    for n_started, part in enumerate(sizes.cut(200)):
        part_sizes.append(len(part))
        if n_started >= 3:  # results come back after a few parts have started
            sizes.measure(part_sizes[n_started - 3], 2.0 * part_sizes[n_started - 3])
    assert part_sizes[:4] == [1, 1, 1, 1]
    assert max(part_sizes) == 10
    assert part_sizes[-8:] == [1] * 8 and part_sizes == [
        *part_sizes[:4],
        *sorted(part_sizes[4:])[::-1],
    ]


def test_parts_have_a_fixed_size_without_a_time() -> None:
    sizes = PartSizes(4, 32)
    parts = list(sizes.cut(70))
    assert [len(part) for part in parts] == [32, 32, 6]


# ----------------------------------------------------------------------------------------- options


def test_a_unit_that_ends_every_process_ends_the_command_with_exit_code_1(tmp_path: Path) -> None:
    tiny.register_tiny(tmp_path / "weights")
    words = ["generate", "tiny", "--count", "20", "--out", str(tmp_path / "run")]
    with use_executor(UnreliableExecutor(iter(()), poisonous=frozenset({0}))):
        command_result = CliRunner().invoke(main, words)
    assert command_result.exit_code == 1
    assert "samples 0-19 ended every process" in command_result.output.splitlines()[-1]


def run_generate(folder: Path, *words: object) -> tuple[int, str]:
    arguments = ["generate", "digits-ape", "--count", "2", "--out", folder / "out", *words]
    command_result = CliRunner().invoke(main, [str(word) for word in arguments])
    assert not (folder / "out").exists()
    return command_result.exit_code, command_result.output


def test_more_workers_than_cores_is_an_error_before_work_starts(tmp_path: Path) -> None:
    exit_code, output = run_generate(tmp_path, "--device", "cpu", "--workers", 5000)
    assert exit_code == 1 and output.count("\n") == 1
    assert "--workers 5000 asked for, this machine has" in output and "processor core" in output


@pytest.mark.parametrize("text", ["0", "-1", "many", "1.5", ""])
def test_a_number_of_workers_that_is_none_is_wrong_usage(tmp_path: Path, text: str) -> None:
    assert run_generate(tmp_path, "--workers", text)[0] == 2


@pytest.mark.parametrize("words", [("--workers", "2"), ("--ray", "auto")])
def test_without_ray_one_line_offers_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, str]
) -> None:
    monkeypatch.setattr(worker_options, "is_installed", lambda _: False)
    monkeypatch.setattr(worker_options, "available_cores", lambda: 4)
    exit_code, output = run_generate(tmp_path, "--device", "cpu", *words)
    assert exit_code == 1 and output.count("\n") == 1
    assert f"{' '.join(words)} needs the extra ray" in output
    assert "pip install 'harope-bench[ray]'" in output and "--shard 1/N" in output


@pytest.mark.parametrize(
    ("options", "device", "count"),
    [
        (WorkerOptions(), "cpu", 1),
        (WorkerOptions("auto"), "cpu", 1),
        (WorkerOptions("auto"), "cuda", 4),
        (WorkerOptions(3), "cuda", 3),
        (WorkerOptions(1), "cuda:1", 1),
        (WorkerOptions(ray="auto"), "cuda", None),
        (WorkerOptions("auto", ray="auto"), "cuda", None),
        (WorkerOptions(7, ray="a:6379"), "cuda", 7),
    ],
)
def test_the_number_of_workers(
    options: WorkerOptions, device: str, count: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_options, "_device_count", lambda kind: 4)
    assert options.worker_count(device) == count


@pytest.mark.parametrize(
    ("n_workers", "device"), [(5, "cuda"), (5, "cpu"), (2, "cuda:1"), (9, "mps")]
)
def test_workers_that_no_device_serves(
    n_workers: int, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_options, "_device_count", lambda kind: 4)
    with pytest.raises(OptionError, match=r"this machine has 4|is one device"):
        WorkerOptions(n_workers).worker_count(device)


def test_one_worker_imports_no_ray(tmp_path: Path) -> None:
    was_imported = "ray" in sys.modules
    tiny.register_tiny(tmp_path / "weights")
    words = ["generate", "tiny", "--count", "2", "--workers", "1", "--out", str(tmp_path / "run")]
    assert CliRunner().invoke(main, words).exit_code == 0
    assert ("ray" in sys.modules) == was_imported
