"""T2I-CompBench as suite and evaluator: every category, under both sets of rules, and the counts of
the official prompts.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from toy_compbench import correct_annotations, prompt_metadata, sighting, sights

from harope_bench import testing
from harope_bench.assets.download import fetch_asset
from harope_bench.core import registry
from harope_bench.core.annotations import (
    ANNOTATION_TYPES,
    QUERY_TYPES,
    DepthQuery,
    DetectionAnnotation,
    DetectionQuery,
    SimilarityAnnotation,
    SimilarityQuery,
    VqaAnnotation,
    VqaAnswer,
    VqaQuery,
)
from harope_bench.core.errors import MissingAssetError, OptionError, StorageError
from harope_bench.core.schema import Measurement
from harope_bench.evaluators import t2i_compbench as evaluator
from harope_bench.evaluators.base import AnnotatedImage, EvaluatorOutput
from harope_bench.evaluators.rules.compbench_spatial import (
    SIDE_RELATIONS,
    UNIDET_MISSING_NOUNS,
    detector_nouns,
    parse_depth_relation,
    parse_relation,
)
from harope_bench.suites import noun_chunks
from harope_bench.suites.compbench_suite import CATEGORIES, COPIES, METADATA_KEY, CompBenchSuite
from harope_bench.suites.official_layouts.compbench import file_name

OFFICIAL = Path("/work/shared/data/t2i_compbench")
official = pytest.mark.skipif(not OFFICIAL.exists(), reason="the official prompts are not here")
PLUGIN = evaluator.PLUGIN
BOTH_TEXTS = ("official", "corrected")


def find_measurement(score: EvaluatorOutput, metric: str) -> Measurement:
    return next(m for m in score.measurements if m.metric == metric)


def value(
    items: list[AnnotatedImage], metric: str, rules: str = "official", lenient: bool = False
) -> float | None:
    return find_measurement(PLUGIN.evaluate(items, rules, lenient), metric).value


# ---------------------------------------------------------------------------------------------
# evaluator


def test_the_evaluator_keeps_its_promises() -> None:
    testing.check_annotation_evaluator("t2i-compbench", sights())


@pytest.mark.parametrize("rules", BOTH_TEXTS)
@pytest.mark.parametrize(
    ("category", "expected"),
    [
        ("color", 0.72),
        ("shape", 0.72),
        ("texture", 0.72),
        ("spatial", 0.25 * 1.7 + 0.5),
        ("3d_spatial", 0.25 * 1.7 + 0.5 * (20 * 40 / (2 * 40 * 40 - 20 * 40) / 0.5)),
        ("numeracy", 0.5),  # one cup of two
        ("non_spatial", 0.3),
        # of four prompts two are spatial, one action, one both; near wants 150 px
        ("complex", (2 * (0.925 + 0.72) / 2 + (0.3 + 0.72) / 2 + (0.72 + 0.925 + 0.3) / 3) / 4),
    ],
)
def test_the_value_of_each_category(category: str, expected: float, rules: str) -> None:
    results = PLUGIN.evaluate(sights(category), rules, False)
    assert find_measurement(results, evaluator.METRICS[category]).value == pytest.approx(expected)
    for m in results.measurements:
        if m.metric != evaluator.METRICS[category]:
            assert (m.value, m.n_asked, m.reason) == (
                None,
                0,
                "no prompt of this kind was requested",
            )


def test_metrics_are_the_columns_of_table_5() -> None:
    columns = {
        column["key"]: column["unit"]
        for column in registry.load_by_name("tables", "table5")["columns"]
    }
    assert columns.items() <= {metric.name: metric.unit for metric in PLUGIN.metrics}.items()
    assert set(registry.load_by_name("suites", "t2i-compbench-table5").categories) == {
        category for category, metric in evaluator.METRICS.items() if metric in columns
    }


def test_each_category_asks_its_own_judges() -> None:
    fields: dict[str, list[str]] = {}
    for category in CATEGORIES:
        for folder in range(3):
            for look in PLUGIN.annotator_roles:
                if (
                    ask := look.make_query(
                        prompt_metadata(category, folder), correct_annotations(category)
                    )
                ) is not None:
                    assert isinstance(ask, QUERY_TYPES[look.role])
                    fields.setdefault(category, []).append(look.role)
    assert {category: sorted(set(roles)) for category, roles in fields.items()} == {
        "color": ["vqa"],
        "shape": ["vqa"],
        "texture": ["vqa"],
        "spatial": ["detector-2d"],
        "3d_spatial": ["depth", "detector"],
        "numeracy": ["detector"],
        "non_spatial": ["similarity"],
        "complex": ["detector-2d", "similarity", "vqa"],
    }
    assert fields["complex"].count("detector-2d") == 2, (
        "a prompt with an action alone needs no detector"
    )
    assert (
        set(registry.load_by_name("suites", "t2i-compbench").judges["t2i-compbench"])
        == {look.role for look in PLUGIN.annotator_roles}
        <= set(ANNOTATION_TYPES)
    )


def test_what_is_asked() -> None:
    two = sighting(("cup", 0.9, 100, 200), ("cat", 0.8, 120, 200), ("dog", 0.7, 300, 200))
    assert evaluator.vqa_query(prompt_metadata("color", 0), {}) == VqaQuery(
        questions=("a cup?", "a dog?")
    )
    assert evaluator.detection_2d_query(
        {**prompt_metadata("spatial", 0), "nouns": ["girl", "side", "boy"]}, {}
    ) == DetectionQuery(names=("person",))
    assert evaluator.detection_query(prompt_metadata("numeracy", 0), {}) == DetectionQuery(
        names=("cup",)
    )
    assert evaluator.detection_query({**prompt_metadata("numeracy", 0), "known": []}, {}) is None
    assert evaluator.depth_query(prompt_metadata("3d_spatial", 0), {"detector": two}) == DepthQuery(
        boxes=((80, 180, 120, 220), (280, 180, 320, 220))
    )
    assert (
        evaluator.depth_query(
            prompt_metadata("3d_spatial", 0), {"detector": sighting(("cup", 0.9, 100, 200))}
        )
        is None
    )
    assert evaluator.similarity_query(
        {**prompt_metadata("complex", 1), "no_adj": "The cup"}, {}
    ) == SimilarityQuery(texts=("The cup",))
    assert evaluator.similarity_query(prompt_metadata("complex", 0), {}) is None


@pytest.mark.parametrize("category", CATEGORIES)
def test_an_image_without_an_answer_is_unread_and_never_a_zero(category: str) -> None:
    sights_result = sights(category)
    first_value = replace(sights_result[0], annotations={})
    metric = evaluator.METRICS[category]
    for rules in BOTH_TEXTS:
        strict = find_measurement(
            PLUGIN.evaluate([first_value, *sights_result[1:]], rules, False), metric
        )
        assert (strict.value, strict.n_abstained) == (None, 1) and "cannot be read" in str(
            strict.reason
        )
        lenient = find_measurement(
            PLUGIN.evaluate([first_value, *sights_result[1:]], rules, True), metric
        )
        assert (
            lenient.value == pytest.approx(value(sights_result[1:], metric, rules))
            and lenient.n_scored == len(sights_result) - 1
        )


def test_where_the_official_script_stops_there_is_no_score() -> None:
    sights_result = sights("numeracy")
    stopping = replace(sights_result[0], metadata={**sights_result[0].metadata, "text": "two cup"})
    score = PLUGIN.evaluate([stopping, *sights_result[1:]], "official", False)
    assert find_measurement(score, "numeracy").value is None
    assert "ValueError" in score.sample_scores[0]["reason"] and score.sample_scores[0][
        "other_rules"
    ]["scores"] == {"numeracy": 0.5}
    assert score.sample_scores[0]["verdict"] == "unread", "listed among the failures"
    assert value([stopping, *sights_result[1:]], "numeracy", "corrected") == pytest.approx(0.5)


def test_a_judge_without_shares_of_yes_is_not_guessed() -> None:
    wordy = VqaAnnotation(answers=(VqaAnswer(text="yes"), VqaAnswer(text="no")))
    assert value(sights("color", color={"vqa": wordy}), "color") is None


def test_complex_without_two_objects() -> None:
    values = [
        replace(s, metadata={**s.metadata, "objects": ["cup"]})
        for s in sights("complex", prompts=1)
    ]
    assert value(values, "complex", "official") == pytest.approx(0.72 / 2)
    assert value(values, "complex", "corrected") == pytest.approx(0.72)


def test_failed_images_do_not_move_the_others() -> None:
    sights_result = sights("complex")
    failed = [replace(sights_result[0], annotations={}, failure="lost"), *sights_result[1:]]
    whole_results, rest = (
        PLUGIN.evaluate(sights_result, "official", True),
        PLUGIN.evaluate(failed, "official", True),
    )
    for first_sample_score, second_sample_score in zip(
        whole_results.sample_scores[1:], rest.sample_scores[1:], strict=True
    ):
        assert first_sample_score["scores"] == second_sample_score["scores"]
    m = find_measurement(rest, "complex")
    assert (m.n_asked, m.n_scored, m.n_failed) == (8, 7, 1)


def notes(items: list[AnnotatedImage], rules: str = "official") -> str:
    return "\n".join(PLUGIN.evaluate(items, rules, True).warnings)


def test_a_reader_is_told_ceiling_presence_and_floor() -> None:
    wallets = [
        (
            replace(s, metadata={**s.metadata, "nouns": ["cup", "wallet"]})
            if s.metadata["place"] == 0
            else s
        )
        for s in sights("spatial")
    ]
    assert (
        "spatial_2d: UniDet's labels allow at most 0.750, since none equals what 1 of 4 prompts"
        " name" in notes(wallets)
    )
    assert "another detector may allow more or less" in notes(wallets)
    assert "at most" not in notes(wallets, "corrected")
    assert "at most" not in notes(sights("spatial")), "no prompt is lost, so there is no ceiling"
    other_sighting = sighting(("wallet", 0.9, 100, 200))
    assert "at most" not in notes(
        [replace(s, annotations={"detector-2d": other_sighting}) for s in wallets]
    ), "a detector with a wallet has no such ceiling"
    assert "spatial_3d: 0.425 of 0.758 is earned by detected objects" in notes(sights("3d_spatial"))
    # action counts half for one prompt and a third for one, of four
    assert f"complex: {0.3 * (1 / 2 + 1 / 3) / 4:.3f} of it is CLIP's cosine alone" in notes(
        sights("complex")
    )
    assert "rules: the official rules keep four-decimals" in notes(sights("color"))
    assert "corrected are four-decimals" in notes(sights("color"), "corrected")


def test_both_rules_are_told_where_they_differ() -> None:
    listed_sighting = sighting(("cup, mug", 0.9, 100, 200), ("dog", 0.8, 300, 200))
    for rules in ("official", "corrected"):
        score = PLUGIN.evaluate(
            sights("spatial", spatial={"detector-2d": listed_sighting}), rules, True
        )
        assert "spatial_2d is 0.00000 official, 0.92500 corrected" in [
            difference.text for difference in score.rule_differences
        ]


# -------------------------------------------------------------------------------------------------
# suite


@pytest.fixture
def official_files() -> None:
    fetch_asset("t2i-compbench", OFFICIAL)


def whole_suite(parser_version: str = noun_chunks.BASE_VERSION) -> CompBenchSuite:
    return CompBenchSuite("whole", parser_version=parser_version)


def rows(suite: CompBenchSuite, category: str) -> list[dict[str, Any]]:
    first_index_of = suite.index_of(category, 0, 0)
    return [dict(suite.case(first_index_of + k).metadata[METADATA_KEY]) for k in range(300)]


def test_without_the_prompts_the_suite_says_how_to_get_them() -> None:
    with pytest.raises(MissingAssetError, match="harope-bench fetch t2i-compbench"):
        whole_suite().requests([0])


def test_a_model_nobody_read_with_is_named() -> None:
    with pytest.raises(
        OptionError, match=r"no parses by en_core_web_sm 3.5.0 ship; choose one of 3.6.0, 3.8.0"
    ):
        noun_chunks.find_parse("a dog", "3.5.0")
    with pytest.raises(StorageError, match="no parse of 'a dog'"):
        noun_chunks.find_parse("a dog", "3.6.0")


def test_readings_hold_no_word() -> None:
    lines = [
        line
        for line in noun_chunks.PARSES_FILE.read_text().splitlines()
        if line and not line.startswith(("#", "[", '"'))
    ]
    assert len(lines) > 1800
    for line in lines:
        key, row = line.split(" = ")
        assert (
            len(key) == 12
            and set(key) <= set("0123456789abcdef")
            and set(row) <= set('"0123456789- |')
        )


def test_a_reading_survives_its_row() -> None:
    prompt = "The dog's well-worn hat was on top of the hat rack."
    read = noun_chunks.PromptParse(
        ("dog", "hat", "hat", "rack"),
        ("The dog's well-worn hat", "the hat rack"),
        ("hat", "hat"),
        "The dog 's - hat was on the hat rack .",
    )
    assert noun_chunks.parse_row(prompt, noun_chunks.format_row(prompt, read)) == read
    with pytest.raises(ValueError, match="'cat' is not in"):
        noun_chunks.format_row(prompt, read._replace(nouns=("cat",)))


@official
@pytest.mark.usefixtures("official_files")
def test_indices_run_through_all_prompts_before_the_next_copy() -> None:
    suite = registry.load_by_name("suites", "t2i-compbench")
    assert (suite.count, suite.prompt_count, suite.copies, suite.resolution) == (
        24_000,
        2400,
        10,
        512,
    )
    assert [r.prompt for r in suite.requests([0, 2400, 900])] == [
        "a green bench and a blue bowl"
    ] * 2 + ["a giraffe next to a lamp"]
    for index in (0, 299, 300, 2399, 2400, 23_999):
        case = suite.case(index)
        assert (
            suite.index_of(
                case.metadata[METADATA_KEY]["category"],
                case.metadata[METADATA_KEY]["place"],
                case.copy,
            )
            == index
        )
        assert case.metadata[METADATA_KEY]["text"] == case.prompt
        json.dumps(case.metadata)
    with pytest.raises(OptionError, match="there is no index 24000"):
        suite.case(24_000)
    part = registry.load_by_name("suites", "t2i-compbench-table5")
    assert (part.count, part.case(300).prompt, part.case(14_999).copy) == (
        15_000,
        "a giraffe next to a lamp",
        9,
    )
    assert part.prompts_source() != suite.prompts_source()
    assert "en_core_web_sm 3.6.0" in suite.prompts_source()[0]


@official
@pytest.mark.usefixtures("official_files")
def test_every_prompt_is_the_official_line() -> None:
    suite = whole_suite()
    for category in CATEGORIES:
        lines = (
            (OFFICIAL / f"{category}_val.txt")
            .read_bytes()
            .decode()
            .replace("\r\n", "\n")
            .split("\n")
        )
        assert (
            list(suite.category_prompts(category)) == [line for line in lines if line]
            and len(suite.category_prompts(category)) == 300
        )
    assert (
        len({text for category in CATEGORIES for text in suite.category_prompts(category)}) == 2400
    )


@official
@pytest.mark.usefixtures("official_files")
@pytest.mark.parametrize("version", noun_chunks.parser_versions())
def test_readings_are_the_taggers(version: str) -> None:
    document = json.loads(
        (OFFICIAL / "derived" / f"parse_en_core_web_sm_{version}.json").read_text()
    )["categories"]
    for category in CATEGORIES:
        for own_row, library_value in zip(
            rows(whole_suite(version), category), document[f"{category}_val"], strict=True
        ):
            expected = {
                key: library_value[key]
                for key in ("nouns", "chunks", "objects", "no_adj")
                if key in own_row
            }
            assert {key: own_row[key] for key in expected} == expected
            assert expected or category in ("numeracy", "non_spatial")


@official
@pytest.mark.usefixtures("official_files")
def test_how_far_two_taggers_differ() -> None:
    first_whole_suite, two = whole_suite("3.6.0"), whole_suite("3.8.0")

    def differing(category: str, key: str) -> int:
        return sum(
            a[key] != b[key]
            for a, b in zip(rows(first_whole_suite, category), rows(two, category), strict=True)
        )

    assert [differing(c, "chunks") for c in ("color", "shape", "texture", "complex")] == [
        13,
        16,
        23,
        31,
    ]
    assert differing("complex", "no_adj") == 68
    assert [differing(c, "nouns") for c in ("spatial", "3d_spatial")] == [3, 3]


@official
@pytest.mark.usefixtures("official_files")
@pytest.mark.parametrize(("version", "labelled_count"), [("3.6.0", 198), ("3.8.0", 200)])
def test_the_ceiling_of_2d(version: str, labelled_count: int) -> None:
    """198 and 200 were counted with UniDet's own list of labels."""
    rows_result = rows(whole_suite(version), "spatial")
    left = [
        row
        for row in rows_result
        if not set(detector_nouns(evaluator.first_and_last_noun(row))) & UNIDET_MISSING_NOUNS
    ]
    assert len(left) == labelled_count
    perfect_annotated_images = [
        AnnotatedImage(k, k, 0, row["text"], row, {"detector-2d": right(row)})
        for k, row in enumerate(rows_result)
    ]
    assert value(perfect_annotated_images, "spatial_2d") == pytest.approx(labelled_count / 300)
    assert f"spatial_2d: UniDet's labels allow at most {labelled_count / 300:.3f}" in notes(
        perfect_annotated_images
    )


