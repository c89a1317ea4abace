"""Titles of evaluators and of their metrics, as pages and charts show them."""

from __future__ import annotations

from harope_bench.core import registry
from harope_bench.core.errors import BenchError
from harope_bench.core.plugin_contracts import EvaluatorContract
from harope_bench.core.schema import Metric


def evaluator_title(name: str) -> str:
    """Return the title of an evaluator, such as "GenEval"; its name where it has none."""
    contract = _find_contract(name)
    return (contract.title if contract else "") or name


def declared_metrics(evaluator: str, profile: str) -> dict[str, Metric]:
    """Return the metrics of an evaluator's profile by name, none if it is not installed."""
    contract = _find_contract(evaluator)
    metrics = contract.profile_metrics(profile) if contract else ()
    return {metric.name: metric for metric in metrics}


def measurement_title(metric: Metric, measurement_name: str) -> str:
    """Return the title of a measurement: that of its metric, with the count of its name.

    "fid-500" of the metric "fid" is "FID-500".
    """
    if measurement_name.startswith(metric.name):
        return metric.title + measurement_name.removeprefix(metric.name)
    return measurement_name


def _find_contract(evaluator: str) -> EvaluatorContract | None:
    """Return an evaluator's contract, None if its plug-in is not installed here or broken."""
    try:
        return registry.load_plugin("evaluators", evaluator, EvaluatorContract)
    except BenchError:
        return None
