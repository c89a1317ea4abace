"""How often intervals hold and tests cry wolf, on data whose truth is known. Fixed seeds, so every
run has the same outcome.

The tolerance of a coverage from R repetitions is about 2.5 binomial standard errors: 1.7 points at
R = 1,000, 1.2 at 2,000. The marker
`simulation` runs the same at the sizes of specs/statistics.md.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from harope_bench.evaluators.base import Features
from harope_bench.evaluators.fidelity import PLUGIN as FIDELITY
from harope_bench.metrics.frechet import frechet_distance, influence_values
from harope_bench.metrics.moments import Gaussian, Moments
from harope_bench.metrics.random_halves import half_recalls
from harope_bench.statistics.intervals.clusters import (
    PromptMeans,
    clustered_mean,
    prompt_means,
    score_interval,
    sign_flip_test,
)
from harope_bench.statistics.intervals.heavy_tails import skewed_interval
from harope_bench.statistics.intervals.paired_fractions import mcnemar_test
from harope_bench.statistics.intervals.training_seeds import method_difference, shared_variance
from harope_bench.statistics.significance import (
    Interval,
    Z,
    normal_interval,
    standard_error,
    student_interval,
    two_sided_p,
    wilson_interval,
)

full_simulation = pytest.mark.simulation


def share(hits: list[bool]) -> float:
    return float(np.mean(hits))


# --------------------------------------------------------------------------------------------------
# FID


class FidSample(NamedTuple):
    fid: float
    rows: np.ndarray


def generator(rng: np.random.Generator, n: int, width: int) -> np.ndarray:
    """Latents (n, width), heavier-tailed than a Gaussian."""
    return rng.standard_t(8, size=(n, width))


def scored(latents: np.ndarray, scale: float) -> FidSample:
    rows = scale * latents + 0.1 * latents**2
    real, generated_gaussian = (
        Gaussian(np.zeros(latents.shape[1]), np.eye(latents.shape[1])),
        Moments.from_rows(rows).to_gaussian(),
    )
    return FidSample(
        frechet_distance(generated_gaussian, real), influence_values(rows, generated_gaussian, real)
    )


def fid_coverage(repetitions: int, n: int, width: int) -> tuple[float, float, float]:
    """Coverage of FID, of the paired difference, and of the difference when pairs are taken for
    strangers.

    The truth is the mean over the repetitions: the interval claims to hold the expected FID at this
    N, finite-N bias and all.
    """
    rng = np.random.default_rng(0)
    pairs = []
    for _ in range(repetitions):
        latents = generator(rng, n, width)
        pairs.append((scored(latents, 1.0), scored(latents, 1.03)))
    mean = np.mean([a.fid for a, _ in pairs])
    gap = np.mean([b.fid - a.fid for a, b in pairs])
    first_share = share([abs(a.fid - mean) <= Z * standard_error(a.rows) for a, _ in pairs])
    paired_share = share(
        [abs(b.fid - a.fid - gap) <= Z * standard_error(b.rows - a.rows) for a, b in pairs]
    )
    strangers = share(
        [
            abs(b.fid - a.fid - gap) <= Z * np.hypot(standard_error(a.rows), standard_error(b.rows))
            for a, b in pairs
        ]
    )
    return first_share, paired_share, strangers


def test_fid_and_its_paired_difference_are_covered() -> None:
    first_fid_coverage, paired_fid_coverage, strangers = fid_coverage(1000, 800, 6)
    assert 0.93 <= first_fid_coverage <= 0.97 and 0.93 <= paired_fid_coverage <= 0.97
    assert strangers > 0.99  # far too wide: what pairing is for


@full_simulation
def test_fid_is_covered_at_full_size() -> None:
    first_fid_coverage, paired_fid_coverage, _ = fid_coverage(1000, 5000, 64)
    assert 0.93 <= first_fid_coverage <= 0.97 and 0.93 <= paired_fid_coverage <= 0.97


def fid_false_alarms(repetitions: int, n: int, width: int) -> float:
    """Two generators that differ sample by sample and are equally good."""
    rng, alarms = np.random.default_rng(1), []
    for _ in range(repetitions):
        shared_generator, a, b = (
            generator(rng, n, width),
            generator(rng, n, width),
            generator(rng, n, width),
        )
        fid_sample, two = (
            scored(0.8 * shared_generator + 0.6 * a, 1.0),
            scored(0.8 * shared_generator + 0.6 * b, 1.0),
        )
        alarms.append(
            two_sided_p((two.fid - fid_sample.fid) / standard_error(two.rows - fid_sample.rows))
            < 0.05
        )
    return share(alarms)


def test_paired_fid_test_rejects_at_its_rate() -> None:
    assert 0.03 <= fid_false_alarms(1000, 800, 6) <= 0.07


@full_simulation
def test_paired_fid_test_rejects_at_its_rate_at_full_size() -> None:
    assert 0.03 <= fid_false_alarms(1000, 5000, 64) <= 0.07


# -----------------------------------------------------------------------------------------------
# GenEval

TASKS = {
    "single": (80, 0.98),
    "two": (99, 0.85),
    "counting": (80, 0.65),
    "colours": (94, 0.83),
    "position": (100, 0.45),
    "binding": (100, 0.6),
}
RHO, IMAGES = 0.42, 4


def geneval(rng: np.random.Generator, chances: np.ndarray) -> np.ndarray:
    """Indicators (553, 4): does each image show what its prompt says."""
    return (rng.random((len(chances), IMAGES)) < chances[:, None]).astype(float)


def chances(rng: np.random.Generator) -> np.ndarray:
    """Each prompt's chance: beta-distributed in its task, so that two images of a prompt correlate
    by RHO.
    """
    parts = [rng.beta(p * (1 / RHO - 1), (1 - p) * (1 / RHO - 1), n) for n, p in TASKS.values()]
    return np.concatenate(parts)


PROMPTS = np.repeat(np.arange(553), IMAGES)
TASK_OF = np.repeat(
    np.concatenate([np.full(n, t) for t, (n, _) in enumerate(TASKS.values())]), IMAGES
)
TRUTH = float(np.mean([p for _, p in TASKS.values()]))


def binomial_error(values: np.ndarray) -> float:
    """The wrong formula: every image an independent draw."""
    tasks = [values[t == TASK_OF] for t in range(len(TASKS))]
    return float(np.sqrt(sum(v.mean() * (1 - v.mean()) / len(v) for v in tasks)) / len(TASKS))


def geneval_coverage(repetitions: int) -> tuple[float, float, float]:
    """New prompts by clusters, new prompts by the wrong formula, new seeds of the same prompts."""
    rng, clustered_records, binomial, seeds = np.random.default_rng(2), [], [], []
    fixed_chances = chances(rng)
    task = TASK_OF[::IMAGES]
    fixed_truth = float(np.mean([fixed_chances[task == t].mean() for t in range(len(TASKS))]))
    for _ in range(repetitions):
        values = geneval(rng, chances(rng)).ravel()
        score = clustered_mean(prompt_means(values, PROMPTS, TASK_OF))
        clustered_records.append(
            score.new_prompts_interval.low <= TRUTH <= score.new_prompts_interval.high
        )
        wrong_normal_interval = normal_interval(score.value, binomial_error(values))
        binomial.append(wrong_normal_interval.low <= TRUTH <= wrong_normal_interval.high)
        again = clustered_mean(
            prompt_means(geneval(rng, fixed_chances).ravel(), PROMPTS, TASK_OF)
        ).new_seeds_interval
        assert again is not None
        seeds.append(again.low <= fixed_truth <= again.high)
    return share(clustered_records), share(binomial), share(seeds)


def test_geneval_overall_is_covered_by_clusters_and_not_by_images() -> None:
    clustered_geneval_coverage, binomial, seeds = geneval_coverage(800)
    assert 0.93 <= clustered_geneval_coverage <= 0.97 and 0.93 <= seeds <= 0.97
    assert binomial < 0.87


@full_simulation
def test_geneval_overall_at_full_size() -> None:
    clustered_geneval_coverage, binomial, seeds = geneval_coverage(10_000)
    assert clustered_geneval_coverage == pytest.approx(0.95, abs=0.01) and seeds == pytest.approx(
        0.95, abs=0.01
    )
    assert binomial == pytest.approx(0.81, abs=0.03)


def sign_flip_alarms(repetitions: int) -> float:
    rng, alarms = np.random.default_rng(3), []
    for _ in range(repetitions):
        chances_result = chances(rng)
        moves = (geneval(rng, chances_result) - geneval(rng, chances_result)).ravel()
        alarms.append(sign_flip_test(prompt_means(moves, PROMPTS, TASK_OF)).p < 0.05)
    return share(alarms)


def test_sign_flips_reject_at_their_rate() -> None:
    assert 0.02 <= sign_flip_alarms(200) <= 0.085  # a permutation test of 553 prompts takes 30 ms


@full_simulation
def test_sign_flips_reject_at_their_rate_at_full_size() -> None:
    assert sign_flip_alarms(3000) == pytest.approx(0.05, abs=0.01)


# --------------------------------------------------------------------------- shares near their
# bound


def shares(
    rng: np.random.Generator,
    repetitions: int,
    prompts: int,
    images: int,
    rate: float,
    alike_value: float,
) -> np.ndarray:
    """Return means of prompts (repetitions, prompts) over images that correlate by `alike`
    (beta-binomial).
    """
    chance = np.full((repetitions, prompts), rate)
    if alike_value:
        chance = rng.beta(
            rate * (1 / alike_value - 1), (1 - rate) * (1 / alike_value - 1), (repetitions, prompts)
        )
    return rng.binomial(images, chance) / images


def of_one_task(means: np.ndarray, images: int) -> PromptMeans:
    return PromptMeans(
        means, None, np.zeros(len(means), dtype=np.int64), np.full(len(means), images)
    )


def wrong_interval(means: PromptMeans) -> Interval:
    """Return the wrong interval near a bound: Student's t, whose spread shrinks with the failures
    that were seen.
    """
    score = clustered_mean(means)
    return student_interval(score.value, score.new_prompts_interval.se, score.df)


def share_coverage(means: np.ndarray, images: int, rate: float) -> tuple[float, float]:
    """Return the coverage of the score interval and of Student's t. Repetitions with the same
    prompts share an interval.
    """
    kinds, counts = np.unique(np.sort(means, axis=1), axis=0, return_counts=True)
    hits = np.zeros((2, len(kinds)))
    for kind, prompts in enumerate(kinds):
        one_task = of_one_task(prompts, images)
        for row, interval in enumerate(
            (score_interval(one_task, (0.0, 1.0)), wrong_interval(one_task))
        ):
            hits[row, kind] = interval is not None and interval.low <= rate <= interval.high
    score, t = hits @ counts / counts.sum()
    return float(score), float(t)


@pytest.mark.parametrize("rate", [0.98, 0.99])
@pytest.mark.parametrize(("alike_value", "value"), [(0.0, 0.98), (0.3, 0.975), (0.6, 0.975)])
def test_a_share_near_its_bound_is_covered_and_not_by_students_t(
    rate: float, alike_value: float, value: float
) -> None:
    """80 prompts of 4 images. Few failures do not tell whether images are alike, so images that are
    not are covered 96 to 98%.
    """
    means = shares(np.random.default_rng(10), 2000, 80, 4, rate, alike_value)
    score, t = share_coverage(means, 4, rate)
    assert 0.93 <= score <= value
    assert alike_value == 0 or t < 0.9


@full_simulation
@pytest.mark.parametrize("rate", [0.5, 0.7, 0.9, 0.95, 0.98, 0.99])
@pytest.mark.parametrize("alike_value", [0.0, 0.3, 0.6])
@pytest.mark.parametrize("prompts", [5, 10, 20, 80, 300])
def test_shares_are_covered_everywhere(rate: float, alike_value: float, prompts: int) -> None:
    """Few prompts have few values, so the coverage jumps: 92.5 to 99.5% for 5 and 10 of them."""
    low, high = (0.92, 0.995) if prompts < 20 else (0.93, 0.98)
    assert (
        low
        <= share_coverage(
            shares(np.random.default_rng(11), 5000, prompts, 4, rate, alike_value), 4, rate
        )[0]
        <= high
    )


def test_shares_between_the_bounds_and_of_single_images_are_covered() -> None:
    rng = np.random.default_rng(12)
    for prompts, images, rate, alike_value, least_value, value in (
        (80, 4, 0.5, 0.3, 0.93, 0.97),
        (80, 4, 0.9, 0.6, 0.93, 0.97),
        (20, 4, 0.7, 0.3, 0.93, 0.98),
        (5, 4, 0.9, 0.3, 0.93, 0.995),
        (80, 1, 0.99, 0.0, 0.93, 0.97),
        (80, 1, 0.9, 0.0, 0.93, 0.975),
    ):
        share_coverage_result, _ = share_coverage(
            shares(rng, 1000, prompts, images, rate, alike_value), images, rate
        )
        assert least_value <= share_coverage_result <= value, (
            prompts,
            images,
            rate,
            alike_value,
            share_coverage_result,
        )


def test_graded_scores_are_covered() -> None:
    """Scores of 0 to 1 as DPG-Bench's (mean 0.84, spread 0.2) and narrow ones as CLIP's cosines."""
    rng = np.random.default_rng(13)
    for mean, weight, prompts, least_value, value in (
        (0.84, 3.0, 80, 0.93, 0.97),
        (0.84, 3.0, 10, 0.93, 0.98),
        (0.65, 500.0, 80, 0.93, 0.97),
    ):
        covered_records = []
        for means in rng.beta(mean * weight, (1 - mean) * weight, (1000, prompts)):
            interval = score_interval(of_one_task(means, 1), (0.0, 1.0))
            covered_records.append(interval is not None and interval.low <= mean <= interval.high)
        assert least_value <= share(covered_records) <= value, (mean, weight, prompts)


def test_a_mean_of_tasks_that_are_all_near_their_bound_is_covered() -> None:
    """Six tasks of 20 prompts; Student's t misses one in six, the score interval leans to the safe
    side.
    """
    rates, rng, score, t = (0.98, 0.99, 0.99, 0.98, 0.97, 0.99), np.random.default_rng(14), [], []
    tasks, truth = np.repeat(np.arange(6), 20), float(np.mean(rates))
    for draws in zip(*(shares(rng, 1000, 20, 4, rate, RHO) for rate in rates), strict=True):
        means = PromptMeans(np.concatenate(draws), None, tasks, np.full(120, 4))
        interval, wrong_value = score_interval(means, (0.0, 1.0)), wrong_interval(means)
        score.append(interval is not None and interval.low <= truth <= interval.high)
        t.append(wrong_value.low <= truth <= wrong_value.high)
    assert 0.94 <= share(score) <= 0.985
    assert share(t) < 0.9


# ------------------------------------------------------------------------------- FID beyond its
# first case


def heavy_tailed_rows(
    rng: np.random.Generator, n: int, width: int, freedom: float | None
) -> np.ndarray:
    """Return rows (n, width) of a multivariate t, of 1.2 times a Gaussian where freedom is None."""
    rows = rng.standard_normal((n, width))
    return (
        1.2 * rows if freedom is None else rows / np.sqrt(rng.chisquare(freedom, (n, 1)) / freedom)
    )


def tailed_coverage(
    repetitions: int, n: int, width: int, freedom: float | None
) -> tuple[float, float, float]:
    """Return the coverage of FID's interval, that of the normal interval, and the mean error over
    the true one.
    """
    rng, real, scores = np.random.default_rng(15), Gaussian(np.full(width, 0.3), np.eye(width)), []
    for _ in range(repetitions):
        rows = heavy_tailed_rows(rng, n, width, freedom)
        generated_gaussian = Moments.from_rows(rows).to_gaussian()
        value, contributions = (
            frechet_distance(generated_gaussian, real),
            influence_values(rows, generated_gaussian, real),
        )
        scores.append((value, *skewed_interval(value, contributions)))
    value, se, low, high = np.array(scores).T
    truth = value.mean()
    ratio = se.mean() / value.std(ddof=1)
    return (
        float(((low <= truth) & (truth <= high)).mean()),
        float((np.abs(value - truth) <= Z * se).mean()),
        float(ratio),
    )


def test_fid_of_heavy_tailed_features_is_covered_and_not_by_the_normal() -> None:
    corrected_tailed_coverage, plain_tailed_coverage, _ = tailed_coverage(600, 500, 16, 5.0)
    assert 0.93 <= corrected_tailed_coverage <= 0.97
    assert plain_tailed_coverage < corrected_tailed_coverage - 0.015


def test_fid_of_light_tails_is_covered_as_before() -> None:
    corrected_tailed_coverage, plain_tailed_coverage, ratio = tailed_coverage(400, 500, 16, None)
    assert (
        0.93 <= corrected_tailed_coverage <= 0.97
        and abs(corrected_tailed_coverage - plain_tailed_coverage) < 0.01
        and ratio == pytest.approx(1, abs=0.1)
    )


def test_fid_of_hardly_more_images_than_dimensions_is_too_wide_as_its_warning_says() -> None:
    corrected_tailed_coverage, _, ratio = tailed_coverage(300, 36, 32, None)
    assert 0.95 <= corrected_tailed_coverage <= 0.995 and 1.05 <= ratio <= 1.4


@pytest.mark.parametrize(
    ("n", "freedom", "message"),
    [(500, 5.0, "heavy-tailed"), (36, None, "only 2.2 times"), (500, None, "")],
)
def test_a_result_warns_where_fids_error_is_known_to_be_off(
    n: int, freedom: float | None, message: str
) -> None:
    generated_heavy_tailed_rows = heavy_tailed_rows(np.random.default_rng(16), n, 16, freedom)
    reference = {"mu": np.full(16, 0.3), "sigma": np.eye(16)}
    score = FIDELITY.evaluate(
        Features(np.arange(n), None, {"features": generated_heavy_tailed_rows}), reference
    )
    lines = [line for line in score.warnings if line.startswith("fid error")]
    assert [message in line for line in lines] == [True] if message else not lines


# ------------------------------------------------------------------------------------- recall and
# precision


class Neighbours(NamedTuple):
    """Of two models over the same latents: their recalls and precisions over draws, and errors from
    single draws.
    """

    recalls: np.ndarray  # (draws, 2)
    precisions: np.ndarray  # (draws, 2)
    recall_errors: np.ndarray  # (some draws, 2): of the first model, of the difference
    precision_errors: np.ndarray  # (some draws, 2)


def inside_balls(generated_values: np.ndarray, real: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return which references (M,) and which samples (N,) lie in a ball of the others, by full
    distance matrices.
    """
    across = cdist(real, generated_values)
    radii = [np.partition(cdist(rows, rows), 3, axis=1)[:, 3] for rows in (generated_values, real)]
    return (across <= radii[0]).any(axis=1), (across <= radii[1][:, None]).any(axis=0)