def right(row: dict[str, Any]) -> DetectionAnnotation:
    """What a detector with those labels would see in a perfect image: two sure things in the right
    places.
    """
    words = parse_relation(row["text"], "official")
    axis, sign = SIDE_RELATIONS.get(words or "", (0, 1))
    apart_values = [0.0, 0.0]
    apart_values[axis] = 120.0 * sign
    first_detector_noun, second = detector_nouns(evaluator.first_and_last_noun(row))
    records = [
        (first_detector_noun, 1.0, 200.0, 200.0),
        (second, 1.0, 200 + apart_values[0], 200 + apart_values[1]),
    ]
    if first_detector_noun == second:
        records.pop()
    return sighting(
        *(
            (label, *where_value)
            for label, *where_value in records
            if label not in UNIDET_MISSING_NOUNS
        )
    )


@official
@pytest.mark.usefixtures("official_files")
def test_false_is_true_would_zero_top_and_bottom() -> None:
    """`--complex False` reads objects around phrases that these prompts do not have."""
    left = [
        row
        for row in rows(whole_suite("3.8.0"), "spatial")
        if not set(detector_nouns(evaluator.first_and_last_noun(row))) & UNIDET_MISSING_NOUNS
    ]
    assert (
        len(
            [
                row
                for row in left
                if parse_relation(row["text"], "official")
                not in ("on the top of", "on the bottom of")
            ]
        )
        == 128
    )


