"""Image quality against a reference of real images: FID, sFID, Inception Score, precision, recall, KID and their kin, with their errors.

A profile says which published program's formulas are followed. Profiles share what a judge saw, never a column of a table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from harope_bench.core.errors import InvalidMomentsError, OptionError, SampleError, ShapeError
from harope_bench.core.schema import Measurement, Metric
from harope_bench.evaluators.base import FeatureEvaluator, Observations, Score
from harope_bench.metrics.frechet import frechet, influence, matrix_root, rows_root
from harope_bench.metrics.half_neighbours import half_balls
from harope_bench.metrics.inception_score import (
    BLOCK,
    SHUFFLES,
    SPLITS,
    InceptionScore,
    OrderEffect,
    inception_score,
    order_effect,
    shuffled_inception_score,
)
from harope_bench.metrics.kernel_distance import SUBSET_SIZE, SUBSETS, Discrepancy, cmmd, kid, kid_subsets
from harope_bench.metrics.moment_checks import moments_complaint
from harope_bench.metrics.moments import Gaussian
from harope_bench.metrics.neighbours import NEIGHBOURS, Balls, balls
from harope_bench.metrics.random_halves import SPLITS as HALF_SPLITS
from harope_bench.metrics.random_halves import fewest_samples, half_recalls
from harope_bench.metrics.row_checks import first_bad_row, repeat_counts, rows_complaint
from harope_bench.statistics.intervals.heavy_tails import HEAVY, kurtosis, skewed_interval
from harope_bench.statistics.significance import Interval, mean_error, normal, wilson

FIFTY = 50_000
ORDER_LOSS = 0.01  # of IS: a smaller loss is named only where labels show that images are sorted
SPREAD_BLOCKS = 10  # from so many blocks on, their spread is the error of their mean
ROUNDING = 1e-12  # share of a value: a standard error below it is that of sums, not of samples
FEW_ROWS = 4.0  # images a dimension, below which FID's first-order error is too wide by more than an eighth
FEWEST_PAIRS = 3  # images in both sets that a kernel distance with an error needs
FRECHET_KEYS = {
    "fid": ("features", "mu", "sigma"),
    "sfid": ("spatial", "mu_s", "sigma_s"),
    "fd-dinov2": ("features", "mu", "sigma"),
}

FIRST_ORDER = "influence function, first order, skewness corrected, reference fixed"
RANDOM_HALVES = f"spread of {HALF_SPLITS} random splits into halves, reference fixed"

METRICS = {
    m.name: m
    for m in (
        Metric(name="fid", title="FID", direction="lower", unit="squared feature distance", decimals=2),
        Metric(name="sfid", title="sFID", direction="lower", unit="squared feature distance", decimals=2),
        Metric(name="is", title="Inception Score", direction="higher", unit="effective classes", decimals=2),
        Metric(name="precision", title="Precision", direction="higher", unit="share", decimals=2),
        Metric(name="recall", title="Recall", direction="higher", unit="share", decimals=2),
        Metric(name="kid", title="KID", direction="lower", unit="squared kernel discrepancy", decimals=5),
        Metric(name="kid-subsets", title="KID (100 x 1000)", direction="lower", unit="squared kernel discrepancy", decimals=5),
        Metric(name="fd-dinov2", title="FD-DINOv2", direction="lower", unit="squared feature distance", decimals=2),
        Metric(name="cmmd", title="CMMD", direction="lower", unit="squared kernel discrepancy x 1,000", decimals=3),
    )
}


class Profile(NamedTuple):
    """Which metrics, by which of the formulas that differ between programs, and against whom they are held."""

    metrics: tuple[str, ...]
    parity: str
    balls: Callable[[np.ndarray, np.ndarray], Balls] = balls
    precision: str = "float64"  # in which distances between rows are computed
    shuffled: bool = False  # IS over ten shuffled splits in place of consecutive blocks of 5,000


HELD = (
    "held in tests/evaluators/test_fidelity.py: FID to scipy sqrtm and torch-fidelity 0.4 (1e-9 relative), IS to torch-fidelity in "
    "the same blocks "
    "(1e-12 relative), precision and recall to torch-fidelity and to full distance matrices (every image equal)"
)
ADM = ("fid", "sfid", "is", "precision", "recall")
PROFILES = {
    "adm": Profile(
        ADM,
        f"formulas of openai/guided-diffusion:evaluations/evaluator.py, which the tests do not run; {HELD}, but for the distances, which "
        "are ADM's float16 blocks imitated (tests/metrics/test_metrics_half.py); TensorFlow may round a row's norm one step otherwise",
        half_balls,
        "float16 (float32 where that overflows)",
    ),
    "adm-exact": Profile(
        ADM,
        f"formulas of openai/guided-diffusion:evaluations/evaluator.py, which the tests do not run; {HELD}; distances are float64, where "
        "ADM's float16 gives about 0.001 more precision and 0.002 more recall",
    ),
    "torch-fidelity": Profile(
        ("fid", "is", "kid-subsets", "kid", "precision", "recall"),
        "toshas/torch-fidelity 0.4 on the same features, held in tests/evaluators/test_profiles.py: FID, IS (10 splits "
        "shuffled by 2020), KID over "
        "100 subsets of 1,000 (seed 2020), precision and recall of all against all; `kid` is the full U-statistic that these estimate",
        shuffled=True,
    ),
    "clean": Profile(
        ("fid", "kid"),
        "GaParmar/clean-fid 0.1.35, its distance held in tests/evaluators/test_profiles.py (1e-9 relative); KID is the full "
        "U-statistic, where "
        "clean-fid's own comes from unseeded subsets; its resize is that of the judge",
    ),
    "fd-dinov2": Profile(
        ("fd-dinov2",), "the distance of layer6ai-labs/dgm-eval, by FID's formula; features are the judge's, not compared"
    ),
    "cmmd": Profile(("cmmd",), "google-research/google-research:cmmd/distance.py in float64; embeddings are the judge's, not compared"),
}


class Finding(NamedTuple):
    """What a rule found: a value or a reason, its error, and the rows it is made of.

    halves: the metric on random halves of the samples (H,), where the rows are not the samples'.
    """

    value: float | None
    error: Interval | None = None
    interval: str | None = None
    rows: np.ndarray | None = None
    reason: str | None = None
    warnings: tuple[str, ...] = ()
    halves: np.ndarray | None = None


class Fidelity(FeatureEvaluator):
    """Image quality against a reference of real images, in one profile."""

    version = 3
    rules = ("official",)  # each program's; no corrected form is defined
    profiles = tuple(PROFILES)
    apart = ("clean", "fd-dinov2", "cmmd")  # these need a judge of their own

    def __init__(self, profile: str = "adm-exact"):
        if profile not in PROFILES:
            raise OptionError(f"fidelity has profiles {', '.join(PROFILES)}, not {profile}; choose one of these")
        self.profile, self.way = profile, PROFILES[profile]
        self.parity = self.way.parity
        self.metrics = tuple(METRICS[name] for name in self.way.metrics)

    def under(self, profile: str) -> Fidelity:
        """The same evaluator in another profile."""
        return Fidelity(profile)

    def score(self, seen: Observations, reference: Mapping[str, np.ndarray]) -> Score:
        """The profile's metrics; one that cannot be had is None with a reason.

        Args:
            seen: arrays `features` (N, D), `spatial` (N, S) and `logits` (N, C) without bias, each optional, memory-mapped or not.
            reference: `mu` (D,), `sigma` (D, D), `mu_s` (S,), `sigma_s` (S, S) and `features` (M, D) of real images, each optional.

        Returns:
            Measurements named by the number of images scored; per sample `indices` (N,) int64, centred influence values `fid`,
            `sfid`, `is`, `kid` (N,) float64, indicators `precision` (N,) and `recall` (M,) int8, and `recall_halves` (H,) float64,
            recall of random halves of the samples by exact distances; their standard deviation is its error. The error of FID and
            sFID is the spread of the value at this N; its finite-N bias is in the value.

        Raises:
            ShapeError: arrays do not fit together. SampleError: a value that is not finite, with the index of its image.
            InvalidMomentsError: the reference holds no mean and covariance.
        """
        _check(seen, reference)
        findings = self._findings(seen, reference)
        rows = {name: found.rows for name, found in findings.items() if found.rows is not None}
        rows |= {f"{name}_halves": found.halves for name, found in findings.items() if found.halves is not None}
        warnings = _warnings(seen) + tuple(w for found in findings.values() for w in found.warnings)
        measurements = tuple(_measurement(name, found, seen) for name, found in findings.items())
        return Score(measurements, {"indices": seen.indices, **rows}, warnings)

    def _findings(self, seen: Observations, reference: Mapping[str, np.ndarray]) -> dict[str, Finding]:
        findings: dict[str, Finding] = {}
        for name in self.way.metrics:
            if name in FRECHET_KEYS:
                findings[name] = _distance(name, seen, reference)
            elif name == "is":
                findings[name] = _shuffled_inception(seen) if self.way.shuffled else _inception(seen)
            elif name == "precision":  # one sweep gives both
                findings |= _neighbourhoods(seen, reference, self.way)
            elif name != "recall":
                findings[name] = _kernel(name, seen, reference)
        return {name: _without_empty_interval(name, found) for name, found in findings.items()}


def _without_empty_interval(metric: str, finding: Finding) -> Finding:
    """Return the finding without an error of 0 up to rounding: equal rows do not show what others would be."""
    if finding.error is None or finding.value is None or finding.error.se > ROUNDING * abs(finding.value):
        return finding
    warning = f"{metric}: its error is not known; every image adds the same to it"
    return finding._replace(error=None, interval=None, warnings=(*finding.warnings, warning))


def _measurement(metric: str, found: Finding, seen: Observations) -> Measurement:
    scored = len(seen.indices)
    error = found.error
    return Measurement(
        metric=metric,
        name=_honest_name(metric, scored),
        value=found.value,
        se=error.se if error else None,
        low=error.low if error else None,
        high=error.high if error else None,
        interval=found.interval if error else None,
        n_asked=scored + seen.failed,
        n_scored=scored,
        n_failed=seen.failed,
        reason=found.reason,
    )


def _honest_name(metric: str, scored: int) -> str:
    """fid-50k at exactly 50,000 images, else fid-N; the others do not depend on N by name."""
    if metric not in FRECHET_KEYS:
        return metric
    return f"{metric}-50k" if scored == FIFTY else f"{metric}-{scored}"


def _distance(metric: str, seen: Observations, reference: Mapping[str, np.ndarray]) -> Finding:
    array, mean, covariance = FRECHET_KEYS[metric]
    if array not in seen.arrays:
        return Finding(None, reason=f"the judge gives no {array}")
    if mean not in reference or covariance not in reference:
        return Finding(None, reason=f"the reference holds no {mean} and {covariance}")
    rows = seen.arrays[array]
    if len(rows) < 2:
        return Finding(None, reason=f"{metric} needs at least 2 images, found {len(rows)}")
    real = Gaussian(reference[mean].astype(np.float64), reference[covariance].astype(np.float64))
    return _scored_distance(metric, rows, seen.moments(array).gaussian(), real)


def _scored_distance(metric: str, rows: np.ndarray, drawn: Gaussian, real: Gaussian) -> Finding:
    live = np.diag(drawn.covariance) > 0  # a constant float32 column has variance exactly 0: its float64 sums are exact
    few = len(rows) <= live.sum()
    root, warnings = rows_root(rows) if few else matrix_root(drawn.covariance), _dead_columns(metric, live, real)
    value = frechet(drawn, real, root)
    if value < 0:
        warnings += (f"{metric}: rounding made {value:.2g} of a distance of 0, which is reported",)
        value = 0.0
    if few:
        # The rows do not span the space they were drawn from: the distance has no derivative there, so no first-order error.
        told = f"{metric}: N <= D ({len(rows):,} images, {live.sum():,} live dimensions); the value leans on N, no error is given"
        return Finding(value, warnings=(*warnings, told))
    contributions = influence(rows, drawn, real, root)
    warnings += _limits(metric, contributions, int(live.sum()))
    return Finding(value, skewed_interval(value, contributions), FIRST_ORDER, contributions, warnings=warnings)


def _limits(metric: str, contributions: np.ndarray, live: int) -> tuple[str, ...]:
    """Return a line for each way in which the first-order error is known to be off; docs/fidelity.md has the measurements."""
    lines, tails, ratio = [], kurtosis(contributions), len(contributions) / max(live, 1)
    if tails > HEAVY:
        lines.append(
            f"{metric} error: features are heavy-tailed (kurtosis {tails:.0f} of the contributions); the standard error may be too small "
            "by half, the interval is widened for it and covers 91 to 97%"
        )
    if ratio < FEW_ROWS:
        lines.append(
            f"{metric} error: N is only {ratio:.1f} times the {live:,} live dimensions; the interval is too wide, by up to a third, and "
            "covers 95 to 99%"
        )
    return tuple(lines)


def _dead_columns(metric: str, live: np.ndarray, real: Gaussian) -> tuple[str, ...]:
    """Columns that never change over the samples although they do over the reference."""
    dead = int((~live & (np.diag(real.covariance) > 0)).sum())
    if not live.any():
        return (f"{metric}: constant {FRECHET_KEYS[metric][0]}, those of every sample are the same",)
    return (f"{metric}: zero variance in {dead:,} of {len(live):,} columns that vary in the reference",) if dead else ()


def _inception(seen: Observations) -> Finding:
    if "logits" not in seen.arrays:
        return Finding(None, reason="the judge gives no logits")
    logits = seen.arrays["logits"]
    if len(logits) < 2:
        return Finding(None, reason=f"is needs at least 2 images, found {len(logits)}")
    score = inception_score(logits)
    if len(score.blocks) >= SPREAD_BLOCKS:
        error, interval = normal(score.value, mean_error(score.blocks)), f"spread of {len(score.blocks)} blocks"
    else:
        error, interval = normal(score.value, mean_error(score.contributions)), "influence function, first order"
    warnings = (*_order_warnings(score.value, order_effect(score, logits, seen.labels)), *_block_warnings(score))
    return Finding(score.value, error, interval, score.contributions, warnings=warnings)


def _order_warnings(value: float, effect: OrderEffect | None) -> tuple[str, ...]:
    """A warning where the order of the images lowers the score, with the score of random orders."""
    least = 0.0 if effect is not None and effect.by_label else ORDER_LOSS
    if effect is None or not value < (1 - least) * effect.lowest:
        return ()
    lost = 1 - value / effect.shuffled
    what = "labels" if effect.by_label else "predicted classes"
    order = "class-sorted order" if effect.by_label or effect.in_runs else "uneven order"
    share = f"{lost:.0%}" if lost >= 0.1 else f"{lost:.1%}"
    return (
        f"is: {order}, blocks of {BLOCK:,} hold different {what}; {SHUFFLES} random orders give {effect.shuffled:.4g} on average, "
        f"about {share} of the score is lost",
    )


def _block_warnings(score: InceptionScore) -> tuple[str, ...]:
    warnings: tuple[str, ...] = ()
    last = len(score.contributions) % BLOCK
    if len(score.blocks) > 1 and 0 < last < BLOCK / 2:
        warnings += (f"is: short last block, {last:,} images count as much as {BLOCK:,}",)
    return warnings


def _shuffled_inception(seen: Observations) -> Finding:
    if "logits" not in seen.arrays:
        return Finding(None, reason="the judge gives no logits")
    logits = seen.arrays["logits"]
    if len(logits) < 2 * SPLITS:
        return Finding(None, reason=f"is over {SPLITS} splits needs at least {2 * SPLITS} images, found {len(logits)}")
    found = shuffled_inception_score(logits)
    return Finding(found.mean, normal(found.mean, mean_error(found.scores)), f"spread of {SPLITS} shuffled splits")


KERNELS: Mapping[str, Callable[[np.ndarray, np.ndarray], Discrepancy]] = {"kid": kid, "cmmd": cmmd}


def _kernel(metric: str, seen: Observations, reference: Mapping[str, np.ndarray]) -> Finding:
    """KID or CMMD over all pairs, or KID over torch-fidelity's subsets, which says nothing of its error."""
    fewest = SUBSET_SIZE if metric == "kid-subsets" else FEWEST_PAIRS
    if (reason := _no_images(metric, seen, reference, fewest)) is not None:
        return Finding(None, reason=reason)
    drawn, real = seen.arrays["features"], reference["features"]
    if metric == "kid-subsets":
        found = kid_subsets(drawn, real)
        told = f"kid-subsets: standard deviation over {SUBSETS} subsets {found.std:.3g}, which is not an error of their mean"
        return Finding(found.mean, warnings=(told,))
    whole = KERNELS[metric](drawn, real)
    return Finding(whole.value, normal(whole.value, whole.se_drawn), "jackknife over samples, reference fixed", whole.drawn)


