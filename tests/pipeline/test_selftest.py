"""The self-test fails where a formula is wrong, and the golden one says right, wrong or skipped,
never right without proof.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harope_bench.assets import local_files
from harope_bench.core.errors import BenchError
from harope_bench.core.schema import Result
from harope_bench.data import adm_npz
from harope_bench.data.sample_set import open_samples
from harope_bench.judges.micro.digits_net import DigitsNetJudge
from harope_bench.metrics import frechet
from harope_bench.metrics.inception_score import inception_score
from harope_bench.metrics.moments import Gaussian
from harope_bench.pipeline import selftest
from harope_bench.pipeline.doctor import check_installation
from harope_bench.pipeline.evaluate import FeatureScoring, evaluate
from harope_bench.pipeline.reference_stats import build_reference
from harope_bench.suites.digits import PLUGIN as DIGITS


def test_the_formulas_agree_with_slow_ones() -> None:
    assert selftest.check_formulas() == []


@pytest.mark.parametrize(
    ("name", "wrong_value"),
    [
        (
            "frechet_distance",
            lambda generated_value, real: frechet.frechet_distance(
                generated_value, Gaussian(real.mean, real.covariance * 1.001)
            ),
        ),
        (
            "neighbour_balls",
            lambda generated_value, real: selftest.float16_balls(
                np.rint(generated_value), np.rint(real)
            ),
        ),
        (
            "float16_balls",
            lambda generated_value, real: selftest.neighbour_balls(
                generated_value + 0.4 * np.arange(len(generated_value))[:, None] % 1, real
            ),
        ),
        ("inception_score", lambda logits: type("Score", (), {"value": 7.9})()),
        ("kid", lambda generated_value, real: type("Kid", (), {"value": 0.1})()),
    ],
)
def test_a_wrong_formula_is_found(
    name: str, wrong_value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selftest, name, wrong_value)
    assert selftest.check_formulas()


def test_shares_without_float16_are_found() -> None:
    """The check that ADM's rounding is there must not pass for a version without it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selftest, "float16_balls", selftest.neighbour_balls)
        assert any("float16" in wrong_formula for wrong_formula in selftest.check_formulas())
    with pytest.MonkeyPatch.context() as patch:  # probabilities that are no probabilities
        patch.setattr(
            selftest,
            "inception_score",
            lambda logits: inception_score(np.where(logits == logits.max(1)[:, None], 100.0, 0.0)),
        )
        assert any(wrong_formula.startswith("is ") for wrong_formula in selftest.check_formulas())


def test_doctor_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    (fine_selftest_finding,) = selftest_findings()
    assert fine_selftest_finding.status == "ok"
    assert (
        fine_selftest_finding.detail
        == f"{selftest.CHECKS} formulas agree with slow reference formulas"
    )
    monkeypatch.setattr(
        selftest, "kid", lambda generated_value, real: type("Kid", (), {"value": 0.1})()
    )
    (broken_selftest_finding,) = selftest_findings()
    assert broken_selftest_finding.status == "broken" and broken_selftest_finding.detail.startswith(
        "kid is 0.1, should be"
    )


def selftest_findings() -> list[Any]:
    from harope_bench.pipeline.doctor import _self_test_findings

    return _self_test_findings()


# -----------------------------------------------------------------------------------------------
# golden


