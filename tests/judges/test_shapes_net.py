"""The judge of drawn scenes: its contract, its recorded accuracy, its reference, and that spoiled
scenes are farther away.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from harope_bench.core import registry
from harope_bench.core.array_archive import load_arrays
from harope_bench.core.state_dicts import load_state_strictly, load_weights
from harope_bench.judges.micro.shapes_net import METADATA_PATH
from harope_bench.judges.micro.shapes_network import ShapesNet
from harope_bench.metrics.frechet import Gaussian, frechet_distance
from harope_bench.suites.shapes import PLUGIN as SUITE
from harope_bench.testing import check_judge
from harope_bench.training import reference, shapes_judge
from harope_bench.training.recipe import ReferenceRecipe, read_recipe


def test_judge_keeps_its_promises() -> None:
    check_judge("shapes-net", SUITE.images("held-out")[0][:5])


def test_judge_reads_the_held_out_scenes_as_recorded() -> None:
    toml = registry.read_toml(METADATA_PATH)
    network = ShapesNet()
    load_state_strictly(
        network, load_weights(METADATA_PATH.parent / toml["weights"], toml["sha256"]), "judge"
    )
    images, labels = SUITE.images("held-out")
    accuracy = shapes_judge.held_out_accuracy(network, images[:600], labels[:600])
    assert accuracy == pytest.approx(toml["held_out_accuracy"], abs=0.01)
    assert toml["recipe_sha256"] == read_recipe("shapes-net")[1]


def test_reference_is_rebuilt_by_its_recipe(tmp_path: Path) -> None:
    recipe, _ = read_recipe("shapes-reference")
    assert isinstance(recipe, ReferenceRecipe)
    rebuilt, shipped_arrays = (
        load_arrays(reference.build_reference(recipe, tmp_path)),
        load_arrays(SUITE.reference("shapes-net").path),
    )
    assert rebuilt.keys() == shipped_arrays.keys()
    for name, array in shipped_arrays.items():
        np.testing.assert_allclose(
            rebuilt[name], array, rtol=1e-3, atol=1e-3
        )  # float32 sums of another kernel


def test_spoiled_scenes_are_farther_from_the_reference_than_clean_ones() -> None:
    known_arrays = load_arrays(SUITE.reference("shapes-net").path)
    judge, images = (
        registry.load_by_name("judges", "shapes-net").open("cpu"),
        SUITE.images("captions")[0][:804],
    )

    def reference_distance(shown_values: np.ndarray) -> float:
        feature = judge.extract(shown_values)["features"].astype(np.float64)
        return frechet_distance(
            Gaussian(feature.mean(0), np.cov(feature, rowvar=False)),
            Gaussian(known_arrays["mu"], known_arrays["sigma"]),
        )

    blurred_tensor = np.stack(
        [ndimage.gaussian_filter(image.astype(float), (2, 2, 0)) for image in images]
    ).astype(np.uint8)
    fewer = np.repeat(images[:67], 12, 0)
    assert reference_distance(images) < 0.1 * reference_distance(blurred_tensor)
    assert reference_distance(images) < reference_distance(fewer)
