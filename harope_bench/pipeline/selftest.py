"""Checks of the numbers on this machine.

Formulas are compared with slow reference implementations on small sets. OpenAI's public sample sets
are scored and compared with their published numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from harope_bench.assets import local_files
from harope_bench.core.errors import BenchError, MissingAssetError, MissingExtraError
from harope_bench.core.storage import home
from harope_bench.metrics.float16_neighbours import float16_balls
from harope_bench.metrics.frechet import frechet_distance
from harope_bench.metrics.inception_score import inception_score
from harope_bench.metrics.kernel_distance import kid
from harope_bench.metrics.moments import Gaussian, Moments
from harope_bench.metrics.neighbours import neighbour_balls
from harope_bench.pipeline.evaluate import FeatureScoring, evaluate

TOLERANCE = {"fid": 0.002, "sfid": 0.002, "is": 0.15, "precision": 0.0005, "recall": 0.0005}
PROFILE = "adm"


class GoldenSet(NamedTuple):
    """Samples of ADM that OpenAI published, their reference, and the metrics published for them."""

    suite: str
    samples_asset: str
    reference_asset: str
    published_values: dict[str, float]


# openai/guided-diffusion, evaluations/README.md (256); lavinal712/ADM-evaluation-suite-pytorch,
# README.md, its TensorFlow rows (128)
GOLDEN_SETS = (
    GoldenSet(
        "imagenet-256",
        "golden-imagenet-256",
        "imagenet-256-reference",
        {
            "fid": 3.942557412,
            "sfid": 6.140433703,
            "is": 215.8370361,
            "precision": 0.8265,
            "recall": 0.5309,
        },
    ),
    GoldenSet(
        "imagenet-128",
        "golden-imagenet-128",
        "imagenet-128-reference",
        {
            "fid": 2.973288682,
            "sfid": 5.094563921,
            "is": 141.4766846,
            "precision": 0.78138,
            "recall": 0.5929,
        },
    ),
)


class GoldenOutcome(NamedTuple):
    """Outcome of one golden set: whether its metrics are the published ones.

    is_within_tolerance: whether every value differs from the published one by at most TOLERANCE;
        None if the set was skipped.
    command: how to fetch what is missing.
    """

    name: str
    is_within_tolerance: bool | None
    message: str
    command: str = ""


def check_golden_sets(folder: Path | None = None, device: str = "cpu") -> Iterator[GoldenOutcome]:
    """Score each public sample set that is on this machine and compare it with published values.

    Missing sets are skipped; their outcome has the command that fetches them.

    Args:
        folder: holds sample sets and references under their published names. Fetched assets and
            HOME/golden are searched too.
    """
    for golden_set in GOLDEN_SETS:
        samples = _find_asset(golden_set.samples_asset, folder)
        reference = _find_asset(golden_set.reference_asset, folder)
        if samples is None or reference is None:
            yield _skipped_outcome(golden_set, samples, reference)
            continue
        try:
            yield _check_golden_set(golden_set, samples, reference, device)
        except (MissingAssetError, MissingExtraError) as error:
            message = f"skipped, {error.detail}"
            yield GoldenOutcome(
                golden_set.suite, is_within_tolerance=None, message=message, command=error.advice
            )
        except BenchError as error:
            yield GoldenOutcome(golden_set.suite, is_within_tolerance=False, message=str(error))


def _skipped_outcome(
    golden_set: GoldenSet, samples: Path | None, reference: Path | None
) -> GoldenOutcome:
    """Return the outcome of a golden set of which a file is missing."""
    paths = {golden_set.samples_asset: samples, golden_set.reference_asset: reference}
    missing_assets = [asset for asset, path in paths.items() if path is None]
    file_names = [local_files.load_asset(asset).files[0].name for asset in missing_assets]
    fetch_commands = " and ".join(f"harope-bench fetch {asset}" for asset in missing_assets)
    return GoldenOutcome(
        golden_set.suite,
        is_within_tolerance=None,
        message=f"skipped, {', '.join(file_names)} not found",
        command=f"{fetch_commands}, or doctor --golden-from FOLDER",
    )


def _find_asset(asset: str, folder: Path | None) -> Path | None:
    """Return an asset's file in the given folder, in HOME/golden, or among fetched files."""
    name = local_files.load_asset(asset).files[0].name
    for parent in (folder, home() / "golden"):
        if parent is not None and (parent / name).is_file():
            return parent / name
    local_file = local_files.find_local_file(asset)
    return local_file.path if local_file else None


