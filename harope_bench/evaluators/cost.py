"""Cost of a network: Table 9's own columns, the whole model, latency and memory. Its rows are
forwards, not images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from harope_bench.core.schema import Measurement, Metric
from harope_bench.evaluators.base import EvaluatorOutput, FeatureEvaluator, Features
from harope_bench.metrics.attention_cost import QKV_PROJECTIONS, AttentionSizes, LearnedParameters

LAYER_ARRAYS = (
    "hidden",
    "heads",
    "projections",
    "tokens",
    "added",
    "matrices",
    "matrix_width",
    "factors",
)
ARRAYS = (*LAYER_ARRAYS, "batch", "parameters", "frozen", "macs", "seconds", "peak_bytes")
REASON_ARRAYS = ("why_model", "why_run")
QUANTILES = {"latency_ms_p10": 10, "latency_ms_median": 50, "latency_ms_p90": 90}
MIN_FORWARDS = 10  # forwards below which the outer deciles would lie outside what was seen
MILLION = 10**6
GIGA = 10**9


class CostEvaluator(FeatureEvaluator):
    """Counts and times of one network, each with its scope in the metric's title and in the
    measurement's name.

    Observations have a row a forward: the arrays of ARRAYS, float64, NaN where something was not
    had, and two of strings (WHYS) that
    say why. Counts are the same in every row.
    """

    version = 1
    profile = "table9"
    parity = (
        "Table 9's counts: plain integers of the layer's shape; with HARoPE they equal torch's"
        " operator counter on the built layer plus its bias additions"
        " (tests/analysis/test_cost.py). 15 of the table's 16 distinct numbers come out; FLUX 1024"
        " with the matrix is 134.184 against 134.1 printed"
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

    def evaluate(self, seen: Features, reference: Mapping[str, np.ndarray]) -> EvaluatorOutput:
        """The measurements; `reference` is not read."""
        made = [_measure(metric.name, seen, COST_RULES[metric.name]) for metric in self.metrics]
        return EvaluatorOutput(tuple(made), {}, tuple(_warnings(seen)))


CostRule = Callable[[Mapping[str, np.ndarray]], float | str]


def _measure(metric: str, seen: Features, rule: CostRule) -> Measurement:
    """The measurement of a rule that gives a number or the reason why there is none."""
    rows = len(seen.indices)
    found = rule(seen.arrays) if rows else "no forward was looked at"
    scope = _scope(seen) if metric in ("params_m", "flops_g") else "whole-model"
    counts = {"n_asked": rows + seen.failed, "n_failed": seen.failed}
    if isinstance(found, str):
        return Measurement(
            metric=metric,
            name=f"{metric}-{scope}",
            value=None,
            n_scored=0,
            n_abstained=rows,
            reason=found,
            **counts,
        )
    return Measurement(
        metric=metric, name=f"{metric}-{scope}", value=found, n_scored=rows, **counts
    )


def _scope(seen: Features) -> str:
    projections = seen.arrays["projections"]
    return (
        "qkv-projection"
        if len(projections) and projections[0] == QKV_PROJECTIONS
        else "attention-layer"
    )


def _layer_sizes(
    arrays: Mapping[str, np.ndarray],
) -> tuple[AttentionSizes, LearnedParameters, int] | None:
    """Layer, what the encoding learns in it, and tokens; None where they are not known."""
    values = [arrays[name][0] for name in LAYER_ARRAYS]
    if not np.isfinite(values).all():
        return None
    hidden, heads, projections, tokens, added, matrices, width, factors = map(int, values)
    return (
        AttentionSizes(hidden, heads, projections),
        LearnedParameters(added, matrices, width, factors),
        tokens,
    )


def _parameters(arrays: Mapping[str, np.ndarray]) -> float | str:
    sizes = _layer_sizes(arrays)
    return (
        (sizes[0].parameters + sizes[1].parameters) / MILLION
        if sizes
        else _reason(arrays, "why_model")
    )


def _flops(arrays: Mapping[str, np.ndarray]) -> float | str:
    sizes = _layer_sizes(arrays)
    return sizes[0].flops(sizes[2], sizes[1]) / GIGA if sizes else _reason(arrays, "why_model")


class _ConstantCount:
    """A count that is the same in every forward, in the metric's unit."""

    def __init__(self, array: str, why: str, unit: float):
        self.array = array
        self.why = why
        self.unit = unit

    def __call__(self, arrays: Mapping[str, np.ndarray]) -> float | str:
        values = arrays[self.array]
        if not np.isfinite(values).all():
            return _reason(arrays, self.why)
        each = float(arrays["batch"][0]) if self.array == "macs" else 1.0
        return (
            float(values.max()) / each / self.unit
            if each > 0
            else "the size of the batch is not known"
        )


class _Latency:
    """A quantile of the forwards' times, linear between them, in milliseconds."""

    def __init__(self, percent: int):
        self.percent = percent

    def __call__(self, arrays: Mapping[str, np.ndarray]) -> float | str:
        seconds = arrays["seconds"]
        if not np.isfinite(seconds).all():
            return _reason(arrays, "why_run")
        if self.percent != 50 and len(seconds) < MIN_FORWARDS:
            return f"{len(seconds)} timed forwards, a decile needs {MIN_FORWARDS}"
        return float(np.percentile(seconds, self.percent)) * 1000


def _reason(arrays: Mapping[str, np.ndarray], name: str) -> str:
    return str(arrays[name][0]) or "not observed"


def _warnings(seen: Features) -> Sequence[str]:
    changing = [
        name
        for name in (*LAYER_ARRAYS, "parameters", "macs")
        if len(set(seen.arrays[name][np.isfinite(seen.arrays[name])])) > 1
    ]
    return [f"forwards of one network differ in {', '.join(changing)}"] if changing else []


COST_RULES: dict[str, CostRule] = {
    "params_m": _parameters,
    "flops_g": _flops,
    "params_model": _ConstantCount("parameters", "why_model", MILLION),
    "params_frozen": _ConstantCount("frozen", "why_model", MILLION),
    "macs_model": _ConstantCount("macs", "why_model", GIGA),
    "peak_memory_mb": _ConstantCount("peak_bytes", "why_run", MILLION),
    **{name: _Latency(percent) for name, percent in QUANTILES.items()},
}

PLUGIN = CostEvaluator()
