"""Are the numbers right here: formulas on small sets against slow ones, and OpenAI's public samples
against their published numbers.
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
    """Public samples, the reference they were scored against, and the numbers that ADM's evaluator
    printed of them.
    """

    suite: str
    samples_asset: str  # assets
    reference_asset: str
    published_values: dict[str, float]


# openai/guided-diffusion, evaluations/README.md (256); lavinal712/ADM-evaluation-suite-pytorch,
# README.md, its TensorFlow rows (128)
GOLDEN_SETS = (
    GoldenSet(
        "imagenet-256", "golden-imagenet-256", "imagenet-256-reference",
        {"fid": 3.942557412, "sfid": 6.140433703, "is": 215.8370361, "precision": 0.8265, "recall": 0.5309},
    ),
    GoldenSet(
        "imagenet-128", "golden-imagenet-128", "imagenet-128-reference",
        {"fid": 2.973288682, "sfid": 5.094563921, "is": 141.4766846, "precision": 0.78138, "recall": 0.5929},
    ),
)  # fmt: skip


class GoldenOutcome(NamedTuple):
    """What came of one golden set: None where it was skipped, else whether every number is within
    its tolerance.
    """

    name: str
    is_within_tolerance: bool | None
    message: str
    command: str = ""


def check_golden_sets(folder: Path | None = None, device: str = "cpu") -> Iterator[GoldenOutcome]:
    """Scores each public sample set that is here and compares; the others are skipped and say how
    to get them.

    Args:
        folder: where sample sets and references lie under their published names, beside what
            `fetch` brought and HOME/golden.
    """
    for one in GOLDEN_SETS:
        samples, reference = (
            _find_asset(asset, folder) for asset in (one.samples_asset, one.reference_asset)
        )
        missing = [
            asset
            for asset, path in ((one.samples_asset, samples), (one.reference_asset, reference))
            if path is None
        ]
        if samples is None or reference is None:
            files = ", ".join(local_files.load_asset(asset).files[0].name for asset in missing)
            command = " and ".join(f"harope-bench fetch {asset}" for asset in missing)
            yield GoldenOutcome(
                one.suite,
                None,
                f"skipped, {files} not here",
                f"{command}, or doctor --golden-from FOLDER",
            )
            continue
        try:
            yield _check_golden_set(one, samples, reference, device)
        except (MissingAssetError, MissingExtraError) as error:
            yield GoldenOutcome(one.suite, None, f"skipped, {error.detail}", error.advice)
        except BenchError as error:
            yield GoldenOutcome(one.suite, False, str(error))


def _find_asset(asset: str, folder: Path | None) -> Path | None:
    """The asset's file, in the folder given, in the user's golden folder, or where fetch put it."""
    name = local_files.load_asset(asset).files[0].name
    places = [place / name for place in (folder, home() / "golden") if place is not None]
    return next(
        (path for path in places if path.is_file()),
        held.path if (held := local_files.find_local_file(asset)) else None,
    )


def _check_golden_set(one: GoldenSet, samples: Path, reference: Path, device: str) -> GoldenOutcome:
    (scored,) = evaluate(
        samples,
        home() / "golden" / one.suite,
        FeatureScoring(one.suite, reference, device=device, profile=PROFILE),
    )
    parts = []
    right = True
    for metric, published in one.published_values.items():
        found = scored.result.find_measurement(metric)
        value = found.value if found else None
        good = value is not None and abs(value - published) <= TOLERANCE[metric]
        right &= good
        shown = "none" if value is None else f"{value:.6g}"
        parts.append(
            f"{metric} {shown} ({'' if good else 'NOT '}{published:.6g} +- {TOLERANCE[metric]:g})"
        )
    judge = scored.result.judge
    other = (
        ""
        if judge.judge_class == "equivalent"
        else f", by a {judge.judge_class} judge, so nothing is proven"
    )
    return GoldenOutcome(one.suite, right and not other, ", ".join(parts) + other)


# ----------------------------------------------------------------------------------------------
# offline


def check_formulas() -> list[str]:
    """What is wrong with the formulas on this machine; empty where they agree with slow ones. Takes
    well under a second.
    """
    return [
        f"{name} is {found!r}, should be {wanted!r}"
        for name, (found, wanted) in _run_formulas()
        if not np.isclose(found, wanted, rtol=1e-9)
    ]


def _run_formulas() -> Iterator[tuple[str, tuple[float, float]]]:
    rng = np.random.default_rng(0)
    drawn = rng.normal(0.2, 1.1, (60, 5))
    real = rng.normal(size=(50, 5))
    for name, check in FORMULAS.items():
        yield name, check(drawn, real)


def _distance(drawn: np.ndarray, real: np.ndarray) -> tuple[float, float]:
    a = np.cov(drawn, rowvar=False)
    b = np.cov(real, rowvar=False)
    shift = drawn.mean(0) - real.mean(0)
    roots = np.sqrt(np.linalg.eigvals(a @ b).astype(complex)).real.sum()
    return frechet_distance(
        Moments.from_rows(drawn).to_gaussian(), Moments.from_rows(real).to_gaussian()
    ), float(shift @ shift + np.trace(a + b) - 2 * roots)


def _known_distance(drawn: np.ndarray, real: np.ndarray) -> tuple[float, float]:
    """Independent coordinates have a distance that can be written down."""
    a = np.array([1.0, 4.0, 9.0])
    b = np.array([4.0, 4.0, 1.0])
    shift = np.array([0.0, 3.0, 0.0])
    return (
        frechet_distance(Gaussian(shift, np.diag(a)), Gaussian(np.zeros(3), np.diag(b))),
        9.0 + 1.0 + 0.0 + 4.0,
    )


def _classes(drawn: np.ndarray, real: np.ndarray) -> tuple[float, float]:
    """Soft probabilities: exp of the mean divergence from their mean, plus eight certain and even
    classes, whose score is eight.
    """
    shares = np.exp(drawn) / np.exp(drawn).sum(axis=1, keepdims=True)
    soft = float(np.exp((shares * np.log(shares / shares.mean(axis=0))).sum(axis=1).mean()))
    return (
        inception_score(drawn).value + inception_score(np.eye(8)[np.arange(40) % 8] * 100.0).value,
        soft + 8.0,
    )


def _slow_fractions(drawn: np.ndarray, real: np.ndarray) -> tuple[float, float]:
    def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.asarray(((a[:, None] - b) ** 2).sum(-1))

    radii = [np.sort(distances(rows, rows), axis=1)[:, 3] for rows in (drawn, real)]
    across = distances(drawn, real)
    return float((across <= radii[1]).any(axis=1).mean()), float(
        (across <= radii[0][:, None]).any(axis=0).mean()
    )


def _neighbours(drawn: np.ndarray, real: np.ndarray) -> tuple[float, float]:
    found = neighbour_balls(drawn, real)
    wanted = _slow_fractions(drawn, real)
    return (
        float(found.generated_inside.mean() + 10 * found.real_inside.mean()),
        wanted[0] + 10 * wanted[1],
    )


def _half_neighbours(drawn: np.ndarray, real: np.ndarray) -> tuple[float, float]:
    """Far from 0 float16 makes ties that raise the shares, so a version without it gives other
    numbers.
    """
    a = drawn + 30.0
    b = real + 30.0
    found = float16_balls(a, b)
    wanted = _float16_fractions(a, b)
    return (
        float(found.generated_inside.mean() + 10 * found.real_inside.mean()),
        wanted[0] + 10 * wanted[1],
    )


def _float16_fractions(drawn: np.ndarray, real: np.ndarray) -> tuple[float, float]:
    """ADM's shares on whole matrices, every operation in float32 and rounded by numpy's float16."""

    def half(values: np.ndarray) -> np.ndarray:
        return values.astype(np.float16).astype(np.float32)

    def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        a = half(a)
        b = half(b)
        norms, others = (half(half(x * x).sum(axis=1)) for x in (a, b))
        return np.maximum(half(half(norms[:, None] - 2 * half(a @ b.T)) + others), 0)

    radii = [np.sort(distances(rows, rows), axis=1)[:, 3] for rows in (drawn, real)]
    across = distances(real, drawn)
    return float((across <= radii[1][:, None]).any(axis=0).mean()), float(
        (across <= radii[0]).any(axis=1).mean()
    )


def _kernel(drawn: np.ndarray, real: np.ndarray) -> tuple[float, float]:
    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.asarray((a @ b.T / a.shape[1] + 1) ** 3)

    within = [
        (kernel(x, x).sum() - np.trace(kernel(x, x))) / (len(x) * (len(x) - 1))
        for x in (drawn, real)
    ]
    return kid(drawn, real).value, float(sum(within) - 2 * kernel(drawn, real).mean())


FORMULAS: dict[str, Callable[[np.ndarray, np.ndarray], tuple[float, float]]] = {
    "fid": _distance,
    "fid of independent coordinates": _known_distance,
    "is": _classes,
    "precision and recall": _neighbours,
    "precision and recall in float16": _half_neighbours,
    "kid": _kernel,
}
CHECKS = len(FORMULAS)
