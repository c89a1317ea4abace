"""Two roles that are asked of the same images: each image is decoded once, the files stay equal."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from toy_images import COLOURS, RED, THIRTEEN, write_toy_images
from toy_prompts import ToyEye, ToyRule, ToySuite, toy
from unreliable_executor import UnreliableExecutor

from harope_bench.core import registry
from harope_bench.core.annotations import Annotation, Query
from harope_bench.core.errors import ShapeError, StorageError
from harope_bench.data.sample_set import SampleSet, open_samples
from harope_bench.evaluators.base import (
    AnnotatedImage,
    Annotations,
    AnnotatorRole,
    Metadata,
    load_annotation_evaluator,
)
from harope_bench.judges.base import JudgeChoice
from harope_bench.pipeline import annotate
from harope_bench.pipeline.annotate import annotate_samples
from harope_bench.pipeline.annotator_choice import AnnotatorOptions
from harope_bench.pipeline.role_queries import ImagesSoFar, find_next_role, make_queries
from harope_bench.pipeline.workers import use_executor

__all__ = ["toy"]  # the fixture
JUDGES = {"detector": JudgeChoice("toy-eye"), "vqa": JudgeChoice("toy-ear")}


@pytest.fixture
def ear(toy: ToyEye, monkeypatch: pytest.MonkeyPatch) -> ToyEye:
    """The judge of the second role, which counts its calls too."""
    second_judge = ToyEye()
    second_judge.asked = []
    entries, load = registry.list_entries, registry.load_by_name

    def list_entries(kind: str) -> dict[str, registry.RegistryEntry]:
        known_entries = entries(kind)
        if kind == "judges":
            known_entries["toy-ear"] = registry.RegistryEntry(kind, "toy-ear", "a test")
        return known_entries

    monkeypatch.setattr(registry, "list_entries", list_entries)
    monkeypatch.setattr(
        registry,
        "load_by_name",
        lambda kind, name: second_judge if name == "toy-ear" else load(kind, name),
    )
    return second_judge


@pytest.fixture
def samples(tmp_path: Path) -> SampleSet:
    return open_samples(write_toy_images(tmp_path / "images", COLOURS))


def annotate_folder(samples: SampleSet, out: Path) -> list[AnnotatedImage]:
    cases = {index: ToySuite().case(index) for index in samples.indices}
    roles = ToyRule.annotator_roles
    images, _ = annotate_samples(samples, cases, "toy", roles, JUDGES, out, AnnotatorOptions())
    return images


def annotate_role_by_role(
    samples: SampleSet, out: Path, monkeypatch: pytest.MonkeyPatch
) -> list[AnnotatedImage]:
    with monkeypatch.context() as patch:
        patch.setattr(annotate, "find_next_role", lambda *_: None)
        return annotate_folder(samples, out)


def files(folder: Path) -> dict[str, bytes]:
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def count_decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    indices: list[int] = []
    read = SampleSet.image

    def image(samples: SampleSet, index: int) -> np.ndarray:
        indices.append(index)
        return read(samples, index)

    monkeypatch.setattr(SampleSet, "image", image)
    return indices


def test_each_image_is_decoded_once_and_the_files_are_those_of_role_by_role(
    samples: SampleSet, toy: ToyEye, ear: ToyEye, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded_indices = count_decoded(monkeypatch)
    images = annotate_folder(samples, tmp_path / "shared")
    assert sorted(decoded_indices) == [*range(8)]
    assert toy.asked == ["detector"] * 8 and ear.asked == ["vqa"] * 4

    decoded_indices.clear()
    assert annotate_role_by_role(samples, tmp_path / "single", monkeypatch) == images
    assert len(decoded_indices) == 12
    assert files(tmp_path / "shared") == files(tmp_path / "single")


@pytest.mark.parametrize("n_answers", [1, 3, 6, 7])
@pytest.mark.parametrize("judge", ["first", "second"])
def test_an_interruption_changes_no_byte(
    samples: SampleSet, toy: ToyEye, ear: ToyEye, tmp_path: Path, judge: str, n_answers: int
) -> None:
    annotate_folder(samples, tmp_path / "straight")
    interrupted_judge = toy if judge == "first" else ear
    interrupted_judge.asked.clear()
    interrupted_judge.fail_after = min(n_answers, 3) if judge == "second" else n_answers
    with pytest.raises(KeyboardInterrupt):
        annotate_folder(samples, tmp_path / "out")
    interrupted_judge.fail_after = None
    annotate_folder(samples, tmp_path / "out")
    assert files(tmp_path / "out") == files(tmp_path / "straight")


@pytest.mark.parametrize("judge", ["first", "second"])
def test_an_image_that_fails_leaves_the_lines_of_role_by_role(
    samples: SampleSet,
    toy: ToyEye,
    ear: ToyEye,
    tmp_path: Path,
    judge: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The second role then has its own turn for the images from there on."""
    failing_judge = toy if judge == "first" else ear
    answer = ToyEye.annotate

    def annotate_image(eye: ToyEye, role: str, image: np.ndarray, query: Query) -> Annotation:
        if eye is failing_judge and tuple(image[1, 1]) == RED:
            raise ValueError("this colour")
        return answer(eye, role, image, query)

    monkeypatch.setattr(ToyEye, "annotate", annotate_image)
    images = annotate_folder(samples, tmp_path / "shared")
    assert annotate_role_by_role(samples, tmp_path / "single", monkeypatch) == images
    assert [image.failure for image in images].count(None) < 8
    assert files(tmp_path / "shared") == files(tmp_path / "single")


