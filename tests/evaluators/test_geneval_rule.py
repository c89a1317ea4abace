"""GenEval's rule is the official script's on every edge, in both modes, and a slow one's on random
scenes.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from geneval_scenes import at, clause, line, make_detection

from harope_bench.core.annotations import Box, Detection
from harope_bench.evaluators.rules import geneval as rule
from harope_bench.evaluators.rules.geneval import (
    COLOURS,
    CORRECTIONS,
    QUIRKS,
    TASKS,
    GenevalOptions,
    PromptSpec,
    counted_detections,
    evaluate_image,
    inclusive_box_iou,
    relative_positions,
)

BOTH_TEXTS = ("official", "corrected")


def verdict(
    fields: Mapping[str, Any],
    items: Sequence[Detection],
    colours: Mapping[int, str] | None = None,
    rules: str = "official",
) -> Any:
    return evaluate_image(PromptSpec.model_validate(fields), items, colours or {}, rules)


def right(
    fields: Mapping[str, Any], items: Sequence[Detection], colours: Mapping[int, str] | None = None
) -> bool:
    """The verdict, which is the same under both sets of rules."""
    is_corrects = {verdict(fields, items, colours, rules).is_correct for rules in BOTH_TEXTS}
    assert len(is_corrects) == 1
    return bool(is_corrects.pop())


# ------------------------------------------------------------------------------------- thresholds
# and classes


@pytest.mark.parametrize(
    ("tag", "score", "counts"),
    [
        ("single_object", 0.3, False),
        ("single_object", float(np.float32(0.3)), False),
        ("single_object", float(np.nextafter(np.float32(0.3), np.float32(1))), True),
        (
            "single_object",
            float(np.nextafter(np.float64(0.3), 1)),
            False,
        ),  # above in float64, equal in float32
        ("counting", 0.9, False),
        ("counting", 0.8999, False),
        ("counting", float(np.nextafter(np.float32(0.9), np.float32(1))), True),
        ("two_object", 0.31, True),
    ],
)
def test_strict_threshold_compares_in_float32_and_equal_does_not_count(
    tag: str, score: float, counts: bool
) -> None:
    assert right(line(tag), [make_detection("dog", score)]) is counts


def test_counting_threshold_holds_for_every_class_of_a_counting_prompt() -> None:
    line_result = line("counting", clause("dog"), clause("cat"))
    assert not right(line_result, [make_detection("dog", 0.95), make_detection("cat", 0.85)])
    assert right(
        {**line_result, "tag": "two_object"},
        [make_detection("dog", 0.95), make_detection("cat", 0.85)],
    )


def test_top_16_the_surest_are_kept() -> None:
    detections = [make_detection("dog", 0.31 + 0.01 * i) for i in range(20)]
    for rules in BOTH_TEXTS:
        assert counted_detections(detections, "single_object", rules)["dog"] == list(
            range(19, 3, -1)
        )
    assert right(line("single_object", clause("dog", 16)), detections)
    assert not right(line("single_object", clause("dog", 17)), detections)


def test_no_nms_equal_boxes_all_count_and_a_limit_takes_inclusive_pixels() -> None:
    detections = [make_detection("dog", 0.95), make_detection("dog", 0.94)]
    assert right(line("counting", clause("dog", 2), exclude=[clause("dog", 3)]), detections)
    for rules in BOTH_TEXTS:
        assert counted_detections(detections, "counting", rules, GenevalOptions(max_overlap=0.999))[
            "dog"
        ] == [0]
    half = [
        make_detection("dog", 0.95, (0, 0, 9, 9)),
        make_detection("dog", 0.94, (5, 0, 14, 9)),
    ]  # as 10 and 10 wide with the last pixel: 5 shared of 15
    assert inclusive_box_iou(half[0].box, half[1].box) == pytest.approx(1 / 3)
    exclusive = 4 * 9 / (2 * 81 - 4 * 9)
    assert exclusive < 0.3 < 1 / 3
    assert counted_detections(half, "counting", "official", GenevalOptions(max_overlap=0.3))[
        "dog"
    ] == [0]
    assert counted_detections(half, "counting", "official", GenevalOptions(max_overlap=0.34))[
        "dog"
    ] == [0, 1]
    assert inclusive_box_iou((0, 0, -1, -1), (0, 0, -1, -1)) == 0  # no pixel at all


def test_overlap_compares_with_the_surest_that_is_left() -> None:
    chain = [
        make_detection("dog", 0.99, (0, 0, 99, 99)),
        make_detection("dog", 0.98, (40, 0, 139, 99)),
        make_detection("dog", 0.97, (80, 0, 179, 99)),
    ]
    assert counted_detections(chain, "counting", "official", GenevalOptions(max_overlap=0.3))[
        "dog"
    ] == [
        0,
        2,
    ]  # the middle one goes and removes nobody


def test_tie_order_later_first_officially_and_first_first_when_corrected() -> None:
    line_result = line("colors", clause("dog", color="red"))
    detections = [
        make_detection("dog", 0.5, (0, 0, 5, 5)),
        make_detection("dog", 0.5, (9, 9, 20, 20)),
        make_detection("cat", 0.9),
    ]
    colours = {0: "red", 1: "blue"}
    assert counted_detections(detections, "colors", "official")["dog"] == [1, 0]
    assert counted_detections(detections, "colors", "corrected")["dog"] == [0, 1]
    assert not verdict(line_result, detections, colours, "official").is_correct
    assert verdict(line_result, detections, colours, "corrected").is_correct
    assert rule.colour_query_indices(PromptSpec.model_validate(line_result), detections) == (
        1,
        0,
    )  # both are asked about, so that both rules can be applied
    close_detections = [
        make_detection("dog", 0.5),
        make_detection("dog", 0.5 + 1e-9),
    ]  # a tie in float32, not in float64
    assert counted_detections(close_detections, "colors", "official")["dog"] == [
        1,
        0,
    ] and counted_detections(close_detections, "colors", "corrected")["dog"] == [0, 1]


# ---------------------------------------------------------------------------
# clauses


def test_extras_ignored_except_in_counting() -> None:
    three = [
        make_detection("dog", 0.95),
        make_detection("dog", 0.94),
        make_detection("dog", 0.93),
        make_detection("cat", 0.99),
    ]
    assert right(line("single_object"), three)
    counting = line("counting", clause("dog", 2), exclude=[clause("dog", 3)])
    assert (
        right(counting, three[:2]) and not right(counting, three) and not right(counting, three[:1])
    )
    assert verdict(counting, three).reasons == ("3 of dog, expected fewer than 3",)


def test_the_count_is_of_those_above_the_threshold() -> None:
    counting = line("counting", clause("dog", 2), exclude=[clause("dog", 3)])
    assert right(
        counting,
        [make_detection("dog", 0.95), make_detection("dog", 0.94), make_detection("dog", 0.89)],
    )


def test_surest_only_is_asked_its_colour_and_its_place() -> None:
    red = line("colors", clause("dog", color="red"))
    detections = [
        make_detection("dog", 0.8, (200, 0, 210, 10)),
        make_detection("dog", 0.7, (0, 0, 10, 10)),
        make_detection("cat", 0.9, (100, 0, 110, 10)),
    ]
    assert not right(red, detections, {0: "blue", 1: "red"})
    assert rule.colour_query_indices(PromptSpec.model_validate(red), detections) == (0,)
    left = line("position", clause("cat"), clause("dog", position=["left of", 0]))
    assert not right(left, detections)
    assert right(
        line("position", clause("cat"), clause("dog", position=["right of", 0])), detections
    )


def test_shared_things_answer_two_clauses() -> None:
    line_result = line("two_object", clause("dog"), clause("dog"))
    assert right(line_result, [make_detection("dog", 0.5)])
    two_names = line("two_object", clause("cup"), clause("bowl"))
    assert right(
        two_names, [make_detection("cup", 0.5), make_detection("bowl", 0.4)]
    )  # one mask, two names


def test_every_pair_must_be_in_the_relation() -> None:
    line_result = line("position", clause("cat", 2), clause("dog", 2, position=["right of", 0]))
    cats = [make_detection("cat", 0.9, (0, 0, 10, 10)), make_detection("cat", 0.8, (50, 0, 60, 10))]
    assert right(
        line_result,
        [
            *cats,
            make_detection("dog", 0.9, (100, 0, 110, 10)),
            make_detection("dog", 0.8, (200, 0, 210, 10)),
        ],
    )
    assert not right(
        line_result,
        [
            *cats,
            make_detection("dog", 0.9, (100, 0, 110, 10)),
            make_detection("dog", 0.8, (30, 0, 40, 10)),
        ],
    )
    assert not right(
        line_result,
        [
            *cats,
            make_detection("dog", 0.9, (30, 0, 40, 10)),
            make_detection("dog", 0.8, (100, 0, 110, 10)),
        ],
    )


def test_a_reference_that_failed_fails_what_is_placed_by_it() -> None:
    line_result = line("position", clause("cat"), clause("dog", position=["right of", 0]))
    verdict_result = verdict(line_result, [make_detection("dog", 0.9)])
    assert verdict_result.reasons == (
        "0 of cat, expected 1",
        "dog should be right of an object that is itself not as expected",
    )
    coloured_line = line(
        "position", clause("cat", color="red"), clause("dog", position=["right of", 0])
    )
    pair = [make_detection("cat", 0.9), make_detection("dog", 0.9, (100, 0, 110, 10))]
    assert not right(coloured_line, pair, {0: "blue"}) and right(coloured_line, pair, {0: "red"})


def test_a_missing_thing_is_asked_neither_colour_nor_place() -> None:
    line_result = line(
        "position", clause("cat"), clause("dog", 2, color="red", position=["right of", 0])
    )
    detections = [make_detection("cat", 0.9), make_detection("dog", 0.9, (50, 0, 60, 10))]
    assert verdict(line_result, detections).reasons == ("1 of dog, expected 2",)
    assert rule.colour_query_indices(PromptSpec.model_validate(line_result), detections) == ()


def test_a_wrong_colour_is_told_before_a_wrong_place() -> None:
    line_result = line(
        "position", clause("cat"), clause("dog", color="red", position=["left of", 0])
    )
    detections = [make_detection("cat", 0.9), make_detection("dog", 0.9, (50, 0, 60, 10))]
    assert verdict(line_result, detections, {1: "blue"}).reasons == (
        "0 red dog, expected 1; detected: 1 blue",
    )
    assert verdict(line_result, detections, {1: "red"}).reasons == (
        "dog is right of cat, expected left of",
    )


def test_the_loop_goes_on_after_a_failed_clause() -> None:
    line_result = line("color_attr", clause("cat", color="red"), clause("dog", color="blue"))
    assert len(verdict(line_result, [make_detection("dog", 0.9)], {0: "green"}).reasons) == 2
    assert rule.colour_query_indices(
        PromptSpec.model_validate(line_result), [make_detection("dog", 0.9)]
    ) == (0,)


def test_at_least_count_of_the_colour_is_wanted_of_exactly_count_things() -> None:
    line_result = line("colors", clause("dog", 2, color="red"))
    three = [make_detection("dog", 0.9), make_detection("dog", 0.8), make_detection("dog", 0.7)]
    assert right(line_result, three, {0: "red", 1: "red"}) and not right(
        line_result, three, {0: "red", 1: "blue", 2: "red"}
    )


def test_colour_ties_go_to_the_first_in_the_list() -> None:
    shares = [0.0] * 10
    shares[4], shares[2] = 0.5, 0.5
    assert rule.likeliest_colour(shares) == "yellow"
    assert rule.likeliest_colour([0.1] * 10) == "red" == COLOURS[0]


@pytest.mark.parametrize("reference", [1, 2, -1])
def test_a_clause_can_only_be_placed_by_an_earlier_one(reference: int) -> None:
    with pytest.raises(ValueError, match="no earlier one"):
        PromptSpec.model_validate(
            line("position", clause("cat"), clause("dog", position=["left of", reference]))
        )


# ---------------------------------------------------------------------------
# relations


@pytest.mark.parametrize(
    ("first_box", "second_box", "holds"),
    [
        (at(0, 50), at(100, 50), {"left of"}),
        (at(200, 50), at(100, 50), {"right of"}),
        (at(50, 0), at(50, 100), {"above"}),
        (at(50, 200), at(50, 100), {"below"}),
        (at(0, 0), at(100, 100), {"left of", "above"}),  # two-relations
        (at(100, 100), at(0, 0), {"right of", "below"}),
        (at(50, 50), at(50, 50), set()),  # no offset at all
        (at(52, 50), at(50, 50), set()),  # exactly the dead zone: a tenth of 10 + 10
        (at(50.002, 50, 0), at(50, 50, 0), {"right of"}),
        (at(52.0009, 50), at(50, 50), set()),  # less than a thousandth is left
        (at(53, 50), at(50, 50), set()),  # a third of the offset is left
        (at(54, 50), at(50, 50), set()),  # exactly half is left, and half is not enough
        (at(54.1, 50), at(50, 50), {"right of"}),
    ],
)
def test_dead_zone_full_sizes_and_the_unshrunk_norm(
    first_box: Box, second_box: Box, holds: set[str]
) -> None:
    assert relative_positions(first_box, second_box) == holds


def test_two_relations_or_none_between_the_axes() -> None:
    wide_values = (
        (0.0, 0.0, 200.0, 20.0),
        (60.0, 60.0, 260.0, 80.0),
    )  # offset (60, 60), shrunk (20, 56): 20 / 84.9 and 56 / 84.9
    assert relative_positions(wide_values[1], wide_values[0]) == {"below"}
    none_ats = at(60, 60, 160), at(0, 0, 160)  # shrunk (28, 28) of 84.9: 0.33 each
    assert relative_positions(*none_ats) == frozenset()
    shrunk_norm = 28 / math.hypot(28, 28)
    assert shrunk_norm > 0.5, "dividing by the shrunk offset would have said two relations"
    half_sizes = (60 - 0.05 * 320) / math.hypot(60, 60)
    assert half_sizes > 0.5, "half sizes would have said two relations"


def test_a_box_with_corners_exchanged_has_its_size() -> None:
    assert relative_positions((10, 10, 0, 0), (110, 0, 100, 10)) == {"left of"}


# ---------------------------------------------------------------------------- a slow rule from the
# description


def official_decision(
    fields: Mapping[str, Any], items: Sequence[Detection], colours: Mapping[int, str]
) -> bool:
    """The official decision, step by step, in plain numbers."""
    bar = 0.9 if fields["tag"] == "counting" else 0.3
    pool: dict[str, list[int]] = {}
    for name in {d.label for d in items}:
        values = [
            i
            for i, d in enumerate(items)
            if d.label == name and np.float32(d.score) > np.float32(bar)
        ]
        ascending = sorted(values, key=lambda i: np.float32(items[i].score))
        pool[name] = ascending[::-1][:16]
    groups: list[list[int] | None] = []
    for request in fields["include"]:
        package_pool = pool.get(request["class"], [])[: request["count"]]
        good_flag = len(package_pool) == request["count"]
        if good_flag and "color" in request:
            good_flag = (
                sum(colours[i] == request["color"] for i in package_pool) >= request["count"]
            )
        if good_flag and "position" in request:
            relation, target = request["position"]
            group = groups[target]
            good_flag = group is not None and all(
                slow_relation(relation, items[i].box, items[j].box)
                for i in package_pool
                for j in group
            )
        groups.append(package_pool if good_flag else None)
    too_many = any(
        len(pool.get(no["class"], [])) >= no["count"] for no in fields.get("exclude", [])
    )
    return all(g is not None for g in groups) and not too_many


def slow_relation(relation: str, a: Box, b: Box) -> bool:
    d = [(a[k] + a[k + 2]) / 2 - (b[k] + b[k + 2]) / 2 for k in (0, 1)]
    r = [
        math.copysign(max(abs(d[k]) - 0.1 * (a[k + 2] - a[k] + b[k + 2] - b[k]), 0), d[k])
        for k in (0, 1)
    ]
    if abs(r[0]) < 1e-3 and abs(r[1]) < 1e-3:
        return False
    v = [x / math.hypot(*d) for x in r]
    return {
        "left of": v[0] < -0.5,
        "right of": v[0] > 0.5,
        "above": v[1] < -0.5,
        "below": v[1] > 0.5,
    }[relation]


def scene(rng: np.random.Generator, names: Sequence[str]) -> list[Detection]:
    records = []
    for _ in range(int(rng.integers(0, 9))):
        x, y, w, h = (int(v) for v in rng.integers(1, 200, 4))
        score = float(rng.choice([0.1, 0.3, 0.5, 0.5, 0.9, 0.95, 0.99]))
        records.append(make_detection(str(rng.choice(list(names))), score, (x, y, x + w, y + h)))
    return records


def random_metadata(rng: np.random.Generator, tag: str) -> dict[str, Any]:
    names = ["dog", "cat", "cup"]
    if tag == "counting":
        n = int(rng.integers(1, 4))
        return line(tag, clause("dog", n), exclude=[clause("dog", n + 1)])
    colour = (
        [{"color": str(c)} for c in rng.choice(["red", "blue"], 2)]
        if tag in ("colors", "color_attr")
        else [{}, {}]
    )
    second = (
        {"position": [str(rng.choice(["left of", "right of", "above", "below"])), 0]}
        if tag == "position"
        else colour[1]
    )
    two = tag not in ("single_object", "colors")
    return line(
        tag,
        clause(names[0], **colour[0]),
        *([clause(names[int(rng.integers(0, 2))], **second)] if two else []),
    )


def test_the_rule_is_the_slow_one_on_random_scenes() -> None:
    rng = np.random.default_rng(0)
    outcomes: Counter[tuple[str, bool]] = Counter()
    for tag in TASKS:
        for _ in range(800):
            metadata, scene_result = random_metadata(rng, tag), scene(rng, ["dog", "cat", "cup"])
            colours = {i: str(rng.choice(["red", "blue"])) for i in range(len(scene_result))}
            expected = official_decision(metadata, scene_result, colours)
            assert verdict(metadata, scene_result, colours).is_correct is expected, (
                metadata,
                scene_result,
                colours,
            )
            outcomes[tag, expected] += 1
    assert min(outcomes[tag, v] for tag in TASKS for v in (True, False)) > 10, outcomes


def test_every_quirk_is_told_and_each_correction_is_of_a_quirk() -> None:
    assert set(CORRECTIONS) <= set(QUIRKS)
    assert all(
        text.strip() and "\n" not in text for text in (*QUIRKS.values(), *CORRECTIONS.values())
    )
    keywords = Path(__file__).read_text() + (Path(__file__).parent / "test_geneval.py").read_text()
    tested_quirks = {quirk for quirk in QUIRKS if f"def test_{quirk.replace('-', '_')}" in keywords}
    assert tested_quirks == set(QUIRKS), f"no test is named after {set(QUIRKS) - tested_quirks}"
