"""What verify must find: whatever in a run's folder is not what its plan, judge and evaluator
give.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from unreliable_executor import UnreliableExecutor

from harope_bench.core import checksums
from harope_bench.core.array_archive import load_arrays, write_arrays
from harope_bench.core.errors import SampleError, StorageError
from harope_bench.core.schema import Plan
from harope_bench.data import feature_rows
from harope_bench.pipeline.evaluate import FeatureScoring, evaluate
from harope_bench.pipeline.extract_features import shard_name
from harope_bench.pipeline.generate import generate, make_plan
from harope_bench.pipeline.verify import verify
from harope_bench.pipeline.verify_results import array_differences, mapping_differences
from harope_bench.pipeline.workers import SerialExecutor, use_executor

COUNT = 20
SHARD = f"features/digits-net/{shard_name(0)}"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with its result."""
    generate(
        make_plan(tiny.register_tiny(tmp_path / "weights"), None, {}),
        range(COUNT),
        tmp_path / "run",
    )
    evaluate(tmp_path / "run", tmp_path / "run", FeatureScoring("digits"))
    return tmp_path / "run"


@pytest.fixture
def reference(tmp_path: Path) -> Path:
    np.savez(tmp_path / "mine.npz", mu=np.zeros(64), sigma=np.eye(64))
    return tmp_path / "mine.npz"


def alter(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def test_an_honest_run_is_right_and_says_what_was_done(run: Path) -> None:
    findings = verify(run, 3, seed=1)
    assert findings.altered_messages == []
    message = "\n".join(findings.passed_messages)
    assert f"{COUNT} images evaluated again" in message
    assert "3 samples generated again: " in message
    assert "1 shards of features compared" in message


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (
            lambda r: r["plan"]["settings"].update(steps=99),
            "plan.settings.steps is 99, should be 3",
        ),
        (
            lambda r: r["plan"]["checkpoint"].update(encoding="harope"),
            "plan.checkpoint.encoding is harope, should be rope-axial",
        ),
        (lambda r: r.update(plan=None), "plan is absent, should be there"),
        (lambda r: r.update(plan_digest="0" * 64), "plan_digest is 000"),
        (lambda r: r.update(samples_sha256="0" * 64), "samples_sha256 is 000"),
        (lambda r: r["judge"].update(weights_sha256="0" * 64), "judge.weights_sha256 is 000"),
        (
            lambda r: r["judge"].update(judge_class="official"),
            "judge.judge_class is official, should be micro",
        ),
        (
            lambda r: r["judge"].update(name="inception"),
            "judge.name is inception, should be digits-net",
        ),
        (lambda r: r.update(version=7), "version is 7"),
        (lambda r: r.update(scale="paper"), "scale is paper, should be micro"),
        (lambda r: r.update(rules="corrected"), "rules is corrected"),
        (lambda r: r.update(warnings=[]), "warnings is [], should be ["),
        (lambda r: r.update(reference_sha256="0" * 64), "is not the suite's"),
        (
            lambda r: r.update(reference="imagenet"),
            "reference is imagenet, should be 4,000 real digits",
        ),
        (lambda r: r.update(evaluator="nobody"), "evaluator nobody has no judge"),
        (lambda r: r.update(arrays_file="../other.npz"), "arrays_file is ../other.npz"),
        (lambda r: r["measurements"][0].update(value=0.1), f"fid-{COUNT}.value is 0.1"),
        (lambda r: r["measurements"][2].update(se=0.0), "is.se is 0.0"),
        (
            lambda r: r["measurements"][3].update(n_scored=10, n_asked=10),
            "precision.n_scored is 10",
        ),
        (lambda r: r["measurements"].pop(), "recall is absent, should be there"),
        (lambda r: r["measurements"].append(r["measurements"][0]), "order is"),
        (lambda r: r.update(surprise=1), "not a result this version reads"),
    ],
)
def test_an_altered_result_is_found(
    change: Callable[[dict[str, Any]], Any], complaint: str, run: Path
) -> None:
    alter(run / "results/fidelity.json", change)
    wrong_altered_messages = verify(run, 0).altered_messages
    assert any(
        "fidelity.json: " in line and complaint in line for line in wrong_altered_messages
    ), wrong_altered_messages