def _check_golden_set(
    golden_set: GoldenSet, samples: Path, reference: Path, device: str
) -> GoldenOutcome:
    """Score a golden set and compare every value with the published one, within TOLERANCE."""
    (scored,) = evaluate(
        samples,
        home() / "golden" / golden_set.suite,
        FeatureScoring(golden_set.suite, reference, device=device, profile=PROFILE),
    )
    value_texts = []
    is_within_tolerance = True
    for metric, published_value in golden_set.published_values.items():
        measurement = scored.result.find_measurement(metric)
        value = measurement.value if measurement else None
        is_close = value is not None and abs(value - published_value) <= TOLERANCE[metric]
        is_within_tolerance &= is_close
        value_text = "none" if value is None else f"{value:.6g}"
        value_texts.append(
            f"{metric} {value_text}"
            f" ({'' if is_close else 'NOT '}{published_value:.6g} +- {TOLERANCE[metric]:g})"
        )

    # A judge that is not equivalent to ADM's proves nothing, even where the values agree.
    message = ", ".join(value_texts)
    judge = scored.result.judge
    if judge.judge_class != "equivalent":
        is_within_tolerance = False
        message += f", by a {judge.judge_class} judge, so nothing is proven"
    return GoldenOutcome(golden_set.suite, is_within_tolerance, message)


# ------------------------------------------------------------------------------------------------
# formulas, checked offline


class FormulaCheck(NamedTuple):
    """A value of a fast formula, and the value of a slow reference implementation."""

    value: float
    expected: float


def check_formulas() -> list[str]:
    """Return a line for each formula that differs from a slow implementation on this machine.

    It takes well under a second.
    """
    rng = np.random.default_rng(0)
    generated = rng.normal(0.2, 1.1, (60, 5))
    real = rng.normal(size=(50, 5))
    lines = []
    for name, formula in FORMULAS.items():
        value, expected = formula(generated, real)
        if not np.isclose(value, expected, rtol=1e-9):
            lines.append(f"{name} is {value!r}, should be {expected!r}")
    return lines


def _fid(generated: np.ndarray, real: np.ndarray) -> FormulaCheck:
    """Compare with |mu_a - mu_b|^2 + tr(A + B) - 2 sum sqrt(eigenvalues of A B)."""
    covariance_a = np.cov(generated, rowvar=False)
    covariance_b = np.cov(real, rowvar=False)
    shift = generated.mean(0) - real.mean(0)
    eigenvalues = np.linalg.eigvals(covariance_a @ covariance_b)
    root_trace = np.sqrt(eigenvalues.astype(complex)).real.sum()
    expected = float(shift @ shift + np.trace(covariance_a + covariance_b) - 2 * root_trace)
    value = frechet_distance(
        Moments.from_rows(generated).to_gaussian(), Moments.from_rows(real).to_gaussian()
    )
    return FormulaCheck(value, expected)


def _fid_of_independent(generated: np.ndarray, real: np.ndarray) -> FormulaCheck:
    """Compare with the closed form for diagonal covariances; the arguments are not used.

    |shift|^2 + sum (sqrt(a) - sqrt(b))^2 = 9 + 1 + 0 + 4.
    """
    variances_a = np.array([1.0, 4.0, 9.0])
    variances_b = np.array([4.0, 4.0, 1.0])
    shift = np.array([0.0, 3.0, 0.0])
    value = frechet_distance(
        Gaussian(shift, np.diag(variances_a)), Gaussian(np.zeros(3), np.diag(variances_b))
    )
    return FormulaCheck(value, 9.0 + 1.0 + 0.0 + 4.0)


