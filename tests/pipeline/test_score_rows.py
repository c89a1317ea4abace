"""Rules of a row beside the generation of the next one: equal bytes, errors and claims."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from harope_bench.core.errors import SampleError
from harope_bench.data.result_store import EvaluatedResult
from harope_bench.judges.base import LoadedFeatureExtractor
from harope_bench.pipeline import kept_extractor, reproduce, row_plans, score_rows
from harope_bench.pipeline.generate import make_plan
from harope_bench.pipeline.kept_extractor import keep_extractor, open_extractor
from harope_bench.pipeline.score_rows import RuleThread, overlaps_rules
from harope_bench.pipeline.workers import SerialExecutor, use_executor

SECONDS = 30.0  # that a thread is waited for


def result(is_new: bool = True) -> EvaluatedResult:
    return EvaluatedResult(None, Path("x"), is_new)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------ the thread


def test_a_row_is_computed_while_the_caller_continues() -> None:
    may_end = threading.Event()
    threads: list[int] = []

    def score() -> EvaluatedResult:
        threads.append(threading.get_ident())
        assert may_end.wait(SECONDS)
        return result()

    with RuleThread(is_overlapped=True) as rule_thread:
        rule_thread.start([score, lambda: result(is_new=False)])
        may_end.set()  # the caller is here while the row is computed
    assert threads != [threading.get_ident()] and rule_thread.n_new == 1


def test_without_overlap_a_row_is_computed_before_the_next_extraction() -> None:
    events: list[str] = []

    def steps() -> Iterator[Callable[[], EvaluatedResult]]:
        for name in "ab":
            events.append(f"extract {name}")
            yield lambda name=name: events.append(f"score {name}") or result()

    with RuleThread(is_overlapped=False) as rule_thread:
        rule_thread.start(steps())
        assert events == ["extract a", "score a", "extract b", "score b"]
    events.clear()
    with RuleThread(is_overlapped=True) as rule_thread:
        rule_thread.start(steps())
    assert events == ["extract a", "extract b", "score a", "score b"]


def run_in(
    rule_thread: RuleThread,
    scores: list[Callable[[], EvaluatedResult]],
    error: BaseException | None = None,
) -> None:
    """Compute a row; then the caller itself fails with the error."""
    with rule_thread:
        rule_thread.start(scores)
        if error is not None:
            raise error


def fail() -> EvaluatedResult:
    raise SampleError("wanted 2 images, found 1; give more")


@pytest.mark.parametrize("is_overlapped", [False, True])
def test_an_error_is_raised_before_the_end(is_overlapped: bool) -> None:
    rule_thread = RuleThread(is_overlapped)
    with pytest.raises(SampleError, match="wanted 2 images, found 1; give more"):
        run_in(rule_thread, [fail])


def test_an_error_is_raised_before_the_next_row_is_computed() -> None:
    with RuleThread(is_overlapped=True) as rule_thread:
        rule_thread.start([fail])
        with pytest.raises(SampleError):
            rule_thread.start([result])
        rule_thread.start([result])  # it is raised once
    assert rule_thread.n_new == 1


def test_when_the_caller_fails_the_row_before_is_stored() -> None:
    may_end = threading.Event()
    written: list[str] = []

    def score() -> EvaluatedResult:
        assert may_end.wait(SECONDS)
        written.append("row")
        return result()

    threading.Timer(0.05, may_end.set).start()
    with pytest.raises(SampleError, match="of the caller"):
        run_in(RuleThread(is_overlapped=True), [score], SampleError("of the caller"))
    assert written == ["row"]


def test_an_interruption_does_not_wait() -> None:
    may_end = threading.Event()
    rule_thread = RuleThread(is_overlapped=True)
    with pytest.raises(KeyboardInterrupt):
        run_in(rule_thread, [lambda: (may_end.wait(SECONDS), result())[1]], KeyboardInterrupt())
    assert rule_thread.n_new == 0
    may_end.set()


@pytest.mark.parametrize("is_overlapped", [False, True])
def test_the_claim_of_a_folder_ends_with_its_row_in_the_thread_that_made_it(
    is_overlapped: bool,
) -> None:
    events: list[str] = []
    may_end = threading.Event()

    def score() -> EvaluatedResult:
        assert not is_overlapped or may_end.wait(SECONDS)
        events.append("scored")
        return result()

    with RuleThread(is_overlapped) as rule_thread:
        with ExitStack() as claim:
            claim.callback(lambda: events.append(f"released by {threading.get_ident()}"))
            rule_thread.start([score])
            rule_thread.close_when_finished(claim.pop_all())
        may_end.set()
    assert events == ["scored", f"released by {threading.get_ident()}"]


class TwoWorkers(SerialExecutor):
    n_workers = 2


def test_rules_are_overlapped_where_the_processor_is_free() -> None:
    assert not overlaps_rules("cpu")
    assert overlaps_rules("cuda") and overlaps_rules("cuda:1")
    with use_executor(TwoWorkers()):
        assert overlaps_rules("cpu")


# ------------------------------------------------------------------------------------ reproduction


@pytest.fixture
def fast_plans(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        row_plans,
        "make_plan",
        lambda name, suite, settings: make_plan(name, suite, {**settings, "steps": 2, "tile": 6}),
    )


def files(folder: Path) -> dict[str, bytes]:
    """Every file of the rows and tables; results without times, and without their hashes."""
    contents = {}
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or path.name in ("SHA256SUMS", "report.html"):
            continue
        data = path.read_bytes()
        if path.parent.name == "results" and path.suffix == ".json":
            data = json.dumps({**json.loads(data), "provenance": 0}).encode()
        data = re.sub(rb'"result_sha256": "[0-9a-f]{64}"', b"", data)
        contents[str(path.relative_to(folder))] = data
    return contents


@pytest.mark.usefixtures("fast_plans")
def test_rows_and_tables_are_those_without_overlap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first row is scored while the second one is generated, and the extractor loads once."""
    loaded_names: list[str] = []
    open_judge = kept_extractor.open_judge

    def count_loads(name: str, plugin: Any, device: str) -> LoadedFeatureExtractor:
        loaded_names.append(name)
        extractor: LoadedFeatureExtractor = open_judge(name, plugin, device)
        return extractor

    monkeypatch.setattr(kept_extractor, "open_judge", count_loads)
    expected = reproduce.reproduce(["10"], "micro", 4, tmp_path / "single", "cpu", 0)
    assert len(loaded_names) == len({*loaded_names}) < expected.n_rows

    threads: list[int] = []
    n_generated: list[int] = []
    generated_folders: list[Path] = []
    generate, extract = score_rows.generate, score_rows.extract_then_score

    def note_generation(plan: Any, indices: Any, folder: Path, **fields: Any) -> Any:
        generated_folders.append(folder)
        return generate(plan, indices, folder, **fields)

    def wait_for_next_row(score: Callable[[], EvaluatedResult]) -> EvaluatedResult:
        threads.append(threading.get_ident())
        n_rows = len(generated_folders)
        deadline = threading.Event()
        while n_rows == len(generated_folders) < expected.n_rows and not deadline.wait(0.01):
            pass
        n_generated.append(len(generated_folders))
        return score()

    def slow_steps(*arguments: Any) -> Iterator[Callable[[], EvaluatedResult]]:
        for score in extract(*arguments):
            yield lambda score=score: wait_for_next_row(score)

    monkeypatch.setattr(score_rows, "generate", note_generation)
    monkeypatch.setattr(score_rows, "extract_then_score", slow_steps)
    monkeypatch.setattr(reproduce, "overlaps_rules", lambda device: True)
    summary = reproduce.reproduce(["10"], "micro", 4, tmp_path / "overlapped", "cpu", 0)
    assert threading.get_ident() not in threads
    assert n_generated[0] == 2  # the second row's generation began before the first was scored
    assert (summary.n_generated, summary.n_scored) == (expected.n_generated, expected.n_scored)
    assert files(tmp_path / "overlapped") == files(tmp_path / "single")


