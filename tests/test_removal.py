"""Recall's leave-one-out against the slow way, and its error against what other draws do."""

from __future__ import annotations

import numpy as np
import pytest

from harope_bench.errors import ShapeError
from harope_bench.evaluators.base import Observations
from harope_bench.evaluators.fidelity import PLUGIN
from harope_bench.metrics.neighbours import balls
from harope_bench.metrics.removal import removal


def hits(points: np.ndarray, drawn: np.ndarray) -> int:
    return int(balls(drawn, points).real_inside.sum())


@pytest.mark.parametrize(("points", "drawn", "width"), [(300, 40, 2), (50, 60, 5), (1500, 25, 3), (20, 5, 2)])
def test_removal_equals_recomputing_without_each_point(points: int, drawn: int, width: int) -> None:
    rng = np.random.default_rng(points)
    real, made = 1.3 * rng.normal(size=(points, width)), rng.normal(size=(drawn, width))
    slow = [hits(real, np.delete(made, i, axis=0)) - hits(real, made) for i in range(drawn)]
    assert removal(real, made).tolist() == slow


def test_copies_are_left_out_one_at_a_time() -> None:
    rng = np.random.default_rng(0)
    real, made = rng.normal(size=(200, 2)), np.repeat(rng.normal(size=(12, 2)), 2, axis=0)
    assert removal(real, made).tolist() == [hits(real, np.delete(made, i, axis=0)) - hits(real, made) for i in range(24)]


def test_too_few_points_are_refused() -> None:
    with pytest.raises(ShapeError, match="needs more than 4"):
        removal(np.zeros((9, 2)), np.zeros((4, 2)))


def test_the_error_of_recall_is_that_of_other_draws() -> None:
    """Few samples and many references: the binomial error of the references is several times too small."""
    rng = np.random.default_rng(3)
    real, values, errors = rng.normal(size=(1000, 3)), [], []
    for _ in range(60):
        made = 0.8 * rng.normal(size=(60, 3))
        change = removal(real, made) / 1000
        values.append(hits(real, made) / 1000)
        errors.append(59 / np.sqrt(60) * change.std(ddof=1))
    true, wrong = np.std(values, ddof=1), np.sqrt(np.mean(values) * (1 - np.mean(values)) / 1000)
    assert 0.9 * true < np.mean(errors) < 1.6 * true  # a jackknife of neighbours leans to the safe side
    assert wrong < true / 2


def recall(drawn: np.ndarray, real: np.ndarray) -> tuple[str | None, float, dict[str, np.ndarray]]:
    score = PLUGIN.score(Observations(np.arange(len(drawn)), None, {"features": drawn}), {"features": real})
    found = next(m for m in score.measurements if m.metric == "recall")
    return found.interval, float(found.se or 0), dict(score.per_sample)


def test_the_evaluator_gives_recall_the_error_of_its_samples() -> None:
    rng = np.random.default_rng(4)
    real, drawn = rng.normal(size=(500, 2)), 0.7 * rng.normal(size=(40, 2))
    interval, se, rows = recall(drawn, real)
    assert interval == "jackknife over samples, reference fixed" and rows["recall"].shape == (500,)
    assert se == pytest.approx(rows["recall_drawn"].std(ddof=1) / np.sqrt(40)) and abs(rows["recall_drawn"].mean()) < 1e-12


def test_where_no_sample_matters_alone_the_references_error_stands() -> None:
    rng = np.random.default_rng(5)
    interval, se, rows = recall(rng.normal(size=(60, 2)), 100 + rng.normal(size=(50, 2)))
    assert interval == "Wilson, radii fixed" and "recall_drawn" not in rows and se > 0
