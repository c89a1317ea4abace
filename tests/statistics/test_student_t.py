"""Student's t without scipy: against scipy over a wide grid, and what it rejects."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.special
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from harope_bench.statistics.student_t import student_cdf, student_quantile, two_sided_tail

DEGREES = [0.1, 0.5, 0.9, 1, 1.5, 2, 2.7, 3, 5, 7.3, 10, 20, 29.5, 30, 50, 59.9, 60, 61, 100, 333.3]
LARGE_DEGREES = [1e3, 1e4, 1e5, 1e6, 1e8, 1e10]
DEVIATES = [0.01, 0.1, 0.3, 0.5, 0.8, 1, 1.2, 1.5, 1.7, 1.75, 1.8, 2, 2.5, 3, 4, 5, 7, 10, 15, 30]
PROBABILITIES = [1e-12, 1e-8, 1e-4, 0.001, 0.01, 0.025, 0.05, 0.1, 0.2, 0.25, 0.3, 0.4, 0.45, 0.49]


@pytest.mark.parametrize("df", DEGREES + LARGE_DEGREES)
def test_the_distribution_equals_scipys(df: float) -> None:
    for t in DEVIATES:
        expected = float(scipy.special.stdtr(df, -t))
        assert student_cdf(-t, df) == pytest.approx(expected, rel=1e-12, abs=1e-300)
        assert two_sided_tail(t, df) == pytest.approx(2 * expected, rel=1e-12, abs=1e-300)
        assert student_cdf(t, df) == pytest.approx(float(scipy.special.stdtr(df, t)), rel=1e-12)


@pytest.mark.parametrize("df", DEGREES + LARGE_DEGREES)
def test_the_quantiles_equal_scipys(df: float) -> None:
    for probability in [*PROBABILITIES, *(1 - p for p in PROBABILITIES[3:])]:
        expected = float(scipy.special.stdtrit(df, probability))
        assert student_quantile(probability, df) == pytest.approx(expected, rel=1e-12)


def test_one_degree_of_freedom_is_cauchys_distribution() -> None:
    for t in (1e-12, 0.3, 1.0, 1e5, 1e200):
        assert two_sided_tail(t, 1) == pytest.approx(2 / math.pi * math.atan2(1, t), rel=1e-13)
    assert student_quantile(0.75, 1) == pytest.approx(1, rel=1e-14)


def test_infinite_degrees_of_freedom_are_the_normal_distribution() -> None:
    assert two_sided_tail(1.9, math.inf) == pytest.approx(math.erfc(1.9 / math.sqrt(2)), rel=1e-15)
    for probability in (0.025, 0.3, 0.975):
        quantile = student_quantile(probability, math.inf)
        assert quantile == pytest.approx(scipy.stats.norm.ppf(probability), rel=1e-13)
        assert student_quantile(probability, 1e25) == pytest.approx(quantile, rel=1e-13)


@given(
    st.floats(1e-3, 1e12),
    st.floats(1e-12, 0.499) | st.floats(0.501, 1 - 1e-9),
)
def test_a_quantile_is_the_inverse(df: float, probability: float) -> None:
    quantile = student_quantile(probability, df)
    if math.isinf(quantile):
        assert df < 0.2
    else:
        assert student_cdf(quantile, df) == pytest.approx(probability, rel=1e-11)


def test_the_tail_falls_with_the_deviate() -> None:
    """Also where the series of the centre ends and the continued fraction begins."""
    for df in DEGREES:
        tails = [two_sided_tail(float(t), df) for t in np.linspace(0.5, 4, 2000)]
        assert np.all(np.diff(tails) < 0)


def test_quantiles_are_symmetric() -> None:
    for df in DEGREES:
        for probability in (2**-20, 0.125, 0.25, 0.4375):  # 1 - probability is exact
            assert student_quantile(1 - probability, df) == -student_quantile(probability, df)


def test_ends_and_wrong_arguments() -> None:
    assert student_quantile(0.5, 3) == 0 and two_sided_tail(0, 3) == 1
    assert student_quantile(0, 3) == -math.inf and student_quantile(1, 3) == math.inf
    assert two_sided_tail(math.inf, 3) == 0 and student_cdf(-math.inf, 3) == 0
    assert student_quantile(1 - 1e-12, 0.01) == math.inf  # about 1e1200
    for df in (0, -1, math.nan):
        with pytest.raises(ValueError, match="give a positive number"):
            two_sided_tail(1, df)
        with pytest.raises(ValueError, match="give a positive number"):
            student_quantile(0.9, df)
    for probability in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="give 0 to 1"):
            student_quantile(probability, 3)
    with pytest.raises(ValueError, match="give a finite deviate"):
        student_cdf(math.nan, 3)
