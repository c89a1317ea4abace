"""Clusters, shares, training seeds, blocks, power: by hand, against scipy, and what they refuse."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.stats

from harope_bench.core.errors import ShapeError, TooFewImagesError
from harope_bench.evaluators.prompt_scores import clustered_value
from harope_bench.statistics.intervals.clusters import (
    clustered_mean,
    prompt_means,
    score_interval,
    sign_flip_test,
)
from harope_bench.statistics.intervals.paired_fractions import (
    bonett_price_interval,
    is_binary,
    mcnemar_test,
)
from harope_bench.statistics.intervals.power import (
    NoiseLevels,
    assumed_fid_noise,
    detectable_method_difference,
    images_for_method,
    images_for_pair,
    power_multiplier,
    seeds_for_method,
)
from harope_bench.statistics.intervals.training_seeds import (
    method_difference,
    shared_variance,
    student_p,
)
from harope_bench.statistics.significance import (
    critical_value,
    detectable_difference,
    inverse_cdf,
    standard_error,
    wilson_interval,
)

# ---------------------------------------------------------------------------------------------
# clusters


def test_macro_average_by_hand() -> None:
    """Two tasks, two prompts each; the tasks count alike although one has more images."""
    values = np.array([1, 0, 1, 1, 0, 0, 1, 0, 0, 0], dtype=float)
    prompts = np.array([7, 7, 3, 3, 9, 9, 9, 4, 4, 4])
    tasks = np.array([0, 0, 0, 0, 5, 5, 5, 5, 5, 5])
    means = prompt_means(values, prompts, tasks)
    assert means.means.tolist() == pytest.approx([1.0, 0.0, 0.5, 1 / 3])  # prompts 3, 4, 7, 9
    score = clustered_mean(means)
    assert score.value == pytest.approx((0.75 + 1 / 6) / 2)
    by_hand = math.sqrt(np.var([1, 0.5], ddof=1) / 2 + np.var([0, 1 / 3], ddof=1) / 2) / 2
    assert score.new_prompts_interval.se == pytest.approx(by_hand)
    within = (
        math.sqrt((0.25 / 4) + (1 / 9 / 4)) / 2
    )  # variances of a prompt's mean: 0.5 / 2 and (1/3) / 3
    assert score.new_seeds_interval is not None and score.new_seeds_interval.se == pytest.approx(
        within
    )


def test_one_image_a_prompt_tells_nothing_of_new_seeds() -> None:
    score = clustered_mean(prompt_means(np.arange(4.0), np.arange(4)))
    assert score.new_seeds_interval is None and score.new_prompts_interval.se == pytest.approx(
        standard_error(np.arange(4.0))
    )


def test_one_prompt_in_a_task_is_refused() -> None:
    with pytest.raises(TooFewImagesError, match="two prompts in each task"):
        clustered_mean(prompt_means(np.arange(4.0), np.array([0, 0, 1, 2]), np.array([0, 0, 1, 1])))
    with pytest.raises(ShapeError, match="two tasks"):
        prompt_means(np.arange(4.0), np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1]))
    with pytest.raises(ShapeError, match="lengths must be equal"):
        prompt_means(np.arange(4.0), np.arange(3))


def test_degrees_of_freedom_by_hand() -> None:
    """Two tasks of 3 and 5 prompts; of the seeds, each prompt has two images."""
    values = np.array([1.0, 4, 2, 7, 3, 8, 1, 1])
    tasks = np.array([0] * 3 + [1] * 5)
    score = clustered_mean(prompt_means(values, np.arange(8), tasks))
    a, b = np.var(values[:3], ddof=1) / 3, np.var(values[3:], ddof=1) / 5
    assert score.df == pytest.approx((a + b) ** 2 / (a**2 / 2 + b**2 / 4))
    half = scipy.stats.t.ppf(0.975, score.df) * score.new_prompts_interval.se
    assert (score.new_prompts_interval.low, score.new_prompts_interval.high) == pytest.approx(
        (score.value - half, score.value + half)
    )
    first_clustered_mean = clustered_mean(
        prompt_means(np.array([0.0, 2, 1, 1, 0, 3, 5, 5]), np.arange(8) // 2)
    )
    assert (
        first_clustered_mean.df == pytest.approx(3)
        and first_clustered_mean.new_seeds_interval is not None
    )  # a single task: its prompts less one
    reach = (
        first_clustered_mean.new_seeds_interval.high - first_clustered_mean.value
    ) / first_clustered_mean.new_seeds_interval.se
    assert reach == pytest.approx(
        scipy.stats.t.ppf(0.975, (2 + 4.5) ** 2 / (2**2 + 4.5**2))
    )  # two prompts show a spread
    clustered_mean_result = clustered_mean(
        prompt_means(np.random.default_rng(0).random(500), np.arange(500))
    )
    assert (
        clustered_mean_result.new_prompts_interval.high - clustered_mean_result.value
    ) / clustered_mean_result.new_prompts_interval.se == pytest.approx(1.965, abs=0.001)


def test_five_prompts_are_covered_by_t_and_not_by_the_normal() -> None:
    """A prompt's own level and its images' spread are normal with sd 1; 4 images each."""
    rng, prompts, t, normal_records, seeds = (
        np.random.default_rng(0),
        np.repeat(np.arange(5), 4),
        [],
        [],
        [],
    )
    for _ in range(1500):
        level = rng.normal(0, 1, 5)
        score = clustered_mean(prompt_means(level[prompts] + rng.normal(0, 1, 20), prompts))
        t.append(score.new_prompts_interval.low <= 0 <= score.new_prompts_interval.high)
        normal_records.append(abs(score.value) <= 1.96 * score.new_prompts_interval.se)
        assert score.new_seeds_interval is not None
        seeds.append(score.new_seeds_interval.low <= level.mean() <= score.new_seeds_interval.high)
    assert 0.935 <= np.mean(t) <= 0.965 and 0.935 <= np.mean(seeds) <= 0.975
    assert np.mean(normal_records) < 0.9


def test_images_that_repeat_their_prompts_value_say_nothing_of_seeds() -> None:
    """As the share of prompts with a right image does: each image carries its prompt's value, here
    up to rounding.
    """
    score = clustered_mean(
        prompt_means(np.repeat([0.1, 0.7, 1 / 3, 0.9], 3), np.repeat(np.arange(4), 3))
    )
    assert score.new_seeds_interval is None and score.new_prompts_interval.se > 0.1


def test_prompts_that_are_all_right_have_wilsons_interval() -> None:
    """Nothing is known of how alike images are, so each prompt counts once."""
    interval = score_interval(prompt_means(np.ones(80), np.arange(80) // 4), (0.0, 1.0))
    assert (
        interval is not None
        and list(interval) == pytest.approx(list(wilson_interval(20, 20)))
        and interval.low == pytest.approx(0.8389, abs=1e-4)
    )
    percent = score_interval(prompt_means(np.full(20, 100.0), np.arange(20)), (0.0, 100.0))
    assert percent is not None and list(percent) == pytest.approx(
        [100 * number for number in interval]
    )
    none_interval = score_interval(prompt_means(np.zeros(20), np.arange(20)), (0.0, 1.0))
    assert none_interval is not None and (none_interval.low, none_interval.high) == pytest.approx(
        (0.0, 1 - interval.low)
    )
    tasks = score_interval(
        prompt_means(np.ones(20), np.arange(20), np.repeat([0, 1], 10)), (0.0, 1.0)
    )
    assert tasks is not None and tasks.low == pytest.approx(
        interval.low
    )  # two tasks that are all right: one of 20 prompts
    assert score_interval(prompt_means(np.full(20, 0.5), np.arange(20)), (0.0, 1.0)) is None


def test_score_interval_by_hand() -> None:
    """Five prompts of two images; 7 of 10 right."""
    values = np.array([1, 1, 1, 1, 1, 0, 1, 1, 0, 0], dtype=float)
    interval = score_interval(prompt_means(values, np.arange(10) // 2), (0.0, 1.0))
    squares = 3 * 0.3**2 + 0.2**2 + 0.7**2  # prompts at 1, 1, 0.5, 1, 0
    prior_value = 0.1 * (1 - 4 * 0.21) ** 2
    phi = (squares + prior_value) / (4 * 0.21 + prior_value)
    n, t = 5 / phi, scipy.stats.t.ppf(0.975, 4 * ((squares + prior_value) / squares) ** 2)
    centre, half = (
        (0.7 + t**2 / 2 / n) / (1 + t**2 / n),
        t / (1 + t**2 / n) * math.sqrt(0.21 / n + t**2 / 4 / n**2),
    )
    assert interval is not None and list(interval) == pytest.approx(
        [math.sqrt(0.21 / n), centre - half, centre + half]
    )


def test_images_of_one_each_have_wilsons_interval_with_students_quantile() -> None:
    """Without copies the effective number of prompts is their number, but for the N - 1 of the
    spread.
    """
    interval = score_interval(
        prompt_means(np.repeat([1.0, 0.0], [380, 20]), np.arange(400)), (0.0, 1.0)
    )
    assert interval is not None and list(interval) == pytest.approx(
        list(wilson_interval(380, 400)), rel=0.003
    )


def test_between_the_bounds_the_score_interval_is_students() -> None:
    """As CLIP's cosines are, narrow and far from -1 and 1."""
    cosines = np.random.default_rng(0).normal(0.3, 0.03, 60)
    means = prompt_means(cosines, np.arange(60))
    interval = score_interval(means, (-1.0, 1.0))
    assert interval is not None and list(interval) == pytest.approx(
        list(clustered_mean(means).new_prompts_interval), rel=0.05
    )