def _inception_score(generated: np.ndarray, real: np.ndarray) -> FormulaCheck:
    """Compare with exp of the mean KL divergence from the mean, for soft and certain predictions.

    Eight certain classes of equal frequency have a score of 8.
    """
    probabilities = np.exp(generated) / np.exp(generated).sum(axis=1, keepdims=True)  # (N, classes)
    log_ratios = np.log(probabilities / probabilities.mean(axis=0))
    soft_score = float(np.exp((probabilities * log_ratios).sum(axis=1).mean()))
    certain_logits = np.eye(8)[np.arange(40) % 8] * 100.0  # (40, 8)
    value = inception_score(generated).value + inception_score(certain_logits).value
    return FormulaCheck(value, soft_score + 8.0)


def _precision_and_recall(generated: np.ndarray, real: np.ndarray) -> FormulaCheck:
    """Compare with balls of the third nearest neighbour from full distance matrices.

    One number checks both: precision + 10 * recall.
    """

    def squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.asarray(((a[:, None] - b) ** 2).sum(-1))  # (len(a), len(b))

    generated_radii, real_radii = (
        np.sort(squared_distances(rows, rows), axis=1)[:, 3] for rows in (generated, real)
    )
    distances = squared_distances(generated, real)  # (generated, real)
    precision = float((distances <= real_radii).any(axis=1).mean())
    recall = float((distances <= generated_radii[:, None]).any(axis=0).mean())
    balls = neighbour_balls(generated, real)
    value = float(balls.generated_inside.mean() + 10 * balls.real_inside.mean())
    return FormulaCheck(value, precision + 10 * recall)


def _float16_precision_and_recall(generated: np.ndarray, real: np.ndarray) -> FormulaCheck:
    """Compare ADM's float16 rule with whole matrices that numpy rounds to float16 at each step.

    Rows are far from 0, where float16 makes ties that raise the fractions, so that a version
    without rounding gives other values.
    """
    generated = generated + 30.0
    real = real + 30.0
    precision, recall = _float16_fractions(generated, real)
    balls = float16_balls(generated, real)
    value = float(balls.generated_inside.mean() + 10 * balls.real_inside.mean())
    return FormulaCheck(value, precision + 10 * recall)


def _float16_fractions(generated: np.ndarray, real: np.ndarray) -> tuple[float, float]:
    """Return precision and recall, computed in float32 and rounded to float16 after each step."""

    def to_half(values: np.ndarray) -> np.ndarray:
        return values.astype(np.float16).astype(np.float32)

    def squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        a = to_half(a)
        b = to_half(b)
        norms_a, norms_b = (to_half(to_half(x * x).sum(axis=1)) for x in (a, b))
        products = 2 * to_half(a @ b.T)  # (len(a), len(b))
        return np.maximum(to_half(to_half(norms_a[:, None] - products) + norms_b), 0)

    generated_radii, real_radii = (
        np.sort(squared_distances(rows, rows), axis=1)[:, 3] for rows in (generated, real)
    )
    distances = squared_distances(real, generated)  # (real, generated)
    precision = float((distances <= real_radii[:, None]).any(axis=0).mean())
    recall = float((distances <= generated_radii).any(axis=1).mean())
    return precision, recall


def _kid(generated: np.ndarray, real: np.ndarray) -> FormulaCheck:
    """Compare with the unbiased squared MMD from whole kernel matrices."""

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.asarray((a @ b.T / a.shape[1] + 1) ** 3)  # (len(a), len(b))

    within_means = [
        (kernel(x, x).sum() - np.trace(kernel(x, x))) / (len(x) * (len(x) - 1))
        for x in (generated, real)
    ]
    expected = float(sum(within_means) - 2 * kernel(generated, real).mean())
    return FormulaCheck(kid(generated, real).value, expected)


FORMULAS: dict[str, Callable[[np.ndarray, np.ndarray], FormulaCheck]] = {
    "fid": _fid,
    "fid of independent coordinates": _fid_of_independent,
    "is": _inception_score,
    "precision and recall": _precision_and_recall,
    "precision and recall in float16": _float16_precision_and_recall,
    "kid": _kid,
}
CHECKS = len(FORMULAS)
