"""The contract of the contributions of samples to a metric, as EvaluatorOutput documents them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from harope_bench.evaluators.base import EvaluatorOutput

# Sums of float64 in another order differ by far less; float32 contributions by less than this.
RELATIVE_TOLERANCE = 1e-5


def find_contribution_errors(output: EvaluatorOutput, row_count: int) -> Iterator[str]:
    """Yield a message for each metric whose contributions do not give its value.

    Influence values are centred on 0. Where halves exist the contributions are not those of
    samples. Arrays of another length are not checked.
    """
    import numpy as np

    for measurement in output.measurements:
        metric = measurement.metric
        contributions = output.per_sample.get(metric)
        if (
            measurement.value is None
            or contributions is None
            or len(contributions) != row_count
            or f"{metric}_halves" in output.per_sample
        ):
            continue

        contributions = np.asarray(contributions, dtype=np.float64)
        mean = _mean_of_tasks(output, metric, contributions)
        tolerance = RELATIVE_TOLERANCE * max(
            float(np.nanmax(np.abs(contributions), initial=0.0)), abs(measurement.value)
        )
        if not min(abs(mean - measurement.value), abs(mean)) <= tolerance:
            yield (
                f"per_sample of {metric} has the mean {mean:.6g}, its value is"
                f" {measurement.value:.6g}; give contributions in its unit whose mean is the value"
            )


def find_constant_contributions(
    output: EvaluatorOutput, output_of_some: EvaluatorOutput, row_count: int
) -> Iterator[str]:
    """Yield a message for each metric with equal contributions that other samples yet change.

    Args:
        output_of_some: the output for some of the samples.
    """
    import numpy as np

    values_of_some = {m.metric: m.value for m in output_of_some.measurements}
    for measurement in output.measurements:
        value = measurement.value
        value_of_some = values_of_some.get(measurement.metric)
        contributions = output.per_sample.get(measurement.metric)
        if (
            value is None
            or value_of_some is None
            or contributions is None
            or len(contributions) != row_count
            or f"{measurement.metric}_halves" in output.per_sample
        ):
            continue
        is_constant = float(np.ptp(contributions)) <= RELATIVE_TOLERANCE * abs(value)
        if is_constant and not math.isclose(value, value_of_some, rel_tol=RELATIVE_TOLERANCE):
            yield (
                f"per_sample of {measurement.metric} is equal for all samples, but fewer samples"
                f" change its value from {value:.6g} to {value_of_some:.6g}; give the contribution"
                " of each sample"
            )


def _mean_of_tasks(output: EvaluatorOutput, metric: str, contributions: np.ndarray) -> float:
    """Return the mean of the contributions (N,), or the mean over tasks where there are tasks.

    With totals and weights it is the ratio of their sums. NaN excludes a sample.
    """
    import numpy as np

    arrays = output.per_sample
    is_scored = ~np.isnan(contributions)  # (N,)
    totals = np.asarray(arrays.get(f"{metric}_total", contributions), dtype=np.float64)
    weights = np.asarray(arrays.get(f"{metric}_weight", is_scored), dtype=np.float64)
    tasks = np.asarray(arrays.get(f"{metric}_tasks", np.zeros(len(contributions))))
    scored_tasks = tasks[is_scored]
    ratios = [
        totals[is_scored & (tasks == task)].sum() / weights[is_scored & (tasks == task)].sum()
        for task in np.unique(scored_tasks)
    ]
    return float(np.mean(ratios)) if ratios else math.nan