def test_a_task_at_its_bound_adds_its_wilson_error_to_the_average() -> None:
    """Five right, five wrong, five in between: two of three tasks show no spread and are not known
    without error for that.
    """
    values = np.array([1.0] * 5 + [0.0] * 5 + [0.2, 0.4, 0.6, 0.8, 1.0])
    means = prompt_means(values, np.arange(15), np.repeat([0, 1, 2], 5))
    value, clustered_value_result, _ = clustered_value(
        values, np.arange(15), np.repeat([0, 1, 2], 5), (0.0, 1.0)
    )
    alone_new_prompts_interval = clustered_mean(means).new_prompts_interval
    assert clustered_value_result is not None and value == pytest.approx(1.6 / 3)
    unseen_value = (
        math.sqrt(4 * value * (1 - value))
        * math.hypot(wilson_interval(5, 5).se, wilson_interval(0, 5).se)
        / 3
    )
    assert clustered_value_result.se == pytest.approx(
        math.hypot(alone_new_prompts_interval.se, unseen_value), rel=1e-3
    )


def test_few_clusters_try_every_sign() -> None:
    moves = np.array([0.5, 0.25, -0.25, 0.75, 0.0])
    sign_flip_test_result = sign_flip_test(prompt_means(moves, np.arange(5)))
    sums = [
        abs(sum(s * m for s, m in zip(signs, moves, strict=True)))
        for signs in itertools.product((-1, 1), repeat=5)
    ]
    assert sign_flip_test_result.is_exact and sign_flip_test_result.p == pytest.approx(
        np.mean([s >= abs(moves.sum()) - 1e-12 for s in sums])
    )
    assert (
        sign_flip_test_result.wins,
        sign_flip_test_result.losses,
        sign_flip_test_result.ties,
    ) == (3, 1, 1)


