"""DPG-Bench: the table is read as it is, the rule is the script's on every edge in both modes,
scores are what it prints.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harope_bench.core import registry
from harope_bench.core.annotations import VqaAnnotation, VqaAnswer, VqaQuery
from harope_bench.core.errors import ShapeError
from harope_bench.evaluators.base import AnnotatedImage, EvaluatorOutput
from harope_bench.evaluators.dpg_bench import METRICS
from harope_bench.evaluators.rules import dpg as rule
from harope_bench.evaluators.rules.dpg import (
    CORRECTIONS,
    QUIRKS,
    QUIRKS_NOT_REPRODUCED,
    DpgItem,
    can_crash_official_script,
    categories,
    category_sums,
    row_indices,
    score_answers,
)

OFFICIAL = Path("/work/shared/data/dpg_bench")
BOTH_TEXTS = ("official", "corrected")
DPG = registry.load_by_name("evaluators", "dpg-bench")
WHOLE_TEXT, COLOUR = "entity - whole (owl)", "attribute - color (owl, red)"


def question(
    number: int, parents: Sequence[int] = (0,), row: int | None = None, phrase: str = WHOLE_TEXT
) -> dict[str, Any]:
    return {
        "row": 10 + number if row is None else row,
        "id": number,
        "question": f"Is it {number}?",
        "parents": list(parents),
        "broad": "entity",
        "detailed": "whole",
        "tuple": phrase,
    }


def prompt_metadata(*questions: dict[str, Any], item: str = "a1") -> dict[str, Any]:
    return {"item": item, "questions": list(questions), "official_text": True}


def tile(
    fields: dict[str, Any], answers: Sequence[str], rules: str = "official"
) -> rule.ImageScore:
    return score_answers(DpgItem.model_validate(fields), answers, rules)


def score_pair(fields: dict[str, Any], answers: Sequence[str]) -> tuple[float | None, float | None]:
    """Scores of one image, official and corrected; None where the official script would have
    dropped the item.
    """
    image_scores = [tile(fields, answers, rules) for rules in BOTH_TEXTS]
    return tuple(None if t.failure else t.score for t in image_scores)  # type: ignore[return-value]


# ---------------------------------------------------------------------------
# quirks


def test_first_row_is_skipped_officially_and_read_when_corrected() -> None:
    prompt_metadata_result = prompt_metadata(question(1, row=0), question(2, row=1))
    assert score_pair(prompt_metadata_result, ["no", "yes"]) == (1.0, 0.5)
    assert list(row_indices(DpgItem.model_validate(prompt_metadata_result), "official")) == [2]
    later_prompt_metadata = prompt_metadata(question(1, row=1), question(2, row=2))
    assert score_pair(later_prompt_metadata, ["no", "yes"]) == (0.5, 0.5)
    assert score_pair(prompt_metadata(question(1, row=0)), ["yes"]) == (
        None,
        1.0,
    )  # the item has no question left


def test_lost_parent_drops_the_item_unless_an_earlier_parent_is_zero() -> None:
    prompt_metadata_result = prompt_metadata(
        question(1, row=0), question(2, row=1), question(3, (1,), row=2)
    )
    assert score_pair(prompt_metadata_result, ["yes", "yes", "yes"]) == (None, 1.0) and score_pair(
        prompt_metadata_result, ["no", "yes", "yes"]
    ) == (None, 1 / 3)
    assert "question 3 depends on question 1" in str(
        tile(prompt_metadata_result, ["yes"] * 3).failure
    )
    shielded_prompt_metadata = prompt_metadata(
        question(1, row=0), question(2, row=1), question(3, (2, 1), row=2)
    )
    assert score_pair(shielded_prompt_metadata, ["yes", "no", "yes"]) == (
        0.0,
        1 / 3,
    )  # the loop stops at parent 2
    assert score_pair(shielded_prompt_metadata, ["yes", "yes", "yes"]) == (None, 1.0)
    unknown_prompt_metadata = prompt_metadata(question(1), question(2, (9,)))
    assert score_pair(unknown_prompt_metadata, ["yes", "yes"]) == (None, 1.0)
    assert [
        can_crash_official_script(DpgItem.model_validate(g))
        for g in (
            prompt_metadata_result,
            shielded_prompt_metadata,
            unknown_prompt_metadata,
            prompt_metadata(question(1), question(2, (1,))),
        )
    ] == [True] * 3 + [False]


def test_exact_yes_is_the_only_answer_worth_anything() -> None:
    prompt_metadata_result = prompt_metadata(*(question(n) for n in range(1, 6)))
    assert score_pair(prompt_metadata_result, ["yes", "Yes", "yes.", " yes ", "no"]) == (0.2, 0.8)
    assert score_pair(prompt_metadata_result, ["yes indeed", "true", "y", "", "yess"]) == (0.0, 0.0)


def test_table_order_decides_how_far_a_zero_is_passed_on() -> None:
    ordered_prompt_metadata = prompt_metadata(question(1), question(2, (1,)), question(3, (2,)))
    assert score_pair(ordered_prompt_metadata, ["no", "yes", "yes"]) == (0.0, 0.0)
    turned_prompt_metadata = prompt_metadata(
        question(3, (2,), row=11), question(2, (1,), row=12), question(1, row=13)
    )
    assert score_pair(turned_prompt_metadata, ["yes", "yes", "no"]) == (
        1 / 3,
        0.0,
    )  # 3 was settled before 2 fell
    assert tile(turned_prompt_metadata, ["yes", "yes", "no"], "corrected").zeroing_parents == {
        2: 1,
        3: 2,
    }
    assert score_pair(ordered_prompt_metadata, ["yes", "no", "yes"]) == (1 / 3, 1 / 3)
    assert score_pair(
        prompt_metadata(question(1), question(2), question(3, (0, 1, 2))), ["yes", "no", "yes"]
    ) == (
        1 / 3,
        1 / 3,
    )  # any parent


def test_questions_in_a_ring_end() -> None:
    ring = prompt_metadata(question(1, (2,)), question(2, (1,)), question(3, (3,)))
    assert score_pair(ring, ["yes", "yes", "yes"]) == (1.0, 1.0)
    assert score_pair(ring, ["yes", "no", "yes"]) == (1 / 3, 1 / 3)
    assert tile(ring, ["no", "no", "no"], "corrected").score == 0


def test_repeated_block_replaces_the_first_officially() -> None:
    prompt_metadata_result = prompt_metadata(
        question(1, row=5), question(2, row=6), question(1, row=9), question(3, row=10)
    )
    assert list(
        row_indices(DpgItem.model_validate(prompt_metadata_result), "official").items()
    ) == [(1, 2), (3, 3)]
    assert list(
        row_indices(DpgItem.model_validate(prompt_metadata_result), "corrected").items()
    ) == [
        (1, 2),
        (2, 1),
        (3, 3),
    ]
    assert score_pair(prompt_metadata_result, ["no", "no", "yes", "yes"]) == (1.0, 2 / 3)
    twice = prompt_metadata(
        question(1, row=5), question(1, row=6)
    )  # in one block the later row counts, at the first's place
    assert score_pair(twice, ["no", "yes"]) == (1.0, 1.0)


def test_first_row_does_not_split_a_block() -> None:
    prompt_metadata_result = prompt_metadata(
        question(1, row=0), question(2, row=1), question(3, row=2)
    )
    assert list(row_indices(DpgItem.model_validate(prompt_metadata_result), "official")) == [2, 3]


def test_raw_categories_ignore_what_questions_depend_on() -> None:
    prompt_metadata_result = prompt_metadata(
        question(1),
        question(2, (1,), phrase=COLOUR),
        question(3, phrase="entity - part (owl, beak)"),
    )
    item = DpgItem.model_validate(prompt_metadata_result)
    category_sums_result = {
        rules: category_sums(item, score_answers(item, ["no", "yes", "yes"], rules), rules)
        for rules in BOTH_TEXTS
    }
    assert category_sums_result["official"] == {
        "entity": (1, 2),
        "entity-whole": (0, 1),
        "attribute": (1, 1),
        "attribute-color": (1, 1),
        "entity-part": (1, 1),
    }
    assert category_sums_result["corrected"]["attribute-color"] == (0, 1) and category_sums_result[
        "corrected"
    ]["entity"] == (1, 2)


@pytest.mark.parametrize(
    ("phrase", "names"),
    [
        ("entity - whole (owl)", ("entity", "entity-whole")),
        ("relation - non-spatial (owl, lamp, lights)", ("relation", "relation-non-spatial")),
        ("global - (photo)", ("global",)),
        ("other - count (owl, ==2)", ("other", "other-count")),
        ("attribute - color(red)", ("attribute", "attribute-color")),
        ("(nothing)", ()),
    ],
)
def test_categories_are_read_from_the_tuple(phrase: str, names: tuple[str, ...]) -> None:
    assert categories(phrase) == names


def test_every_quirk_has_a_test_and_each_is_kept_or_said_not_to_be() -> None:
    assert set(CORRECTIONS).isdisjoint(QUIRKS_NOT_REPRODUCED) and set(CORRECTIONS) | set(
        QUIRKS_NOT_REPRODUCED
    ) == set(QUIRKS)
    text = Path(__file__).read_text() + "".join(
        (Path(__file__).parents[1] / f"suites/test_dpg_{part}.py").read_text()
        for part in ("layout", "suite")
    )
    assert not [quirk for quirk in QUIRKS if f"def test_{quirk.replace('-', '_')}" not in text]


# ---------------------------------------------------------------------------- a slow script from
# the description


def script(
    table: Sequence[dict[str, Any]], fields: dict[str, list[dict[str, str]]]
) -> tuple[float, dict[str, float]]:
    """Score and L2 values of one process, from rows of (item, id, parents, tuple, question) and
    answers by item, tile and question.
    """
    known_fields: dict[str, dict[int, dict[str, Any]]] = {}
    before = ""
    for number, row in enumerate(table):
        if number == 0:
            continue
        if row["item"] != before:
            known_fields[row["item"]] = {}
        known_fields[row["item"]][row["id"]] = row
        before = row["item"]
    scores, pooled_records = [], {}
    for item, tiles in fields.items():
        try:
            package_value = known_fields[item]
            per_tile = []
            for answers in tiles:
                value = {
                    n: 1.0 if answers[row["question"]] == "yes" else 0.0
                    for n, row in package_value.items()
                }
                inputs = dict(value)
                for n, row in package_value.items():
                    for parent in row["parents"]:
                        if parent != 0 and value[parent] == 0:
                            value[n] = 0
                            break
                per_tile.append(sum(value.values()) / len(value))
        except KeyError:
            continue
        scores.append(sum(per_tile) / len(per_tile))
        for n, row in package_value.items():
            pooled_records.setdefault(row["tuple"].split("(")[0].strip(), []).append(inputs[n])
    return 100 * float(np.mean(scores)), {
        name: 100 * float(np.mean(v)) for name, v in pooled_records.items()
    }


def random_table(rng: np.random.Generator, items: int = 12) -> list[dict[str, Any]]:
    phrases = [
        WHOLE_TEXT,
        COLOUR,
        "relation - spatial (a, b)",
        "global - (photo)",
        "other - text (x)",
    ]
    table: list[dict[str, Any]] = []
    for k in range(items):
        count = int(rng.integers(2, 8))
        for n in range(1, count + 1):
            parents = [
                int(p)
                for p in rng.choice(np.arange(1, count + 1), int(rng.integers(0, 3)), replace=False)
                if p != n
            ] or [0]
            table.append(
                {
                    "item": f"i{k}",
                    "id": n,
                    "parents": parents,
                    "tuple": str(rng.choice(phrases)),
                    "question": f"Is {n} in {k}?",
                }
            )
    return table


def sights_of(
    table: Sequence[dict[str, Any]], fields: dict[str, list[dict[str, str]]]
) -> list[AnnotatedImage]:
    by_item: dict[str, list[dict[str, Any]]] = {}
    for row, first_table in enumerate(table):
        request = {
            "row": row,
            "id": first_table["id"],
            "question": first_table["question"],
            "parents": first_table["parents"],
            "broad": "",
            "detailed": "",
            "tuple": first_table["tuple"],
        }
        by_item.setdefault(first_table["item"], []).append(request)
    sights = []
    for copy in range(4):
        for prompt, (item, questions) in enumerate(by_item.items()):
            answers = [fields[item][copy][q["question"]] for q in questions]
            sights.append(
                sight(len(sights), prompt, copy, prompt_metadata(*questions, item=item), answers)
            )
    return sights


def sight(
    index: int, prompt: int, copy: int, fields: dict[str, Any], answers: Sequence[str] | None
) -> AnnotatedImage:
    if answers is None:
        return AnnotatedImage(
            index, prompt, copy, "t", fields, {}, failure="the image cannot be read"
        )
    return AnnotatedImage(
        index,
        prompt,
        copy,
        "t",
        fields,
        {"vqa": VqaAnnotation(answers=tuple(VqaAnswer(text=text) for text in answers))},
    )


def values(score: EvaluatorOutput) -> dict[str, float | None]:
    return {m.metric: m.value for m in score.measurements}


def test_scores_and_categories_are_the_scripts_on_random_tables() -> None:
    dropped_count = moved_count = 0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        table = random_table(rng)
        texts = {
            item: [
                {r["question"]: str(rng.choice(["yes", "yes", "no", "red"])) for r in table}
                for _ in range(4)
            ]
            for item in dict.fromkeys(r["item"] for r in table)
        }
        score, pooled_script = script(table, texts)
        official = DPG.evaluate(sights_of(table, texts), "official", False)
        result = values(official)
        assert result["dpg"] == pytest.approx(score, rel=1e-13)
        for phrase, value in pooled_script.items():
            assert result[categories(phrase)[-1]] == pytest.approx(value, rel=1e-12)
        dropped_count += official.measurements[0].n_abstained
        moved_count += (
            values(DPG.evaluate(sights_of(table, texts), "corrected", False))["dpg"]
            != result["dpg"]
        )
    assert dropped_count > 0 and moved_count == 12, (
        "tables that lose an item, and on which the corrections matter, must be among them"
    )


# ---------------------------------------------------------------------------
# evaluator


def four(
    prompt: int, fields: dict[str, Any], *answers: Sequence[str] | None
) -> list[AnnotatedImage]:
    return [
        sight(10 * copy + prompt, prompt, copy, fields, answer)
        for copy, answer in enumerate(answers)
    ]


PAIR = prompt_metadata(question(1), question(2, (1,), phrase=COLOUR))
YES, NO, HALF = ("yes", "yes"), ("no", "yes"), ("yes", "no")


def test_an_image_is_the_mean_of_its_questions_an_item_of_its_images() -> None:
    score = DPG.evaluate(
        [*four(0, PAIR, YES, HALF, NO, YES), *four(1, PAIR, NO, NO, NO, NO)], "official", False
    )
    assert values(score)["dpg"] == pytest.approx(100 * (2.5 / 4 + 0) / 2)
    assert (
        score.measurements[0].n_scored == 8
        and score.measurements[0].interval == "Wilson score, prompts as clusters"
    )


@pytest.mark.parametrize("rules", BOTH_TEXTS)
def test_an_item_weighs_the_same_however_many_tiles_it_has(rules: str) -> None:
    """The script averages an item's tiles and then items."""
    sights = [*four(0, PAIR, YES, YES, YES), *four(1, PAIR, NO)]
    assert values(DPG.evaluate(sights, rules, False))["dpg"] == pytest.approx(50.0, abs=1e-9)
    failed = values(DPG.evaluate([*four(0, PAIR, YES, NO, None), *four(1, PAIR, YES)], rules, True))
    assert failed["dpg"] == pytest.approx(
        {"official": 100.0, "corrected": 75.0}[rules], abs=1e-9
    ), "officially an item goes with a tile"


