"""Builds a suite's reference statistics from its real images."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from harope_bench.core import registry
from harope_bench.core.array_archive import write_arrays
from harope_bench.core.storage import sha256_file, write_text
from harope_bench.core.toml_file import versioned_toml_text
from harope_bench.training.recipe import ReferenceRecipe


def build_reference(recipe: ReferenceRecipe, folder: Path) -> Path:
    """Leaves SUITE-reference.npz (mu, sigma, mu_s, sigma_s, features) and SUITE.toml in the folder.

    Moments are float64 and unbiased (N - 1), over every image of the split.
    """
    suite = registry.load_by_name("suites", recipe.suite)
    judge = registry.load_by_name("judges", recipe.judge).open("cpu")
    images, _ = suite.images(recipe.split)
    rgb = np.repeat(images[..., None], 3, -1) if images.ndim == 3 else images
    parts = [judge.extract(rgb[i : i + 500]) for i in range(0, len(rgb), 500)]
    seen = {name: np.concatenate([p[name] for p in parts]) for name in ("features", "spatial")}
    arrays = {"features": seen["features"]}
    for name, suffix in (("features", ""), ("spatial", "_s")):
        rows = seen[name].astype(np.float64)
        arrays[f"mu{suffix}"], arrays[f"sigma{suffix}"] = rows.mean(0), np.cov(rows, rowvar=False)
    path = folder / f"{recipe.suite}-reference.npz"
    write_arrays(path, arrays, compress=True)
    facts = {
        "name": f"{len(rgb):,} {recipe.made} {recipe.suite}, split {recipe.split}",
        "file": path.name,
        "sha256": sha256_file(path),
        "judge": recipe.judge,
        "judge_sha256": judge.weights_sha256,
        "images": len(rgb),
        "source": f"harope-bench train {recipe.name}",
    }
    write_text(folder / f"{recipe.suite}.toml", versioned_toml_text("reference", facts))
    return path
