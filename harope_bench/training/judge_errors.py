"""Measures a judge on cases whose truth is known."""

from __future__ import annotations

from pathlib import Path

from harope_bench.core import registry
from harope_bench.core.storage import write_text
from harope_bench.core.toml_file import versioned_toml_text
from harope_bench.training.recipe import JudgeErrorRecipe


def measure_judge_errors(recipe: JudgeErrorRecipe, folder: Path) -> Path:
    """Leaves JUDGE.toml with the judge's errors in the folder."""
    facts = registry.load_by_name("judges", recipe.judge).measure_judge_errors(recipe.scenes)
    path = folder / f"{recipe.judge.replace('-', '_')}.toml"
    write_text(
        path, versioned_toml_text("judge", {"source": f"harope-bench train {recipe.name}", **facts})
    )
    return path