def _neighbourhoods(seen: Observations, reference: Mapping[str, np.ndarray], profile: Profile) -> dict[str, Finding]:
    """Precision, the share of samples in the ball of any reference image, and recall, the share of these in the ball of any sample."""
    if (reason := _no_images("", seen, reference, NEIGHBOURS + 1)) is not None:
        return {name: Finding(None, reason=reason) for name in ("precision", "recall")}
    drawn, real = seen.arrays["features"], reference["features"]
    found = profile.balls(drawn, real)
    precision, recall = _share(found.drawn_inside), _share(found.real_inside)
    recall = recall._replace(warnings=_radius_warnings("recall", found.drawn_radii, drawn, "samples", profile))
    return {
        "precision": precision._replace(warnings=_radius_warnings("precision", found.real_radii, real, "reference images", profile)),
        "recall": _over_draws(recall, seen, reference),
    }


def _over_draws(found: Finding, seen: Observations, reference: Mapping[str, np.ndarray]) -> Finding:
    """Return recall with the error that other draws would have: the balls are the samples', so it is their number that counts.

    Where no half differs from another, the references' binomial error stands, radii fixed.
    """
    drawn, real = seen.arrays["features"], reference["features"]
    if found.value is None or len(drawn) < fewest_samples():
        return found
    halves = half_recalls(drawn, real)
    spread = float(halves.std(ddof=1))
    if spread <= ROUNDING:
        return found
    error = normal(found.value, spread)
    error = Interval(error.se, max(0.0, error.low), min(1.0, error.high))
    return found._replace(error=error, interval=RANDOM_HALVES, halves=halves)


