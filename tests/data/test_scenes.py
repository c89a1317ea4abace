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
    return Counter((object_result.shape, object_result.colour) for object_result in scene.objects)


def read(image: np.ndarray) -> Counter[tuple[str, str]]:
    return Counter(
        (detect_shape.label, detect_shape.colour)
        for detect_shape in detect_shapes(image, min_score=0.5)
    )


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
    trained_words = {word for prompt in train for word in prompt.split()}
    assert {word for prompt in test for word in prompt.split()} <= trained_words
    recipe = read_recipe("shapes-base")[0]
    assert isinstance(recipe, TextToImageRecipe)
    assert str(recipe.config["words"]).split() == sorted(trained_words)


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
        first_clause, second_clause = case.clauses[0], case.clauses[-1]
        pair = len(case.clauses) == 2 and is_held_out_pair(first_clause.shape, second_clause.shape)
        bound = any(HELD_OUT_COLOURS[c.shape] == c.colour for c in case.clauses)
        counted_has_match = any(HELD_OUT_NUMBERS[c.shape] == c.count for c in case.clauses)
        placed_has_match = any(
            c.position and held_out_relation(c.shape, first_clause.shape) == c.position[0]
            for c in case.clauses
        )
        carried_flag = case.task == "single_object" and case.prompt.startswith(
            grammar.HELD_OUT_CARRIERS[first_clause.shape]
        )
        assert pair or bound or counted_has_match or placed_has_match or carried_flag, case.prompt


def test_no_two_test_captions_ask_for_the_same() -> None:
    """Each is then a draw of its own, as intervals over prompts take it."""
    tasks = [(case.task, case.clauses) for case in list_captions("test")]
    assert len(tasks) == len(set(tasks)) == 67
    assert [sum(task == first_value for first_value, _ in tasks) for task in grammar.TASKS] == [
        5,
        4,
        5,
        5,
        24,
        24,
    ]
    assert {" ".join(case.prompt.split()[:3]) for case in list_captions("test")} == set(
        grammar.CARRIERS
    )


OTHER_WAY = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}


def mirrored_clauses(case: SceneCaption) -> tuple[CaptionClause, ...]:
    """The same scene named from its other thing."""
    first_clause, second_clause = case.clauses
    if second_clause.position is None:
        return (second_clause, first_clause)
    return (
        CaptionClause(second_clause.shape),
        CaptionClause(first_clause.shape, position=(OTHER_WAY[second_clause.position[0]], 0)),
    )


def test_mirrored_captions_are_as_few_as_is_said() -> None:
    test = {case.clauses: case for case in list_captions("test")}
    pairs = [case for case in test.values() if len(case.clauses) == 2]
    assert sum(mirrored_clauses(case) in test for case in pairs) == 2 * 12
    trained_clauses = {case.clauses for case in list_captions("train")}
    assert [case.task for case in pairs if mirrored_clauses(case) in trained_clauses] == [
        "position"
    ] * 7


def test_each_shape_of_a_held_pair_is_trained_beside_others() -> None:
    beside = {
        frozenset(c.shape for c in case.clauses)
        for case in list_captions("train")
        if len(case.clauses) == 2
    }
    for pair in HELD_OUT_PAIRS:
        assert all(sum(shape in other_beside for other_beside in beside) >= 2 for shape in pair)


def test_facts_are_lines_of_genevals_metadata() -> None:
    for case in list_captions("test"):
        expected = OfficialWanted.model_validate(case.geneval_metadata())
        assert expected.tag == case.task and expected.prompt == case.prompt
        assert bool(expected.exclude) == (case.task == "counting")
    last_first_item = next(
        case
        for case in list_captions("train")
        if case.prompt == "a photo of a circle above a square"
    )
    assert last_first_item.geneval_metadata()["include"] == [
        {"class": "square", "count": 1},
        {"class": "circle", "count": 1, "position": ["above", 0]},
    ]


def test_questions_depend_on_what_must_be_there_first() -> None:
    case = next(
        case
        for case in list_captions("train")
        if case.prompt == "a photo of a circle above a square"
    )
    caption_questions_result = caption_questions(case)
    assert [q.text for q in caption_questions_result] == [
        "Is there a square?",
        "Is there a circle?",
        "Is the circle above the square?",
    ]
    assert [q.parents for q in caption_questions_result] == [(0,), (0,), (1, 2)]
    assert (
        caption_questions_result[2].category_broad,
        caption_questions_result[2].category_detailed,
    ) == ("relation", "spatial")
    for number, caption in enumerate(list_captions("test")):
        parsed_model_validate = DpgItem.model_validate(dpg_item(caption, f"case{number}", 1))
        assert all(parent < q.id for q in parsed_model_validate.questions for parent in q.parents)


