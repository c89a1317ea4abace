"""What ships in the package: six checkpoints of one recipe, a judge, a reference; none of it
altered or out of step.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from harope_bench.core import registry
from harope_bench.core.array_archive import load_arrays
from harope_bench.core.state_dicts import load_state_strictly, load_weights
from harope_bench.core.storage import sha256_file
from harope_bench.data.sample_set import open_samples
from harope_bench.judges.micro.digits_net import METADATA_PATH as JUDGE_FACTS
from harope_bench.judges.micro.digits_network import DigitsNet
from harope_bench.models import load_checkpoint
from harope_bench.models.backbones.dit import DiT
from harope_bench.pipeline.generate import generate, make_plan
from harope_bench.suites.digits import PLUGIN as DIGITS
from harope_bench.training import digits_judge, reference
from harope_bench.training.recipe import DenoiserRecipe, ReferenceRecipe, read_recipe

TABLE2 = ["ape", "harope", "rope-axial", "rope-vanilla", "string", "videorope"]
PACKAGE = registry.PACKAGE


@pytest.mark.parametrize("encoding", TABLE2)
def test_checkpoint_is_small_whole_and_of_the_shipped_recipe(encoding: str) -> None:
    checkpoint_record = load_checkpoint.load_checkpoint_record(f"digits-{encoding}")
    weights = load_checkpoint.find_weights_path(checkpoint_record)
    recipe, digest = read_recipe("digits-dit")
    assert isinstance(recipe, DenoiserRecipe)
    assert weights.stat().st_size < 1_000_000
    assert sha256_file(weights) == checkpoint_record.sha256
    assert (checkpoint_record.encoding, checkpoint_record.scale, checkpoint_record.options) == (
        encoding,
        "micro",
        {},
    )
    assert checkpoint_record.recipe_sha256 == digest, "the recipe was edited after training"
    assert (checkpoint_record.training_seed, checkpoint_record.training_steps) == (
        recipe.schedule.seed,
        recipe.schedule.steps,
    )
    log = weights.with_suffix(".log.csv").read_text().splitlines()
    assert log[0] == "step,loss"
    assert int(log[-1].split(",")[0]) == recipe.schedule.steps
    losses = [float(line.split(",")[1]) for line in log[1:]]
    assert np.mean(losses[-20:]) < 0.2 * losses[0]


@pytest.mark.parametrize("encoding", TABLE2)
def test_checkpoint_loads_strictly_and_registers_from_its_keys(encoding: str) -> None:
    checkpoint_record = load_checkpoint.load_checkpoint_record(f"digits-{encoding}")
    state = load_weights(
        load_checkpoint.find_weights_path(checkpoint_record), checkpoint_record.sha256
    )
    network = registry.load_by_name("backbones", checkpoint_record.backbone).build(
        encoding, checkpoint_record.options, checkpoint_record.config
    )
    assert isinstance(network, DiT)
    load_state_strictly(network, state, checkpoint_record.name)
    clue = registry.load_by_name("backbones", checkpoint_record.backbone).detect_fields(state)
    assert clue.encoding in (None, encoding)
    assert all(checkpoint_record.config[key] == value for key, value in clue.config.items())


def test_checkpoint_draws_digits_that_the_judge_reads(tmp_path: Path) -> None:
    plan = make_plan("digits-harope", None, {"steps": 16})
    generate(plan, range(50), tmp_path)
    samples = open_samples(tmp_path)
    images = next(samples.batches(samples.indices, 50)).images
    read = (
        registry.load_by_name("judges", "digits-net")
        .open("cpu")
        .extract(images)["logits"]
        .argmax(1)
    )
    # 50 draws at half the steps; chance is 0.1, the full setting reads above 0.9
    assert np.mean(read == np.arange(50) % 10) > 0.75


def test_judge_reads_the_held_out_digits_as_recorded() -> None:
    toml = registry.read_toml(JUDGE_FACTS)
    network = DigitsNet()
    load_state_strictly(
        network, load_weights(JUDGE_FACTS.parent / toml["weights"], toml["sha256"]), "judge"
    )
    accuracy = digits_judge.held_out_accuracy(network, *DIGITS.images("held-out"))
    assert accuracy >= 0.97
    assert accuracy == pytest.approx(
        toml["held_out_accuracy"], abs=0.002
    )  # two images may fall over on other hardware
    assert toml["recipe_sha256"] == read_recipe("digits-net")[1]


def test_reference_is_rebuilt_by_its_recipe(tmp_path: Path) -> None:
    recipe, _ = read_recipe("digits-reference")
    assert isinstance(recipe, ReferenceRecipe)
    rebuilt, shipped_arrays = (
        load_arrays(reference.build_reference(recipe, tmp_path)),
        load_arrays(DIGITS.reference("digits-net").path),
    )
    assert rebuilt.keys() == shipped_arrays.keys() == {"features", "mu", "mu_s", "sigma", "sigma_s"}
    for name, array in shipped_arrays.items():
        np.testing.assert_allclose(
            rebuilt[name], array, rtol=1e-4, atol=1e-4
        )  # float32 sums of another kernel


def test_digits_split_is_by_class_and_disjoint() -> None:
    train, images = DIGITS.images("train"), DIGITS.images("held-out")
    assert (len(train[1]), len(images[1])) == (4000, 1000)
    assert np.bincount(train[1]).tolist() == [400] * 10
    assert np.bincount(images[1]).tolist() == [100] * 10
    content = {image.tobytes() for image in train[0]}
    assert not any(image.tobytes() in content for image in images[0])


def test_package_data_stays_small() -> None:
    data = [p for p in PACKAGE.rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc")]
    sizes = {
        world: sum(p.stat().st_size for p in data if p.name.startswith("shapes") == world)
        for world in (True, False)
    }
    assert sizes[True] < 32_000_000, "the text-to-image world"
    assert sizes[False] < 25_000_000