def _no_images(metric: str, seen: Observations, reference: Mapping[str, np.ndarray], fewest: int) -> str | None:
    """Why two sets of images cannot be compared one by one; None where they can."""
    if "features" not in seen.arrays:
        return "the judge gives no features"
    if "features" not in reference:
        return "the reference holds no images"
    found = min(len(seen.arrays["features"]), len(reference["features"]))
    what = metric or f"{NEIGHBOURS} neighbours"
    if found < fewest:
        return f"{what} need{'s' * bool(metric)} at least {fewest:,} samples and reference images, found {found:,}"
    return None


def _share(inside: np.ndarray) -> Finding:
    hits = int(inside.sum())
    return Finding(hits / len(inside), wilson(hits, len(inside)), "Wilson, radii fixed", inside.astype(np.int8))


def _radius_warnings(metric: str, radii: np.ndarray, rows: np.ndarray, whose: str, profile: Profile) -> tuple[str, ...]:
    """Warnings of balls (N,) of radius 0, apart by cause: rows that are repeated, and different rows whose distance rounds to 0."""
    empty = radii == 0
    if not empty.any():
        return ()
    repeated = int((repeat_counts(rows)[empty] > NEIGHBOURS).sum())
    rounded = int(empty.sum()) - repeated
    around = f"{metric}: zero radius around {{:,}} of {len(radii):,} {whose}"
    warnings: tuple[str, ...] = ()
    if repeated:
        warnings += (f"{around.format(repeated)}, each repeated {NEIGHBOURS} times or more",)
    if rounded:
        warnings += (f"{around.format(rounded)}, whose features differ: {profile.precision} rounds their distances to 0",)
    return warnings


