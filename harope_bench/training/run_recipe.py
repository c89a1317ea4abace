"""Running of a recipe of any kind."""

from __future__ import annotations

from pathlib import Path

from harope_bench.core.conditioning import Conditioning, backbone_conditioning, check_conditioning
from harope_bench.core.errors import OptionError
from harope_bench.core.record_base import Option
from harope_bench.core.regular_file import check_regular
from harope_bench.core.schema import Checkpoint
from harope_bench.core.storage import convert_os_errors
from harope_bench.models.load_checkpoint import validate_user_name
from harope_bench.training.model_training import TrainingSpec, base_weights_path
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

AnyModelRecipe = DenoiserRecipe | TextToImageRecipe | ClassifierRecipe


def run_recipe(
    name: str,
    encoding: str | None,
    options: dict[str, Option],
    checkpoint_name: str | None,
    out: Path | None,
    resume: bool,
    base_weights: Path | None = None,
) -> tuple[Path, str]:
    """Run a recipe and return its folder and a line that describes its result.

    Args:
        name: a recipe's name or the path of its TOML file.
        checkpoint_name: of the trained checkpoint; by default the suite or recipe and the encoding.
        out: the folder; by default one below runs/train.
        base_weights: file of weights that a text-to-image recipe starts from.

    Raises:
        OptionError: --encoding is missing for a recipe that trains an encoding or given for
            another one, or --base is given for a recipe that starts from random weights.
        StorageError: An output file exists that no training wrote.
    """
    recipe, recipe_sha256 = read_recipe(name)
    _check_base_weights(recipe, base_weights)
    if not isinstance(recipe, AnyModelRecipe):
        if encoding is not None or options or checkpoint_name:
            raise OptionError(
                f"recipe {recipe.name} has no encoding; leave --encoding, --option and --name out"
            )
        folder = out or Path("runs/train") / recipe.name
        check_training_outputs(folder, output_files(recipe, recipe.name, resume))
        return folder, _run_judge_recipe(recipe, recipe_sha256, folder, resume)

    check_recipe(recipe)
    if encoding is None:
        raise OptionError(
            f"recipe {recipe.name} trains one encoding, none was given; add --encoding"
            " rope-axial, for example"
        )
    name_prefix = recipe.suite if isinstance(recipe, DenoiserRecipe) else recipe.name
    title = validate_user_name(checkpoint_name or f"{name_prefix}-{encoding}")
    folder = out or Path("runs/train") / title
    check_training_outputs(folder, output_files(recipe, title, resume))
    if isinstance(recipe, TextToImageRecipe):
        base_weights = base_weights or base_weights_path(recipe, encoding)
    spec = TrainingSpec(recipe, recipe_sha256, encoding, options, base_weights)
    checkpoint = _train_model(recipe, spec, title, folder, resume)
    return folder, f"checkpoint {checkpoint.name}, {checkpoint.training_steps:,} steps"


def _check_base_weights(recipe: AnyRecipe, base_weights: Path | None) -> None:
    """Raise OptionError where a recipe takes no base weights, StorageError for no regular file."""
    if base_weights is None:
        return
    if not isinstance(recipe, TextToImageRecipe):
        raise OptionError(f"recipe {recipe.name} starts from random weights; leave --base out")
    with convert_os_errors(base_weights):
        check_regular(base_weights)


def output_files(recipe: AnyRecipe, title: str, resume: bool) -> list[str]:
    """Return the names of the files that a recipe writes to its folder.

    The snapshot is left out with `resume`, because it is checked when it is read.
    """
    if isinstance(recipe, ReferenceRecipe):
        return [f"{recipe.suite}-reference.npz", f"{recipe.suite}.toml"]
    if isinstance(recipe, JudgeErrorRecipe):
        return [f"{recipe.judge.replace('-', '_')}.toml"]

    stems = [title]
    if isinstance(recipe, DigitsJudgeRecipe | ShapesJudgeRecipe):
        stems = [recipe.judge.replace("-", "_")]
    if isinstance(recipe, TextToImageRecipe):
        stems += [f"{title}-at-{step}" for step in recipe.checkpoint_steps]
    files = [f"{stem}{suffix}" for stem in stems for suffix in (".safetensors", ".toml")]
    return [*files, LOG_FILE, *([] if resume else [SNAPSHOT_FILE])]


def check_recipe(recipe: AnyModelRecipe) -> None:
    """Raise OptionError unless the network of a recipe takes the conditioning of its suite.

    The conditioning is labels of a number of classes, or prompts.
    """
    conditioning = backbone_conditioning(recipe.backbone, recipe.config)
    network_name = f"recipe {recipe.name} (backbone {recipe.backbone})"
    if isinstance(recipe, ClassifierRecipe):
        check_conditioning(network_name, conditioning, recipe.test_suite)
        # A classifier is trained on the labels of the suite's real images.
        conditioning = Conditioning("labels", conditioning.classes)
    check_conditioning(network_name, conditioning, recipe.suite)


def _train_model(
    recipe: AnyModelRecipe,
    spec: TrainingSpec,
    title: str,
    folder: Path,
    resume: bool,
) -> Checkpoint:
    """Train the model of a recipe and return its checkpoint."""
    if isinstance(recipe, DenoiserRecipe):
        from harope_bench.training import denoiser

        return denoiser.train_denoiser(recipe, spec, title, folder, resume)
    if isinstance(recipe, TextToImageRecipe):
        from harope_bench.training import text_to_image

        return text_to_image.train_text_to_image(recipe, spec, title, folder, resume)
    from harope_bench.training import image_classifier

    return image_classifier.train_classifier(recipe, spec, title, folder, resume)


def _run_judge_recipe(
    recipe: DigitsJudgeRecipe | ShapesJudgeRecipe | JudgeErrorRecipe | ReferenceRecipe,
    recipe_sha256: str,
    folder: Path,
    resume: bool,
) -> str:
    """Run a recipe of a judge or of a reference and return a line that describes its result."""
    if isinstance(recipe, DigitsJudgeRecipe):
        from harope_bench.training import digits_judge

        accuracy = digits_judge.train_digits_judge(recipe, recipe_sha256, folder, resume)
        return f"judge {recipe.judge}, accuracy {accuracy:.2%} on the held-out images"
    if isinstance(recipe, ShapesJudgeRecipe):
        from harope_bench.training import shapes_judge

        accuracy = shapes_judge.train_shapes_judge(recipe, recipe_sha256, folder, resume)
        return f"judge {recipe.judge}, accuracy {accuracy:.2%} on the held-out scenes"
    if isinstance(recipe, JudgeErrorRecipe):
        from harope_bench.training import judge_errors

        path = judge_errors.measure_judge_errors(recipe, folder)
        return f"errors of judge {recipe.judge} in {path}"
    from harope_bench.training import reference

    return f"reference {reference.build_reference(recipe, folder)}"