def neighbours(
    draws: int, estimates: int, n: int, references: int, width: int, scale: float
) -> Neighbours:
    rng = np.random.default_rng(17)
    real, shares_, errors = rng.normal(size=(references, width)), [], []
    for draw in range(draws):
        latents = scale * rng.normal(size=(n, width))
        models = (latents, 1.05 * latents + 0.1 * scale * rng.normal(size=(n, width)))
        inside_balls_result = [inside_balls(model, real) for model in models]
        shares_.append(
            [reals.mean() for reals, _ in inside_balls_result]
            + [samples.mean() for _, samples in inside_balls_result]
        )
        if draw < estimates:
            a, b = (half_recalls(model, real) for model in models)
            inside = [samples.astype(float) for _, samples in inside_balls_result]
            errors.append(
                (
                    a.std(ddof=1),
                    (b - a).std(ddof=1),
                    standard_error(inside[0]),
                    standard_error(inside[1] - inside[0]),
                )
            )
    values, spreads = np.array(shares_), np.array(errors)
    return Neighbours(values[:, :2], values[:, 2:], spreads[:, :2], spreads[:, 2:])


def error_ratios(values: np.ndarray, errors: np.ndarray) -> tuple[float, float]:
    """Return mean error over true spread, of the first model's value and of the difference."""
    truth = values[:, 0].std(ddof=1), (values[:, 1] - values[:, 0]).std(ddof=1)
    mean_value, pair = errors.mean(axis=0) / truth
    return float(mean_value), float(pair)


