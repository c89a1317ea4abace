"""T2I-CompBench's folders and result files: both ways, to the digit, and nothing a prompt or a file
name says chooses a path.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from toy_compbench import Toy, correct_annotations

from harope_bench.cli import main
from harope_bench.core import registry
from harope_bench.core.annotations import BoxDepth, DepthAnnotation
from harope_bench.core.errors import OptionError, SampleError, StorageError
from harope_bench.core.schema import Measurement
from harope_bench.data.image_io import encode_png
from harope_bench.data.sample_set import SampleSet
from harope_bench.evaluators.base import EvaluatorOutput
from harope_bench.judges.base import Annotator, LoadedAnnotator
from harope_bench.pipeline.evaluate_prompts import (
    PromptScoring,
    check_prompt_scoring,
    evaluate_prompts,
)
from harope_bench.suites.official_layouts import base, compbench
from harope_bench.suites.official_layouts import compbench_results as results

SUITE = Toy("spatial", "complex")


def image(number: int) -> np.ndarray:
    return np.full((4, 4, 3), number % 256, dtype=np.uint8)


def write_samples(folder: Path, category: str, numbers: list[int], suite: Toy = SUITE) -> None:
    path = folder / "samples"
    path.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        (path / f"{suite.category_prompts(category)[number // 10]}_{number:06d}.png").write_bytes(
            encode_png(image(number))
        )


# --------------------------------------------------------------------------------------------------
# read


def test_numbers_become_our_indices(tmp_path: Path) -> None:
    write_samples(tmp_path / "complex", "complex", [0, 9, 10, 2999])
    assert compbench.is_layout(tmp_path)
    layout = compbench.open_layout(tmp_path, SUITE)
    # prompts of complex are 300 to 599 of 600: prompt 0 copy 0 and 9, prompt 1 copy 0, prompt 299
    # copy 9
    assert layout.indices == [300, 301, 9 * 600 + 300, 9 * 600 + 599]
    assert [batch.images[0, 0, 0, 0] for batch in layout.batches(layout.indices, 1)] == [
        0,
        10,
        9,
        2999 % 256,
    ]
    assert (layout.n_asked, len(layout.failed)) == (3000, 2996)
    assert layout.failed[9 * 600 + 301] == "no image 000019 in complex"
    assert "folders: no images of spatial" in layout.warnings


def test_one_category_alone_is_known_by_its_name_or_its_prompts(tmp_path: Path) -> None:
    for name in ("complex", "complex_val", "whatever"):
        write_samples(tmp_path / name, "complex", [0, 25])
        assert compbench.is_layout(tmp_path / name)
        assert compbench.open_layout(tmp_path / name, SUITE).indices == [300, 5 * 600 + 302]


def test_what_is_no_image_of_its_prompt_is_told_and_not_scored(tmp_path: Path) -> None:
    write_samples(tmp_path / "complex", "complex", [0, 1, 2])
    folder = tmp_path / "complex" / "samples"
    text = SUITE.category_prompts("complex")[0]
    (folder / f"{text}_000010.png").write_bytes(b"x")  # number of another prompt
    (folder / f"{text}_000001.jpg").write_bytes(b"x")  # number that is taken
    (folder / f"{text}_003000.png").write_bytes(b"x")
    (folder / "notes.txt").write_text("x")
    layout = compbench.open_layout(tmp_path, SUITE)
    assert len(layout.indices) == 3
    (result_value,) = (w for w in layout.warnings if w.startswith("images: not read"))
    assert "notes.txt" in result_value and "1 more" in result_value


def test_names_without_a_copy_for_every_prompt_are_read_by_their_prompt(tmp_path: Path) -> None:
    """One image of each of 300 prompts, under every numbering that tools use: all 300 are read,
    none is failed.
    """
    forms = {
        "000000 for each": lambda folder: f"_{0:06d}",
        "through the category": lambda folder: f"_{folder:06d}",
        "official numbers": lambda folder: f"_{10 * folder:06d}",
        "no number": lambda folder: "",
        "from 1 for each": lambda folder: f"_{1:06d}",
        "from 1 through the category": lambda folder: f"_{folder + 1:06d}",
        "a number of elsewhere": lambda folder: f"_{5000 + 7 * folder:06d}",
    }
    for name, form in forms.items():
        folder = tmp_path / name / "complex" / "samples"
        folder.mkdir(parents=True)
        for k, text in enumerate(SUITE.category_prompts("complex")):
            (folder / f"{text}{form(k)}.png").write_bytes(
                encode_png(image(k)) if k in (0, 1, 299) else b"not opened here"
            )
        assert compbench.is_layout(tmp_path / name), name
        layout = compbench.open_layout(tmp_path / name, SUITE)
        assert (layout.indices, layout.failed, layout.n_asked) == (
            list(range(300, 600)),
            {},
            300,
        ), name
        assert [int(layout.image(i)[0, 0, 0]) for i in (300, 301, 599)] == [0, 1, 299 % 256], name
        assert (
            "images: 1 of 10 of each prompt of complex, as many as there are" in layout.warnings
        ), name
        assert ("images: numbers of complex count" in " ".join(layout.warnings)) == (
            name not in ("official numbers", "no number")
        ), name


@pytest.mark.parametrize("copies", [2, 4, 10])
@pytest.mark.parametrize("through", [False, True])
def test_several_images_a_prompt_are_as_many_copies(
    tmp_path: Path, copies: int, through: bool
) -> None:
    folder = tmp_path / "spatial_val" / "samples"
    folder.mkdir(parents=True)
    for k, text in enumerate(SUITE.category_prompts("spatial")[:20]):
        for copy in range(copies):
            (folder / f"{text}_{copies * k * through + copy}.png").write_bytes(
                encode_png(image(10 * k + copy))
            )
    (folder / f"{SUITE.category_prompts('spatial')[3]}_{copies * 3 * through + 1}.png").unlink()
    layout = compbench.open_layout(tmp_path, SUITE)
    assert layout.n_asked == 300 * copies and len(layout.indices) == 20 * copies - 1
    assert all(
        int(layout.image(i)[0, 0, 0]) == (10 * (i % 600) + i // 600) % 256 for i in layout.indices
    )
    assert 603 in layout.failed and 602 in layout.indices


def test_folders_that_are_no_such_layout(tmp_path: Path) -> None:
    (tmp_path / "samples").mkdir()
    assert not compbench.is_layout(tmp_path)
    (tmp_path / "samples" / "img_0001.png").write_bytes(encode_png(image(1)))
    assert not compbench.is_layout(tmp_path)
    (tmp_path / "00000" / "samples").mkdir(parents=True)
    (tmp_path / "00000" / "samples" / "00000.png").write_bytes(encode_png(image(1)))
    assert not compbench.is_layout(tmp_path / "00000")
    assert not compbench.is_layout(tmp_path / "nowhere")


def test_prompts_of_nobody_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x" / "samples").mkdir(parents=True)
    (tmp_path / "x" / "samples" / "a foreign prompt_000000.png").write_bytes(encode_png(image(1)))
    with pytest.raises(
        SampleError, match="prompts of no category; name its folder spatial, complex"
    ):
        compbench.open_layout(tmp_path / "x", SUITE)
    (tmp_path / "x").rename(tmp_path / "spatial")
    with pytest.raises(SampleError, match="has no image of toy"):
        compbench.open_layout(tmp_path / "spatial", SUITE)


def test_another_benchmarks_suite_is_refused(tmp_path: Path) -> None:
    write_samples(tmp_path / "complex", "complex", [0])
    second: Any = type("Other", (), {"title": "another"})()
    for use in (
        lambda: compbench.open_layout(tmp_path, second),
        lambda: results.import_scores(tmp_path, second),
    ):
        with pytest.raises(OptionError, match="another is another suite"):
            use()


# -------------------------------------------------------------------------------------------------
# write


def write_run(tmp_path: Path, indices: list[int]) -> SampleSet:
    (tmp_path / "run").mkdir()
    files = {index: tmp_path / "run" / f"{index:06d}.png" for index in indices}
    for index, path in files.items():
        path.write_bytes(encode_png(image(index)))
    return SampleSet(
        "run", tmp_path / "run", None, len(indices), {}, sorted(indices), files, {}, {}
    )


def test_writing_and_reading_give_the_same_images(tmp_path: Path) -> None:
    indices = [0, 1, 299, 300, 600, 5999]
    written_images = compbench.write_images(write_run(tmp_path, indices), SUITE, tmp_path / "out")
    assert (
        written_images.image_count == 6
        and "5,994 of 6,000 images are missing" in written_images.warnings[0]
    )
    names = sorted(
        str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.png")
    )
    assert f"spatial/samples/{SUITE.category_prompts('spatial')[0]}_000001.png" in names, (
        "index 600 is the second copy of the first prompt"
    )
    layout = compbench.open_layout(tmp_path / "out", SUITE)
    assert layout.indices == indices
    assert [int(b.images[0, 0, 0, 0]) for b in layout.batches(indices, 1)] == [
        i % 256 for i in indices
    ]


def test_an_occupied_folder_is_not_written_into(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    with pytest.raises(SampleError, match="not an empty folder"):
        compbench.write_images(write_run(tmp_path, [0]), SUITE, tmp_path / "out")


@pytest.mark.parametrize(
    "prompt",
    [
        "../../etc/passwd",
        "/etc/passwd",
        "a/b",
        "a\\b",
        "..",
        ".hidden",
        "a_b",
        "a\nb",
        "a\0b",
        "a\x1b[2Jb",
        "",
        " a",
        "a ",
        "x" * 300,
        "\u202eb",
    ],
)
def test_no_prompt_chooses_a_path(
    prompt: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SampleError, match="cannot be part of a file name"):
        compbench.file_name(prompt, 0)
    rows = Toy("spatial")._cases_by_category
    monkeypatch.setattr(
        Toy,
        "_cases_by_category",
        {"spatial": ((prompt, {**rows["spatial"][0][1], "text": prompt}), *rows["spatial"][1:])},
    )
    with pytest.raises(SampleError, match="cannot be part of a file name"):
        compbench.write_images(write_run(tmp_path, [1, 0]), Toy("spatial"), tmp_path / "out")
    assert not (tmp_path / "out").exists(), "what fails is known before the first image is written"


def test_official_prompts_fit_in_file_names() -> None:
    assert (
        compbench.file_name("a dog's bed, well-worn: red.", 7)
        == "a dog's bed, well-worn: red._000007.png"
    )


def test_the_layout_is_known_by_name() -> None:
    assert "compbench" in base.module_names() and "compbench_results" not in base.module_names()
    assert base.suites_of_layout(base.load_layout("compbench")) == (
        "t2i-compbench",
        "t2i-compbench-table5",
    )


# -----------------------------------------------------------------------------------------------
# results

THREE = Toy("complex")


def answers(path: Path, values: list[Any], ids: list[int] | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        json.dumps(
            [
                {"question_id": i, "answer": v}
                for i, v in zip(ids or range(len(values)), values, strict=True)
            ]
        )
    )


def value(score: EvaluatorOutput, metric: str) -> Measurement:
    return next(m for m in score.measurements if m.metric == metric)


def chance(seed: int, count: int = 3000) -> list[float]:
    return [float(x) for x in np.random.default_rng(seed).random(count)]


def script_mean(items: list[float]) -> float:
    total = 0.0
    for first_value in items:
        total += first_value
    return total / len(items)


@pytest.mark.parametrize(
    ("category", "file", "metric"),
    [
        ("color", "annotation_blip", "color"),
        ("spatial", "labels/annotation_obj_detection_2d", "spatial_2d"),
        ("3d_spatial", "labels/annotation_obj_detection_3d", "spatial_3d"),
        ("numeracy", "annotation_num", "numeracy"),
        ("non_spatial", "annotation_clip", "non_spatial"),
        ("complex", "annotation_3_in_1", "complex"),
    ],
)
def test_a_finished_category_is_read_to_the_digit(
    tmp_path: Path, category: str, file: str, metric: str
) -> None:
    chance_result = chance(len(category))
    path = tmp_path / category / file / "vqa_result.json"
    answers(path, [f"{x:.4f}" for x in chance_result] if category == "color" else chance_result)
    if category == "color":
        chance_result = [float(f"{x:.4f}") for x in chance_result]
    for folder in (path, tmp_path / category, tmp_path):
        assert results.is_results_file(folder)
        score = results.import_scores(folder, Toy())
        m = value(score, metric)
        assert m.value == pytest.approx(script_mean(chance_result), rel=1e-12) and (
            m.n_asked,
            m.n_scored,
        ) == (3000, 3000)
        expected = (
            float(np.mean(chance_result))
            if category == "3d_spatial"
            else script_mean(chance_result)
        )
        assert any(
            f"the script's mean of 3,000 answers is {expected!r}" in line for line in score.warnings
        )
        assert all(
            other_measurement.value is None and other_measurement.n_asked == 0
            for other_measurement in score.measurements
            if other_measurement.metric != metric
        )
        assert len(score.sample_scores) == 3000 and score.sample_scores[0]["scores"] == {
            metric: pytest.approx(chance_result[0])
        }
    assert base.find_results_reader(path) is results


def test_each_answer_goes_to_its_own_image(tmp_path: Path) -> None:
    numbers = list(reversed(range(3000)))
    answers(
        tmp_path / "numeracy" / "annotation_num" / "vqa_result.json",
        [n / 3000 for n in numbers],
        numbers,
    )
    score = results.import_scores(tmp_path, Toy("numeracy"))
    rows = {row["index"]: row for row in score.sample_scores}
    assert rows[0]["scores"]["numeracy"] == 0 and rows[300]["scores"]["numeracy"] == pytest.approx(
        1 / 3000
    )
    assert rows[1]["scores"]["numeracy"] == pytest.approx(10 / 3000), (
        "the second prompt's first image is number 10"
    )


def test_fields_that_another_program_adds_are_ignored(tmp_path: Path) -> None:
    path = tmp_path / "numeracy" / "annotation_num" / "vqa_result.json"
    path.parent.mkdir(parents=True)
    chance_result = chance(1)
    path.write_text(
        json.dumps(
            [
                {"note": "x" * 300, "question_id": i, "answer": v, "prompt": "two owls"}
                for i, v in enumerate(chance_result)
            ]
        )
    )
    assert results.is_results_file(path)
    assert value(results.import_scores(path, Toy("numeracy")), "numeracy").value == pytest.approx(
        script_mean(chance_result), rel=1e-12
    )


def test_a_summary_that_is_not_the_files_mean_is_told(tmp_path: Path) -> None:
    path = tmp_path / "numeracy" / "annotation_num" / "vqa_result.json"
    chance_result = chance(1)
    answers(path, chance_result)
    total = 3000 * script_mean(chance_result)
    path.with_name("score.txt").write_text(
        f"total:{total} num:3000 avg:{script_mean(chance_result)!r}"
    )
    assert not any(
        "which is not the mean" in line
        for line in results.import_scores(path, Toy("numeracy")).warnings
    )
    path.with_name("score.txt").write_text("total:1 num:3000 avg:0.5")
    assert any(
        "score.txt says 0.5, which is not the mean" in line
        for line in results.import_scores(path, Toy("numeracy")).warnings
    )


def test_lost_answers_of_a_detector_are_failed_images(tmp_path: Path) -> None:
    answers(
        tmp_path / "numeracy" / "annotation_num" / "vqa_result.json",
        chance(2, 2999),
        list(range(1, 3000)),
    )
    strict, lenient = (
        value(results.import_scores(tmp_path, Toy("numeracy"), lenient), "numeracy")
        for lenient in (False, True)
    )
    assert (strict.value, strict.n_failed) == (None, 1) and (
        lenient.n_scored,
        lenient.n_failed,
    ) == (2999, 1)
    assert lenient.value == pytest.approx(np.mean(chance(2, 2999)))


def test_lost_answers_of_blip_cannot_be_placed(tmp_path: Path) -> None:
    answers(tmp_path / "color" / "annotation_blip" / "vqa_result.json", chance(2, 2999))
    score = results.import_scores(tmp_path, Toy("color"), is_lenient=True)
    assert (value(score, "color").value, value(score, "color").n_failed) == (None, 3000)
    assert "its ids count files" in score.sample_scores[0]["reason"] and any(
        "the script's mean of 2,999" in line for line in score.warnings
    )


def three(
    folder: Path,
    attribute: list[float],
    spatial: list[float],
    action: list[float],
    ids: list[int] | None = None,
) -> None:
    answers(folder / "annotation_blip" / "vqa_result.json", [f"{x:.4f}" for x in attribute])
    answers(folder / "annotation_obj_detection" / "vqa_result.json", spatial, ids)
    answers(folder / "annotation_clip" / "vqa_result.json", action)


def slow_three(attribute: list[float], spatial: list[float], action: list[float]) -> list[float]:
    """3-in-1 image by image; the toy's kinds repeat spatial, action, both."""
    records = []
    for number in range(3000):
        a, s, c = float(f"{attribute[number]:.4f}"), spatial[number], action[number]
        records.append(((s + a) * 0.5, (c + a) * 0.5, (a + s + c) / 3)[number // 10 % 3])
    return records


@pytest.mark.parametrize("rules", ["official", "corrected"])
def test_3_in_1_of_its_three_files_to_the_digit(tmp_path: Path, rules: str) -> None:
    parts = [chance(seed) for seed in (1, 2, 3)]
    three(tmp_path / "complex", *parts)
    expected = slow_three(*parts)
    answers(tmp_path / "complex" / "annotation_3_in_1" / "vqa_result.json", expected)
    score = results.import_scores(tmp_path, THREE, rules=rules)
    rows = {row["index"]: row["scores"]["complex"] for row in score.sample_scores}
    assert [rows[THREE.index_of("complex", n // 10, n % 10)] for n in range(3000)] == expected
    assert value(score, "complex").value == pytest.approx(script_mean(expected), rel=1e-12)
    assert "complex: annotation_3_in_1 agrees on 3,000 of 3,000 images" in score.warnings
    if rules == "official":
        assert (
            f"complex: the script's mean of 3,000 answers is {script_mean(expected)!r}"
            in score.warnings
        )


def test_a_lost_detection_shifts_the_official_join_and_not_the_corrected(tmp_path: Path) -> None:
    parts = [chance(seed) for seed in (1, 2, 3)]
    lost_numbers = [
        number for number in range(3000) if number != 15
    ]  # of an action prompt, which needs no detector
    three(
        tmp_path / "complex", parts[0], [parts[1][n] for n in lost_numbers], parts[2], lost_numbers
    )
    whole_slow_three = slow_three(*parts)
    corrected_entries = {
        r["index"]: r
        for r in results.import_scores(
            tmp_path, THREE, is_lenient=True, rules="corrected"
        ).sample_scores
    }
    assert [
        corrected_entries[THREE.index_of("complex", n // 10, n % 10)]["scores"]["complex"]
        for n in range(3000)
    ] == whole_slow_three
    # the last prompt is `both`: its ten images meet nine detections, and the script stops
    official_ = results.import_scores(tmp_path, THREE)
    assert (
        value(official_, "complex").value is None
        and "the official 3-in-1 stops" in official_.sample_scores[0]["reason"]
    )


def test_a_join_that_shifts_silently_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    last_fields = {
        **THREE._cases_by_category["complex"][299][1],
        "kinds": {"official": "action", "corrected": "action"},
    }
    changed_cases_by_categories = (
        *THREE._cases_by_category["complex"][:299],
        (last_fields["text"], last_fields),
    )
    monkeypatch.setattr(Toy, "_cases_by_category", {"complex": changed_cases_by_categories})
    lost_numbers = [number for number in range(3000) if number != 15]
    three(
        tmp_path / "complex",
        [0.0] * 3000,
        [n / 3000 for n in lost_numbers],
        [0.0] * 3000,
        lost_numbers,
    )
    score = results.import_scores(tmp_path, THREE)
    rows = {row["index"]: row["scores"]["complex"] for row in score.sample_scores}
    assert rows[THREE.index_of("complex", 3, 0)] == pytest.approx(31 / 3000 / 2), (
        "image 30 is given image 31's detection"
    )
    assert any(
        "spatial lacks answers, so the script joins other images' answers" in line
        for line in score.warnings
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ('[{"question_id": 0, "answer": "cat"}]', "no list of question_id and answer"),
        ('[{"question_id": 0, "answer": NaN}]', "no list of question_id and answer"),
        ('[{"question_id": 0, "answer": 1}, {"question_id": 0, "answer": 1}]', "ids that repeat"),
        ('[{"question_id": 3000, "answer": 1}]', "not 0 to 2,999"),
        ("[]", "0 answers"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "numeracy" / "annotation_num" / "vqa_result.json"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(StorageError, match=message):
        results.import_scores(path, Toy("numeracy"))


def test_what_is_no_result(tmp_path: Path) -> None:
    answers(tmp_path / "run" / "vqa_result.json", [0.5])
    assert not results.is_results_file(tmp_path / "run" / "vqa_result.json"), (
        "no folder tells its category"
    )
    with pytest.raises(StorageError, match="below a folder named"):
        results.import_scores(tmp_path, Toy())
    write_samples(tmp_path / "color", "color", [0], Toy("color"))
    answers(tmp_path / "color" / "annotation_blip" / "vqa_result.json", chance(1))
    assert not results.is_results_file(tmp_path), (
        "a folder with images is judged, unless its file is named"
    )
    assert results.is_results_file(tmp_path / "color" / "annotation_blip" / "vqa_result.json")
    (tmp_path / "color" / "config.json").write_text("{}")
    assert not results.is_results_file(tmp_path / "color" / "config.json")


# -------------------------------------------------------------------------------------------- end
# to end


class Eye(Annotator):
    """A judge of every role that answers as a perfect image would make it, but for an image of
    thirteen.
    """

    version, judge_class, preprocessing = 1, "micro", "none"
    roles = ("vqa", "detector-2d", "detector", "depth", "similarity")
    weights_sha256_ = "7" * 64

    def weights_sha256(self) -> str:
        return self.weights_sha256_

    def open(self, device: str) -> Any:
        return type(
            "LoadedEye",
            (LoadedAnnotator,),
            {"weights_sha256": self.weights_sha256_, "annotate": staticmethod(annotate)},
        )()


def annotate(role: str, image: np.ndarray, query: Any) -> Any:
    if image[0, 0, 0] == 13:
        raise ValueError("an image of thirteen")
    if role == "depth":
        return DepthAnnotation(
            depths=tuple(
                BoxDepth(mean=9 - k, transposed_mean=9 - k) for k, _ in enumerate(query.boxes)
            )
        )
    correct_annotations_result = correct_annotations(
        {
            "detector-2d": "spatial",
            "detector": "3d_spatial",
            "similarity": "non_spatial",
            "vqa": "color",
        }[role]
    )
    return correct_annotations_result[role]


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Toy:
    """The suite with prompts of our own under the official name, and one judge for every role."""
    suite, known_plugin = Toy(), registry.load_by_name
    judges = set(suite.judges["t2i-compbench"].values())

    def load(kind: str, name: str) -> Any:
        if (kind, name) == ("suites", "t2i-compbench"):
            return suite
        return Eye() if kind == "judges" and name in judges else known_plugin(kind, name)

    monkeypatch.setattr(registry, "load_by_name", load)
    return suite


def test_a_folder_of_images_becomes_a_result(tmp_path: Path, toy: Toy) -> None:
    for category in ("color", "spatial", "3d_spatial", "non_spatial", "complex"):
        write_samples(tmp_path / "them" / category, category, [0, 1, 10, 11, 20, 21, 30], toy)
    prompt_scoring = PromptScoring("t2i-compbench", is_lenient=True)
    (scored,) = evaluate_prompts(tmp_path / "them", tmp_path / "out", prompt_scoring)
    entries = {m.metric: m for m in scored.result.measurements}
    for metric, expected in (
        ("color", 0.72),
        ("spatial_2d", 0.925),
        ("spatial_3d", 0.425 + 1 / 3),
        ("non_spatial", 0.3),
    ):
        assert entries[metric].value == pytest.approx(expected), metric
        assert (entries[metric].n_asked, entries[metric].n_scored, entries[metric].n_failed) == (
            600,
            7,
            593,
        )
    assert entries["complex"].value == pytest.approx(
        (3 * 0.8225 + 2 * 0.51 + 2 * (0.72 + 0.925 + 0.3) / 3) / 7
    )
    assert entries["numeracy"].reason == "no prompt of this kind was requested"
    strict = evaluate_prompts(
        tmp_path / "them", tmp_path / "strict", PromptScoring("t2i-compbench")
    )[0].result
    assert all(m.value is None and m.reason for m in strict.measurements)
    assert {record.name for record in scored.result.judges.values()} == set(
        toy.judges["t2i-compbench"].values()
    )


def test_only_judges_of_the_categories_that_are_there_are_needed(
    tmp_path: Path, toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder of colours alone asks for no weights of depth, detectors or CLIP."""
    items: list[str] = []
    load = registry.load_by_name

    class AbsentJudge(Annotator):
        roles = ("vqa", "detector", "detector-2d", "depth", "similarity")

        def __init__(self, name: str):
            self.name = name

        def weights_sha256(self) -> str:
            items.append(self.name)
            return "0" * 64

    names = set(toy.judges["t2i-compbench"].values())
    monkeypatch.setattr(
        registry,
        "load_by_name",
        lambda kind, name: (
            AbsentJudge(name) if kind == "judges" and name in names else load(kind, name)
        ),
    )
    roles = {
        "color": ["blip-vqa"],
        "spatial": ["unidet-rs200"],
        "3d_spatial": ["unidet", "dpt-depth"],
        "numeracy": ["unidet"],
        "non_spatial": ["clipscore"],
        "complex": ["blip-vqa", "unidet-rs200", "clipscore"],
    }
    for category, judges in roles.items():
        write_samples(tmp_path / category / category, category, [0, 10, 20], toy)
        items.clear()
        check_prompt_scoring(PromptScoring("t2i-compbench"), None, tmp_path / category)
        assert sorted(items) == sorted(judges), category
    items.clear()
    check_prompt_scoring(PromptScoring("t2i-compbench"), None)
    assert set(items) == names


def test_an_image_that_a_judge_cannot_see_is_failed_and_shifts_no_other(
    tmp_path: Path, toy: Toy
) -> None:
    write_samples(tmp_path / "complex", "complex", list(range(30)), toy)
    (scored,) = evaluate_prompts(
        tmp_path / "complex", tmp_path / "out", PromptScoring("t2i-compbench", is_lenient=True)
    )
    rows = [
        json.loads(line)
        for line in (tmp_path / "out" / "results" / str(scored.result.sample_scores_file))
        .read_text()
        .splitlines()
    ]
    rows_result = {
        toy.case(row["index"]).metadata["compbench"]["place"] * 10 + row["copy"]: row
        for row in rows
    }
    assert (
        "an image of thirteen" in rows_result[13]["reason"]
        and rows_result[13]["verdict"] == "failed"
    )
    assert [round(rows_result[n]["scores"]["complex"], 4) for n in range(30) if n != 13] == [
        0.8225
    ] * 10 + [0.51] * 9 + [0.6483] * 10


def test_convert_reads_and_writes_the_layout(tmp_path: Path, toy: Toy) -> None:
    write_samples(tmp_path / "complex", "complex", [0, 1, 10], toy)
    run = CliRunner()
    command_result = run.invoke(
        main, ["convert", str(tmp_path / "complex"), str(tmp_path / "again"), "--to", "compbench"]
    )
    assert command_result.exit_code == 0, command_result.output
    again = sorted(path.name for path in (tmp_path / "again" / "complex" / "samples").iterdir())
    assert again == sorted(path.name for path in (tmp_path / "complex" / "samples").iterdir())
    assert "2,997 of 3,000 images are missing" in command_result.output
    command_result = run.invoke(
        main, ["convert", str(tmp_path / "complex"), str(tmp_path / "plain"), "--to", "png"]
    )
    assert command_result.exit_code == 0 and len(list((tmp_path / "plain").glob("*.png"))) == 3


def test_eval_reads_a_finished_run(tmp_path: Path, toy: Toy) -> None:
    answers(
        tmp_path / "run" / "numeracy" / "annotation_num" / "vqa_result.json", [0.25, 0.75] * 1500
    )
    command_result = CliRunner().invoke(
        main,
        [
            "eval",
            str(tmp_path / "run"),
            "--suite",
            "t2i-compbench",
            "--out",
            str(tmp_path / "out"),
            "--json",
        ],
    )
    assert command_result.exit_code == 0, command_result.output
    result = json.loads(command_result.stdout)["results"][0]["result"]
    assert result["judge"]["judge_class"] == "official"
    (m,) = [m for m in result["measurements"] if m["metric"] == "numeracy"]
    assert (m["value"], m["n_scored"]) == (0.5, 3000)