@official
@pytest.mark.usefixtures("official_files")
def test_kinds_of_complex_prompts_and_the_floor_of_3_in_1() -> None:
    rows_result = rows(whole_suite(), "complex")
    assert Counter(row["kinds"]["official"] for row in rows_result) == {
        "spatial": 58,
        "action": 212,
        "both": 30,
    }
    assert all(row["kinds"]["official"] == row["kinds"]["corrected"] for row in rows_result)
    fields = {
        "vqa": VqaAnnotation(answers=(VqaAnswer(text="no", yes_probability=0.0),)),
        "detector-2d": DetectionAnnotation(size=(9, 9), detections=()),
        "similarity": SimilarityAnnotation(cosines=(1.0,)),
    }
    blind = [
        AnnotatedImage(k, k, 0, row["text"], row, dict(fields)) for k, row in enumerate(rows_result)
    ]
    assert value(blind, "complex") == pytest.approx(evaluator.COSINE_FLOOR, abs=5e-4)


@official
@pytest.mark.usefixtures("official_files")
def test_every_prompt_can_be_scored_by_its_official_rule() -> None:
    """No official prompt makes its script stop, whatever is seen; each names its relation and its
    objects.
    """
    suite = whole_suite()
    for row in rows(suite, "numeracy"):
        for rules in BOTH_TEXTS:
            object_counts = evaluator.parse_object_counts(row["text"], row["known"], rules)
            assert (
                object_counts.failure is None
                and len(object_counts.names) == len(object_counts.numbers) > 0
            )
    assert all(
        len(row["nouns"]) > 1 and parse_relation(row["text"], "official")
        for row in rows(suite, "spatial")
    )
    assert all(
        row["nouns"] and parse_depth_relation(row["text"]) for row in rows(suite, "3d_spatial")
    )
    alone_totals = [
        sum(len(row["nouns"]) == 1 for row in rows(whole_suite(version), "3d_spatial"))
        for version in ("3.6.0", "3.8.0")
    ]
    assert alone_totals == [
        2,
        0,
    ], "`hidden by a key`: one version takes key for no noun, and the lamp is then both objects"
    for category in ("color", "shape", "texture", "complex"):
        assert all(0 < len(row["chunks"]) <= 8 for row in rows(suite, category))