def test_errors_of_recall_and_precision_are_the_spread_of_draws() -> None:
    neighbours_result = neighbours(200, 12, 200, 500, 8, 0.9)
    for values, errors in (
        (neighbours_result.recalls, neighbours_result.recall_errors),
        (neighbours_result.precisions, neighbours_result.precision_errors),
    ):
        error_ratio, pair = error_ratios(values, errors)
        assert error_ratio == pytest.approx(1, abs=0.15) and pair == pytest.approx(1, abs=0.15)
    shared_mean_value = neighbours_result.recall_errors[:, 1].mean()
    assert (
        shared_mean_value < 0.6 * neighbours_result.recall_errors[:, 0].mean()
    )  # the same latents: pairs are worth having
    rate = neighbours_result.recalls.mean()
    binomial = np.sqrt(rate * (1 - rate) / 500)
    assert binomial < 0.9 * neighbours_result.recalls[:, 0].std(
        ddof=1
    )  # the wrong error, the references' own


@full_simulation
@pytest.mark.parametrize(("n", "width", "scale"), [(500, 16, 0.8), (500, 8, 0.9), (400, 16, 0.7)])
def test_error_of_recall_at_full_size(n: int, width: int, scale: float) -> None:
    neighbours_result = neighbours(400, 40, n, 1000, width, scale)
    error_ratio, pair = error_ratios(neighbours_result.recalls, neighbours_result.recall_errors)
    assert error_ratio == pytest.approx(1, abs=0.15) and pair == pytest.approx(1, abs=0.15)


