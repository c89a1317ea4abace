"""Intervals and verdicts: how often they are right, and what they refuse to say."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from harope_bench.core.errors import ShapeError
from harope_bench.core.schema import Measurement
from harope_bench.statistics.significance import (
    Z,
    difference,
    holm_adjust,
    normal_interval,
    standard_error,
    two_sided_p,
    verdict,
    wilson_interval,
)


def number(
    value: float | None, se: float | None = None, n: int = 500, name: str = "fid-500"
) -> Measurement:
    return Measurement(
        metric="fid",
        name=name,
        value=value,
        se=se,
        n_asked=n,
        n_scored=n,
        reason=None if value is not None else "not run",
    )


def test_z_and_p_are_the_normal_distributions() -> None:
    assert pytest.approx(scipy.stats.norm.ppf(0.975), rel=1e-14) == Z
    for z in (-3.0, 0.0, 0.5, 1.96, 8.0):
        assert two_sided_p(z) == pytest.approx(2 * scipy.stats.norm.sf(abs(z)), rel=1e-12)


def test_normal_interval_is_centred() -> None:
    normal_interval_result = normal_interval(5.0, 0.5)
    assert (normal_interval_result.se, normal_interval_result.low, normal_interval_result.high) == (
        0.5,
        5.0 - Z / 2,
        5.0 + Z / 2,
    )


def test_mean_error_is_sd_over_root_n() -> None:
    rows = np.array([1, 2, 3, 4, 9], dtype=np.int8)
    assert standard_error(rows) == pytest.approx(scipy.stats.sem(rows.astype(float)))
    with pytest.raises(ValueError, match="two values, found 1"):
        standard_error(rows[:1])


@pytest.mark.parametrize(("hits", "n"), [(0, 10), (3, 10), (10, 10), (370, 500), (1, 50_000)])
def test_wilson_equals_scipy(hits: int, n: int) -> None:
    wilson_interval_result, library_proportion_ci = (
        wilson_interval(hits, n),
        scipy.stats.binomtest(hits, n).proportion_ci(0.95, method="wilson"),
    )
    assert (wilson_interval_result.low, wilson_interval_result.high) == pytest.approx(
        (library_proportion_ci.low, library_proportion_ci.high), abs=1e-12
    )
    assert wilson_interval_result.se == pytest.approx(
        math.sqrt(hits / n * (1 - hits / n) / n)
    ) or hits in (0, n)
    assert wilson_interval_result.se > 0, "no finite sample shows an error of 0"


@pytest.mark.parametrize("share", [0.02, 0.3, 0.54, 0.97])
def test_wilson_covers_what_it_claims(share: float) -> None:
    """Exact coverage: the probabilities of all counts whose interval holds the share."""
    counts = np.arange(501)
    flags = [
        wilson_interval(int(k), 500).low <= share <= wilson_interval(int(k), 500).high
        for k in counts
    ]
    assert scipy.stats.binom.pmf(counts, 500, share)[flags].sum() == pytest.approx(
        0.95, abs=0.02
    )  # counts are discrete


@pytest.mark.parametrize(("hits", "n"), [(-1, 5), (6, 5), (0, 0)])
def test_wilson_refuses_what_is_no_share(hits: int, n: int) -> None:
    with pytest.raises(ValueError, match="is not a fraction"):
        wilson_interval(hits, n)


def test_holm_by_hand() -> None:
    assert holm_adjust([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm_adjust([]) == [] and holm_adjust([0.7, 0.9]) == [1.0, 1.0]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_keeps_the_order_and_never_lowers(ps: list[float]) -> None:
    adjusted_holm_adjust = holm_adjust(ps)
    assert all(p <= a <= 1 for p, a in zip(ps, adjusted_holm_adjust, strict=True))
    assert sorted(range(len(ps)), key=lambda i: (ps[i], i)) == sorted(
        range(len(ps)), key=lambda i: (adjusted_holm_adjust[i], ps[i], i)
    )


def test_direction_decides_what_better_means() -> None:
    assert verdict("lower", -1.0, 0.01) == verdict("higher", 1.0, 0.01) == "better"
    assert verdict("lower", 1.0, 0.01) == verdict("higher", -1.0, 0.01) == "worse"
    assert verdict("lower", -1.0, 0.0501) == "not resolved"


def test_unpaired_errors_add_in_squares() -> None:
    difference_result = difference("lower", number(9.0, 0.3), number(8.0, 0.4))
    assert (
        difference_result.delta == -1.0
        and difference_result.se == pytest.approx(0.5)
        and not difference_result.is_paired
    )
    assert (
        difference_result.p == pytest.approx(two_sided_p(2.0))
        and difference_result.verdict == "better"
    )
    assert difference_result.low == pytest.approx(
        -1 - Z / 2
    ) and difference_result.high == pytest.approx(-1 + Z / 2)


def test_paired_rows_take_out_what_is_shared() -> None:
    rng = np.random.default_rng(0)
    shared_values = rng.normal(size=500)
    a, b = shared_values + 0.1 * rng.normal(size=500), shared_values + 0.1 * rng.normal(size=500)
    paired_difference = difference(
        "lower", number(9.0, standard_error(a)), number(8.95, standard_error(b)), a, b
    )
    alone_difference = difference(
        "lower", number(9.0, standard_error(a)), number(8.95, standard_error(b))
    )
    assert (
        paired_difference.is_paired
        and paired_difference.se == pytest.approx(standard_error(b - a))
        and paired_difference.verdict == "better"
    )
    assert alone_difference.verdict == "not resolved"


def test_paired_test_is_wrong_as_often_as_it_says() -> None:
    rng, calls = np.random.default_rng(1), 0
    for _ in range(2000):
        shared_values = rng.normal(size=60)
        a, b = shared_values + rng.normal(size=60), shared_values + rng.normal(size=60)
        calls += (
            difference("lower", number(a.mean(), 1.0), number(b.mean(), 1.0), a, b).verdict
            != "not resolved"
        )
    assert calls / 2000 == pytest.approx(
        0.055, abs=0.02
    )  # normal instead of t at 60 rows: 5.5%; 2,000 runs know it to 0.5 points


@pytest.mark.parametrize(
    ("baseline", "new_measurement", "reason"),
    [
        (number(None), number(8.0, 0.1), "a value is missing"),
        (number(9.0, 0.1), number(None), "a value is missing"),
        (
            number(9.0, 0.1),
            number(8.0, 0.1, n=400, name="fid-400"),
            "fid-500 over 500 against fid-400 over 400 images",
        ),
        (number(9.0, 0.1), number(8.0), "a standard error is missing"),
    ],
)
def test_what_cannot_be_compared_says_why(
    baseline: Measurement, new_measurement: Measurement, reason: str
) -> None:
    difference_result = difference("lower", baseline, new_measurement)
    assert difference_result.verdict == "not comparable" and difference_result.reason == reason
    assert (
        difference_result.delta,
        difference_result.se,
        difference_result.low,
        difference_result.high,
        difference_result.p,
    ) == (None,) * 5


@pytest.mark.parametrize(("new_value", "p"), [(1.0, 1.0), (0.5, None)])
def test_an_error_of_0_is_an_error_that_is_not_known(new_value: float, p: float | None) -> None:
    """Neither errors of 0 nor rows that all moved alike make a certainty, and no interval has width
    0.
    """
    alone_difference = difference("higher", number(1.0, 0.0), number(new_value, 0.0))
    paired_difference = difference(
        "higher",
        number(1.0, 0.1),
        number(new_value, 0.1),
        np.linspace(0, 2, 50),
        np.linspace(0, 2, 50) + new_value - 1.0,
    )
    for record in (alone_difference, paired_difference):
        assert (record.verdict, record.p, record.se, record.low, record.high) == (
            "not resolved",
            p,
            None,
            None,
            None,
        )


def test_rows_of_other_samples_are_not_pairs() -> None:
    with pytest.raises(ShapeError, match="paired contributions"):
        difference("lower", number(9.0, 0.1), number(8.0, 0.1), np.zeros(5), np.zeros(6))
