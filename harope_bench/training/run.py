"""One door to every recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harope_bench.catalogue import plain
from harope_bench.errors import OptionError
from harope_bench.training.recipe import Classifier, Denoiser, read_recipe


def run(name: str, encoding: str | None, options: dict[str, Any], called: str | None, out: Path | None, resume: bool) -> tuple[Path, str]:
    """Carries out a recipe; returns its folder and one line that says what came out.

    Raises:
        OptionError: --encoding missing for a denoiser, or given for something else.
    """
    recipe, digest = read_recipe(name)
    if isinstance(recipe, Denoiser):
        if encoding is None:
            raise OptionError(f"recipe {recipe.name} trains one encoding, none was named; add --encoding rope-axial, for example")
        from harope_bench.training import denoiser

        title = plain(called or f"{recipe.suite}-{encoding}")
        folder = out or Path("runs/train") / title
        checkpoint = denoiser.train(recipe, digest, encoding, options, title, folder, resume)
        return folder, f"checkpoint {checkpoint.name}, {checkpoint.training_steps:,} steps"
    if encoding is not None or options or called:
        raise OptionError(f"recipe {recipe.name} has no encoding; leave --encoding, --option and --name out")
    folder = out or Path("runs/train") / recipe.name
    if isinstance(recipe, Classifier):
        from harope_bench.training import classifier

        return folder, f"judge {recipe.judge}, {classifier.train(recipe, digest, folder, resume):.2%} of the held-out images read"
    from harope_bench.training import reference

    return folder, f"reference {reference.build(recipe, folder)}"