# ------------------------------------------------------------------------------------ top-1,
# training seeds


def top1(repetitions: int, n: int) -> tuple[float, float, float]:
    """Coverage of Wilson, of the paired difference, and McNemar's false alarms; 7% of the images
    discordant by chance.
    """
    rng, records, gap, alarms = np.random.default_rng(4), [], [], []
    for _ in range(repetitions):
        hard_values = rng.random(n)
        a, b, flag = (
            (rng.random(n) * 0.1 + 0.95 * hard_values < level) * 1.0 for level in (0.8, 0.81, 0.8)
        )
        wilson_interval_result = wilson_interval(int(a.sum()), n)
        records.append(
            wilson_interval_result.low <= (0.8 - 0.05) / 0.95 <= wilson_interval_result.high
        )
        gap.append(abs((b - a).mean() - 0.01 / 0.95) <= Z * standard_error(b - a))
        alarms.append(mcnemar_test(a, flag).p < 0.05)
    return share(records), share(gap), share(alarms)


def test_top1_is_covered_and_mcnemar_rejects_at_most_at_its_rate() -> None:
    first_top1, gap, alarms = top1(2000, 1000)
    assert 0.935 <= first_top1 <= 0.965 and 0.935 <= gap <= 0.965
    assert 0.015 <= alarms <= 0.055  # exact tests of counts stay below their level


