"""GenEval: the suite is the official file, and scores are what the official summary prints."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from geneval_scenes import at, clause, line, make_detection

from harope_bench.assets import local_files
from harope_bench.assets.download import fetch_asset
from harope_bench.core import registry
from harope_bench.core.annotations import (
    ColourAnnotation,
    ColourQuery,
    Detection,
    DetectionAnnotation,
    DetectionQuery,
    Mask,
)
from harope_bench.core.errors import MissingAssetError, OptionError, ShapeError, StorageError
from harope_bench.evaluators.base import AnnotatedImage
from harope_bench.evaluators.rules.geneval import COLOURS, TASKS, PromptSpec
from harope_bench.suites.geneval import read_metadata

OFFICIAL = Path("/work/shared/data/geneval")
GENEVAL = registry.load_by_name("evaluators", "geneval")


# ---------------------------------------------------------------------------
# evaluator


def shares(*names: str) -> ColourAnnotation:
    return ColourAnnotation(
        probabilities=tuple(tuple(float(c == name) for c in COLOURS) for name in names)
    )


def sight(
    index: int,
    prompt: int,
    fields: dict[str, Any],
    items: Sequence[Detection] | None,
    *keywords: str,
) -> AnnotatedImage:
    if items is None:
        return AnnotatedImage(
            index, prompt, index, "t", fields, {}, failure="the image cannot be read"
        )
    records: dict[str, Any] = {
        "detector": DetectionAnnotation(size=(512, 512), detections=tuple(items))
    }
    return AnnotatedImage(
        index,
        prompt,
        index,
        "t",
        fields,
        records | ({"colours": shares(*keywords)} if keywords else {}),
    )


ONE_OF_EACH: dict[str, dict[str, Any]] = {
    "single_object": line("single_object", clause("dog")),
    "two_object": line("two_object", clause("dog"), clause("cat")),
    "counting": line("counting", clause("dog", 2), exclude=[clause("dog", 3)]),
    "colors": line("colors", clause("dog", color="red")),
    "position": line("position", clause("dog"), clause("cat", position=["left of", 0])),
    "color_attr": line("color_attr", clause("dog", color="red"), clause("cat", color="blue")),
}
PAIR = [make_detection("dog", 0.8, (100, 0, 110, 10)), make_detection("cat", 0.7, (0, 0, 10, 10))]


def six(hit_fields: Mapping[str, Sequence[bool]]) -> list[AnnotatedImage]:
    """Two prompts of each task in the table, with as many images as outcomes; a right image holds
    the pair, a wrong one nothing.
    """
    sights = []
    for number, (tag, outcomes) in enumerate(hit_fields.items()):
        for k, good_outcome in enumerate(outcomes):
            detections = (
                (
                    [make_detection("dog", 0.99), make_detection("dog", 0.98)]
                    if tag == "counting"
                    else PAIR
                )
                if good_outcome
                else []
            )
            fields = (
                {"colors": ("red",), "color_attr": ("red", "blue")}.get(tag, ())
                if good_outcome
                else ()
            )
            sights.append(
                sight(len(sights), 2 * number + k % 2, ONE_OF_EACH[tag], detections, *fields)
            )
    return sights


def test_tasks_their_mean_and_the_two_shares_are_what_the_summary_prints() -> None:
    hit_fields = {
        "single_object": (1, 1, 1, 1),
        "two_object": (1, 0, 1, 0),
        "counting": (0, 0, 0, 0),
        "colors": (1, 1, 1, 0),
        "position": (0, 1, 0, 0),
        "color_attr": (1, 1, 0, 0),
    }
    score = GENEVAL.evaluate(
        six({k: [bool(x) for x in v] for k, v in hit_fields.items()}), "official", False
    )
    values = {m.metric: m.value for m in score.measurements}
    means = {tag: sum(v) / 4 for tag, v in hit_fields.items()}
    assert {tag: values[tag] for tag in TASKS} == means
    assert values["overall"] == pytest.approx(sum(means.values()) / 6)
    assert values["images_correct"] == pytest.approx(sum(map(sum, hit_fields.values())) / 24)
    assert [name for name in score.per_sample if name.endswith("_tasks")] == [
        "overall_tasks"
    ]  # the shares count images and prompts alike
    assert values["prompts_correct"] == pytest.approx((2 + 1 + 0 + 2 + 1 + 2) / 12)
    assert all(m.n_failed == 0 for m in score.measurements)
    assert [m.name for m in score.measurements if m.se is None] == [
        "color_attr"
    ]  # both its prompts are half right: no error to be seen
    assert all(
        np.nanmean(score.per_sample[m.metric]) == pytest.approx(m.value)
        for m in score.measurements
        if m.metric != "overall"
    )


def test_any_task_alone_gives_no_overall_unless_asked() -> None:
    sights = six({"single_object": (True, True), "colors": (True, False)})
    strict, lenient = (GENEVAL.evaluate(sights, "official", flag) for flag in (False, True))
    entries = {m.metric: m for m in strict.measurements}
    assert entries["overall"].value is None and "two_object, counting, position, color_attr" in (
        entries["overall"].reason or ""
    )
    assert entries["colors"].value == 0.5
    assert {m.metric: m.value for m in lenient.measurements}["overall"] == 0.75
    assert GENEVAL.evaluate(sights, "corrected", False).measurements == strict.measurements


def test_a_failed_image_gives_no_score_unless_asked_and_then_leaves_the_denominators() -> None:
    sights = [
        sight(0, 0, ONE_OF_EACH["single_object"], PAIR),
        sight(1, 0, ONE_OF_EACH["single_object"], None),
        sight(2, 1, ONE_OF_EACH["single_object"], []),
        sight(3, 1, ONE_OF_EACH["single_object"], PAIR),
    ]
    strict, lenient = (GENEVAL.evaluate(sights, "official", flag) for flag in (False, True))
    assert {m.metric: m.value for m in strict.measurements}["single_object"] is None
    values = {m.metric: m for m in lenient.measurements}
    assert values["single_object"].value == pytest.approx(2 / 3)
    assert (values["single_object"].n_asked, values["single_object"].n_failed) == (4, 1)
    assert (
        values["prompts_correct"].value == 1.0
    )  # both prompts have a right image, whatever their numbers of images
    assert lenient.sample_scores[1]["verdict"] == "failed"


def test_rows_show_the_things_and_colours_that_decided() -> None:
    low = [make_detection("dog", 0.8, (1, 2, 3, 4)), make_detection("cat", 0.25)]
    (row,) = GENEVAL.evaluate(
        [sight(0, 0, ONE_OF_EACH["color_attr"], low, "green")], "official", True
    ).sample_scores
    assert row["reason"] == "0 red dog, expected 1; detected: 1 green; 0 of cat, expected 1"
    dog, cat = row["evidence"]["clauses"]
    assert (
        dog["detections"] == [{"score": 0.8, "box": [1, 2, 3, 4], "colour": "green"}]
        and not dog["is_met"]
    )
    assert cat["detections"] == [] and cat["best_score_of_class"] == 0.25
    assert row["evidence"]["threshold"] == 0.3
    json.dumps(row, allow_nan=False)


def test_both_rules_stand_side_by_side_where_they_differ() -> None:
    detections = [
        make_detection("dog", 0.5, (0, 0, 5, 5)),
        make_detection("dog", 0.5, (9, 9, 20, 20)),
    ]
    sights = [sight(k, k, ONE_OF_EACH["colors"], detections, "blue", "red") for k in range(2)]
    score = GENEVAL.evaluate(sights, "official", True)
    assert "colors is 0.0000 official, 1.0000 corrected" in [
        difference.text for difference in score.rule_differences
    ]
    assert score.sample_scores[0]["other_rules"]["scores"]["colors"] == 1.0


def test_judges_are_asked_for_the_prompts_classes_and_the_things_to_colour() -> None:
    detector, colours = GENEVAL.annotator_roles
    assert (detector.role, colours.role) == ("detector", "colours")
    fields = ONE_OF_EACH["color_attr"]
    assert detector.make_query(fields, {}) == DetectionQuery(names=("dog", "cat"))
    assert detector.make_query(ONE_OF_EACH["counting"], {}) == DetectionQuery(names=("dog",))
    mask = Mask(size=(2, 2), counts=(1, 3))
    sighting = DetectionAnnotation(
        size=(2, 2),
        detections=(
            make_detection("cat", 0.9),
            make_detection("dog", 0.8).model_copy(update={"mask": mask}),
            make_detection("dog", 0.7),
        ),
    )
    ask = colours.make_query(fields, {"detector": sighting})
    assert isinstance(ask, ColourQuery) and ask.candidates == COLOURS
    assert [(o.name, o.mask) for o in ask.objects] == [("dog", mask), ("cat", None)]
    for tag in ("single_object", "two_object", "counting", "position"):
        assert colours.make_query(ONE_OF_EACH[tag], {"detector": sighting}) is None
    assert (
        colours.make_query(fields, {"detector": DetectionAnnotation(size=(2, 2), detections=())})
        is None
    )


def test_answers_that_do_not_fit_are_named() -> None:
    with pytest.raises(ShapeError, match="no annotation of the detector"):
        GENEVAL.score_sample(ONE_OF_EACH["colors"], {}, "official")
    with pytest.raises(
        ShapeError, match="the colours of 1 objects were queried, the annotation has 0"
    ):
        GENEVAL.score_sample(
            ONE_OF_EACH["colors"],
            {"detector": DetectionAnnotation(size=(9, 9), detections=tuple(PAIR))},
            "official",
        )


def test_a_task_that_is_none_of_the_six_is_told() -> None:
    score = GENEVAL.evaluate([sight(0, 0, line("odd", clause("dog")), PAIR)], "official", True)
    assert any("odd are none of GenEval's six" in w for w in score.warnings)


# ---------------------------------------------------------------------------
# suite


def test_without_the_prompts_the_command_is_named() -> None:
    with pytest.raises(MissingAssetError, match="harope-bench fetch geneval"):
        registry.load_by_name("suites", "geneval").requests([0])


def test_a_damaged_metadata_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text(json.dumps(ONE_OF_EACH["colors"]) + "\n" + '{"tag": "x"}\n')
    with pytest.raises(StorageError, match="line 2 is no GenEval prompt"):
        read_metadata(path)
    path.write_text("nonsense\n")
    read_metadata.cache_clear()
    with pytest.raises(StorageError, match="line 1 is not JSON"):
        read_metadata(path)


def test_the_number_of_a_damaged_metadata_line_counts_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text(json.dumps(ONE_OF_EACH["colors"]) + "\n\n" + "nonsense\n")
    with pytest.raises(StorageError, match="line 3 is not JSON"):
        read_metadata(path)


official = pytest.mark.skipif(
    not OFFICIAL.exists(), reason="the official prompt files are not here"
)


@official
def test_the_suite_is_the_official_file_copy_by_copy() -> None:
    fetch_asset("geneval", OFFICIAL)
    suite = registry.load_by_name("suites", "geneval")
    assert (
        suite.count
        == 2212
        == 4
        * len(
            read_metadata(
                local_files.require_local_file("geneval", "evaluation_metadata.jsonl").path
            )
        )
    )
    texts = [
        json.loads(text)
        for text in (OFFICIAL / "evaluation_metadata.jsonl").read_text().splitlines()
    ]
    cases = [suite.case(i) for i in range(suite.count)]
    assert [c.metadata["geneval"] for c in cases] == texts * 4
    assert [c.copy for c in cases] == sorted(c.copy for c in cases) and cases[553].prompt_index == 0
    assert [r.prompt for r in suite.requests([0, 552, 553])] == [
        texts[0]["prompt"],
        texts[552]["prompt"],
        texts[0]["prompt"],
    ]
    assert Counter(c.metadata["geneval"]["tag"] for c in cases) == dict(
        zip(TASKS, (320, 396, 320, 376, 400, 400), strict=True)
    )
    assert [r.prompt for r in suite.requests(range(553))] == (
        OFFICIAL / "generation_prompts.txt"
    ).read_text().splitlines()
    assert suite.prompts_source()[1].startswith("5c48e081")
    for index in (2212, -1):
        with pytest.raises(OptionError, match="2,212 images"):
            suite.case(index)


@official
def test_the_official_prompts_name_known_classes_colours_and_relations() -> None:
    fetch_asset("geneval", OFFICIAL)
    names = set(
        local_files.require_local_file("geneval", "object_names.txt").path.read_text().splitlines()
    )
    every = [
        PromptSpec.model_validate(metadata)
        for metadata in read_metadata(
            local_files.require_local_file("geneval", "evaluation_metadata.jsonl").path
        )
    ]
    assert len(names) == 80 and {name for w in every for name in w.names} <= names
    clauses = [c for w in every for c in w.include]
    assert {c.color for c in clauses} - {None} <= set(COLOURS)
    assert Counter(c.position[0] for c in clauses if c.position) == {
        "left of": 19,
        "right of": 27,
        "above": 26,
        "below": 28,
    }
    assert Counter(w.include[0].count for w in every if w.tag == "counting") == {
        2: 26,
        3: 28,
        4: 26,
    }
    assert all(
        w.exclude and w.exclude[0].count == w.include[0].count + 1
        for w in every
        if w.tag == "counting"
    )


@official
def test_scores_of_the_whole_suite_are_multiples_that_table_4_can_hold() -> None:
    """All cells of the paper's GenEval columns but one are k / (4 x prompts): the denominators of a
    whole run here.
    """
    fetch_asset("geneval", OFFICIAL)
    suite, rng = registry.load_by_name("suites", "geneval"), np.random.default_rng(1)
    sights = []
    for i in range(suite.count):
        case = suite.case(i)
        expected = PromptSpec.model_validate(case.metadata["geneval"])
        detections = [
            make_detection(c.name, 0.95, at(100 * k, 100 * k))
            for k, c in enumerate(expected.include)
            for _ in range(c.count)
        ]
        detections = detections if rng.random() < 0.7 else []
        fields: dict[str, Any] = {
            "detector": DetectionAnnotation(size=(512, 512), detections=tuple(detections))
        }
        if ask := GENEVAL.annotator_roles[1].make_query(case.metadata["geneval"], fields):
            fields["colours"] = shares(*(str(rng.choice(COLOURS)) for _ in ask.objects))
        sights.append(
            AnnotatedImage(
                i, case.prompt_index, case.copy, case.prompt, case.metadata["geneval"], fields
            )
        )
    score = GENEVAL.evaluate(sights, "official", False)
    entries = {m.metric: m for m in score.measurements}
    assert [entries[tag].n_scored for tag in TASKS] == [320, 396, 320, 376, 400, 400]
    for tag in TASKS:
        value = entries[tag].value * entries[tag].n_scored
        assert value == pytest.approx(round(value), abs=1e-9)
    assert entries["overall"].value == pytest.approx(
        np.mean([entries[tag].value for tag in TASKS]), abs=1e-15
    )
    table = registry.load_by_name("tables", "table4")
    cells = [
        (row["published"][tag], entries[tag].n_scored) for row in table["rows"] for tag in TASKS
    ]
    impossible_cells = [
        cell for cell, n in cells if abs(round(float(cell) * n) / n - float(cell)) > 0.0005 + 1e-9
    ]
    assert impossible_cells == ["0.606"]
    assert {c["n_images"] for c in table["columns"] if c["key"] in TASKS} == {
        entries[tag].n_scored for tag in TASKS
    }
