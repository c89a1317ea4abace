"""Work cut into units: whatever an executor loses, repeats or reorders, each result comes once."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import tiny
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from toy_images import COLOURS, write_toy_images
from toy_prompts import ToyEye, toy

from harope_bench.cli import main
from harope_bench.core.errors import BenchError, LostWorkError, OptionError, UnknownNameError
from harope_bench.pipeline import annotate_externally, external_annotator, worker_options, workers
from harope_bench.pipeline import generate as generation
from harope_bench.pipeline.eval_options import EvalOptions
from harope_bench.pipeline.evaluate_target import evaluate_target
from harope_bench.pipeline.generate import generate, make_plan
from harope_bench.pipeline.ray_executor import WorkerError
from harope_bench.pipeline.worker_options import WorkerOptions
from harope_bench.pipeline.workers import (
    MAX_LOSSES_ALONE,
    Part,
    PartResults,
    SerialExecutor,
    Task,
    build_worker,
    run_units,
    use_executor,
)
from harope_bench.suites.official_layouts.prompt_folder import PromptFolderOptions

__all__ = ["toy"]  # the fixture
DOUBLING = Task(f"{__name__}:DoublingWorker", {}, "cpu")


# Answers both roles of the toy rules without a look at the image.
STAND_IN = """
import common
args = common.parse_arguments({})
def annotate(role, image, query):
    if role == "detector":
        box = {"label": "square", "score": 0.9, "box": [0, 0, 4, 4]}
        return {"size": [8, 8], "detections": [box]}
    return {"answers": [{"text": "yes", "yes_probability": 0.5} for _ in query["questions"]]}
weights = common.file_sha256(args.weights)
common.annotate_queries(args, "toy-eye", 1, "substitute", "none", weights, annotate)
"""


class DoublingWorker:
    """Doubles numbers."""

    def results(self, units: Iterable[int]) -> Iterator[int]:
        return (2 * unit for unit in units)

    def pack(self, result: int) -> int:
        return result


class UnreliableExecutor:
    """Runs each part in this process, then loses, repeats and reorders what it returns.

    Attributes:
        fates: For each part that is run, in turn: lost without a word, lost with one, once, twice.
        poisonous: Positions of units that end every process.
    """

    n_workers = 3

    def __init__(
        self,
        fates: Iterator[str],
        is_reversed: bool = False,
        poisonous: frozenset[int] = frozenset(),
    ) -> None:
        self.fates = fates
        self.is_reversed = is_reversed
        self.poisonous = poisonous
        self.n_parts = 0

    def run(self, task: Task, units: Sequence[Any], parts: Sequence[Part]) -> Iterator[PartResults]:
        worker = build_worker(task)
        for part in reversed(parts) if self.is_reversed else parts:
            self.n_parts += 1
            fate = next(self.fates, "once")
            if self.poisonous & {*part}:
                fate = "lost"
            if fate == "vanished":
                continue
            if fate == "lost":
                yield PartResults(part, None)
                continue
            results = [worker.pack(r) for r in worker.results(units[k] for k in part)]
            for _ in range(2 if fate == "twice" else 1):
                yield PartResults(part, results)

    def provenance(self) -> Mapping[str, str | int]:
        return {}


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
    script = tmp_path / "stand_in/stand_in.py"
    script.parent.mkdir()
    shutil.copy(
        Path(external_annotator.__file__).parents[1] / "judges/runners/common.py", script.parent
    )
    script.write_text(STAND_IN)
    monkeypatch.setattr(ToyEye, "runner", script)
    monkeypatch.setattr(annotate_externally, "EXTERNAL_QUERIES_PER_PART", 3)
    write_toy_images(tmp_path / "images", COLOURS)

    def evaluate(folder: Path) -> list[str]:
        options = EvalOptions(
            suite="toy",
            out=folder,
            python=Path(sys.executable),
            runner_options={"weights": str(script)},
            folder_options=PromptFolderOptions(order="copy-major"),
        )
        evaluate_target(str(tmp_path / "images"), options)
        return sorted((folder / "annotations/toy-eye/annotations.jsonl").read_text().splitlines())

    executor = UnreliableExecutor(iter(["once", "lost", "twice"]))
    with use_executor(executor):
        shared_lines = evaluate(tmp_path / "two/run")
    assert executor.n_parts > 4
    assert shared_lines == evaluate(tmp_path / "one/run")


def test_memory_of_a_device_that_is_too_small_is_named_with_its_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class OutOfMemoryError(RuntimeError):
        pass

    def fail(*_: object) -> None:
        raise OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    plan = make_plan(tiny.register_tiny(tmp_path / "weights"), None, {})
    monkeypatch.setattr(generation, "_generate_tile", fail)
    with pytest.raises(OptionError, match=r"too little free memory for samples 0-3; end"):
        generate(plan, range(4), tmp_path / "run")


@pytest.mark.parametrize(
    "error",
    [OptionError("wanted 1, found 2; give 1"), UnknownNameError("suite", "digts", ["digits"])],
)
def test_errors_of_workers_arrive_word_for_word(error: BenchError) -> None:
    copy = WorkerError(type(error).__name__, str(error)).as_error()
    assert (type(copy), str(copy)) == (type(error), str(error))


# ----------------------------------------------------------------------------------------- options


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