def digits(split: str, count: int) -> np.ndarray:
    images, _ = DIGITS.images(split)
    return np.repeat(
        images[np.random.default_rng(0).permutation(len(images))[:count]][..., None], 3, -1
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Samples and reference under the published names; digits in place of ImageNet."""
    folder = tmp_path / "golden"
    folder.mkdir()
    names = [
        local_files.load_asset(asset).files[0].name
        for asset in ("golden-imagenet-256", "imagenet-256-reference")
    ]
    adm_npz.write_npz(folder / names[0], iter([digits("held-out", 120)]), (120, 28, 28, 3))
    adm_npz.write_npz(tmp_path / "real.npz", iter([digits("train", 300)]), (300, 28, 28, 3))
    build_reference(
        open_samples(tmp_path / "real.npz"), folder / names[1], "digits-net", images=200
    )
    return folder


@pytest.fixture
def published_scores(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, float]:
    """What these samples score, as if it had been published; the micro judge is taken for an
    equivalent one.
    """
    samples, reference = sorted(folder.iterdir(), key=lambda path: path.name.startswith("VIRTUAL"))
    (scored,) = evaluate(
        samples, tmp_path / "own", FeatureScoring("digits", reference, profile="adm")
    )
    result: Result = scored.result
    numbers = {m.metric: float(m.value) for m in result.measurements if m.value is not None}
    golden_replace = selftest.GOLDEN_SETS[0]._replace(suite="digits", published_values=numbers)
    monkeypatch.setattr(selftest, "GOLDEN_SETS", (golden_replace,))
    return numbers


@pytest.mark.no_numbers
def test_without_the_samples_it_is_skipped_and_says_how_to_get_them() -> None:
    values = [f for f in check_installation(check_golden=True) if f.area == "golden"]
    assert [(f.name, f.status) for f in values] == [
        ("imagenet-256", "missing"),
        ("imagenet-128", "missing"),
    ]
    assert (
        "skipped, admnet_guided_upsampled_imagenet256.npz, VIRTUAL_imagenet256_labeled.npz not"
        " found" in values[0].detail
    )
    assert (
        "harope-bench fetch golden-imagenet-256 and harope-bench fetch imagenet-256-reference"
        in values[0].fix
    )
    assert not [f for f in check_installation() if f.area == "golden"]


def test_the_published_numbers_are_right_within_their_tolerances(
    folder: Path, published_scores: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DigitsNetJudge, "judge_class", "equivalent")
    assert set(published_scores) == set(selftest.TOLERANCE)
    (right,) = selftest.check_golden_sets(folder)
    assert right.is_within_tolerance is True and "NOT" not in right.message
    for metric, tolerance in selftest.TOLERANCE.items():
        other_fields = {**published_scores, metric: published_scores[metric] + 1.01 * tolerance}
        monkeypatch.setattr(
            selftest,
            "GOLDEN_SETS",
            (selftest.GOLDEN_SETS[0]._replace(published_values=other_fields),),
        )
        (wrong_golden_set,) = selftest.check_golden_sets(folder)
        assert (
            wrong_golden_set.is_within_tolerance is False
            and wrong_golden_set.message.count("NOT") == 1
            and f"{metric} " in wrong_golden_set.message.split("(NOT")[0]
        )


def test_one_golden_set_that_cannot_be_scored_does_not_hide_the_other(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its files are here, the network's weights are not; the second set's reference is damaged."""
    for asset in ("golden-imagenet-128", "imagenet-128-reference"):
        (folder / local_files.load_asset(asset).files[0].name).write_bytes(b"no archive")
    monkeypatch.delenv("HAROPE_BENCH_INCEPTION", raising=False)
    of_256, of_128 = (
        f for f in check_installation(check_golden=True, folder=folder) if f.area == "golden"
    )
    assert (of_256.name, of_256.status) == ("imagenet-256", "missing")
    assert "skipped" in of_256.detail and "harope-bench fetch inception-2015" in of_256.fix
    assert (of_128.name, of_128.status) == (
        "imagenet-128",
        "broken",
    ) and "no archive" not in of_128.fix


def test_a_fault_of_a_whole_area_has_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def clash(*inputs: Any) -> Any:
        raise BenchError("two things have one name; rename one")

    monkeypatch.setattr("harope_bench.pipeline.doctor._golden_findings", clash)
    assert [f.name for f in check_installation(check_golden=True) if f.area == "golden"] == ["-"]


def test_a_judge_that_is_no_equivalent_proves_nothing(
    folder: Path, published_scores: dict[str, float]
) -> None:
    (outcome,) = selftest.check_golden_sets(folder)
    assert (
        published_scores
        and outcome.is_within_tolerance is False
        and "by a micro judge, so nothing is proven" in outcome.message
    )


def test_the_golden_numbers_are_those_of_the_repositories() -> None:
    of_256, of_128 = (GOLDEN_SETS.published_values for GOLDEN_SETS in selftest.GOLDEN_SETS)
    assert of_256 == {
        "fid": 3.942557412,
        "sfid": 6.140433703,
        "is": 215.8370361,
        "precision": 0.8265,
        "recall": 0.5309,
    }
    assert of_128 == {
        "fid": 2.973288682,
        "sfid": 5.094563921,
        "is": 141.4766846,
        "precision": 0.78138,
        "recall": 0.5929,
    }