@pytest.mark.usefixtures("fast_plans")
def test_an_error_of_the_rules_ends_the_command_and_the_next_one_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reproduce, "overlaps_rules", lambda device: True)
    with monkeypatch.context() as patch:
        patch.setattr("harope_bench.pipeline.evaluate._score", lambda *_: fail())
        with pytest.raises(SampleError, match="wanted 2 images, found 1; give more"):
            reproduce.reproduce(["10"], "micro", 4, tmp_path, "cpu", 0)
    assert not [*tmp_path.glob("*.md")]  # no table of a part of the rows
    assert not [*tmp_path.rglob(".writer.json")]
    summary = reproduce.reproduce(["10"], "micro", 4, tmp_path, "cpu", 0)
    assert summary.n_scored > 0 and [*tmp_path.glob("*.md")]


def test_an_extractor_is_kept_until_another_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[tuple[str, str]] = []

    def load(name: str, plugin: Any, device: str) -> Any:
        loads.append((name, device))
        return object()

    monkeypatch.setattr(kept_extractor, "open_judge", load)
    plugin: Any = None
    with keep_extractor() as kept:
        first_extractor = open_extractor("digits-net", plugin, "cpu")
        assert open_extractor("digits-net", plugin, "cpu") is first_extractor
        open_extractor("digits-net", plugin, "cuda")
        open_extractor("shapes-net", plugin, "cuda")
        kept.release()
        open_extractor("shapes-net", plugin, "cuda")
    open_extractor("shapes-net", plugin, "cuda")
    names = ["digits-net", "digits-net", "shapes-net", "shapes-net", "shapes-net"]
    assert [name for name, _ in loads] == names
