"""What the commands that are killed work on: weights, pictures, a recipe, files of an asset, and
runs with results.
"""

from __future__ import annotations

from pathlib import Path

import fake_runs
import numpy as np
import tiny
from PIL import Image
from recipe_text import RECIPE

from harope_bench.suites.digits import PLUGIN as DIGITS

PICTURES = 70  # three whole shards of the launcher's and a part of one
ASSET_FILES = {"one.bin": bytes(range(256)) * 300, "two.bin": b"two" * 1000}


def write(folder: Path) -> None:
    """Write all of it below a folder, and register the checkpoint `tiny` in the home that
    HAROPE_BENCH_HOME names.
    """
    tiny.register_tiny(folder / "weights")
    tiny.weights(folder / "weights/other.safetensors", "harope", seed=1)
    (folder / "recipe.toml").write_text(RECIPE.format(name="small", steps=24, seed=3, snapshot=5))
    (folder / "log.csv").write_text("step,loss\n1,2.0\n2,1.0\n")
    _pictures(folder / "pictures", PICTURES)
    (folder / "asset").mkdir()
    for name, data in ASSET_FILES.items():
        (folder / "asset" / name).write_bytes(data)
    for encoding in ("ape", "harope"):
        fake_runs.micro_run(folder / "runs" / encoding, encoding, n=40, samples=12)


def _pictures(folder: Path, count: int) -> None:
    """Write real digits with a little noise, so that no two are alike."""
    images, _ = DIGITS.images("train")
    rng = np.random.default_rng(0)
    folder.mkdir()
    for index in range(count):
        noisy = np.clip(images[index] + rng.normal(0, 6, images[index].shape), 0, 255).astype(
            np.uint8
        )
        Image.fromarray(np.repeat(noisy[..., None], 3, -1)).save(folder / f"{index:06d}.png")