def test_last_tile_alone_speaks_for_the_categories_officially() -> None:
    sights = [*four(0, PAIR, YES, YES, YES, NO), *four(1, PAIR, NO, NO, NO, YES)]
    official, corrected_value = (values(DPG.evaluate(sights, rules, False)) for rules in BOTH_TEXTS)
    assert (official["entity"], official["attribute-color"]) == (
        50.0,
        100.0,
    )  # raw answers of the last image: no yes, yes yes
    assert (corrected_value["entity"], corrected_value["attribute-color"]) == (50.0, 50.0)
    score = DPG.evaluate(sights, "official", False)
    counts = {m.metric: (m.n_asked, m.n_scored, m.n_abstained) for m in score.measurements}
    assert counts["entity"] == (8, 2, 6) and counts["dpg"] == (8, 8, 0)
    assert any("scored on the last image of its prompts only" in w for w in score.warnings)
    assert "attribute-color is 100.000 official, 50.000 corrected" in [
        difference.text for difference in score.rule_differences
    ]


def test_whole_item_goes_with_one_lost_tile_and_stays_when_corrected() -> None:
    prompt_metadata_result = prompt_metadata(
        question(1, row=0), question(2, row=1), question(3, (2, 1), row=2), item="partiprompts97"
    )
    sights = [
        *four(
            0,
            prompt_metadata_result,
            ("yes", "no", "yes"),
            ("yes", "yes", "yes"),
            ("no",) * 3,
            ("no",) * 3,
        ),
        *four(1, PAIR, YES, YES, YES, YES),
    ]
    official, corrected_result = (DPG.evaluate(sights, rules, False) for rules in BOTH_TEXTS)
    assert values(official)["dpg"] == 100.0  # the second tile raises, so the first leaves too
    assert values(corrected_result)["dpg"] == pytest.approx(100 * ((1 / 3 + 1) / 4 + 1) / 2)
    assert official.measurements[0].n_abstained == 4
    assert "items: the official rules exclude 1 with 4 images: partiprompts97" in official.warnings
    assert official.sample_scores[0]["verdict"] == "excluded"