def _warnings(seen: Observations) -> tuple[str, ...]:
    warnings: tuple[str, ...] = ()
    scored = len(seen.indices)
    if seen.failed:
        warnings += (f"fidelity: {seen.failed:,} of {scored + seen.failed:,} images failed; every number is over the other {scored:,}",)
    if "features" in seen.arrays:
        copies = scored - round(float((1 / repeat_counts(seen.arrays["features"])).sum()))
        if copies:
            warnings += (f"fidelity: duplicates in features, {copies:,} of {scored:,} samples repeat those of another one exactly",)
    return warnings


def _check(seen: Observations, reference: Mapping[str, np.ndarray]) -> None:
    """Shapes that fit and values that are finite, before anything is computed."""
    for name in ("features", "spatial", "logits"):
        if name in seen.arrays:
            _check_rows(f"{name} of the samples", seen.arrays[name], seen.indices)
    for array, mean, covariance in FRECHET_KEYS.values():
        if array in seen.arrays and mean in reference and covariance in reference:
            _check_gaussian(array, seen.arrays[array].shape[1], reference[mean], reference[covariance])
    if "features" in reference:
        real = reference["features"]
        _check_rows("features of the reference", real, np.arange(len(real)))
        if "features" in seen.arrays and real.shape[1:] != seen.arrays["features"].shape[1:]:
            width = seen.arrays["features"].shape[1]
            raise ShapeError(f"features have width {width}, the reference's {real.shape[1]}; judge both with the same network")


def _check_rows(what: str, rows: np.ndarray, indices: np.ndarray) -> None:
    if rows.ndim != 2 or len(rows) != len(indices):
        raise ShapeError(f"{what} have shape {rows.shape}, wanted ({len(indices)}, width); judge the images again")
    if complaint := rows_complaint(rows):
        raise SampleError(f"{what} {complaint}; judge the images again")
    if (bad := first_bad_row(rows)) is not None:
        index = int(indices[bad])
        raise SampleError(f"{what} are not finite, first at index {index}; delete the observations of that judge and run eval again")


def _check_gaussian(array: str, width: int, mean: np.ndarray, covariance: np.ndarray) -> None:
    if mean.shape != (width,) or covariance.shape != (width, width):
        found = f"the reference's moments {mean.shape} and {covariance.shape}"
        raise ShapeError(f"{array} have width {width}, {found}; use the reference of the same judge")
    if complaint := moments_complaint(mean, covariance):
        raise InvalidMomentsError(f"the reference's moments of {array} {complaint}; build the reference again")


PLUGIN = Fidelity()
