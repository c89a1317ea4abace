"""The Inception Score: its range, its blocks and their order, and how sure it is."""

from __future__ import annotations

import math

import numpy as np
import pytest
from clouds import cloud, find_measurement, make_features, peaked_logits, value_of

from harope_bench.evaluators.base import Features
from harope_bench.evaluators.fidelity import PLUGIN
from harope_bench.metrics.inception_score import inception_score, kl_divergences, log_softmax
from harope_bench.statistics.significance import standard_error


def test_is_runs_from_one_to_the_number_of_classes() -> None:
    assert inception_score(np.zeros((50, 10))).value == 1.0
    sure_values = np.where(
        np.eye(10)[np.arange(200) % 10] > 0, 0.0, -1e6
    )  # probabilities 0 and 1: 0 log 0 counts as 0
    assert inception_score(sure_values).value == pytest.approx(10.0, rel=1e-14)
    unused_values = np.where(
        np.eye(10)[np.arange(200) % 4] > 0, 0.0, -1e6
    )  # six classes nobody shows
    assert inception_score(unused_values).value == pytest.approx(4.0, rel=1e-14)


def test_class_order_ruins_is_and_is_named() -> None:
    labels = np.arange(20_000) % 100
    interleaved_peaked_logit, by_class = (
        peaked_logits(x, 100, peak=12.0) for x in (labels, np.sort(labels))
    )
    features = cloud(22, 20_000, 2)
    scores = [
        PLUGIN.evaluate(make_features(features, logits=x), {})
        for x in (interleaved_peaked_logit, by_class)
    ]
    right, wrong_value = (value_of(score, "is") for score in scores)
    assert right > 3.5 * wrong_value  # 25 of 100 classes in each block of 5,000
    assert not any(w.startswith("is:") for w in scores[0].warnings)
    lost_text = f"about {1 - wrong_value / right:.0%} of the score is lost"
    assert any(
        w.startswith("is: class-sorted order") and lost_text in w for w in scores[1].warnings
    )


def test_order_loss_is_what_one_marginal_would_give_back() -> None:
    logits = peaked_logits(np.sort(np.arange(3000) % 20), 20, peak=3.0)
    blocks, whole_inception_score = inception_score(logits, 500), inception_score(logits, 3000)
    given_back = math.log(whole_inception_score.value) - np.log(blocks.blocks).mean()
    assert blocks.order_loss == pytest.approx(
        given_back, abs=0.01
    )  # less what chance takes: below 5 * 19 / 6000
    assert whole_inception_score.order_loss == 0.0


@pytest.mark.parametrize("peak", [0.0, 4.0, 30.0])
def test_a_random_order_is_not_called_sorted(peak: float) -> None:
    labels = np.random.default_rng(23).integers(0, 500, size=25_000)
    logits = peaked_logits(labels, 500, peak=peak)  # ten images of a class in each block of 5,000
    assert abs(inception_score(logits).order_loss) < 0.01
    assert abs(inception_score(logits[:5100]).order_loss) < 0.02


def test_a_short_last_block_counts_equally_and_is_named() -> None:
    logits = peaked_logits(np.arange(5003) % 10, 10)
    score = PLUGIN.evaluate(make_features(cloud(24, 5003, 2), logits=logits), {})
    assert value_of(score, "is") == pytest.approx(
        (inception_score(logits[:5000]).value + inception_score(logits[5000:]).value) / 2
    )
    assert "is: short last block, 3 images count as much as 5,000" in score.warnings


def test_the_error_of_is_is_the_spread_of_replicates() -> None:
    rng, records = np.random.default_rng(25), []
    for _ in range(400):
        score = inception_score(
            peaked_logits(rng.integers(0, 12, size=750) ** 2 // 12, 12, int(rng.integers(2**31))),
            block_size=300,
        )  # last block is half
        records.append((score.value, standard_error(score.contributions)))
    values, errors = np.array(records).T
    assert errors.mean() == pytest.approx(values.std(ddof=1), rel=0.14)  # as for FID


def test_a_short_block_brings_its_own_noise() -> None:
    score = inception_score(
        peaked_logits(np.random.default_rng(69).integers(0, 10, size=1040), 10), block_size=500
    )
    parts = np.split(score.contributions, [500, 1000])
    # The mean over three blocks has a third of each block's error, and 40 images have a larger one.
    logp = [
        log_softmax(x)
        for x in np.split(
            peaked_logits(np.random.default_rng(69).integers(0, 10, size=1040), 10), [500, 1000]
        )
    ]
    spreads = [kl_divergences(np.exp(x), x, np.exp(x).mean(axis=0)).std() for x in logp]
    exact_value = (
        math.sqrt(
            sum((b * s) ** 2 / len(x) for b, s, x in zip(score.blocks, spreads, logp, strict=True))
        )
        / 3
    )
    assert standard_error(score.contributions) == pytest.approx(
        exact_value, rel=1e-3
    )  # N - 1 instead of N
    assert max(abs(part.sum()) for part in parts) < 1e-9


def test_ten_blocks_give_the_error_themselves() -> None:
    logits = peaked_logits(np.random.default_rng(26).integers(0, 10, size=50_000), 10)
    score = PLUGIN.evaluate(Features(np.arange(50_000), None, {"logits": logits}), {})
    measurement, blocks = find_measurement(score, "is"), inception_score(logits).blocks
    assert measurement.interval == "spread of 10 blocks"
    assert measurement.se == pytest.approx(blocks.std(ddof=1) / math.sqrt(10))
    assert standard_error(score.per_sample["is"]) == pytest.approx(
        measurement.se, rel=1.0
    )  # ten blocks know their sd to 24%; four widths
    nine = PLUGIN.evaluate(Features(np.arange(45_000), None, {"logits": logits[:45_000]}), {})
    assert find_measurement(nine, "is").interval == "influence function, first order"


def test_divergences_are_not_negative() -> None:
    logp = log_softmax(np.random.default_rng(27).normal(size=(300, 5)).astype(np.float32) * 50)
    assert kl_divergences(np.exp(logp), logp, np.exp(logp).mean(axis=0)).min() > -1e-12