def test_a_failed_image_gives_no_score_unless_asked() -> None:
    sights = [*four(0, PAIR, YES, None, NO, NO), *four(1, PAIR, YES, YES, YES, YES)]
    strict = DPG.evaluate(sights, "official", False)
    assert values(strict)["dpg"] is None and strict.measurements[0].n_failed == 1
    assert (
        values(DPG.evaluate(sights, "official", True))["dpg"] == 100.0
    )  # officially a broken grid costs nothing visible
    assert values(DPG.evaluate(sights, "corrected", True))["dpg"] == pytest.approx(
        100 * (1 / 3 + 1) / 2
    )  # items weigh the same


def test_an_empty_answer_is_unread_and_other_words_are_told() -> None:
    score = DPG.evaluate(
        [*four(0, PAIR, YES, ("yes", ""), YES, YES), *four(1, PAIR, YES, YES, YES, YES)],
        "official",
        False,
    )
    assert (
        values(score)["dpg"] is None
        and "annotations: 1 cannot be read by the rules" in score.warnings
    )
    score = DPG.evaluate(
        [
            *four(0, PAIR, ("yes", "red"), ("red", "Yes"), YES, YES),
            *four(1, PAIR, YES, YES, YES, YES),
        ],
        "official",
        False,
    )
    assert (
        "answers: 2 of 16 are neither yes nor no and count as no, most often 'red'"
        in score.warnings
    )


