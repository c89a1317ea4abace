"""Profiles of fidelity: each agrees with the program it is named after, and numbers of two profiles
never meet.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from click.testing import CliRunner
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

from harope_bench import testing
from harope_bench.cli import main
from harope_bench.core import checksums, registry
from harope_bench.core.errors import OptionError, StorageError
from harope_bench.evaluators import fidelity_estimates
from harope_bench.evaluators.base import EvaluatorOutput, Features
from harope_bench.evaluators.fidelity import PLUGIN
from harope_bench.evaluators.fidelity_profiles import PROFILES
from harope_bench.leaderboards import board, match_runs
from harope_bench.metrics.moments import Moments
from harope_bench.pipeline.evaluate import FeatureScoring, evaluate, evaluate_profiles
from harope_bench.pipeline.generate import generate, make_plan
from harope_bench.pipeline.reference_stats import open_reference
from harope_bench.pipeline.verify import verify
from harope_bench.statistics import pairing
from harope_bench.suites.base import load_suite

N, M, WIDTH = 1300, 1100, 24


def cloud(seed: int, rows: int, width: int, shift: float = 0.0) -> np.ndarray:
    mix = np.random.default_rng(99).normal(size=(width, width)) / np.sqrt(width) + np.eye(width)
    return (np.random.default_rng(seed).normal(size=(rows, width)) @ mix + shift).astype(np.float32)


@pytest.fixture(scope="module")
def random_features() -> Features:
    arrays = {
        "features": cloud(0, N, WIDTH, 0.3),
        "spatial": cloud(1, N, 9),
        "logits": 3 * cloud(2, N, 30),
    }
    return Features(np.arange(N), None, arrays)


@pytest.fixture(scope="module")
def reference() -> dict[str, np.ndarray]:
    rows, spatial = cloud(3, M, WIDTH), cloud(4, M, 9)
    (mu, sigma), (mu_s, sigma_s) = (
        Moments.from_rows(rows).to_gaussian(),
        Moments.from_rows(spatial).to_gaussian(),
    )
    return {"features": rows, "mu": mu, "sigma": sigma, "mu_s": mu_s, "sigma_s": sigma_s}


@pytest.fixture(scope="module")
def of_torch_fidelity(
    random_features: Features, reference: dict[str, np.ndarray]
) -> EvaluatorOutput:
    return PLUGIN.with_profile("torch-fidelity").evaluate(random_features, reference)


def values(score: EvaluatorOutput) -> dict[str, float]:
    return {m.metric: m.value for m in score.measurements if m.value is not None}


def test_profile_torch_fidelity_is_torch_fidelity(
    random_features: Features, reference: dict[str, np.ndarray], of_torch_fidelity: EvaluatorOutput
) -> None:
    package_value = values(of_torch_fidelity)
    generated_tensor, real = (
        torch.from_numpy(random_features.arrays["features"]),
        torch.from_numpy(reference["features"]),
    )
    library_fid_statistics = fid_statistics_to_metric(
        fid_features_to_statistics(generated_tensor),
        fid_features_to_statistics(real),
        verbose=False,
    )
    assert package_value["fid"] == pytest.approx(
        library_fid_statistics["frechet_inception_distance"], rel=1e-6
    )  # their mean is float32
    inception = isc_features_to_metric(
        torch.from_numpy(random_features.arrays["logits"]), splits=10, shuffle=True, rng_seed=2020
    )
    assert package_value["is"] == pytest.approx(inception["inception_score_mean"], rel=1e-12)
    kid = kid_features_to_metric(
        generated_tensor,
        real,
        kid_subsets=100,
        kid_subset_size=1000,
        rng_seed=2020,
        kid_kernel="poly",
        kid_kernel_poly_degree=3,
        kid_kernel_poly_gamma=None,
        kid_kernel_poly_coef0=1,
        verbose=False,
    )
    assert package_value["kid-subsets"] == pytest.approx(
        kid["kernel_inception_distance_mean"], abs=2e-5
    )  # their kernels are float32
    prc = prc_features_to_metric(
        generated_tensor,
        real,
        prc_neighborhood=3,
        prc_batch_size=500,
        save_cpu_ram=True,
        verbose=False,
    )
    assert (package_value["precision"], package_value["recall"]) == pytest.approx(
        (prc["precision"], prc["recall"]), abs=1e-7
    )  # a float32 mean


def test_the_full_kid_is_what_the_subsets_estimate(of_torch_fidelity: EvaluatorOutput) -> None:
    score, result = of_torch_fidelity, values(of_torch_fidelity)
    (full_value,) = [m for m in score.measurements if m.metric == "kid"]
    assert full_value.se is not None and full_value.se > 0
    assert abs(result["kid"] - result["kid-subsets"]) < full_value.se
    assert any(
        w.startswith("kid-subsets: standard deviation over 100 subsets") for w in score.warnings
    )


def test_profile_clean_is_clean_fid(
    random_features: Features, reference: dict[str, np.ndarray]
) -> None:
    clean_fid = pytest.importorskip("cleanfid.fid", reason="needs the extra parity")
    package_value = values(PLUGIN.with_profile("clean").evaluate(random_features, reference))
    generated_array, real = (
        random_features.arrays["features"].astype(np.float64),
        reference["features"].astype(np.float64),
    )
    with pytest.warns(DeprecationWarning, match="disp"):
        library_frechet_distance = clean_fid.frechet_distance(
            generated_array.mean(0),
            np.cov(generated_array, rowvar=False),
            real.mean(0),
            np.cov(real, rowvar=False),
        )
    assert package_value["fid"] == pytest.approx(library_frechet_distance, rel=1e-9)
    np.random.seed(0)  # clean-fid draws its subsets from the global generator
    assert package_value["kid"] == pytest.approx(
        clean_fid.kernel_distance(generated_array, real, num_subsets=100, max_subset_size=1000),
        rel=0.02,
    )
    assert set(package_value) == {"fid", "kid"}


def test_adm_and_exact_differ_in_precision_and_recall_alone(
    random_features: Features, reference: dict[str, np.ndarray]
) -> None:
    """Far from zero float16's grid is coarse, and ties let more points in."""
    far_replace = random_features._replace(
        arrays={
            **random_features.arrays,
            "features": random_features.arrays["features"] + np.float32(8),
        }
    )
    real = {
        **reference,
        "features": reference["features"] + np.float32(8),
        "mu": reference["mu"] + 8,
    }
    half, exact_value = (
        values(PLUGIN.with_profile(name).evaluate(far_replace, real))
        for name in ("adm", "adm-exact")
    )
    assert {name for name in half if half[name] != exact_value[name]} == {"precision", "recall"}
    assert half["precision"] > exact_value["precision"] and half["recall"] > exact_value["recall"]


