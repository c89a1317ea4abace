"""One door to every recipe."""

from __future__ import annotations

from pathlib import Path

from harope_bench.core.conditioning import Conditioning, check_fit, taken_by
from harope_bench.core.errors import OptionError
from harope_bench.core.record_base import Option
from harope_bench.core.regular_file import check_regular
from harope_bench.core.schema import Checkpoint
from harope_bench.core.storage import disk
from harope_bench.models.load_checkpoint import plain
from harope_bench.training.model import Model, base_of
from harope_bench.training.recipe import AnyRecipe, Classifier, Denoiser, Exam, Moments, Painter, SceneReader, Vit, read_recipe
from harope_bench.training.written import LOG, SNAPSHOT, check_outputs


def run(
    name: str,
    encoding: str | None,
    options: dict[str, Option],
    called: str | None,
    out: Path | None,
    resume: bool,
    base: Path | None = None,
) -> tuple[Path, str]:
    """Carries out a recipe; returns its folder and one line that says what came out.

    base: weights that a painter starts from.

    Raises:
        OptionError: --encoding missing for a model of one encoding, or given for something else; --from likewise.
        StorageError: a file that no training wrote stands where one of this training would go.
    """
    recipe, digest = read_recipe(name)
    if base is not None and not isinstance(recipe, Painter):
        raise OptionError(f"recipe {recipe.name} starts from nothing; leave --from out")
    if base is not None:
        with disk(base):
            check_regular(base)
    if isinstance(recipe, Denoiser | Painter | Vit):
        check_recipe(recipe)
        if encoding is None:
            raise OptionError(f"recipe {recipe.name} trains one encoding, none was named; add --encoding rope-axial, for example")
        title = plain(called or f"{recipe.suite if isinstance(recipe, Denoiser) else recipe.name}-{encoding}")
        folder = out or Path("runs/train") / title
        check_outputs(folder, outputs(recipe, title, resume))
        if isinstance(recipe, Painter):
            base = base or base_of(recipe, encoding)
        checkpoint = _trained(recipe, Model(recipe, digest, encoding, options, base), title, folder, resume)
        return folder, f"checkpoint {checkpoint.name}, {checkpoint.training_steps:,} steps"
    if encoding is not None or options or called:
        raise OptionError(f"recipe {recipe.name} has no encoding; leave --encoding, --option and --name out")
    folder = out or Path("runs/train") / recipe.name
    check_outputs(folder, outputs(recipe, recipe.name, resume))
    if isinstance(recipe, Classifier):
        from harope_bench.training import classifier

        return folder, f"judge {recipe.judge}, {classifier.train(recipe, digest, folder, resume):.2%} of the held-out images read"
    if isinstance(recipe, SceneReader):
        from harope_bench.training import scene_reader

        return folder, f"judge {recipe.judge}, {scene_reader.train(recipe, digest, folder, resume):.2%} of the held-out scenes read"
    if isinstance(recipe, Exam):
        from harope_bench.training import exam

        return folder, f"errors of judge {recipe.judge} in {exam.examine(recipe, folder)}"
    from harope_bench.training import reference

    return folder, f"reference {reference.build(recipe, folder)}"


def outputs(recipe: AnyRecipe, title: str, resume: bool) -> list[str]:
    """Return the files that a recipe leaves in its folder; a snapshot that is resumed from is checked as it is read."""
    if isinstance(recipe, Moments):
        return [f"{recipe.suite}-reference.npz", f"{recipe.suite}.toml"]
    if isinstance(recipe, Exam):
        return [f"{recipe.judge.replace('-', '_')}.toml"]
    stems = [recipe.judge.replace("-", "_")] if isinstance(recipe, Classifier | SceneReader) else [title]
    if isinstance(recipe, Painter):
        stems += [f"{title}-at-{step}" for step in recipe.keep]
    files = [f"{stem}{suffix}" for stem in stems for suffix in (".safetensors", ".toml")]
    return [*files, LOG, *([] if resume else [SNAPSHOT])]


def check_recipe(recipe: Denoiser | Painter | Vit) -> None:
    """Raise OptionError unless the network of a recipe takes what its suite gives: labels of that number, or prompts."""
    taken, what = taken_by(recipe.backbone, recipe.config), f"recipe {recipe.name} ({recipe.backbone})"
    if isinstance(recipe, Vit):
        check_fit(what, taken, recipe.tested_on)
        taken = Conditioning("labels", taken.classes)  # a classifier learns from the labels of the suite's real images
    check_fit(what, taken, recipe.suite)


def _trained(recipe: Denoiser | Painter | Vit, model: Model, title: str, folder: Path, resume: bool) -> Checkpoint:
    if isinstance(recipe, Denoiser):
        from harope_bench.training import denoiser

        return denoiser.train(recipe, model, title, folder, resume)
    if isinstance(recipe, Painter):
        from harope_bench.training import painter

        return painter.train(recipe, model, title, folder, resume)
    from harope_bench.training import vit

    return vit.train(recipe, model, title, folder, resume)