def test_texts_that_are_not_the_official_ones_and_odd_categories_are_told() -> None:
    odd_prompt_metadata = prompt_metadata(question(1, phrase="mood - sad (owl)"))
    odd_prompt_metadata["official_text"] = (
        False  # None is said by suites that have no official texts
    )
    score = DPG.evaluate(
        [
            *four(0, odd_prompt_metadata, ["yes"], ["yes"], ["yes"], ["no"]),
            *four(1, PAIR, YES, YES, YES, YES),
        ],
        "official",
        False,
    )
    assert (
        "prompts: 1 of 2 texts of the table are not those of the official prompt files"
        in score.warnings
    )
    assert (
        "categories: mood, mood-sad are none of DPG-Bench's; they count in the score alone"
        in score.warnings
    )
    assert values(score)["dpg"] == pytest.approx(87.5)


def test_rows_show_what_was_zeroed_and_by_what() -> None:
    row, *_ = DPG.evaluate(four(0, PAIR, NO, YES, YES, YES), "official", True).sample_scores
    assert row["reason"] == "1 of 2 answered yes, 1 of them 0 by what they depend on"
    first_row, second = row["evidence"]["zero_questions"]
    assert first_row == {
        "id": 1,
        "question": "Is it 1?",
        "answer": "no",
        "category": "entity-whole",
    }
    assert second == {
        "id": 2,
        "question": "Is it 2?",
        "answer": "yes",
        "category": "attribute-color",
        "parents": [1],
        "zeroed_by": 1,
    }
    json.dumps(row, allow_nan=False)


def test_every_row_is_asked_and_answers_must_fit() -> None:
    (look,) = DPG.annotator_roles
    prompt_metadata_result = prompt_metadata(question(1, row=0), question(2, row=1))
    assert look.role == "vqa" and look.make_query(prompt_metadata_result, {}) == VqaQuery(
        questions=("Is it 1?", "Is it 2?")
    )
    with pytest.raises(ShapeError, match="item a1 has 2 questions, the judge gave 1 answers"):
        DPG.score_sample(
            prompt_metadata_result,
            {"vqa": VqaAnnotation(answers=(VqaAnswer(text="yes"),))},
            "official",
        )


def test_metrics_are_the_score_five_broad_and_twelve_detailed_categories() -> None:
    assert len(METRICS) == 1 + 5 + 12 and [m.name for m in DPG.metrics] == list(METRICS)
    columns = {
        c["key"]
        for c in registry.load_by_name("tables", "table4")["columns"]
        if c.get("evaluator") == "dpg-bench"
    }
    assert columns == {"dpg"} <= set(METRICS)
