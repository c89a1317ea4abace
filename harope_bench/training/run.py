"""One door to every recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harope_bench.catalogue import plain
from harope_bench.errors import OptionError
from harope_bench.records import Checkpoint
from harope_bench.training.recipe import Classifier, Denoiser, Vit, read_recipe


def run(name: str, encoding: str | None, options: dict[str, Any], called: str | None, out: Path | None, resume: bool) -> tuple[Path, str]:
    """Carries out a recipe; returns its folder and one line that says what came out.

    Raises:
        OptionError: --encoding missing for a model of one encoding, or given for something else.
    """
    recipe, digest = read_recipe(name)
    if isinstance(recipe, Denoiser | Vit):
        if encoding is None:
            raise OptionError(f"recipe {recipe.name} trains one encoding, none was named; add --encoding rope-axial, for example")
        title = plain(called or f"{recipe.suite if isinstance(recipe, Denoiser) else recipe.name}-{encoding}")
        folder = out or Path("runs/train") / title
        checkpoint = _model(recipe, digest, encoding, options, title, folder, resume)
        return folder, f"checkpoint {checkpoint.name}, {checkpoint.training_steps:,} steps"
    if encoding is not None or options or called:
        raise OptionError(f"recipe {recipe.name} has no encoding; leave --encoding, --option and --name out")
    folder = out or Path("runs/train") / recipe.name
    if isinstance(recipe, Classifier):
        from harope_bench.training import classifier

        return folder, f"judge {recipe.judge}, {classifier.train(recipe, digest, folder, resume):.2%} of the held-out images read"
    from harope_bench.training import reference

    return folder, f"reference {reference.build(recipe, folder)}"


def _model(
    recipe: Denoiser | Vit, digest: str, encoding: str, options: dict[str, Any], title: str, folder: Path, resume: bool
) -> Checkpoint:
    if isinstance(recipe, Denoiser):
        from harope_bench.training import denoiser

        return denoiser.train(recipe, digest, encoding, options, title, folder, resume)
    from harope_bench.training import vit

    return vit.train(recipe, digest, encoding, options, title, folder, resume)