def test_workers_decode_each_image_once_too(
    samples: SampleSet, toy: ToyEye, ear: ToyEye, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harope_bench.pipeline.annotation_worker.QUERIES_PER_PART", 3)
    images = annotate_folder(samples, tmp_path / "one")
    decoded_indices = count_decoded(monkeypatch)
    with use_executor(UnreliableExecutor(iter(()), is_reversed=True)):
        assert annotate_folder(samples, tmp_path / "several") == images
    assert sorted(decoded_indices) == [*range(8)]
    for name in ("toy-eye", "toy-ear"):
        lines = [
            (tmp_path / folder / name / "annotations.jsonl").read_text().splitlines()
            for folder in ("one", "several")
        ]
        assert sorted(lines[0]) == sorted(lines[1]) and lines[0] != lines[1]


def test_a_query_that_cannot_be_made_is_an_error_after_the_first_role_is_stored(
    samples: SampleSet, toy: ToyEye, ear: ToyEye, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(metadata: Metadata, annotations: Annotations) -> None:
        raise ShapeError("a mask of another size")

    first_role, second_role = ToyRule.annotator_roles
    roles = (first_role, second_role._replace(make_query=fail))
    monkeypatch.setattr(ToyRule, "annotator_roles", roles)
    with pytest.raises(ShapeError, match="a mask of another size"):
        annotate_folder(samples, tmp_path / "out")
    assert len((tmp_path / "out/toy-eye/annotations.jsonl").read_text().splitlines()) == 8


def test_a_judge_that_does_not_load_is_an_error_after_the_first_role_is_stored(
    samples: SampleSet, toy: ToyEye, ear: ToyEye, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(device: str) -> None:
        raise StorageError("its weights are damaged")

    monkeypatch.setattr(ear, "open", fail)
    with pytest.raises(StorageError, match="its weights are damaged"):
        annotate_folder(samples, tmp_path / "out")
    assert len((tmp_path / "out/toy-eye/annotations.jsonl").read_text().splitlines()) == 8


# --------------------------------------------------------------------- where roles share nothing


def next_role_name(
    samples: SampleSet,
    out: Path,
    judges: Mapping[str, JudgeChoice] = JUDGES,
    roles: Sequence[AnnotatorRole] = ToyRule.annotator_roles,
) -> str | None:
    metadata = {index: ToySuite().case(index).metadata["toy"] for index in samples.indices}
    hashes = dict(zip(samples.indices, samples.hashes, strict=True))
    images = ImagesSoFar(metadata, {index: {} for index in metadata}, {}, hashes)
    queries = make_queries(roles[0], images)
    next_role = find_next_role(roles, 0, judges, out, queries, images)
    return None if next_role is None else next_role.role


@pytest.mark.usefixtures("toy", "ear")
def test_which_roles_share_images(samples: SampleSet, tmp_path: Path) -> None:
    first_role, second_role = ToyRule.annotator_roles
    bright_only = first_role._replace(
        make_query=lambda metadata, annotations: (
            first_role.make_query(metadata, annotations) if metadata["task"] == "bright" else None
        )
    )
    assert next_role_name(samples, tmp_path) == "vqa"
    # One judge has one file, in which one role follows the other.
    one_judge = {**JUDGES, "vqa": JUDGES["detector"]}
    assert next_role_name(samples, tmp_path, one_judge) is None
    # Images that the first role does not see would come out of turn in the second one's file.
    assert next_role_name(samples, tmp_path, roles=(bright_only, second_role)) is None
    red_last = second_role._replace(is_needed=lambda metadata: metadata["task"] == "bright")
    assert next_role_name(samples, tmp_path, roles=(bright_only, red_last)) == "vqa"


@pytest.mark.usefixtures("toy", "ear")
def test_detector_and_colours_of_geneval_share_images_and_travel_to_workers(
    samples: SampleSet, tmp_path: Path
) -> None:
    clauses = [{"class": "cat", "count": 1}, {"class": "cat", "count": 1, "color": "red"}]
    tags = ["single_object", "colors"]
    metadata: dict[int, Metadata] = {
        index: {"tag": tags[index % 2], "include": [clauses[index % 2]], "prompt": "a cat"}
        for index in samples.indices
    }
    hashes = dict(zip(samples.indices, samples.hashes, strict=True))
    images = ImagesSoFar(metadata, {index: {} for index in metadata}, {}, hashes)
    roles = load_annotation_evaluator("geneval").annotator_roles
    judges = {"detector": JUDGES["detector"], "colours": JUDGES["vqa"]}
    queries = make_queries(roles[0], images)
    next_role = find_next_role(roles, 0, judges, tmp_path, queries, images)
    assert next_role is not None and next_role.role == "colours"
    assert pickle.loads(pickle.dumps(next_role._replace(plugin=None))).metadata == metadata  # type: ignore[arg-type]


def test_an_annotation_that_is_missing_has_its_turn_first(
    samples: SampleSet, toy: ToyEye, ear: ToyEye, tmp_path: Path
) -> None:
    """Of an earlier version, which was interrupted between the roles."""
    annotate_folder(samples, tmp_path)
    for name in ("annotations.jsonl", "judge.json", "SHA256SUMS"):
        (tmp_path / "toy-ear" / name).unlink()
    path = tmp_path / "toy-eye/annotations.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:4]))
    (tmp_path / "toy-eye/SHA256SUMS").unlink()
    assert next_role_name(samples, tmp_path) is None
    assert [image.failure for image in annotate_folder(samples, tmp_path)] == [None] * 8


def test_a_damaged_image_fails_both_roles_and_no_other_image(
    toy: ToyEye, ear: ToyEye, tmp_path: Path
) -> None:
    folder = write_toy_images(tmp_path / "images", [THIRTEEN, *COLOURS[1:]])
    images = annotate_folder(open_samples(folder), tmp_path / "out")
    assert images[0].failure == "toy-eye: ValueError: an image of thirteen"
    assert [image.failure for image in images[1:]] == [None] * 7


class OutOfMemoryError(RuntimeError):
    """Named as torch's."""


def test_judges_that_do_not_fit_at_once_have_their_turns(
    toy: ToyEye,
    ear: ToyEye,
    samples: SampleSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The memory suffices for the networks of both, but not for what they compute."""
    annotate_role_by_role(samples, tmp_path / "expected", monkeypatch)
    annotate_image = ear.annotate
    n_calls = 0

    def fail_once(role: str, image: np.ndarray, query: Query) -> Annotation:
        nonlocal n_calls
        n_calls += 1
        if n_calls == 2:  # an image of the first role is done, the one before of both
            raise OutOfMemoryError("CUDA out of memory")
        return annotate_image(role, image, query)

    monkeypatch.setattr(ear, "annotate", fail_once)
    annotate_folder(samples, tmp_path / "out")
    assert n_calls > 2
    assert files(tmp_path / "out") == files(tmp_path / "expected")
