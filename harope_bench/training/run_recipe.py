"""One door to every recipe."""

from __future__ import annotations

from pathlib import Path

from harope_bench.core.conditioning import Conditioning, backbone_conditioning, check_conditioning
from harope_bench.core.errors import OptionError
from harope_bench.core.record_base import Option
from harope_bench.core.regular_file import check_regular
from harope_bench.core.schema import Checkpoint
from harope_bench.core.storage import convert_os_errors
from harope_bench.models.load_checkpoint import check_name
from harope_bench.training.model_training import ModelTraining, base_weights_path
from harope_bench.training.recipe import (
    AnyRecipe,
    ClassifierRecipe,
    DenoiserRecipe,
    DigitsJudgeRecipe,
    JudgeErrorRecipe,
    ReferenceRecipe,
    ShapesJudgeRecipe,
    TextToImageRecipe,
    read_recipe,
)
from harope_bench.training.training_files import LOG_FILE, SNAPSHOT_FILE, check_training_outputs


def run_recipe(
    name: str,
    encoding: str | None,
    options: dict[str, Option],
    checkpoint_name: str | None,
    out: Path | None,
    resume: bool,
    base_weights: Path | None = None,
) -> tuple[Path, str]:
    """Carries out a recipe; returns its folder and one line that says what came out.

    base: weights that a painter starts from.

    Raises:
        OptionError: --encoding missing for a model of one encoding, or given for something else;
            --base likewise.
        StorageError: a file that no training wrote stands where one of this training would go.
    """
    recipe, digest = read_recipe(name)
    if base_weights is not None and not isinstance(recipe, TextToImageRecipe):
        raise OptionError(f"recipe {recipe.name} starts from nothing; leave --base out")
    if base_weights is not None:
        with convert_os_errors(base_weights):
            check_regular(base_weights)
    if isinstance(recipe, DenoiserRecipe | TextToImageRecipe | ClassifierRecipe):
        check_recipe(recipe)
        if encoding is None:
            raise OptionError(
                f"recipe {recipe.name} trains one encoding, none was named; add --encoding"
                " rope-axial, for example"
            )
        title = check_name(
            checkpoint_name
            or f"{recipe.suite if isinstance(recipe, DenoiserRecipe) else recipe.name}-{encoding}"
        )
        folder = out or Path("runs/train") / title
        check_training_outputs(folder, output_files(recipe, title, resume))
        if isinstance(recipe, TextToImageRecipe):
            base_weights = base_weights or base_weights_path(recipe, encoding)
        checkpoint = _train_model(
            recipe,
            ModelTraining(recipe, digest, encoding, options, base_weights),
            title,
            folder,
            resume,
        )
        return folder, f"checkpoint {checkpoint.name}, {checkpoint.training_steps:,} steps"
    if encoding is not None or options or checkpoint_name:
        raise OptionError(
            f"recipe {recipe.name} has no encoding; leave --encoding, --option and --name out"
        )
    folder = out or Path("runs/train") / recipe.name
    check_training_outputs(folder, output_files(recipe, recipe.name, resume))
    if isinstance(recipe, DigitsJudgeRecipe):
        from harope_bench.training import digits_judge

        return (
            folder,
            (
                f"judge {recipe.judge},"
                f" {digits_judge.train_digits_judge(recipe, digest, folder, resume):.2%} of the"
                " held-out images read"
            ),
        )
    if isinstance(recipe, ShapesJudgeRecipe):
        from harope_bench.training import shapes_judge

        return (
            folder,
            (
                f"judge {recipe.judge},"
                f" {shapes_judge.train_shapes_judge(recipe, digest, folder, resume):.2%} of the"
                " held-out scenes read"
            ),
        )
    if isinstance(recipe, JudgeErrorRecipe):
        from harope_bench.training import judge_errors

        return (
            folder,
            (
                f"errors of judge {recipe.judge} in"
                f" {judge_errors.measure_judge_errors(recipe, folder)}"
            ),
        )
    from harope_bench.training import reference

    return folder, f"reference {reference.build_reference(recipe, folder)}"


def output_files(recipe: AnyRecipe, title: str, resume: bool) -> list[str]:
    """Return the files that a recipe leaves in its folder; a snapshot that is resumed from is
    checked as it is read.
    """
    if isinstance(recipe, ReferenceRecipe):
        return [f"{recipe.suite}-reference.npz", f"{recipe.suite}.toml"]
    if isinstance(recipe, JudgeErrorRecipe):
        return [f"{recipe.judge.replace('-', '_')}.toml"]
    stems = (
        [recipe.judge.replace("-", "_")]
        if isinstance(recipe, DigitsJudgeRecipe | ShapesJudgeRecipe)
        else [title]
    )
    if isinstance(recipe, TextToImageRecipe):
        stems += [f"{title}-at-{step}" for step in recipe.keep]
    files = [f"{stem}{suffix}" for stem in stems for suffix in (".safetensors", ".toml")]
    return [*files, LOG_FILE, *([] if resume else [SNAPSHOT_FILE])]


def check_recipe(recipe: DenoiserRecipe | TextToImageRecipe | ClassifierRecipe) -> None:
    """Raise OptionError unless the network of a recipe takes what its suite gives: labels of that
    number, or prompts.
    """
    taken = backbone_conditioning(recipe.backbone, recipe.config)
    what = f"recipe {recipe.name} ({recipe.backbone})"
    if isinstance(recipe, ClassifierRecipe):
        check_conditioning(what, taken, recipe.tested_on)
        taken = Conditioning(
            "labels", taken.classes
        )  # a classifier learns from the labels of the suite's real images
    check_conditioning(what, taken, recipe.suite)


def _train_model(
    recipe: DenoiserRecipe | TextToImageRecipe | ClassifierRecipe,
    model: ModelTraining,
    title: str,
    folder: Path,
    resume: bool,
) -> Checkpoint:
    if isinstance(recipe, DenoiserRecipe):
        from harope_bench.training import denoiser

        return denoiser.train_denoiser(recipe, model, title, folder, resume)
    if isinstance(recipe, TextToImageRecipe):
        from harope_bench.training import text_to_image

        return text_to_image.train_text_to_image(recipe, model, title, folder, resume)
    from harope_bench.training import image_classifier

    return image_classifier.train_classifier(recipe, model, title, folder, resume)
