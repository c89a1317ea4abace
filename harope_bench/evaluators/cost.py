"""Evaluator cost: parameters, multiply-adds, latency and memory of one network.

Rows are forwards, not images. The first two metrics count one layer as Table 9 of the paper does.
The others measure the whole model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from harope_bench.core.schema import Measurement, Metric
from harope_bench.evaluators.base import EvaluatorOutput, FeatureEvaluator, Features
from harope_bench.metrics.attention_cost import QKV_PROJECTIONS, AttentionSizes, LearnedParameters

# Sizes of one attention layer, in the order of AttentionSizes, tokens and LearnedParameters.
LAYER_ARRAYS = (
    "hidden",
    "heads",
    "projections",
    "tokens",
    "added_parameters",
    "matrices",
    "matrix_width",
    "factors",
)
ARRAYS = (
    *LAYER_ARRAYS,
    "batch",
    "parameters",
    "frozen_parameters",
    "macs",
    "seconds",
    "peak_bytes",
)
REASON_ARRAYS = ("reason_model", "reason_run")  # why counts, or times and memory, are missing
QUANTILES = {"latency_ms_p10": 10, "latency_ms_median": 50, "latency_ms_p90": 90}
MIN_FORWARDS = 10  # forwards below which the outer deciles would lie outside the measured times
MILLION = 10**6
GIGA = 10**9


class CostEvaluator(FeatureEvaluator):
    """Evaluator of the cost of one network.

    Features hold one row per forward: the arrays of ARRAYS, float64, NaN for a missing value,
    and the string arrays of REASON_ARRAYS, which say why. Counts are equal in all rows.
    """

    version = 1
    profile = "table9"
    parity = (
        "Table 9's counts: plain integers of the layer's shape; with HARoPE they equal torch's"
        " operator counter on the built layer plus its bias additions"
        " (tests/analysis/test_cost.py). 15 of the table's 16 distinct numbers are reproduced;"
        " FLUX 1024 with the matrix is 134.184, where the paper prints 134.1"
    )
    rules = ("official",)
    subject = "network"
    arrays = ARRAYS
    text_arrays = REASON_ARRAYS
    metrics = (
        Metric(
            name="params_m",
            title="parameters, one layer as Table 9 counts it",
            direction="lower",
            unit="million",
            decimals=2,
        ),
        Metric(
            name="flops_g",
            title="multiply-adds, one layer as Table 9 counts it",
            direction="lower",
            unit="giga",
            decimals=2,
        ),
        Metric(
            name="params_model",
            title="parameters, whole model",
            direction="lower",
            unit="million",
            decimals=3,
        ),
        Metric(
            name="params_frozen",
            title="parameters that are not trained, whole model",
            direction="lower",
            unit="million",
            decimals=3,
        ),
        Metric(
            name="macs_model",
            title="multiply-adds of one image, whole model forward",
            direction="lower",
            unit="giga",
            decimals=3,
        ),
        Metric(
            name="latency_ms_median",
            title="median latency, whole model forward",
            direction="lower",
            unit="ms",
            decimals=2,
        ),
        Metric(
            name="latency_ms_p10",
            title="10th percentile of latency, whole model forward",
            direction="lower",
            unit="ms",
            decimals=2,
        ),
        Metric(
            name="latency_ms_p90",
            title="90th percentile of latency, whole model forward",
            direction="lower",
            unit="ms",
            decimals=2,
        ),
        Metric(
            name="peak_memory_mb",
            title="peak memory, whole model forward",
            direction="lower",
            unit="MB",
            decimals=1,
        ),
    )

    def evaluate(self, features: Features, reference: Mapping[str, np.ndarray]) -> EvaluatorOutput:
        """Return the measurements of the forwards; `reference` is not read."""
        measurements = [
            _measure(metric.name, features, COST_RULES[metric.name]) for metric in self.metrics
        ]
        return EvaluatorOutput(
            tuple(measurements), per_sample={}, warnings=tuple(_warnings(features))
        )


# Arrays by name -> value in the metric's unit, or the reason why there is none.
CostRule = Callable[[Mapping[str, np.ndarray]], float | str]


def _measure(metric: str, features: Features, rule: CostRule) -> Measurement:
    """Return the measurement of a metric by its rule."""
    n_forwards = len(features.indices)
    value = rule(features.arrays) if n_forwards else "no forward was measured"
    scope = _scope(features) if metric in ("params_m", "flops_g") else "whole-model"
    counts = {"n_asked": n_forwards + features.failed, "n_failed": features.failed}
    if isinstance(value, str):
        return Measurement(
            metric=metric,
            name=f"{metric}-{scope}",
            value=None,
            n_scored=0,
            n_abstained=n_forwards,
            reason=value,
            **counts,
        )
    return Measurement(
        metric=metric, name=f"{metric}-{scope}", value=value, n_scored=n_forwards, **counts
    )


def _scope(features: Features) -> str:
    """Return which projections of the layer Table 9 counts for this network."""
    projections = features.arrays["projections"]
    if len(projections) and projections[0] == QKV_PROJECTIONS:
        return "qkv-projection"
    return "attention-layer"


def _layer_sizes(
    arrays: Mapping[str, np.ndarray],
) -> tuple[AttentionSizes, LearnedParameters, int] | None:
    """Return the layer's sizes, the encoding's learned parameters and the number of tokens.

    None if one of them is missing.
    """
    values = [arrays[name][0] for name in LAYER_ARRAYS]
    if not np.isfinite(values).all():
        return None
    hidden, heads, projections, tokens, n_added, matrices, width, factors = map(int, values)
    layer = AttentionSizes(hidden, heads, projections)
    pe_parameters = LearnedParameters(n_added, matrices, width, factors)
    return layer, pe_parameters, tokens


def _layer_parameters(arrays: Mapping[str, np.ndarray]) -> float | str:
    """Return the parameters of one layer with its encoding, in millions.

    It is a text, the reason, if the sizes of the layer are not known.
    """
    sizes = _layer_sizes(arrays)
    if sizes is None:
        return _reason(arrays, "reason_model")
    layer, pe_parameters, _ = sizes
    return (layer.parameters + pe_parameters.parameters) / MILLION


def _layer_multiply_adds(arrays: Mapping[str, np.ndarray]) -> float | str:
    """Return the multiply-adds of one layer with its encoding, in units of 10^9.

    It is a text, the reason, if the sizes of the layer are not known.
    """
    sizes = _layer_sizes(arrays)
    if sizes is None:
        return _reason(arrays, "reason_model")
    layer, pe_parameters, tokens = sizes
    return layer.multiply_adds(tokens, pe_parameters) / GIGA


class _ConstantCount:
    """The rule of a count that is equal in all forwards, in the metric's unit."""

    def __init__(self, array: str, reason_array: str, unit: float):
        self.array = array
        self.reason_array = reason_array
        self.unit = unit

    def __call__(self, arrays: Mapping[str, np.ndarray]) -> float | str:
        """Return the count; multiply-adds are divided by the batch size."""
        counts = arrays[self.array]
        if not np.isfinite(counts).all():
            return _reason(arrays, self.reason_array)
        batch = float(arrays["batch"][0]) if self.array == "macs" else 1.0
        if not batch > 0:
            return "the size of the batch is not known"
        return float(counts.max()) / batch / self.unit