def test_kid_needs_images_and_enough_of_them(
    random_features: Features, reference: dict[str, np.ndarray]
) -> None:
    evaluator = PLUGIN.with_profile("torch-fidelity")
    few_replace = random_features._replace(
        indices=random_features.indices[:40],
        arrays={k: v[:40] for k, v in random_features.arrays.items()},
    )
    reasons = {m.metric: m.reason for m in evaluator.evaluate(few_replace, reference).measurements}
    assert (
        reasons["kid-subsets"]
        == "kid-subsets needs at least 1,000 samples and reference images, found 40"
    )
    assert reasons["kid"] is None
    bare_entries = {k: v for k, v in reference.items() if k != "features"}
    assert {m.metric: m.reason for m in evaluator.evaluate(few_replace, bare_entries).measurements}[
        "kid"
    ] == "the reference holds no images"


@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_every_profile_keeps_the_contract(
    profile: str,
    random_features: Features,
    reference: dict[str, np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        fidelity_estimates,
        "kid_subsets",
        partial(fidelity_estimates.kid_subsets, subsets=2, size=30),
    )
    monkeypatch.setattr(fidelity_estimates, "SUBSET_SIZE", 30)
    few_features = Features(
        random_features.indices[:60],
        None,
        {k: v[:60] for k, v in random_features.arrays.items()},
        failed=2,
    )
    testing.check_evaluator(
        PLUGIN.with_profile(profile),
        few_features,
        {**reference, "features": reference["features"][:80]},
    )


def test_scores_are_the_same_from_memory_maps(
    random_features: Features, reference: dict[str, np.ndarray], tmp_path: Path
) -> None:
    maps = {}
    for name, rows in random_features.arrays.items():
        np.save(tmp_path / f"{name}.npy", rows)
        maps[name] = np.load(tmp_path / f"{name}.npy", mmap_mode="r")
    for profile in ("adm", "adm-exact", "clean"):
        evaluator = PLUGIN.with_profile(profile)
        assert (
            evaluator.evaluate(random_features._replace(arrays=maps), reference).measurements
            == evaluator.evaluate(random_features, reference).measurements
        )


def test_an_unknown_profile_is_named() -> None:
    with pytest.raises(OptionError, match="has no profile 'fid-magic'; choose one of adm, "):
        PLUGIN.with_profile("fid-magic")


# ---------------------------------------------------------------------------------------------
# through eval


@pytest.fixture
def run(tmp_path: Path) -> Path:
    plan = make_plan(tiny.register_tiny(tmp_path / "weights"), None, {})
    generate(plan, range(40), tmp_path / "run")
    return tmp_path / "run"


def test_profiles_have_files_of_their_own_and_verify_knows_them(run: Path) -> None:
    names = []
    for profile in (None, "adm", "torch-fidelity"):
        (scored,) = evaluate(run, run, FeatureScoring("digits", profile=profile))
        names.append(scored.path.name)
        assert scored.result.profile == (profile or "adm-exact")
    assert names == ["fidelity.json", "fidelity_adm.json", "fidelity_torch-fidelity.json"]
    assert verify(run, 0).altered_messages == []


@pytest.fixture
def renamed_result(run: Path) -> Path:
    """A result in another profile than the suite's own, in a file whose name does not say so."""
    (scored,) = evaluate(run, run, FeatureScoring("digits", profile="adm"))
    path = scored.path.with_name("mine.json")
    scored.path.rename(path)
    scored.path.with_suffix(".npz").rename(path.with_suffix(".npz"))
    record_again(path, arrays_file="mine.npz")
    return path


def record_again(path: Path, **fields: str) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
    checksums.record_file_hashes(
        path.parent,
        ["fidelity_adm.json", "fidelity_adm.npz", path.name, path.with_suffix(".npz").name],
    )


def test_a_result_is_checked_in_the_profile_that_it_records_whatever_its_file_is_called(
    renamed_result: Path,
) -> None:
    assert verify(renamed_result.parents[1], 0).status == "ok"


def test_a_result_that_records_another_profile_than_its_numbers_are_of_is_altered(
    renamed_result: Path,
) -> None:
    record_again(renamed_result, profile="torch-fidelity")
    wrong_altered_messages = verify(renamed_result.parents[1], 0).altered_messages
    assert any(
        f"parity is {PROFILES['adm'].parity[:20]}" in line for line in wrong_altered_messages
    ), wrong_altered_messages


def test_a_judge_whose_name_has_an_underscore_is_found_again(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Split at its underscores, the name of the file shows no such judge."""
    entries, load = registry.list_entries, registry.load_by_name
    beside = {"my_net": registry.RegistryEntry("judges", "my_net", "a test")}
    monkeypatch.setattr(
        registry, "list_entries", lambda kind: entries(kind) | (beside if kind == "judges" else {})
    )
    monkeypatch.setattr(
        registry,
        "load_by_name",
        lambda kind, name: load(kind, "digits-net" if name == "my_net" else name),
    )
    reference = load_suite("digits").reference("digits-net")
    assert reference is not None
    (scored,) = evaluate(run, run, FeatureScoring("digits", reference.path, judge="my_net"))
    assert scored.path.name == f"fidelity_my_net_ref-{reference.sha256[:8]}.json"
    findings = verify(run, 0, reference=reference.path)
    assert (findings.altered_messages, findings.unchecked_messages) == ([], [])


@pytest.mark.parametrize(
    ("profiles", "complaint"),
    [
        ("adm,mar", "evaluator fidelity has no profile 'mar'; choose one of adm, "),
        ("adm,clean", "profile clean needs a judge of its own"),
        ("adm,", "has an empty name"),
        ("", "has an empty name"),
    ],
)
def test_every_profile_is_checked_before_the_first_is_scored(
    run: Path, profiles: str, complaint: str
) -> None:
    command_result = CliRunner().invoke(main, ["eval", str(run), "--profile", profiles])
    assert command_result.exit_code != 0 and complaint in command_result.output
    assert not (run / "features").exists() and not (run / "results").exists()


def test_a_reference_that_is_missing_is_found_before_anything_is_judged(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded_network: list[str] = []

    def second_is_missing(*inputs: Any) -> Any:
        if loaded_network:
            raise StorageError("reference gone is not there; give it")
        loaded_network.append(inputs[1])
        return open_reference(*inputs)

    monkeypatch.setattr("harope_bench.pipeline.evaluate.open_reference", second_is_missing)
    with pytest.raises(StorageError, match="gone is not there"):
        evaluate_profiles(
            run,
            run,
            [FeatureScoring("digits", profile=profile) for profile in ("adm", "adm-exact")],
        )
    assert loaded_network and not (run / "features").exists()


def test_eval_takes_spaces_and_says_each_profile(run: Path) -> None:
    command_result = CliRunner().invoke(main, ["eval", str(run), "--profile", "adm, adm-exact,adm"])
    assert command_result.exit_code == 0, command_result.output
    lines = [line for line in command_result.output.splitlines() if ".json: " in line]
    assert [line.split(".json: ")[1] for line in lines] == [
        f"fidelity@{PLUGIN.version}, profile {profile}, judge digits-net"
        for profile in ("adm", "adm-exact")
    ]


def test_numbers_of_two_profiles_never_meet(run: Path) -> None:
    records = []
    for profile in ("adm", "adm-exact"):
        (scored,) = evaluate(run, run, FeatureScoring("digits", profile=profile))
        records.append(pairing.StoredResult(scored.result, scored.path))
    for metric in ("fid", "precision"):
        difference = pairing.compare_results(metric, "lower", *records)
        assert difference.delta is None and "profile adm against adm-exact" in difference.reason


def test_a_column_has_numbers_of_one_profile(tmp_path: Path) -> None:
    """Both rows have adm-exact, one has adm too, on the same number of images: the column stays
    with what both have.
    """
    table, records = board.load_table("table2"), []
    for checkpoint, profiles in (
        ("digits-ape", ("adm-exact", "adm")),
        ("digits-harope", ("adm-exact",)),
    ):
        run = tmp_path / checkpoint
        generate(make_plan(checkpoint, "digits", {"steps": 1}), range(30), run)
        for profile in profiles:
            (scored,) = evaluate(run, run, FeatureScoring("digits", profile=profile))
            records.append(pairing.StoredResult(scored.result, scored.path))
    for chosen_value, expected in ((records, "adm-exact"), (records[1:2], "adm")):
        picks = match_runs.match_measurements(table, chosen_value, "micro")
        assert picks and {
            picked_pick.stored_result.result.profile for picked_pick in picks.values()
        } == {expected}
    renamed_replaces = [
        (
            item._replace(path=tmp_path / "a" / item.path.name)
            if item.result.profile == "adm"
            else item
        )
        for item in records
    ]
    assert {
        p.stored_result.result.profile
        for p in match_runs.match_measurements(table, renamed_replaces, "micro").values()
    } == {"adm-exact"}


def test_a_profile_that_needs_its_own_judge_does_not_take_another(run: Path) -> None:
    with pytest.raises(
        OptionError,
        match="profile clean needs a judge of its own, suite digits has none; give --judge",
    ):
        evaluate(run, run, FeatureScoring("digits", profile="clean"))
    with pytest.raises(
        OptionError, match="evaluator fidelity has no profile 'mar'; choose one of adm, "
    ):
        evaluate(run, run, FeatureScoring("digits", profile="mar"))