def test_equal_runs_have_p_of_one() -> None:
    sign_flip_test_result = sign_flip_test(prompt_means(np.zeros(40), np.arange(40) // 4))
    assert sign_flip_test_result.p == 1.0 and (
        sign_flip_test_result.wins,
        sign_flip_test_result.losses,
        sign_flip_test_result.ties,
    ) == (0, 0, 10)


def test_many_clusters_agree_with_the_t_test_and_repeat_exactly() -> None:
    moves = np.random.default_rng(0).normal(0.2, 1, 100)
    sign_flip_test_result = sign_flip_test(prompt_means(moves, np.arange(100)))
    assert not sign_flip_test_result.is_exact and sign_flip_test_result == sign_flip_test(
        prompt_means(moves, np.arange(100))
    )
    assert sign_flip_test_result.p == pytest.approx(
        scipy.stats.ttest_1samp(moves, 0).pvalue, abs=0.01
    )
    assert sign_flip_test(prompt_means(moves + 9, np.arange(100))).p == 1 / 10_001  # never 0


# ------------------------------------------------------------------------------------ shares and
# seeds


@pytest.mark.parametrize(
    ("wins", "losses"), [(0, 0), (1, 0), (8, 2), (5, 5), (40, 61), (1200, 1100), (3000, 0)]
)
def test_mcnemar_equals_the_binomial_test(wins: int, losses: int) -> None:
    old_values = np.array([0] * wins + [1] * losses + [1, 0, 1])
    new_values = np.array([1] * wins + [0] * losses + [1, 0, 1])
    mcnemar_test_result = mcnemar_test(old_values, new_values)
    library_pvalue = scipy.stats.binomtest(wins, wins + losses).pvalue if wins + losses else 1.0
    assert (mcnemar_test_result.wins, mcnemar_test_result.losses, mcnemar_test_result.ties) == (
        wins,
        losses,
        3,
    )
    assert mcnemar_test_result.p == pytest.approx(library_pvalue, rel=1e-9, abs=1e-300)


def test_shares_are_known_by_their_rows() -> None:
    assert is_binary(np.array([0.0, 1.0])) and not is_binary(np.array([0.0, 0.5]))
    with pytest.raises(ShapeError):
        mcnemar_test(np.zeros(3), np.zeros(4))


def test_independent_training_seeds_are_welchs_test() -> None:
    a, b = [9.5, 9.4, 9.7], [8.9, 9.0, 8.6, 8.8]
    method_difference_result, library_ttest_ind = (
        method_difference(a, b),
        scipy.stats.ttest_ind(b, a, equal_var=False),
    )
    assert method_difference_result.p == pytest.approx(
        library_ttest_ind.pvalue
    ) and method_difference_result.df == pytest.approx(library_ttest_ind.df)
    assert (method_difference_result.low, method_difference_result.high) == pytest.approx(
        tuple(library_ttest_ind.confidence_interval(0.95))
    )
    assert method_difference(a, b, shared_variance=0.01).se == pytest.approx(
        math.hypot(method_difference_result.se, 0.1)
    )
    with pytest.raises(TooFewImagesError, match="two on each side, found 1 and 4"):
        method_difference([9.0], b)
    assert (
        method_difference([9.0, 9.0], [9.0, 9.0]).p == 1.0
        and method_difference([9.0, 9.0], [8.0, 8.0]).p == 0.0
    )


def test_shared_drawing_noise_is_what_the_runs_have_in_common() -> None:
    rng = np.random.default_rng(0)
    common_value, common_item = rng.normal(size=(2, 20_000))
    a, b = (
        [common_value + 0.5 * rng.normal(size=20_000) for _ in range(3)],
        [common_item + 0.5 * rng.normal(size=20_000) for _ in range(2)],
    )
    assert shared_variance(a, b) == pytest.approx(2 / 20_000, rel=0.05)
    own_values = [0.5 * rng.normal(size=20_000) for _ in range(4)]
    assert shared_variance(own_values[:2], own_values[2:]) < 0.1 * 0.25 / 20_000


def test_quantiles_and_p_are_students() -> None:
    assert critical_value(0.95, 4) == pytest.approx(scipy.stats.t.ppf(0.975, 4)) and inverse_cdf(
        0.8, 7
    ) == pytest.approx(scipy.stats.t.ppf(0.8, 7))
    assert student_p(2.1, 5) == pytest.approx(2 * scipy.stats.t.sf(2.1, 5))
    assert student_p(2.1, None) == pytest.approx(2 * scipy.stats.norm.sf(2.1))
    assert (
        detectable_difference(0.5) == pytest.approx(0.5 * (1.959964 + 0.841621), rel=1e-6)
        and detectable_difference(0.0) is None
    )


# ------------------------------------------------------------------------------------------------
# power


def test_published_example_of_training_seeds() -> None:
    """specs/statistics.md 4.5: at FID 9 with 80% power 0.51, 0.29 and 0.23 with 1, 3 and 5 training
    seeds.

    The digits are those of 9.2, the mean of the two FIDs of Table 2 that the example is about; 9.0
    itself gives 0.50, 0.29, 0.22.
    """
    detectable_method_differences = [
        detectable_method_difference(assumed_fid_noise((9.49 + 8.90) / 2), 50_000, seeds)
        for seeds in (1, 3, 5)
    ]
    assert [round(f or 0, 2) for f in detectable_method_differences] == [0.51, 0.29, 0.23]
    at_nine = [
        detectable_method_difference(assumed_fid_noise(9.0), 50_000, seeds) for seeds in (1, 3, 5)
    ]
    assert at_nine == pytest.approx([0.51, 0.29, 0.23], abs=0.015)


def test_design_and_difference_are_inverse() -> None:
    noise = NoiseLevels(training_deviation=0.117, sampling_deviation=10.0)
    for seeds in (2, 3, 5):
        images = images_for_method(
            noise, detectable_method_difference(noise, 50_000, seeds) or 0, seeds
        )
        assert images == pytest.approx(50_000, abs=1)
    seeds = seeds_for_method(noise, 0.3, 50_000)
    # counted as `compare` tests it, with the spread taken from the seeds; the normal count promises
    # power that t does not give
    assert seeds is not None
    few_flag, enough_flag = (
        detectable_method_difference(noise, 50_000, n, is_estimated=True) or 0
        for n in (seeds - 1, seeds)
    )
    assert enough_flag <= 0.3 < few_flag
    assert (
        (detectable_method_difference(noise, 50_000, 3) or 9)
        <= 0.3
        < (detectable_method_difference(noise, 50_000, 3, is_estimated=True) or 0)
    )
    assert images_for_method(noise, 0.3, 1) is None  # training alone hides it
    assert detectable_method_difference(noise, 50_000, 3, is_estimated=True) == pytest.approx(
        (detectable_method_difference(noise, 50_000, 3) or 0)
        * power_multiplier(0.8, 4)
        / power_multiplier(0.8)
    )
    assert detectable_method_difference(noise, 50_000, 1, is_estimated=True) is None
    unknown_noise_levels = NoiseLevels(None, 10.0)
    assert (
        detectable_method_difference(unknown_noise_levels, 500, 3)
        is seeds_for_method(unknown_noise_levels, 1, 500)
        is images_for_method(unknown_noise_levels, 1, 3)
        is None
    )


def test_pairs_need_fewer_images() -> None:
    alone_images_for_pair, paired_images_for_pair = (
        images_for_pair(NoiseLevels(None, 10.0), 1.0),
        images_for_pair(NoiseLevels(None, 10.0, paired_deviation=5.0), 1.0),
    )
    assert alone_images_for_pair == math.ceil(
        (power_multiplier() * 10 * math.sqrt(2)) ** 2
    ) and paired_images_for_pair == math.ceil((power_multiplier() * 5) ** 2)


def test_planned_seeds_give_the_promised_power() -> None:
    """Simulated with the test that `compare` uses; what the normal count plans is kept beside it
    and falls short.
    """
    noise, difference, images = (
        NoiseLevels(training_deviation=0.117, sampling_deviation=10.0),
        0.3,
        50_000,
    )
    seeds = seeds_for_method(noise, difference, images)
    assert seeds is not None
    rng, deviation = (
        np.random.default_rng(0),
        math.sqrt(noise.training_deviation**2 + noise.sampling_deviation**2 / images),
    )  # type: ignore[operator]

    def power(n: int) -> float:
        a, b = rng.normal(0, deviation, (4000, n)), rng.normal(difference, deviation, (4000, n))
        return float((scipy.stats.ttest_ind(a, b, axis=1).pvalue < 0.05).mean())

    assert power(seeds) > 0.78
    assert power(3) < 0.7


def test_interval_of_a_paired_share_keeps_a_width_and_its_promise() -> None:
    assert bonett_price_interval(0, 0, 50, 1.96).se > 0
    rng, n, worse_value = np.random.default_rng(1), 100, 0.02
    lost_binomial = rng.binomial(
        n, worse_value, 20_000
    )  # truly worse by exactly the margin, no wins
    high = np.array(
        [-bonett_price_interval(0, int(k), n - int(k), 1.96).low for k in range(n + 1)]
    )[lost_binomial]
    wald = np.array(
        [k / n + 1.96 * math.sqrt(k / n * (1 - k / n) / (n - 1)) for k in range(n + 1)]
    )[lost_binomial]
    assert (high <= worse_value).mean() < 0.05
    assert (wald <= worse_value).mean() > 0.1  # the plain interval passes many that are worse
