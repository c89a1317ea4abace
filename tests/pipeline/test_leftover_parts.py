"""What shards leave in the parts of a run: it is taken once, checked, and lost by no later call."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from shard_runs import BATCH, call, contents, tiny_name
from toy_images import COLOURS, write_toy_images
from toy_prompts import ToyEye, toy
from toy_script import write_toy_script

from harope_bench.core.array_archive import load_arrays, write_arrays
from harope_bench.data import run_claim
from harope_bench.data.run_folder import RunFolder
from harope_bench.pipeline import extract_features, feature_parts

__all__ = ["tiny_name", "toy"]  # the fixtures
COUNT = 70


def evaluate(run: Path, *words: object, exit_code: int = 0) -> str:
    return call("eval", "tiny", "--count", COUNT, "--out", run, *words, exit_code=exit_code).output


def test_a_shard_of_a_finished_run_does_nothing(tiny_name: str, tmp_path: Path) -> None:
    evaluate(tmp_path / "run")
    files = contents(tmp_path / "run")
    for shard in ("1/2", "2/2", "3/4"):
        assert "up to date" in evaluate(tmp_path / "run", "--shard", shard)
    assert contents(tmp_path / "run") == files
    call("verify", tmp_path / "run", "--redraw", 0)


def test_shards_of_another_number_do_what_is_left(tiny_name: str, tmp_path: Path) -> None:
    evaluate(tmp_path / "run", "--shard", "1/1")
    for number in (1, 2, 3):
        assert "up to date" in evaluate(tmp_path / "run", "--shard", f"{number}/3")


def test_shards_without_samples_run_beside_others(tiny_name: str, tmp_path: Path) -> None:
    words = ("eval", tiny_name, "--count", 4, "--out", tmp_path / "run")
    for number in (4, 3, 2, 1):
        call(*words, "--shard", f"{number}/4")
    call(*words)
    call("verify", tmp_path / "run", "--redraw", 0)


def alter(path: Path, **changes: Any) -> None:
    """Write a batch of features with other arrays; None leaves one out."""
    arrays = {**load_arrays(path), **changes}
    write_arrays(path, {name: array for name, array in arrays.items() if array is not None})


def with_record(path: Path, **fields: Any) -> None:
    record = json.loads(str(load_arrays(path)["record"]))
    alter(path, record=np.array(json.dumps({**record, **fields})))


DAMAGE = {
    "array missing": lambda p: alter(p, **{"feature-features": None}),
    "other width": lambda p: alter(p, **{"feature-features": np.ones((BATCH, 3), np.float32)}),
    "a row too few": lambda p: alter(p, **{"feature-logits": np.ones((9, 10), np.float32)}),
    "not finite": lambda p: alter(p, **{"feature-features": np.full((BATCH, 64), np.nan)}),
    "altered value": lambda p: alter(
        p, **{"feature-features": load_arrays(p)["feature-features"] + 1}
    ),
    "other images": lambda p: with_record(p, indices=[*range(50, 60)]),
    "notes of numbers": lambda p: with_record(p, notes=[5]),
    "counts of text": lambda p: with_record(p, unusual_images={"L": "x"}),
    "numerics of a list": lambda p: with_record(p, numerics=[]),
    "no record": lambda p: alter(p, record=None),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_batch_is_named_and_made_again(
    tiny_name: str, tmp_path: Path, damage: Any
) -> None:
    evaluate(tmp_path / "run", "--shard", "1/2")
    path = min((tmp_path / "run").glob("parts/*/features/*/*.npz"))
    damage(path)
    output = evaluate(tmp_path / "run", exit_code=1)
    assert f"{path} is no batch of features or is damaged; delete it" in output
    path.unlink()
    evaluate(tmp_path / "run")
    assert not (tmp_path / "run/parts").exists()


def test_a_killed_write_of_a_batch_leaves_no_part(tiny_name: str, tmp_path: Path) -> None:
    evaluate(tmp_path / "run", "--shard", "2/2")
    folder = next((tmp_path / "run").glob("parts/*/features/*"))
    (folder / f".{'f' * 64}.npz.01234567-01234567.part").write_bytes(b"half")
    evaluate(tmp_path / "run")
    # of another boot, whose locks are not seen: it is stale after an hour
    assert (tmp_path / "run/parts").exists()
    part_file = next(folder.iterdir())
    os.utime(part_file, (0, 0))
    evaluate(tmp_path / "run")
    assert not (tmp_path / "run/parts").exists()
    call("verify", tmp_path / "run", "--redraw", 0)


def test_fewer_images_leave_the_features_of_the_others(
    tiny_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "images").mkdir()
    for i, pixels in enumerate(
        np.random.default_rng(0).integers(0, 256, (80, 28, 28, 3), np.uint8)
    ):
        Image.fromarray(pixels).save(tmp_path / f"images/{i:06d}.png")
    words = ("eval", tmp_path / "images", "--suite", "digits", "--out", tmp_path / "run")
    for number in (1, 2):
        call(*words, "--shard", f"{number}/2")
    n_batches = len([*(tmp_path / "run").glob("parts/*/features/*/*.npz")])
    call(*words, "--count", 20)
    assert len([*(tmp_path / "run").glob("parts/*/features/*/*.npz")]) == n_batches - 2

    def extract_none(samples: Any, judge: str, batches: Any, device: str) -> Any:
        # the two that the run of fewer images took, and the one that lies in both shards
        assert len(batches) <= 3
        return original(samples, judge, batches, device)

    original = extract_features.extract_in_workers
    monkeypatch.setattr(extract_features, "extract_in_workers", extract_none)
    shutil.rmtree(tmp_path / "run/results")  # of fewer images
    call(*words)
    assert not (tmp_path / "run/parts").exists()


def test_batches_of_another_device_are_recorded(
    tiny_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_batch = feature_parts.write_batch

    def write_as_of_cuda(folder: Path, key: str, batch: feature_parts.ExtractedBatch) -> None:
        numerics = {**batch.numerics, "device": "cuda"}
        write_batch(folder, key, batch._replace(numerics=numerics))

    with monkeypatch.context() as patch:
        patch.setattr(feature_parts, "write_batch", write_as_of_cuda)
        evaluate(tmp_path / "run", "--shard", "1/2")
    evaluate(tmp_path / "run")
    result = json.loads((tmp_path / "run/results/fidelity.json").read_text())
    assert result["provenance"]["flags"]["judge_device"] == "cpu, cuda"
    assert any("different numerics" in warning["text"] for warning in result["warnings"])


# ------------------------------------------------------------------------------------- annotations


@pytest.fixture
def words(toy: ToyEye, tmp_path: Path) -> tuple[object, ...]:
    """The evaluation of eight images of prompts; the toy judge notes what it is asked."""
    write_toy_images(tmp_path / "images", COLOURS)
    images = tmp_path / "images"
    run = tmp_path / "run"
    return ("eval", images, "--suite", "toy", "--order", "copy-major", "--out", run)


def count_calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    calls: list[int] = []
    annotate = ToyEye.annotate

    def count(self: ToyEye, *arguments: Any) -> Any:
        calls.append(1)
        return annotate(self, *arguments)

    monkeypatch.setattr(ToyEye, "annotate", count)
    return calls


def test_fewer_prompts_keep_the_annotations_of_the_others(
    words: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (2, 1):
        call(*words, "--shard", f"{number}/2")
    calls = count_calls(monkeypatch)
    call(*words, "--count", 4)
    shutil.rmtree(tmp_path / "run/results")  # of fewer images
    call(*words)
    assert calls == []


def test_a_shard_asks_nothing_that_run_or_parts_have(
    words: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call(*words, "--shard", "1/2")
    calls = count_calls(monkeypatch)
    assert "up to date" in call(*words, "--shard", "1/2").output
    assert calls == []
    call(*words)
    n_calls = len(calls)
    for shard in ("1/2", "2/3"):
        assert "up to date" in call(*words, "--shard", shard).output
    assert len(calls) == n_calls
    call("verify", tmp_path / "run", "--redraw", 0)


def test_altered_annotations_of_a_part_are_named(words: tuple[object, ...], tmp_path: Path) -> None:
    call(*words, "--shard", "1/2")
    path = next((tmp_path / "run").glob("parts/*/annotations/*/annotations.jsonl"))
    path.write_text(path.read_text().replace("0.9", "0.1"))
    assert f"{path} differs from its hash" in call(*words, exit_code=1).output


def test_a_part_of_another_judge_is_named(words: tuple[object, ...], tmp_path: Path) -> None:
    call(*words, "--shard", "1/2")
    path = next((tmp_path / "run").glob("parts/*/annotations/*/judge.json"))
    path.write_text(path.read_text().replace("7" * 64, "8" * 64))
    (path.parent / "SHA256SUMS").unlink()
    output = call(*words, exit_code=1).output
    assert f"{path.parent} has annotations of another judge: weights_sha256" in output
    assert "delete that folder" in output


def test_queries_that_waited_in_a_part_are_removed_once_they_are_answered(
    words: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = write_toy_script(tmp_path / "script")
    monkeypatch.setattr(ToyEye, "runner", script)
    call(*words, "--shard", "1/2", exit_code=1)
    assert [*(tmp_path / "run").glob("parts/*/annotations/*/queries.jsonl")]
    call(*words, "--judge-python", sys.executable, "--judge-option", f"weights={script}")
    assert not (tmp_path / "run/parts").exists()


def test_a_part_that_was_killed_before_its_first_annotation_is_removed(
    words: tuple[object, ...], tmp_path: Path
) -> None:
    folder = tmp_path / "run/parts/shard-1-of-2/annotations/toy-eye"
    folder.mkdir(parents=True)
    (folder / ".judge.json.lock").touch()
    call(*words)
    assert not (tmp_path / "run/parts").exists()


# ------------------------------------------------------------------------------------- classifiers


def test_a_shard_of_a_classifier_records_its_request(tmp_path: Path) -> None:
    run = tmp_path / "run"
    call("eval", "digits-deit-harope", "--count", 300, "--out", run, "--shard", "1/2")
    assert len(RunFolder(run).requested_indices()) == 300
    assert "shard 2/2, 50 samples: 50 classified" in call("eval", run, "--shard", "2/2").output
    assert "up to date" in call("eval", run, "--shard", "2/2").output
    output = call("eval", "digits-deit-harope", "--count", 100, "--out", run, exit_code=1).output
    assert "was asked for 300 images, --count 100 would score a part" in output
    assert "of 300 images" in call("eval", run).output or "300" in call("eval", run).output
    assert "up to date" in call("eval", run, "--shard", "1/3").output
    call("verify", run, "--redraw", 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--with", "fidelity"), "is scored by top1, not by fidelity"),
        (("--label", "mine"), "--label names a result, and a shard has none"),
    ],
)
def test_a_shard_of_a_classifier_has_the_checks_of_the_whole(
    tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    arguments = ("eval", "digits-deit-harope", "--count", 300, "--shard", "1/2")
    assert message in call(*arguments, "--out", tmp_path / "run", *options, exit_code=1).output
    assert not (tmp_path / "run").exists()


def test_a_link_in_parts_takes_nothing_from_another_run(tiny_name: str, tmp_path: Path) -> None:
    evaluate(tmp_path / "other")
    files = contents(tmp_path / "other")
    evaluate(tmp_path / "run", "--shard", "1/2")
    (tmp_path / "run/parts/evil").symlink_to(tmp_path / "other")
    evaluate(tmp_path / "run")
    assert contents(tmp_path / "other") == files
    assert (tmp_path / "run" / run_claim.PARTS_FOLDER / "evil").is_symlink()
