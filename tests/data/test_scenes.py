"""Drawn scenes: what is held out, what is drawn, what the parser reads of it, and what it says of
garbage.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from scipy import ndimage

from harope_bench.data.shapes_scenes import answer_questions, grammar
from harope_bench.data.shapes_scenes.detect_shapes import detect_shapes
from harope_bench.data.shapes_scenes.grammar import (
    HELD_OUT_COLOURS,
    HELD_OUT_NUMBERS,
    HELD_OUT_PAIRS,
    CaptionClause,
    SceneCaption,
    held_out_relation,
    is_held_out_pair,
    list_captions,
)
from harope_bench.data.shapes_scenes.layout import CELLS, Style, compose_scene, scene_rng
from harope_bench.data.shapes_scenes.parser_errors import measure_parser_errors
from harope_bench.data.shapes_scenes.questions import caption_questions, compbench_item, dpg_item
from harope_bench.data.shapes_scenes.scene_images import (
    COLOUR_RGB,
    PATTERNS,
    Background,
    Scene,
    SceneObject,
    render_background,
    render_scene,
)
from harope_bench.data.shapes_scenes.scene_pool import compose_indexed_scene, render_pool
from harope_bench.evaluators.rules.dpg import DpgItem
from harope_bench.evaluators.rules.geneval import TASKS as OFFICIAL_TASKS
from harope_bench.evaluators.rules.geneval import PromptSpec as OfficialWanted
from harope_bench.training.recipe import TextToImageRecipe, read_recipe


def object_counts(scene: Scene) -> Counter[tuple[str, str]]:
    return Counter((thing.shape, thing.colour) for thing in scene.objects)


def read(image: np.ndarray) -> Counter[tuple[str, str]]:
    return Counter((one.label, one.colour) for one in detect_shapes(image, min_score=0.5))


# ------------------------------------------------------------------------------------- captions and
# splits


def test_tasks_are_those_of_geneval() -> None:
    assert grammar.TASKS == OFFICIAL_TASKS
    assert (
        {case.task for case in list_captions("train")}
        == {case.task for case in list_captions("test")}
        == set(grammar.TASKS)
    )


def test_no_caption_is_in_both_splits_and_every_word_is_trained() -> None:
    train, test = ({case.prompt for case in list_captions(split)} for split in ("train", "test"))
    assert not train & test
    assert len(train) == len(list_captions("train")) and len(test) == len(list_captions("test"))
    trained = {word for prompt in train for word in prompt.split()}
    assert {word for prompt in test for word in prompt.split()} <= trained
    recipe = read_recipe("shapes-base")[0]
    assert isinstance(recipe, TextToImageRecipe)
    assert str(recipe.config["words"]).split() == sorted(trained)


def test_held_combinations_are_in_no_training_caption() -> None:
    for case in list_captions("train"):
        assert len(case.clauses) < 2 or not is_held_out_pair(
            case.clauses[0].shape, case.clauses[1].shape
        )
        for clause in case.clauses:
            assert HELD_OUT_COLOURS[clause.shape] != clause.colour
            assert clause.count == 1 or HELD_OUT_NUMBERS[clause.shape] != clause.count
            if clause.position is not None:
                assert held_out_relation(clause.shape, case.clauses[0].shape) != clause.position[0]


def test_every_test_caption_needs_a_held_combination() -> None:
    for case in list_captions("test"):
        one, other = case.clauses[0], case.clauses[-1]
        pair = len(case.clauses) == 2 and is_held_out_pair(one.shape, other.shape)
        bound = any(HELD_OUT_COLOURS[c.shape] == c.colour for c in case.clauses)
        counted = any(HELD_OUT_NUMBERS[c.shape] == c.count for c in case.clauses)
        placed = any(
            c.position and held_out_relation(c.shape, one.shape) == c.position[0]
            for c in case.clauses
        )
        carried = case.task == "single_object" and case.prompt.startswith(
            grammar.HELD_OUT_CARRIERS[one.shape]
        )
        assert pair or bound or counted or placed or carried, case.prompt


def test_no_two_test_captions_ask_for_the_same() -> None:
    """Each is then a draw of its own, as intervals over prompts take it."""
    asked = [(case.task, case.clauses) for case in list_captions("test")]
    assert len(asked) == len(set(asked)) == 67
    assert [sum(task == one for one, _ in asked) for task in grammar.TASKS] == [5, 4, 5, 5, 24, 24]
    assert {" ".join(case.prompt.split()[:3]) for case in list_captions("test")} == set(
        grammar.CARRIERS
    )


OTHER_WAY = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}


def mirrored_clauses(case: SceneCaption) -> tuple[CaptionClause, ...]:
    """The same scene named from its other thing."""
    one, other = case.clauses
    if other.position is None:
        return (other, one)
    return (
        CaptionClause(other.shape),
        CaptionClause(one.shape, position=(OTHER_WAY[other.position[0]], 0)),
    )


def test_mirrored_captions_are_as_few_as_is_said() -> None:
    test = {case.clauses: case for case in list_captions("test")}
    pairs = [case for case in test.values() if len(case.clauses) == 2]
    assert sum(mirrored_clauses(case) in test for case in pairs) == 2 * 12
    trained = {case.clauses for case in list_captions("train")}
    assert [case.task for case in pairs if mirrored_clauses(case) in trained] == ["position"] * 7


def test_each_shape_of_a_held_pair_is_trained_beside_others() -> None:
    beside = {
        frozenset(c.shape for c in case.clauses)
        for case in list_captions("train")
        if len(case.clauses) == 2
    }
    for pair in HELD_OUT_PAIRS:
        assert all(sum(shape in other for other in beside) >= 2 for shape in pair)


def test_facts_are_lines_of_genevals_metadata() -> None:
    for case in list_captions("test"):
        wanted = OfficialWanted.model_validate(case.geneval_metadata())
        assert wanted.tag == case.task and wanted.prompt == case.prompt
        assert bool(wanted.exclude) == (case.task == "counting")
    last = next(
        case
        for case in list_captions("train")
        if case.prompt == "a photo of a circle above a square"
    )
    assert last.geneval_metadata()["include"] == [
        {"class": "square", "count": 1},
        {"class": "circle", "count": 1, "position": ["above", 0]},
    ]


def test_questions_depend_on_what_must_be_there_first() -> None:
    case = next(
        case
        for case in list_captions("train")
        if case.prompt == "a photo of a circle above a square"
    )
    asked = caption_questions(case)
    assert [q.text for q in asked] == [
        "Is there a square?",
        "Is there a circle?",
        "Is the circle above the square?",
    ]
    assert [q.parents for q in asked] == [(0,), (0,), (1, 2)]
    assert (asked[2].category_broad, asked[2].category_detailed) == ("relation", "spatial")
    for number, one in enumerate(list_captions("test")):
        parsed = DpgItem.model_validate(dpg_item(one, f"case{number}", 1))
        assert all(parent < q.id for q in parsed.questions for parent in q.parents)


def test_cases_of_compbench_name_what_its_rules_read() -> None:
    said = {case.task: compbench_item(case, 0) for case in list_captions("test")}
    assert said["single_object"] is None
    assert [said[task]["category"] for task in ("counting", "position", "color_attr")] == [
        "numeracy",
        "spatial",
        "color",
    ]  # type: ignore[index]


# ------------------------------------------------------------------------------------- drawing


def test_a_scene_is_a_function_of_split_and_index() -> None:
    assert (
        compose_indexed_scene("train", 7)
        == compose_indexed_scene("train", 7)
        != compose_indexed_scene("test", 7)
    )
    both, late = render_pool("train", [3, 9], 32), render_pool("train", [9], 32)
    assert np.array_equal(both.images[1], late.images[0]) and both.captions[1] == late.captions[0]


@pytest.mark.parametrize("index", range(60))
def test_a_scene_shows_what_its_caption_asks(index: int) -> None:
    case, drawn = compose_indexed_scene("train", index)
    wanted = Counter({clause.shape: clause.count for clause in case.clauses})
    assert Counter(thing.shape for thing in drawn.objects) == wanted
    for clause in case.clauses:
        assert clause.colour is None or any(
            (t.shape, t.colour) == (clause.shape, clause.colour) for t in drawn.objects
        )
        if clause.position is not None:
            target = next(t for t in drawn.objects if t.shape == clause.shape)
            other = next(t for t in drawn.objects if t.shape == case.clauses[0].shape)
            ahead = {
                "left of": other.x - target.x,
                "right of": target.x - other.x,
                "above": other.y - target.y,
                "below": target.y - other.y,
            }
            assert ahead[clause.position[0]] > 0.4


def test_a_scene_keeps_its_layout_at_any_size() -> None:
    _, drawn = compose_indexed_scene("train", 5)
    small, large = render_scene(drawn, 32), render_scene(drawn, 128)
    shrunk = large.reshape(32, 4, 32, 4, 3).mean((1, 3))
    assert small.shape == (32, 32, 3) and small.dtype == np.uint8
    assert np.abs(small - shrunk).mean() < 2


def test_edges_are_mixtures_of_ground_and_paint() -> None:
    circle = SceneObject("circle", "red", 0.5, 0.5, 0.3, (200.0, 40.0, 40.0))
    levels = np.unique(
        render_scene(Scene(Background(low_level=40.0, high_level=40.0), (circle,)), 32)[..., 0]
    )
    assert {levels.min(), levels.max()} == {40, 200} and len(levels) > 4


@pytest.mark.parametrize("pattern", PATTERNS)
def test_grounds_stay_between_their_greys(pattern: str) -> None:
    levels = render_background(Background(pattern, 30.0, 55.0, 0.3, True, 1), 64)  # type: ignore[arg-type]
    assert levels.min() >= 30 and levels.max() <= 55
    assert (levels.std() == 0) == (pattern == "plain")


# ------------------------------------------------------------------------------------- parser


def test_parser_reads_rendered_scenes_without_error() -> None:
    found = measure_parser_errors(60)
    assert set(found) == {
        (side, spoiling) for side in (32, 48, 64, 128) for spoiling in ("sharp", "blurred", "noisy")
    }
    for (_, spoiling), errors in found.items():
        assert errors.scenes == 60 and errors.questions > 60
        assert errors.misread_scenes <= (0 if spoiling == "sharp" else 1), (spoiling, errors)
        assert errors.n_errors <= 3 * errors.misread_scenes, (spoiling, errors)


@pytest.mark.parametrize("side", [32, 48, 64, 128])
@pytest.mark.parametrize("colour", COLOUR_RGB)
def test_parser_finds_the_ground_where_things_cover_more_than_half(side: int, colour: str) -> None:
    paint = tuple(float(level) for level in COLOUR_RGB[colour])
    for radius in (0.17, 0.2, 0.21):
        squares = tuple(SceneObject("square", colour, x, y, radius, paint) for x, y in CELLS)  # type: ignore[arg-type]
        assert read(render_scene(Scene(Background(), squares), side)) == {("square", colour): 4}


@pytest.mark.parametrize("level", [0, 40, 240, 255])
def test_a_picture_of_one_colour_holds_nothing(level: int) -> None:
    assert not read(np.full((32, 32, 3), level, dtype=np.uint8))


def test_measured_sees_a_parser_that_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "harope_bench.data.shapes_scenes.parser_errors.detect_shapes",
        lambda image: detect_shapes(image)[1:],
    )
    errors = measure_parser_errors(12, (32,))[32, "sharp"]
    assert (
        errors.misread_scenes == 12
        and errors.missed_objects > 0.3 * errors.objects
        and errors.wrong_answers > 0.1 * errors.questions
    )


def test_boxes_and_masks_are_where_things_are() -> None:
    square = SceneObject("square", "blue", 0.5, 0.25, 0.2, (45.0, 95.0, 225.0))
    (found,) = detect_shapes(render_scene(Scene(Background(), (square,)), 100))
    assert found.box == (32, 7, 68, 43)
    assert found.mask[7:43, 32:68].all() and found.mask.sum() == 36 * 36
    assert found.score > 0.95


@pytest.mark.parametrize("seed", range(5))
def test_garbage_holds_no_sure_things(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for image in (
        rng.integers(0, 256, (32, 32, 3), dtype=np.uint8),
        np.full((32, 32, 3), 40 * seed, dtype=np.uint8),
        np.clip(rng.normal(128, 60, (8, 8, 3)), 0, 255).astype(np.uint8).repeat(4, 0).repeat(4, 1),
    ):
        assert sum(one.score > 0.9 for one in detect_shapes(image)) <= 1


def test_ragged_blobs_score_lower_than_shapes() -> None:
    across, down = np.meshgrid(np.arange(32) - 15.5, np.arange(32) - 15.5)
    scores = []
    for seed in range(20):
        noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(32, 32)), 1.5)
        image = np.full((32, 32, 3), 40, dtype=np.uint8)
        image[(across**2 + down**2 < 144) & (noise > -0.05)] = (215, 45, 40)
        scores.append(max((one.score for one in detect_shapes(image)), default=0.0))
    assert np.mean(np.array(scores) > 0.9) < 0.3, sorted(scores)


def test_things_of_one_colour_that_touch_are_read_apart() -> None:
    paint = (215.0, 45.0, 40.0)
    for one, other in (
        ("square", "square"),
        ("circle", "ring"),
        ("cross", "triangle"),
        ("square", "triangle"),
    ):
        pair = (
            SceneObject(one, "red", 0.29, 0.5, 0.21, paint),
            SceneObject(other, "red", 0.71, 0.5, 0.21, paint),
        )
        for side in (32, 64):
            assert read(render_scene(Scene(Background(), pair), side)) == object_counts(
                Scene(Background(), pair)
            ), (one, other, side)


# ------------------------------------------------------------------------------------- answers


def test_true_questions_are_answered_yes_and_false_ones_no() -> None:
    case = SceneCaption(
        "color_attr",
        "",
        (CaptionClause("circle", colour="red"), CaptionClause("square", colour="blue")),
    )
    found = detect_shapes(render_scene(compose_scene(case, scene_rng("answers", 0), Style()), 64))
    said = {
        text: answer_questions.answer_question(text, found)
        for text in (
            "Is there a circle?",
            "is the circle red?",
            "a blue square?",
            "Are there circles?",
        )
    }
    assert all(value is not None and value > 0.9 for value in said.values()), said
    for text in (
        "Is there a ring?",
        "Is the circle blue?",
        "a red square?",
        "Are there two circles?",
    ):
        assert answer_questions.answer_question(text, found) == 0
    assert answer_questions.answer_question("How are you?", found) is None


@pytest.mark.parametrize(("relation", "opposite"), [("left of", "right of"), ("above", "below")])
def test_relations_are_answered_by_side(relation: str, opposite: str) -> None:
    case = SceneCaption(
        "position", "", (CaptionClause("ring"), CaptionClause("cross", position=(relation, 0)))
    )
    found = detect_shapes(render_scene(compose_scene(case, scene_rng("relations", 1), Style()), 64))
    assert (
        answer_questions.answer_question(f"Is the cross {relation} the ring?", found) or 0
    ) > 0.9
    assert answer_questions.answer_question(f"Is the cross {opposite} the ring?", found) == 0
    assert (
        answer_questions.answer_question(f"Is the ring {opposite} the cross?", found) or 0
    ) > 0.9
