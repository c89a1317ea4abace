"""FID, sFID, IS, precision and recall: what they mean, whom they agree with, how sure they are."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_fidelity.metric_fid import fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

from harope_bench.errors import SampleError, ShapeError, TooFewImages
from harope_bench.evaluators.base import Observations, Score
from harope_bench.evaluators.fidelity import PLUGIN
from harope_bench.metrics.frechet import frechet, influence, matrix_root
from harope_bench.metrics.inception_score import divergences, inception_score, log_softmax
from harope_bench.metrics.moments import Gaussian, Moments
from harope_bench.metrics.neighbours import covered, squared_radii
from harope_bench.records import Measurement
from harope_bench.statistics import Z, difference, mean_error

# ---- what goes in -----------------------------------------------------------------------------------------------


def cloud(seed: int, rows: int, width: int, shift: float = 0.0, scale: float = 1.0) -> np.ndarray:
    """Correlated Gaussian rows (rows, width) float32 whose mixing is the same for every seed."""
    mix = np.random.default_rng(99).normal(size=(width, width)) / math.sqrt(width) + np.eye(width)
    return (np.random.default_rng(seed).normal(size=(rows, width)) @ mix * scale + shift).astype(np.float32)


def observed(features: np.ndarray, *, failed: int = 0, **arrays: np.ndarray) -> Observations:
    return Observations(np.arange(len(features)), None, {"features": features, **arrays}, failed)


def reference_of(features: np.ndarray, *, images: bool = True) -> dict[str, np.ndarray]:
    mean, covariance = Moments.of(features).gaussian()
    return {"mu": mean, "sigma": covariance} | ({"features": features} if images else {})


def measured(score: Score, metric: str) -> Measurement:
    return next(m for m in score.measurements if m.metric == metric)


def value_of(score: Score, metric: str) -> float:
    value = measured(score, metric).value
    assert value is not None
    return value


# ---- slow, obvious references -----------------------------------------------------------------------------------


def slow_frechet(drawn: Gaussian, real: Gaussian) -> float:
    product = scipy.linalg.sqrtm(drawn.covariance @ real.covariance).real
    return float(np.sum((drawn.mean - real.mean) ** 2) + np.trace(drawn.covariance + real.covariance - 2 * product))


def slow_inception_score(logits: np.ndarray, block: int) -> float:
    scores = []
    for start in range(0, len(logits), block):
        p = np.array([np.exp(row - row.max()) / np.exp(row - row.max()).sum() for row in logits[start : start + block].astype(np.float64)])
        marginal, total = p.mean(axis=0), 0.0
        for row in p:
            total += sum(a * math.log(a / b) for a, b in zip(row, marginal, strict=True) if a > 0)
        scores.append(math.exp(total / len(p)))
    return sum(scores) / len(scores)


def full_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    steps: np.ndarray = a.astype(np.float64)[:, None, :] - b.astype(np.float64)[None, :, :]
    return np.asarray((steps**2).sum(axis=2))


def slow_radii(rows: np.ndarray, k: int = 3) -> np.ndarray:
    distances = full_distances(rows, rows)
    return np.array([sorted(np.delete(distances[i], i))[k - 1] for i in range(len(rows))])


def slow_covered(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
    return np.asarray((full_distances(points, centres) <= slow_radii(centres)).any(axis=1))


# ---- moments ----------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 40), min_size=1, max_size=5), st.integers(1, 7))
@settings(max_examples=40, deadline=None)
def test_shards_merge_to_the_whole(sizes: list[int], block: int) -> None:
    rows = cloud(0, sum(sizes) + 2, 3, shift=5.0)
    shards = np.split(rows, np.cumsum(sizes))
    merged = Moments.of(shards[0])
    for shard in shards[1:]:
        merged = merged.merge(Moments.of(shard, block))
    whole = Moments.of(rows)
    assert merged.count == whole.count
    np.testing.assert_allclose(merged.mean, whole.mean, rtol=1e-13)
    np.testing.assert_allclose(merged.scatter, whole.scatter, rtol=1e-11, atol=1e-12)  # atol: off-diagonals may be near 0


def test_moments_equal_numpy_and_survive_a_mean_far_from_zero() -> None:
    rows = cloud(1, 700, 5) + np.float32(4096.0)
    mean, covariance = Moments.of(rows, block=64).gaussian()
    exact = np.cov(rows.astype(np.float64), rowvar=False)
    np.testing.assert_allclose(mean, rows.astype(np.float64).mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(covariance, exact, rtol=1e-11)
    wrong = (rows.T @ rows / 700 - np.outer(rows.mean(axis=0), rows.mean(axis=0))) * 700 / 699  # float32 and no centring
    assert np.abs(wrong - exact).max() > 0.1


def test_one_image_has_no_covariance() -> None:
    with pytest.raises(TooFewImages, match="at least 2 images, found 1"):
        Moments.of(np.zeros((1, 4), dtype=np.float32)).gaussian()
    with pytest.raises(ShapeError):
        Moments.of(np.zeros((3, 4))).merge(Moments.of(np.zeros((3, 5))))


# ---- Frechet distance: meaning ----------------------------------------------------------------------------------


def test_equal_sets_are_at_distance_zero() -> None:
    features = cloud(2, 600, 12)
    score = PLUGIN.score(observed(features), reference_of(features))
    assert abs(value_of(score, "fid")) < 1e-11  # rounding of the traces, of size D * eps
    assert value_of(score, "precision") == value_of(score, "recall") == 1.0


def test_moving_every_image_adds_the_squared_step() -> None:
    features, reference = cloud(3, 500, 8).astype(np.float64), reference_of(cloud(4, 800, 8))
    near = frechet(Moments.of(features).gaussian(), Gaussian(reference["mu"], reference["sigma"]))
    step = np.arange(8) * 10.0
    moved = Moments.of(features + step).gaussian()
    still = moved.mean - reference["mu"] - step
    expected = near + step @ step + 2 * step @ still  # |a + b|^2 = |a|^2 + |b|^2 + 2 ab
    assert frechet(moved, Gaussian(reference["mu"], reference["sigma"])) == pytest.approx(expected, rel=1e-12)


def test_known_gaussians_have_the_known_distance() -> None:
    turn = np.linalg.qr(np.random.default_rng(5).normal(size=(6, 6)))[0]
    a, b = np.array([1.0, 2, 3, 4, 5, 0.01]), np.array([4.0, 1, 3, 0.5, 0.02, 7])
    drawn, real = (Gaussian(mean, turn * variances @ turn.T) for mean, variances in ((np.zeros(6), a), (np.full(6, 0.5), b)))
    assert frechet(drawn, real) == pytest.approx(6 * 0.25 + np.sum((np.sqrt(a) - np.sqrt(b)) ** 2), rel=1e-13)


# ---- Frechet distance: parity and fall-backs --------------------------------------------------------------------


@pytest.mark.parametrize(("rows", "width", "shift"), [(400, 16, 0.3), (3000, 64, 0.0), (900, 48, 10.0)])
def test_frechet_equals_sqrtm_and_torch_fidelity(rows: int, width: int, shift: float) -> None:
    drawn, real = Moments.of(cloud(6, rows, width, shift, 0.8)).gaussian(), Moments.of(cloud(7, 2000, width)).gaussian()
    ours = frechet(drawn, real)
    theirs = fid_statistics_to_metric(*({"mu": g.mean, "sigma": g.covariance} for g in (drawn, real)), False)
    # Full-rank covariances: all three traces are good to about D * eps.
    assert ours == pytest.approx(slow_frechet(drawn, real), rel=1e-9)
    assert ours == pytest.approx(theirs["frechet_inception_distance"], rel=1e-9)


def exact_trace(left: np.ndarray, right: np.ndarray) -> float:
    """tr sqrt(S1 S2) of two feature sets as a nuclear norm: no eigenvalue is rooted, so it is exact where ranks are short."""
    a, b = (x.astype(np.float64) - x.astype(np.float64).mean(axis=0) for x in (left, right))
    return float(np.linalg.svd(a @ b.T, compute_uv=False).sum() / math.sqrt((len(a) - 1) * (len(b) - 1)))


def exact_frechet(left: np.ndarray, right: np.ndarray) -> float:
    drawn, real = Moments.of(left).gaussian(), Moments.of(right).gaussian()
    return float(np.sum((drawn.mean - real.mean) ** 2) + np.trace(drawn.covariance + real.covariance) - 2 * exact_trace(left, right))


def with_dead_columns(features: np.ndarray) -> np.ndarray:
    features = features.copy()
    features[:, ::3] = 0.25
    return features


def with_repeated_columns(features: np.ndarray) -> np.ndarray:
    return np.concatenate([features, features[:, :5] * 2], axis=1)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (cloud(8, 300, 24), cloud(9, 20, 24)),  # singular reference
        (cloud(8, 20, 24), cloud(9, 300, 24)),  # N < D
        (cloud(8, 24, 24), cloud(9, 300, 24)),  # N = D
        (cloud(8, 20, 24), cloud(9, 15, 24)),  # both singular
        (cloud(8, 20, 24), cloud(8, 20, 24)),  # N < D and equal
        (with_dead_columns(cloud(8, 300, 24)), cloud(9, 300, 24)),
        (cloud(8, 300, 24), with_dead_columns(cloud(9, 300, 24))),
        (with_dead_columns(cloud(8, 300, 24)), with_dead_columns(cloud(9, 300, 24))),
        (with_repeated_columns(cloud(8, 300, 24)), with_repeated_columns(cloud(9, 300, 24))),
        (np.ones((300, 24), dtype=np.float32), cloud(9, 300, 24)),  # constant images
    ],
    ids=["reference", "few", "edge", "both", "equal", "dead", "dead-reference", "dead-both", "repeated", "constant"],
)
def test_singular_covariances_keep_the_exact_distance(left: np.ndarray, right: np.ndarray) -> None:
    value = value_of(PLUGIN.score(observed(left), reference_of(right, images=False)), "fid")
    # A zero eigenvalue comes out as about 1e-16 of the largest and is rooted to 1e-8; at most 25 of them here.
    assert value == pytest.approx(exact_frechet(left, right), abs=1e-6)


def test_the_support_keeps_rounding_out_of_the_trace() -> None:
    few, many = cloud(8, 40, 200), cloud(9, 1000, 200)
    drawn, real = Moments.of(few).gaussian(), Moments.of(many).gaussian()
    product = drawn.covariance @ real.covariance  # torch-fidelity's way: 161 rounded zeros are rooted
    theirs = np.sqrt(np.linalg.eigvals(product).astype(complex)).real.sum()
    wrong = np.sum((drawn.mean - real.mean) ** 2) + np.trace(drawn.covariance + real.covariance) - 2 * theirs
    assert matrix_root(drawn.covariance).shape == (200, 39)
    assert abs(frechet(drawn, real) - exact_frechet(few, many)) < 1e-10 < 1e-7 < abs(wrong - exact_frechet(few, many))


def test_a_pivot_at_rounding_level_is_not_trusted() -> None:
    basis = np.random.default_rng(10).normal(size=(8, 6))
    covariance = basis @ basis.T + 1e-15 * np.eye(8)
    assert matrix_root(covariance).shape == (8, 6)
    np.testing.assert_allclose(matrix_root(covariance) @ matrix_root(covariance).T, covariance, atol=1e-13)
    assert matrix_root(covariance + 0.01 * np.eye(8)).shape == (8, 8)


def test_different_widths_have_no_distance() -> None:
    with pytest.raises(ShapeError, match="widths 3 and 4"):
        frechet(Gaussian(np.zeros(3), np.eye(3)), Gaussian(np.zeros(4), np.eye(4)))


# ---- Frechet distance: error ------------------------------------------------------------------------------------

WIDTH, DRAWN, REPLICATES = 16, 1000, 400
REAL = Gaussian(np.zeros(WIDTH), np.eye(WIDTH))


def generator(noise: np.ndarray, tilt: float) -> np.ndarray:
    """A skewed, non-Gaussian generator; two tilts share their noise as two checkpoints share their seeds."""
    mix = np.random.default_rng(11).normal(size=(WIDTH, WIDTH)) * tilt + np.eye(WIDTH)
    return np.asarray(noise @ mix + 0.15 * np.abs(noise) * noise + tilt)


def fid_and_influence(rows: np.ndarray) -> tuple[float, np.ndarray]:
    drawn = Moments.of(rows).gaussian()
    return frechet(drawn, REAL), influence(rows, drawn, REAL)


@pytest.fixture(scope="module")
def replicates() -> tuple[np.ndarray, ...]:
    """FID and errors of REPLICATES runs: (a, error of a, a - b, paired error) each (REPLICATES,)."""
    rng, found = np.random.default_rng(12), []
    for _ in range(REPLICATES):
        noise = rng.normal(size=(DRAWN, WIDTH))
        (a, rows_a), (b, rows_b) = (fid_and_influence(generator(noise, tilt)) for tilt in (0.10, 0.12))
        found.append((a, mean_error(rows_a), a - b, mean_error(rows_a - rows_b)))
    return tuple(np.array(column) for column in zip(*found, strict=True))


def test_the_error_of_fid_is_the_spread_of_replicates(replicates: tuple[np.ndarray, ...]) -> None:
    values, errors, _, _ = replicates
    # The sd of 400 replicates is itself known to 3.5%; four such widths.
    assert errors.mean() == pytest.approx(values.std(ddof=1), rel=0.14)


def test_the_paired_error_is_the_spread_of_paired_replicates(replicates: tuple[np.ndarray, ...]) -> None:
    _, errors, deltas, paired = replicates
    assert paired.mean() == pytest.approx(deltas.std(ddof=1), rel=0.14)
    assert paired.mean() < 0.5 * math.hypot(errors.mean(), errors.mean())  # shared seeds are worth having


def test_the_interval_covers_the_mean_at_this_n(replicates: tuple[np.ndarray, ...]) -> None:
    values, errors, deltas, paired = replicates
    for found, error in ((values, errors), (deltas, paired)):
        share = (np.abs(found - found.mean()) <= Z * error).mean()
        assert 0.91 <= share <= 0.99  # 95% with 400 replicates is known to 1.1 points; four widths below


def test_the_error_is_not_too_small_where_generator_and_reference_agree() -> None:
    """The derivative vanishes there, so first order does not have to hold; it errs on the wide side by about sqrt 2."""
    rng = np.random.default_rng(13)
    found = [(value, mean_error(rows)) for value, rows in (fid_and_influence(rng.normal(size=(200, WIDTH))) for _ in range(200))]
    values, errors = np.array(found).T
    assert 1.2 < errors.mean() / values.std(ddof=1) < 1.7


def test_influence_is_the_derivative_of_the_distance() -> None:
    """Leaving image i out moves FID by -g_i / (N - 1), to first order, whatever the rank."""
    for rows in (cloud(14, 4000, 6).astype(np.float64), with_dead_columns(cloud(14, 4000, 6)).astype(np.float64)):
        real = Moments.of(cloud(15, 500, 6, shift=1.0)).gaussian()
        drawn = Moments.of(rows).gaussian()
        whole, contributions = frechet(drawn, real), influence(rows, drawn, real)
        assert abs(contributions.mean()) < 1e-12
        for i in (0, 17, 3999):
            without = frechet(Moments.of(np.delete(rows, i, axis=0)).gaussian(), real)
            # What first order leaves out is 1/N of a contribution, and the correction N - 1 to N - 2 a constant of that size.
            assert (whole - without) * 3999 == pytest.approx(contributions[i], abs=0.03)


def test_influence_does_not_depend_on_the_root() -> None:
    rows, real = cloud(16, 300, 10), Moments.of(cloud(17, 300, 10)).gaussian()
    drawn = Moments.of(rows).gaussian()
    values, vectors = np.linalg.eigh(drawn.covariance)
    other = influence(rows, drawn, real, vectors * np.sqrt(values))
    np.testing.assert_allclose(influence(rows, drawn, real), other, rtol=1e-9, atol=1e-9)


def test_no_error_is_given_where_images_are_fewer_than_dimensions() -> None:
    score = PLUGIN.score(observed(cloud(18, 30, 30)), reference_of(cloud(19, 200, 30)))
    fid = measured(score, "fid")
    assert fid.value is not None and fid.se is None and fid.low is None and fid.interval is None
    assert "fid" not in score.per_sample
    assert any(w.startswith("fid: N <= D (30 images, 30 live dimensions)") for w in score.warnings)
    live = with_dead_columns(cloud(18, 30, 30))  # 20 live columns are fewer than 30 images
    assert measured(PLUGIN.score(observed(live), reference_of(cloud(19, 200, 30))), "fid").se is not None


# ---- Inception Score --------------------------------------------------------------------------------------------


def peaked(labels: np.ndarray, classes: int, seed: int = 0, peak: float = 6.0) -> np.ndarray:
    """Logits that mostly point at the label."""
    logits = np.random.default_rng(seed).normal(size=(len(labels), classes))
    logits[np.arange(len(labels)), labels] += peak
    return logits.astype(np.float32)


def test_is_runs_from_one_to_the_number_of_classes() -> None:
    assert inception_score(np.zeros((50, 10))).value == 1.0
    sure = np.where(np.eye(10)[np.arange(200) % 10] > 0, 0.0, -1e6)  # probabilities 0 and 1: 0 log 0 counts as 0
    assert inception_score(sure).value == pytest.approx(10.0, rel=1e-14)
    unused = np.where(np.eye(10)[np.arange(200) % 4] > 0, 0.0, -1e6)  # six classes nobody shows
    assert inception_score(unused).value == pytest.approx(4.0, rel=1e-14)


@pytest.mark.parametrize(("rows", "block"), [(120, 50), (100, 50), (51, 50), (30, 50)])
def test_is_equals_a_plain_loop(rows: int, block: int) -> None:
    logits = (np.random.default_rng(20).normal(size=(rows, 7)) * 3).astype(np.float32)
    assert inception_score(logits, block).value == pytest.approx(slow_inception_score(logits, block), rel=1e-13)


def test_is_equals_torch_fidelity_in_the_same_blocks() -> None:
    logits = (np.random.default_rng(21).normal(size=(1000, 40)) * 4).astype(np.float32)
    theirs = isc_features_to_metric(torch.from_numpy(logits), splits=5, shuffle=False)
    ours = inception_score(logits, block=200)
    assert ours.value == pytest.approx(theirs["inception_score_mean"], rel=1e-12)  # both float64
    assert ours.blocks.std() == pytest.approx(theirs["inception_score_std"], rel=1e-9)


def test_class_order_ruins_is_and_is_named() -> None:
    labels = np.arange(20_000) % 100
    interleaved, by_class = (peaked(x, 100, peak=12.0) for x in (labels, np.sort(labels)))
    features = cloud(22, 20_000, 2)
    scores = [PLUGIN.score(observed(features, logits=x), {}) for x in (interleaved, by_class)]
    right, wrong = (value_of(score, "is") for score in scores)
    assert right > 3.5 * wrong  # 25 of 100 classes in each block of 5,000
    assert not any(w.startswith("is:") for w in scores[0].warnings)
    lost = f"about {1 - wrong / right:.0%} of the score is lost"
    assert any(w.startswith("is: class-sorted order") and lost in w for w in scores[1].warnings)


def test_order_loss_is_what_one_marginal_would_give_back() -> None:
    logits = peaked(np.sort(np.arange(3000) % 20), 20, peak=3.0)
    blocks, whole = inception_score(logits, 500), inception_score(logits, 3000)
    given_back = math.log(whole.value) - np.log(blocks.blocks).mean()
    assert blocks.order_loss == pytest.approx(given_back, abs=0.01)  # less what chance takes: below 5 * 19 / 6000
    assert whole.order_loss == 0.0


@pytest.mark.parametrize("peak", [0.0, 4.0, 30.0])
def test_a_random_order_is_not_called_sorted(peak: float) -> None:
    labels = np.random.default_rng(23).integers(0, 500, size=25_000)
    logits = peaked(labels, 500, peak=peak)  # ten images of a class in each block of 5,000
    assert abs(inception_score(logits).order_loss) < 0.01
    assert abs(inception_score(logits[:5100]).order_loss) < 0.02


def test_a_short_last_block_counts_equally_and_is_named() -> None:
    logits = peaked(np.arange(5003) % 10, 10)
    score = PLUGIN.score(observed(cloud(24, 5003, 2), logits=logits), {})
    assert value_of(score, "is") == pytest.approx((inception_score(logits[:5000]).value + inception_score(logits[5000:]).value) / 2)
    assert "is: short last block, 3 images count as much as 5,000" in score.warnings


def test_the_error_of_is_is_the_spread_of_replicates() -> None:
    rng, found = np.random.default_rng(25), []
    for _ in range(400):
        score = inception_score(
            peaked(rng.integers(0, 12, size=750) ** 2 // 12, 12, int(rng.integers(2**31))), block=300
        )  # last block is half
        found.append((score.value, mean_error(score.contributions)))
    values, errors = np.array(found).T
    assert errors.mean() == pytest.approx(values.std(ddof=1), rel=0.14)  # as for FID


def test_a_short_block_brings_its_own_noise() -> None:
    score = inception_score(peaked(np.random.default_rng(69).integers(0, 10, size=1040), 10), block=500)
    parts = np.split(score.contributions, [500, 1000])
    # The mean over three blocks has a third of each block's error, and 40 images have a larger one.
    logp = [log_softmax(x) for x in np.split(peaked(np.random.default_rng(69).integers(0, 10, size=1040), 10), [500, 1000])]
    spreads = [divergences(np.exp(x), x, np.exp(x).mean(axis=0)).std() for x in logp]
    exact = math.sqrt(sum((b * s) ** 2 / len(x) for b, s, x in zip(score.blocks, spreads, logp, strict=True))) / 3
    assert mean_error(score.contributions) == pytest.approx(exact, rel=1e-3)  # N - 1 instead of N
    assert max(abs(part.sum()) for part in parts) < 1e-9


def test_ten_blocks_give_the_error_themselves() -> None:
    logits = peaked(np.random.default_rng(26).integers(0, 10, size=50_000), 10)
    score = PLUGIN.score(Observations(np.arange(50_000), None, {"logits": logits}), {})
    found, blocks = measured(score, "is"), inception_score(logits).blocks
    assert found.interval == "spread of 10 blocks"
    assert found.se == pytest.approx(blocks.std(ddof=1) / math.sqrt(10))
    assert mean_error(score.per_sample["is"]) == pytest.approx(found.se, rel=1.0)  # ten blocks know their sd to 24%; four widths
    nine = PLUGIN.score(Observations(np.arange(45_000), None, {"logits": logits[:45_000]}), {})
    assert measured(nine, "is").interval == "influence function, first order"


def test_divergences_are_not_negative() -> None:
    logp = log_softmax(np.random.default_rng(27).normal(size=(300, 5)).astype(np.float32) * 50)
    assert divergences(np.exp(logp), logp, np.exp(logp).mean(axis=0)).min() > -1e-12


# ---- precision and recall ---------------------------------------------------------------------------------------


def test_a_collapsed_generator_is_precise_and_recalls_little() -> None:
    real = cloud(28, 600, 8)
    collapsed = real[0] + cloud(29, 600, 8, scale=0.01)
    score = PLUGIN.score(observed(collapsed), reference_of(real))
    assert value_of(score, "precision") > 0.95 and value_of(score, "recall") < 0.05
    swapped = PLUGIN.score(observed(real), reference_of(collapsed))
    assert value_of(swapped, "precision") < 0.05 and value_of(swapped, "recall") > 0.95


def test_noise_far_away_has_neither() -> None:
    score = PLUGIN.score(observed(cloud(30, 300, 8, shift=100.0)), reference_of(cloud(31, 300, 8)))
    assert value_of(score, "precision") == value_of(score, "recall") == 0.0


@pytest.mark.parametrize("lattice", [False, True], ids=["continuous", "ties"])
@pytest.mark.parametrize("block", [1, 7, 64, 1000])
def test_balls_equal_full_matrices_at_any_block_size(block: int, lattice: bool) -> None:
    a, b = cloud(32, 150, 5), cloud(33, 90, 5, shift=0.7)
    if lattice:
        a, b = np.rint(a * 2) + 1000, np.rint(b * 2) + 1000  # many equal distances, and copies, far from zero
    radii = squared_radii(b, block=block)
    # Whole numbers stay whole after the centre is taken off, so their distances are exact; rounding of squares otherwise.
    np.testing.assert_allclose(radii, slow_radii(b), rtol=0 if lattice else 1e-12)
    np.testing.assert_array_equal(covered(a, b, radii, block=block), slow_covered(a, b))


@pytest.mark.parametrize(("drawn", "real", "width"), [(500, 300, 32), (300, 700, 16)])
def test_precision_and_recall_equal_torch_fidelity(drawn: int, real: int, width: int) -> None:
    a, b = cloud(34, drawn, width, shift=0.3), cloud(35, real, width)
    theirs = prc_features_to_metric(
        *map(torch.from_numpy, (a, b)), prc_neighborhood=3, prc_batch_size=200, save_cpu_ram=False, verbose=False
    )
    score = PLUGIN.score(observed(a), reference_of(b))
    # Shares of the same counts; torch-fidelity averages them in float32.
    assert value_of(score, "precision") == pytest.approx(theirs["precision"], abs=1e-7)
    assert value_of(score, "recall") == pytest.approx(theirs["recall"], abs=1e-7)
    assert score.per_sample["precision"].shape == (drawn,) and score.per_sample["recall"].shape == (real,)
    np.testing.assert_array_equal(score.per_sample["recall"], slow_covered(b, a))


@given(st.integers(0, 2**31))
@settings(max_examples=15, deadline=None)
def test_order_does_not_matter(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = cloud(36, 80, 4), cloud(37, 60, 4)
    p, q = rng.permutation(80), rng.permutation(60)
    plain, shuffled = covered(a, b, squared_radii(b, block=16), 16), covered(a[p], b[q], squared_radii(b[q], block=16), 16)
    np.testing.assert_array_equal(plain[p], shuffled)


@pytest.mark.parametrize("shift", [0.0, 3.3, 4096.0])
def test_copies_are_at_distance_exactly_zero(shift: float) -> None:
    base = cloud(38, 50, 200, shift)
    rows = np.concatenate([base, base, base, base])[np.random.default_rng(39).permutation(200)]
    assert (squared_radii(rows, block=32) == 0.0).all()
    plain = rows.astype(np.float64)
    norms = (plain**2).sum(axis=1)
    unsnapped = norms[:, None] + norms - 2 * plain @ plain.T
    copies = full_distances(rows, rows) == 0.0
    assert np.abs(unsnapped[copies]).max() > 0.0  # without the floor copies are at a distance
    assert squared_radii(base).min() > 0.0


def test_a_mean_far_from_zero_costs_no_digits() -> None:
    rows = cloud(68, 120, 100, shift=4096.0, scale=0.05)
    np.testing.assert_allclose(squared_radii(rows), slow_radii(rows), rtol=1e-11)
    plain = rows.astype(np.float64)
    uncentred = (plain**2).sum(axis=1)[:, None] + (plain**2).sum(axis=1) - 2 * plain @ plain.T
    np.fill_diagonal(uncentred, np.inf)
    assert np.abs(np.sort(uncentred, axis=1)[:, 2] / slow_radii(rows) - 1).max() > 1e-8


def test_three_copies_leave_a_radius_and_four_do_not() -> None:
    base = cloud(40, 40, 6)
    assert (squared_radii(np.concatenate([base] * 3)) > 0).all()
    assert (squared_radii(np.concatenate([base] * 4)) == 0).all()


def test_copied_images_are_warned_of_with_their_number() -> None:
    base, real = cloud(41, 60, 6), cloud(42, 200, 6)
    score = PLUGIN.score(observed(np.concatenate([base[:10]] * 4 + [base[10:]])), reference_of(real))
    assert "recall: zero radius around 40 of 90 samples, each repeated 3 times or more" in score.warnings
    assert "fidelity: duplicates, 30 of 90 samples repeat another one exactly" in score.warnings
    score = PLUGIN.score(observed(base), reference_of(np.concatenate([real] * 4)))
    assert any(w.startswith("precision: zero radius around 800 of 800 reference images") for w in score.warnings)
    assert value_of(score, "precision") == 0.0


def test_memory_stays_far_below_the_full_matrix() -> None:
    a, b = cloud(43, 6000, 64), cloud(44, 6000, 64)
    tracemalloc.start()
    try:
        inside = covered(a, b, squared_radii(b))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert 0 < inside.mean() < 1
    assert peak < 6000 * 6000 * 8 / 5  # a full float64 matrix is 288 MB


def test_too_few_rows_have_no_third_neighbour() -> None:
    with pytest.raises(ShapeError, match="more than 3 rows, found 3"):
        squared_radii(np.zeros((3, 2)))
    with pytest.raises(ShapeError, match="width 2 and 3"):
        covered(np.zeros((4, 2)), np.zeros((4, 3)), np.zeros(4))
    score = PLUGIN.score(observed(cloud(45, 3, 2)), reference_of(cloud(46, 50, 2)))
    for metric in ("precision", "recall"):
        assert measured(score, metric).value is None
        assert measured(score, metric).reason == "3 neighbours need at least 4 samples and reference images, found 3"


def test_wilson_error_of_a_share() -> None:
    a, b = cloud(47, 400, 6, shift=0.5), cloud(48, 300, 6)
    precision = measured(PLUGIN.score(observed(a), reference_of(b)), "precision")
    assert precision.value is not None and precision.se is not None and precision.low is not None and precision.high is not None
    assert precision.se == pytest.approx(math.sqrt(precision.value * (1 - precision.value) / 400))
    assert 0 <= precision.low < precision.value < precision.high <= 1
    assert precision.interval == "Wilson, radii fixed"


# ---- the whole evaluator ----------------------------------------------------------------------------------------


def test_ordinary_images_raise_no_warning() -> None:
    labels = np.arange(500) % 10
    score = PLUGIN.score(
        observed(cloud(70, 500, 16), spatial=cloud(71, 500, 20), logits=peaked(labels, 10)), reference_of(cloud(72, 600, 16))
    )
    assert score.warnings == ()
    sorted_ = PLUGIN.score(observed(cloud(70, 500, 16), logits=peaked(np.sort(labels), 10)), {})
    assert sorted_.warnings == ()  # one block: its order is nothing to it


def test_every_metric_is_measured_or_has_a_reason() -> None:
    features = cloud(49, 40, 4)
    score = PLUGIN.score(observed(features), {})
    assert [m.metric for m in score.measurements] == [m.name for m in PLUGIN.metrics]
    assert {m.metric: m.reason for m in score.measurements} == {
        "fid": "the reference holds no mu and sigma",
        "sfid": "the judge gives no spatial",
        "is": "the judge gives no logits",
        "precision": "the reference holds no images",
        "recall": "the reference holds no images",
    }
    score = PLUGIN.score(observed(features, spatial=features), {})
    assert measured(score, "sfid").reason == "the reference holds no mu_s and sigma_s"
    blind = PLUGIN.score(Observations(np.arange(40), None, {}), reference_of(features))
    assert {m.reason for m in blind.measurements if m.metric != "is"} == {"the judge gives no features", "the judge gives no spatial"}


@pytest.mark.parametrize("scored", [0, 1])
def test_without_images_nothing_is_measured(scored: int) -> None:
    arrays = {"features": cloud(50, scored, 4), "logits": cloud(50, scored, 3)}
    score = PLUGIN.score(Observations(np.arange(scored), None, arrays, failed=7), reference_of(cloud(51, 50, 4)))
    assert all(m.value is None and m.reason and m.n_asked == 7 + scored and m.n_failed == 7 for m in score.measurements)
    assert measured(score, "fid").reason == f"fid needs at least 2 images, found {scored}"


def test_names_tell_the_number_of_images_scored() -> None:
    reference = {"mu": np.zeros(1), "sigma": np.eye(1), "mu_s": np.zeros(1), "sigma_s": np.eye(1)}
    for scored, fid, sfid in ((50_000, "fid-50k", "sfid-50k"), (49_999, "fid-49999", "sfid-49999"), (500, "fid-500", "sfid-500")):
        rows = cloud(52, scored, 1)
        score = PLUGIN.score(observed(rows, spatial=rows, failed=50_000 - scored), reference)
        assert [measured(score, m).name for m in ("fid", "sfid", "is", "precision", "recall")] == [fid, sfid, "is", "precision", "recall"]
        assert measured(score, "fid").n_asked == 50_000 and measured(score, "fid").n_scored == scored
        told = f"fidelity: {50_000 - scored:,} of 50,000 images failed; every number is over the other {scored:,}"
        assert (told in score.warnings) == (scored < 50_000)


def test_sfid_is_fid_of_the_spatial_features() -> None:
    features, spatial, real = cloud(53, 300, 4), cloud(54, 300, 9), cloud(55, 400, 9)
    mean, covariance = Moments.of(real).gaussian()
    score = PLUGIN.score(observed(features, spatial=spatial), {"mu_s": mean, "sigma_s": covariance})
    other = PLUGIN.score(observed(spatial), {"mu": mean, "sigma": covariance})
    assert value_of(score, "sfid") == value_of(other, "fid")
    np.testing.assert_array_equal(score.per_sample["sfid"], other.per_sample["fid"])


def test_scores_of_two_checkpoints_pair_by_sample() -> None:
    noise, reference = np.random.default_rng(56).normal(size=(800, WIDTH)), {"mu": REAL.mean, "sigma": REAL.covariance}
    a, b = (PLUGIN.score(observed(generator(noise, tilt).astype(np.float32)), reference) for tilt in (0.10, 0.13))
    np.testing.assert_array_equal(a.per_sample["indices"], np.arange(800))
    paired = difference("lower", measured(a, "fid"), measured(b, "fid"), a.per_sample["fid"], b.per_sample["fid"])
    alone = difference("lower", measured(a, "fid"), measured(b, "fid"))
    assert paired.delta == alone.delta and paired.se is not None and alone.se is not None
    assert paired.se < 0.5 * alone.se and paired.verdict == "worse"
    pair = PLUGIN.score(observed(cloud(57, 90, 4)), reference_of(cloud(58, 90, 4)))
    drop = difference(
        "higher", measured(pair, "recall"), measured(pair, "recall"), pair.per_sample["recall"] | 1, pair.per_sample["recall"]
    )
    assert drop.se == mean_error(1.0 - pair.per_sample["recall"])  # 0 - 1 is -1, not 255: the indicators are signed


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("array", ["features", "spatial", "logits"])
def test_a_value_that_is_not_finite_names_its_image(array: str, bad: float) -> None:
    arrays = {name: cloud(59, 20, 4) for name in ("features", "spatial", "logits")}
    arrays[array][7, 2] = arrays[array][9, 0] = bad
    with pytest.raises(SampleError, match=f"{array} of the samples are not finite, first at index 107;"):
        PLUGIN.score(Observations(np.arange(100, 120), None, arrays), {})


def test_a_broken_reference_is_named() -> None:
    features, reference = cloud(60, 30, 4), reference_of(cloud(61, 30, 4))
    with pytest.raises(SampleError, match="moments of features are not finite"):
        PLUGIN.score(observed(features), reference | {"mu": np.full(4, np.nan)})
    holed = reference["features"].copy()
    holed[3, 1] = np.nan
    with pytest.raises(SampleError, match="features of the reference are not finite, first at index 3"):
        PLUGIN.score(observed(features), reference | {"features": holed})


def test_arrays_that_do_not_fit_are_named() -> None:
    features, reference = cloud(62, 30, 4), reference_of(cloud(63, 30, 4))
    with pytest.raises(ShapeError, match="features have width 5"):
        PLUGIN.score(observed(cloud(62, 30, 5)), reference)
    with pytest.raises(ShapeError, match="width 5, the reference's 4"):
        PLUGIN.score(observed(cloud(62, 30, 5)), {"features": reference["features"]})
    with pytest.raises(ShapeError, match=r"logits of the samples have shape \(29, 4\), wanted \(30, width\)"):
        PLUGIN.score(observed(features, logits=features[:29]), reference)


def test_constant_images_and_dead_columns_are_warned_of() -> None:
    reference = reference_of(cloud(64, 200, 6))
    constant = PLUGIN.score(observed(np.full((50, 6), 0.1, dtype=np.float32)), reference)
    assert "fid: constant images, every sample has the same features" in constant.warnings
    assert value_of(constant, "precision") in (0.0, 1.0)
    dead = PLUGIN.score(observed(with_dead_columns(cloud(65, 50, 6))), reference)
    assert "fid: zero variance in 2 of 6 columns that vary in the reference" in dead.warnings
    both = PLUGIN.score(observed(with_dead_columns(cloud(65, 50, 6))), reference_of(with_dead_columns(cloud(64, 200, 6))))
    assert not any(w.startswith("fid: zero variance") for w in both.warnings)


def test_nothing_that_comes_out_is_infinite_or_missing() -> None:
    wild = (cloud(66, 60, 5) * np.float32(1e37)).astype(np.float32)
    score = PLUGIN.score(observed(wild, spatial=wild, logits=wild), reference_of(cloud(67, 60, 5)))
    assert all(np.isfinite(rows).all() for rows in score.per_sample.values())
    assert all(m.value is not None for m in score.measurements if m.metric != "sfid")