def test_cases_of_compbench_name_what_its_rules_read() -> None:
    compbench_items = {case.task: compbench_item(case, 0) for case in list_captions("test")}
    assert compbench_items["single_object"] is None
    assert [
        compbench_items[task]["category"] for task in ("counting", "position", "color_attr")
    ] == [
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
    pool, late_pool = render_pool("train", [3, 9], 32), render_pool("train", [9], 32)
    assert (
        np.array_equal(pool.images[1], late_pool.images[0])
        and pool.captions[1] == late_pool.captions[0]
    )


@pytest.mark.parametrize("index", range(60))
def test_a_scene_shows_what_its_caption_asks(index: int) -> None:
    case, generated_value = compose_indexed_scene("train", index)
    expected = Counter({clause.shape: clause.count for clause in case.clauses})
    assert Counter(object_result.shape for object_result in generated_value.objects) == expected
    for clause in case.clauses:
        assert clause.colour is None or any(
            (t.shape, t.colour) == (clause.shape, clause.colour) for t in generated_value.objects
        )
        if clause.position is not None:
            target = next(t for t in generated_value.objects if t.shape == clause.shape)
            other_first_item = next(
                t for t in generated_value.objects if t.shape == case.clauses[0].shape
            )
            ahead = {
                "left of": other_first_item.x - target.x,
                "right of": target.x - other_first_item.x,
                "above": other_first_item.y - target.y,
                "below": target.y - other_first_item.y,
            }
            assert ahead[clause.position[0]] > 0.4


def test_a_scene_keeps_its_layout_at_any_size() -> None:
    _, generated_value = compose_indexed_scene("train", 5)
    small_scene, large_scene = render_scene(generated_value, 32), render_scene(generated_value, 128)
    shrunk = large_scene.reshape(32, 4, 32, 4, 3).mean((1, 3))
    assert small_scene.shape == (32, 32, 3) and small_scene.dtype == np.uint8
    assert np.abs(small_scene - shrunk).mean() < 2


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
    parser_errors = measure_parser_errors(60)
    assert set(parser_errors) == {
        (side, spoiling) for side in (32, 48, 64, 128) for spoiling in ("sharp", "blurred", "noisy")
    }
    for (_, spoiling), errors in parser_errors.items():
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
    (detect_shape,) = detect_shapes(render_scene(Scene(Background(), (square,)), 100))
    assert detect_shape.box == (32, 7, 68, 43)
    assert detect_shape.mask[7:43, 32:68].all() and detect_shape.mask.sum() == 36 * 36
    assert detect_shape.score > 0.95


@pytest.mark.parametrize("seed", range(5))
def test_garbage_holds_no_sure_things(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for image in (
        rng.integers(0, 256, (32, 32, 3), dtype=np.uint8),
        np.full((32, 32, 3), 40 * seed, dtype=np.uint8),
        np.clip(rng.normal(128, 60, (8, 8, 3)), 0, 255).astype(np.uint8).repeat(4, 0).repeat(4, 1),
    ):
        assert sum(detect_shape.score > 0.9 for detect_shape in detect_shapes(image)) <= 1


def test_ragged_blobs_score_lower_than_shapes() -> None:
    across, down = np.meshgrid(np.arange(32) - 15.5, np.arange(32) - 15.5)
    scores = []
    for seed in range(20):
        noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(32, 32)), 1.5)
        image = np.full((32, 32, 3), 40, dtype=np.uint8)
        image[(across**2 + down**2 < 144) & (noise > -0.05)] = (215, 45, 40)
        scores.append(
            max((detect_shape.score for detect_shape in detect_shapes(image)), default=0.0)
        )
    assert np.mean(np.array(scores) > 0.9) < 0.3, sorted(scores)


def test_things_of_one_colour_that_touch_are_read_apart() -> None:
    paint = (215.0, 45.0, 40.0)
    for first_text, second_text in (
        ("square", "square"),
        ("circle", "ring"),
        ("cross", "triangle"),
        ("square", "triangle"),
    ):
        pair = (
            SceneObject(first_text, "red", 0.29, 0.5, 0.21, paint),
            SceneObject(second_text, "red", 0.71, 0.5, 0.21, paint),
        )
        for side in (32, 64):
            assert read(render_scene(Scene(Background(), pair), side)) == object_counts(
                Scene(Background(), pair)
            ), (first_text, second_text, side)


# ------------------------------------------------------------------------------------- answers


def test_true_questions_are_answered_yes_and_false_ones_no() -> None:
    case = SceneCaption(
        "color_attr",
        "",
        (CaptionClause("circle", colour="red"), CaptionClause("square", colour="blue")),
    )
    detect_shapes_result = detect_shapes(
        render_scene(compose_scene(case, scene_rng("answers", 0), Style()), 64)
    )
    answer_questions_result = {
        text: answer_questions.answer_question(text, detect_shapes_result)
        for text in (
            "Is there a circle?",
            "is the circle red?",
            "a blue square?",
            "Are there circles?",
        )
    }
    assert all(value is not None and value > 0.9 for value in answer_questions_result.values()), (
        answer_questions_result
    )
    for text in (
        "Is there a ring?",
        "Is the circle blue?",
        "a red square?",
        "Are there two circles?",
    ):
        assert answer_questions.answer_question(text, detect_shapes_result) == 0
    assert answer_questions.answer_question("How are you?", detect_shapes_result) is None


@pytest.mark.parametrize(
    ("relation", "opposite_text"), [("left of", "right of"), ("above", "below")]
)
def test_relations_are_answered_by_side(relation: str, opposite_text: str) -> None:
    case = SceneCaption(
        "position", "", (CaptionClause("ring"), CaptionClause("cross", position=(relation, 0)))
    )
    detect_shapes_result = detect_shapes(
        render_scene(compose_scene(case, scene_rng("relations", 1), Style()), 64)
    )
    assert (
        answer_questions.answer_question(f"Is the cross {relation} the ring?", detect_shapes_result)
        or 0
    ) > 0.9
    assert (
        answer_questions.answer_question(
            f"Is the cross {opposite_text} the ring?", detect_shapes_result
        )
        == 0
    )
    assert (
        answer_questions.answer_question(
            f"Is the ring {opposite_text} the cross?", detect_shapes_result
        )
        or 0
    ) > 0.9
