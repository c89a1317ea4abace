"""The shipped text-to-image checkpoints: whole, of the shipped recipe, and drawing what their
captions say.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from harope_bench.core import registry
from harope_bench.core.state_dicts import load_state_strictly, load_weights
from harope_bench.core.storage import sha256_file
from harope_bench.data.sample_set import open_samples
from harope_bench.data.shapes_scenes.answer_questions import answer_question
from harope_bench.data.shapes_scenes.detect_shapes import detect_shapes
from harope_bench.data.shapes_scenes.questions import caption_questions
from harope_bench.models import load_checkpoint
from harope_bench.pipeline.generate import generate, make_plan
from harope_bench.suites.shapes import caption_cases
from harope_bench.training.recipe import TextToImageRecipe, read_recipe

FINAL_FIELDS = {
    "shapes-ape": ("ape", {}),
    "shapes-rope-axial": ("rope-axial", {}),
    "shapes-harope": ("harope", {}),
    "shapes-rope-matrix-svd": ("rope-matrix", {"matrix": "svd", "per_head": False}),
}
BASES = {"shapes-base-rope-axial": ("rope-axial", {})}
# What shapes-ape went on from is not shipped; training makes it again.
BASE_OF_APE = ("shapes-base-ape.safetensors", "6bfe5198941c")
EARLIER = [
    f"{name}-at-{step}"
    for name in ("shapes-harope", "shapes-rope-matrix-svd")
    for step in (300, 600, 1200)
]


def recipe(name: str = "shapes-mmdit") -> tuple[TextToImageRecipe, str]:
    recipe, digest = read_recipe("shapes-base" if name in BASES else "shapes-mmdit")
    assert isinstance(recipe, TextToImageRecipe)
    return recipe, digest


def final_name(name: str) -> str:
    return name.split("-at-")[0]


@pytest.mark.parametrize("name", [*BASES, *FINAL_FIELDS, *EARLIER])
def test_checkpoint_is_small_whole_and_of_the_shipped_recipe(name: str) -> None:
    checkpoint_record, (known_recipe, digest) = (
        load_checkpoint.load_checkpoint_record(name),
        recipe(name),
    )
    weights = load_checkpoint.find_weights_path(checkpoint_record)
    assert weights.stat().st_size < 5_000_000
    assert sha256_file(weights) == checkpoint_record.sha256
    assert (checkpoint_record.encoding, checkpoint_record.options) == {**BASES, **FINAL_FIELDS}[
        final_name(name)
    ]
    assert (checkpoint_record.scale, checkpoint_record.suite, checkpoint_record.recipe_sha256) == (
        "micro",
        "shapes",
        digest,
    ), "the recipe was edited after training"
    assert checkpoint_record.config == known_recipe.config
    assert checkpoint_record.training_steps == (
        int(name.split("-at-")[1]) if "-at-" in name else known_recipe.schedule.steps
    )
    assert "/" not in checkpoint_record.source


@pytest.mark.parametrize("name", [*FINAL_FIELDS, *EARLIER])
def test_checkpoint_tells_the_weights_it_went_on_from(name: str) -> None:
    checkpoint_record = load_checkpoint.load_checkpoint_record(name)
    base = load_checkpoint.load_checkpoint_record(recipe()[0].base_checkpoints["default"])
    weights, sha256 = (base.weights, base.sha256[:12])
    if checkpoint_record.encoding == "ape":
        weights, sha256 = BASE_OF_APE
    assert checkpoint_record.source.endswith(f"--base {weights} ({sha256})")


@pytest.mark.parametrize("name", [*BASES, *FINAL_FIELDS, *EARLIER])
def test_checkpoint_loads_strictly_and_is_recognised(name: str) -> None:
    checkpoint_record = load_checkpoint.load_checkpoint_record(name)
    state = load_weights(
        load_checkpoint.find_weights_path(checkpoint_record), checkpoint_record.sha256
    )
    backbone = registry.load_by_name("backbones", checkpoint_record.backbone)
    load_state_strictly(
        backbone.build(
            checkpoint_record.encoding, checkpoint_record.options, checkpoint_record.config
        ),
        state,
        name,
    )
    clue = backbone.detect_fields(state)
    assert clue.encoding in (None, checkpoint_record.encoding)
    assert all(checkpoint_record.config[key] == value for key, value in clue.config.items())


@pytest.mark.parametrize("name", [*BASES, *FINAL_FIELDS])
def test_log_shows_that_the_words_are_used(name: str) -> None:
    """The loss with another caption of the same task is well above that with the scene's own."""
    path = load_checkpoint.find_weights_path(
        load_checkpoint.load_checkpoint_record(name)
    ).with_suffix(".log.csv")
    lines = [line.split(",") for line in path.read_text().splitlines()]
    assert lines[0] == ["step", "loss", "loss_own_captions", "loss_shuffled_captions"]
    assert int(lines[-1][0]) == recipe(name)[0].schedule.steps
    true_mean_value, shuffled_mean_value = (
        np.mean([float(line[column]) for line in lines[-5:]]) for column in (2, 3)
    )
    assert shuffled_mean_value > 1.5 * true_mean_value


def test_a_colour_and_a_shape_are_drawn_as_asked(tmp_path: Path) -> None:
    """Four images each of five unseen colour bindings, asked for one of five shapes in one of six
    colours: chance is one in thirty.
    """
    expected = [
        i + copy * len(caption_cases())
        for copy in range(4)
        for i, case in enumerate(caption_cases())
        if case.task == "colors"
    ]
    generate(make_plan("shapes-harope", None, {"steps": 12}), expected, tmp_path)
    samples = open_samples(tmp_path)
    images = next(samples.batches(samples.indices, len(expected))).images
    pairs = zip(images, expected, strict=True)
    images_result = [
        (image, question)
        for image, index in pairs
        for question in caption_questions(caption_cases()[index % len(caption_cases())])
        if question.category_detailed == "color"
    ]
    assert len(images_result) == len(expected) == 20
    assert (
        np.mean(
            [
                (answer_question(question.text, detect_shapes(image)) or 0) > 0.5
                for image, question in images_result
            ]
        )
        > 0.7
    )
