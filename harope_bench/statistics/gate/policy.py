"""The gate's policy from gate.toml: margins, confidence, and what an inconclusive result means."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationError

from harope_bench.core.errors import OptionError
from harope_bench.core.record_base import Record, validation_summary
from harope_bench.core.registry import read_toml

PERCENT = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,9})?)\s*%")


def _validate_margin(value: bool | float | str) -> float | str:
    """Return a margin; raise ValueError unless it is a number of 0 or more, or a percentage."""
    if isinstance(value, bool):
        raise ValueError("true and false are no margins")
    if isinstance(value, str) and not PERCENT.fullmatch(value):
        raise ValueError(
            f"{value!r} is no margin; write a number of the metric's unit, or a percentage of the"
            " baseline as '5%'"
        )
    if not isinstance(value, str) and value < 0:
        raise ValueError(f"margin {value} is below 0")
    return value


class GateRule(Record):
    """The rule for one metric.

    `margin` is the worsening that is acceptable, in the metric's unit, or as '5%' of the baseline's
    value. `confidence` is that of the two-sided interval of the worsening. `on_inconclusive` says
    what the outcome "cannot tell" counts as.
    """

    margin: Annotated[bool | float | str, AfterValidator(_validate_margin)] = "5%"
    confidence: float = Field(default=0.95, gt=0.5, le=0.9999)
    on_inconclusive: Literal["pass", "fail", "cannot-tell"] = "cannot-tell"

    def margin_of(self, baseline_value: float) -> float:
        """Return the margin in the metric's unit."""
        if isinstance(self.margin, str):
            return float(self.margin.rstrip("% ")) / 100 * abs(baseline_value)
        return self.margin


class Policy(Record):
    """A rule for each metric. Without any, all metrics of the baseline get the default rule."""

    default: GateRule = GateRule()
    metric: dict[str, GateRule] = {}

    def rule(self, metric: str) -> GateRule:
        """Return the rule of a metric, whose name may be in upper or lower case."""
        rules = {name.lower(): rule for name, rule in self.metric.items()}
        return rules.get(metric.lower(), self.default)


def read_policy(path: Path | None) -> Policy:
    """Return the policy of a file; without a file, the default one.

    The table of a metric inherits from [default].

    Raises:
        BenchError: The file is no readable TOML.
        OptionError: A field is unknown, or its value is invalid. The message names both.
    """
    if path is None:
        return Policy()
    tables = read_toml(path)
    default = tables.get("default", {})
    metrics = tables.get("metric", {})
    if isinstance(default, dict) and isinstance(metrics, dict):
        tables["metric"] = {
            name: {**default, **rule} if isinstance(rule, dict) else rule
            for name, rule in metrics.items()
        }
    try:
        return Policy.model_validate(tables)
    except ValidationError as error:
        raise OptionError(
            f"{path}: {validation_summary(error)}; see docs/guides/gate.md"
        ) from error