@official
@pytest.mark.usefixtures("official_files")
def test_of_complex_places_most_have_a_relation_without_a_rule() -> None:
    placed_rows = [
        row for row in rows(whole_suite(), "complex") if row["kinds"]["official"] != "action"
    ]
    official_, corrected_count = (
        Counter(parse_relation(row["text"], rules) in SIDE_RELATIONS for row in placed_rows)
        for rules in BOTH_TEXTS
    )
    assert sum(parse_relation(row["text"], "official") == "on top of" for row in placed_rows) == 33
    assert corrected_count[True] - official_[True] == 33
    assert sum(len(row["objects"]) != 2 for row in placed_rows) == 3


def test_the_suite_is_one_of_prompts_with_ten_copies() -> None:
    for name in ("t2i-compbench", "t2i-compbench-table5"):
        suite = registry.load_by_name("suites", name)
        assert (suite.task, suite.copies) == ("prompts", COPIES)


@official
@pytest.mark.usefixtures("official_files")
def test_every_official_prompt_is_a_file_name_of_its_own() -> None:
    suite = whole_suite()
    names = {
        file_name(text, 10 * category_prompt)
        for category in CATEGORIES
        for category_prompt, text in enumerate(suite.category_prompts(category))
    }
    assert len(names) == 2400 and not any("/" in name for name in names)