@full_simulation
def test_top1_at_full_size() -> None:
    first_top1, gap, alarms = top1(5000, 50_000)
    assert 0.94 <= first_top1 <= 0.96 and 0.94 <= gap <= 0.96 and 0.035 <= alarms <= 0.055


def methods(repetitions: int, seeds: int) -> tuple[float, float]:
    """Coverage of method against method when all runs draw with the same noise: with the shared
    part, and without it (wrong).
    """
    rng, right, wrong_records, n = np.random.default_rng(5), [], [], 200
    for _ in range(repetitions):
        common_values = rng.normal(
            size=(2, n)
        )  # what the drawing noise does to each method, alike in all its runs
        rows = [[common_values[s] + 0.3 * rng.normal(size=n) for _ in range(seeds)] for s in (0, 1)]
        values = [[r.mean() + 0.04 * rng.normal() for r in side] for side in rows]
        for kept_right, shared_value in ((right, shared_variance(*rows)), (wrong_records, 0.0)):
            method_difference_result = method_difference(*values, shared_value)
            kept_right.append(method_difference_result.low <= 0 <= method_difference_result.high)
    return share(right), share(wrong_records)


def test_methods_are_covered_over_training_and_drawing() -> None:
    for seeds in (2, 3, 5):
        right, wrong_method = methods(1000, seeds)
        assert 0.93 <= right <= 0.99  # few seeds: Welch's t leans to the safe side
        assert wrong_method < right - 0.03
    assert (
        wrong_method < 0.85
    )  # of five seeds: the more runs share their noise, the more it is missed
