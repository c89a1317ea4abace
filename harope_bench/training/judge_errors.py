"""Measurement of a judge's errors on scenes whose contents are known."""

from __future__ import annotations

from pathlib import Path

from harope_bench.core import registry
from harope_bench.core.storage import write_text
from harope_bench.core.toml_file import versioned_toml_text
from harope_bench.training.recipe import JudgeErrorRecipe


def measure_judge_errors(recipe: JudgeErrorRecipe, folder: Path) -> Path:
    """Write JUDGE.toml with the error rates of the judge to the folder and return its path."""
    judge = registry.load_by_name("judges", recipe.judge)
    error_fields = judge.measure_judge_errors(recipe.n_scenes)
    path = folder / f"{recipe.judge.replace('-', '_')}.toml"
    source = f"harope-bench train {recipe.name}"
    write_text(path, versioned_toml_text("judge", {"source": source, **error_fields}))
    return path
