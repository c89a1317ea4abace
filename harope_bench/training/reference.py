"""Building of a suite's reference statistics from its images."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from harope_bench.core import registry
from harope_bench.core.array_archive import write_arrays
from harope_bench.core.storage import sha256_file, write_text
from harope_bench.core.toml_file import versioned_toml_text
from harope_bench.training.recipe import ReferenceRecipe

BATCH_SIZE = 500


def build_reference(recipe: ReferenceRecipe, folder: Path) -> Path:
    """Write SUITE-reference.npz and SUITE.toml to the folder and return the path of the former.

    The arrays are mu, sigma, mu_s, sigma_s and features. Moments are float64 and unbiased (N - 1),
    over every image of the split.
    """
    suite = registry.load_by_name("suites", recipe.suite)
    loaded_extractor = registry.load_by_name("judges", recipe.judge).open("cpu")
    images, _ = suite.images(recipe.split)
    rgb = np.repeat(images[..., None], 3, -1) if images.ndim == 3 else images  # (N, H, W, 3)
    batches = [
        loaded_extractor.extract(rgb[i : i + BATCH_SIZE]) for i in range(0, len(rgb), BATCH_SIZE)
    ]

    features = np.concatenate([batch["features"] for batch in batches])  # (N, D)
    spatial = np.concatenate([batch["spatial"] for batch in batches])  # (N, D_s)
    arrays = {"features": features}
    for suffix, samples in (("", features), ("_s", spatial)):
        samples = samples.astype(np.float64)
        arrays[f"mu{suffix}"] = samples.mean(0)
        arrays[f"sigma{suffix}"] = np.cov(samples, rowvar=False)

    path = folder / f"{recipe.suite}-reference.npz"
    write_arrays(path, arrays, compress=True)
    fields = {
        "name": f"{len(rgb):,} {recipe.image_origin} {recipe.suite}, split {recipe.split}",
        "file": path.name,
        "sha256": sha256_file(path),
        "judge": recipe.judge,
        "judge_sha256": loaded_extractor.weights_sha256,
        "images": len(rgb),
        "source": f"harope-bench train {recipe.name}",
    }
    write_text(folder / f"{recipe.suite}.toml", versioned_toml_text("reference", fields))
    return path