class _Latency:
    """The rule of a percentile of the forwards' times, in milliseconds."""

    def __init__(self, percent: int):
        self.percent = percent

    def __call__(self, arrays: Mapping[str, np.ndarray]) -> float | str:
        """Return the percentile, interpolated linearly between two times."""
        seconds = arrays["seconds"]
        if not np.isfinite(seconds).all():
            return _reason(arrays, "reason_run")
        if self.percent != 50 and len(seconds) < MIN_FORWARDS:
            return f"{len(seconds)} timed forwards, a decile needs {MIN_FORWARDS}"
        return float(np.percentile(seconds, self.percent)) * 1000


def _reason(arrays: Mapping[str, np.ndarray], reason_array: str) -> str:
    return str(arrays[reason_array][0]) or "not measured"


def _warnings(features: Features) -> Sequence[str]:
    """Return a warning if a count differs between forwards of one network."""
    differing = []
    for name in (*LAYER_ARRAYS, "parameters", "macs"):
        counts = features.arrays[name]
        if len(set(counts[np.isfinite(counts)])) > 1:
            differing.append(name)
    return [f"forwards of one network differ in {', '.join(differing)}"] if differing else []


COST_RULES: dict[str, CostRule] = {
    "params_m": _layer_parameters,
    "flops_g": _layer_multiply_adds,
    "params_model": _ConstantCount("parameters", "reason_model", MILLION),
    "params_frozen": _ConstantCount("frozen_parameters", "reason_model", MILLION),
    "macs_model": _ConstantCount("macs", "reason_model", GIGA),
    "peak_memory_mb": _ConstantCount("peak_bytes", "reason_run", MILLION),
    **{name: _Latency(percent) for name, percent in QUANTILES.items()},
}

PLUGIN = CostEvaluator()