def spoil(arrays: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    row = arrays[name].copy()
    row.flat[0] = np.nextafter(row.flat[0], np.inf) if row.dtype.kind == "f" else 1 - row.flat[0]
    return {**arrays, name: row}


def rewrite(run: Path, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Alters rows of observations and the record that tells of them, as somebody would who knows
    the format.
    """
    path = run / SHARD
    file = path.with_name(f"{name}.npy")
    feature_rows.write_rows(file, 0, change(np.array(feature_rows.map_rows(file, COUNT))))
    record = json.loads(path.read_text())
    record["sha256"][name] = feature_rows.rows_sha256(file, 0, COUNT)
    path.write_text(json.dumps(record))
    checksums.record_file_hashes(path.parent, [path.name])


@pytest.mark.parametrize("name", ["is", "precision", "recall", "indices"])
def test_an_altered_per_sample_array_is_found_to_the_last_bit(name: str, run: Path) -> None:
    path = run / "results/fidelity.npz"
    write_arrays(path, spoil(load_arrays(path), name))
    checksums.record_file_hashes(path.parent, [path.name])  # as somebody would who knows the format
    (line,) = verify(run, 0).altered_messages
    assert f"fidelity.npz: {name} is not what was recomputed" in line


def test_a_per_sample_file_that_is_gone_or_broken_is_found(run: Path) -> None:
    (run / "results/fidelity.npz").write_bytes(b"PK half")
    assert any("cannot be read" in line for line in verify(run, 0).altered_messages)
    (run / "results/fidelity.npz").unlink()
    wrong_altered_messages = verify(run, 0).altered_messages
    assert any("fidelity.npz beside it is missing" in line for line in wrong_altered_messages)
    assert any(
        "fidelity.npz: is missing, SHA256SUMS has its sha256" in line
        for line in wrong_altered_messages
    )


def test_observations_altered_together_with_the_result_are_found(run: Path) -> None:
    rewrite(run, "features", lambda rows: rows + 1)
    rewrite(run, "logits", lambda rows: rows * 2)
    evaluate(
        run, run, FeatureScoring("digits", is_rescored=True)
    )  # result and arrays now agree with the altered observations
    wrong_altered_messages = verify(run, 0).altered_messages
    assert any(f"fid-{COUNT}.value is" in line for line in wrong_altered_messages)
    assert any("fidelity.npz: is is not" in line for line in wrong_altered_messages)
    assert any(
        f"{shard_name(0)}: features, logits not what digits-net extracts now" in line
        for line in wrong_altered_messages
    )


def test_observations_may_be_gone_and_are_not_written(run: Path) -> None:
    (run / SHARD).unlink()
    assert verify(run, 0).altered_messages == []
    assert not (run / SHARD).exists()


def test_observations_that_no_result_shows_are_found(run: Path) -> None:
    rewrite(run, "spatial", lambda rows: spoil({"spatial": rows}, "spatial")["spatial"])
    (line,) = verify(run, 0).altered_messages
    assert "spatial not what digits-net extracts now" in line


def test_another_reference_must_be_shown(run: Path, reference: Path, tmp_path: Path) -> None:
    (scored,) = evaluate(run, run, FeatureScoring("digits", reference=reference))
    assert scored.path.name != "fidelity.json"
    findings = verify(run, 0)
    (line,) = findings.unchecked_messages
    assert f"{scored.path.name}: reference mine.npz" in line and "give the file" in line
    assert findings.altered_messages == [] and findings.status == "could-not-check"
    moved_value = reference.rename(tmp_path / "moved.npz")
    assert verify(run, 0, reference=moved_value).status == "ok"
    np.savez(tmp_path / "other.npz", mu=np.ones(64), sigma=np.eye(64))
    assert len(verify(run, 0, reference=tmp_path / "other.npz").unchecked_messages) == 1
    with pytest.raises(StorageError, match=r"absent\.npz"):
        verify(run, 0, reference=tmp_path / "absent.npz")


@pytest.mark.parametrize("name", ["fidelity.of-mine.json", "anything.json"])
def test_a_result_is_known_by_its_own_fields_not_by_its_name(name: str, run: Path) -> None:
    path = run / "results" / name
    (run / "results/fidelity.json").rename(path)
    (run / "results/fidelity.npz").rename(path.with_suffix(".npz"))
    alter(path, lambda r: r.update(arrays_file=path.with_suffix(".npz").name))
    old_texts = ("fidelity.json", "fidelity.npz")
    checksums.record_file_hashes(
        path.parent, [*old_texts, path.name, path.with_suffix(".npz").name]
    )  # the line of what is gone is dropped
    assert verify(run, 0).status == "ok"
    alter(path, lambda r: r["measurements"][0].update(value=0.1))
    assert any(f"{name}: fid-{COUNT}.value" in line for line in verify(run, 0).altered_messages)


def test_a_wrong_image_is_named_alone_and_nothing_is_judged(run: Path) -> None:
    (run / "images/000000.png").write_bytes((run / "images/000001.png").read_bytes())
    findings = verify(run, 0)
    assert ["image 0 " in line for line in findings.altered_messages] == [True, False]
    assert "not evaluated again" in findings.altered_messages[1]
    assert f"{COUNT - 1} of {COUNT} image hashes are as recorded" in findings.passed_messages


def test_a_result_of_fewer_samples_than_were_drawn_is_found(run: Path) -> None:
    plan = make_plan("tiny", None, {})
    generate(plan, range(COUNT + 5), run)
    assert any("samples_sha256" in line for line in verify(run, 0).altered_messages)


def drawn_again(run: Path, **method: Any) -> str:
    return next(
        line for line in verify(run, 5, **method).passed_messages if "generated again" in line
    )


def test_samples_to_redraw_are_random_or_of_a_seed(run: Path) -> None:
    shutil.rmtree(run / "results")
    assert drawn_again(run, seed=1) == drawn_again(run, seed=1) != drawn_again(run, seed=2)
    assert len({drawn_again(run) for _ in range(4)}) > 1  # equal by chance: once in 10^12


def test_workers_generate_samples_again_and_find_what_one_process_finds(run: Path) -> None:
    shutil.rmtree(run / "results")
    lines = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    for index in (4, 11):
        lines[index] |= {"status": "failed", "reason": "ugly", "file": None, "sha256": None}
    (run / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    checksums.record_file_hashes(run, ["samples.jsonl"])
    expected = verify(run, COUNT, seed=1)
    assert len(expected.altered_messages) == 2
    executor = UnreliableExecutor(iter(["once", "lost", "twice"]), is_reversed=True)
    with use_executor(executor):
        findings = verify(run, COUNT, seed=1)
    assert executor.n_parts >= COUNT
    assert findings.altered_messages == expected.altered_messages
    assert findings.passed_messages == expected.passed_messages
    assert findings.unchecked_messages == []


def test_a_worker_that_ends_leaves_the_samples_unchecked(run: Path) -> None:
    shutil.rmtree(run / "results")
    with use_executor(UnreliableExecutor(iter(()), poisonous=frozenset({0}))):
        findings = verify(run, 2, seed=1)
    (line,) = findings.unchecked_messages
    assert "nothing generated again: generate: sample " in line and "ended every process" in line
    assert findings.status == "could-not-check"


def test_samples_of_a_gpu_are_generated_again_in_this_process(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The workers of verify are processor cores, which see no GPU."""
    executors: list[object] = []

    def note(plan: Plan, indices: Any, executor: object) -> list[Any]:
        executors.append(executor)
        return []

    monkeypatch.setattr("harope_bench.pipeline.verify.generate_again", note)
    with use_executor(UnreliableExecutor(iter(()))):
        verify(run, 1)
        monkeypatch.setattr("harope_bench.pipeline.verify.device_type", lambda _: "cuda")
        verify(run, 1)
    assert executors[0] is None and isinstance(executors[1], SerialExecutor)


def test_a_sample_marked_failed_that_can_be_drawn_is_found(run: Path) -> None:
    lines = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    lines[4] |= {"status": "failed", "reason": "ugly", "file": None, "sha256": None}
    (run / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    checksums.record_file_hashes(run, ["samples.jsonl"])
    shutil.rmtree(run / "results")
    assert verify(run, 0).altered_messages == []
    (line,) = verify(run, COUNT).altered_messages
    assert "sample 4 generated again is another image" in line


def test_a_folder_that_is_no_run_and_a_checkpoint_of_other_weights_are_said(
    run: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(SampleError, match=r"holds no plan\.json and no results"):
        verify(tmp_path / "empty", 0)
    alter(run / "plan.json", lambda p: p["checkpoint"].update(sha256="0" * 64))
    findings = verify(run, 1)
    assert any("--redraw 0 checks the rest" in line for line in findings.unchecked_messages)
    assert any("plan.checkpoint.sha256" in line for line in findings.altered_messages)


def test_differences_are_named_in_full() -> None:
    assert list(mapping_differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}, "d": 4})) == [
        "a.c is 2, should be 3",
        "d is absent, should be 4",
    ]


@pytest.mark.parametrize(
    ("values", "expected", "names"),
    [
        (np.zeros(3), np.zeros(3), []),
        (np.zeros(3), np.zeros(3, np.float32), ["a"]),
        (np.zeros(3), np.zeros((3, 1)), ["a"]),
        (np.zeros(3), np.array([0, 0, 5e-324]), ["a"]),
    ],
)
def test_arrays_are_compared_exactly(
    values: np.ndarray, expected: np.ndarray, names: list[str]
) -> None:
    assert array_differences({"a": values}, {"a": expected}) == names
    assert array_differences({"a": values}, {}) == array_differences({}, {"a": values}) == ["a"]
