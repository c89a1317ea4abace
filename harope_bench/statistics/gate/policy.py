"""gate.toml: what we would mind, how sure we want to be, and what to do when nobody can tell."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationError

from harope_bench.core.errors import OptionError
from harope_bench.core.record_base import Record, validation_summary
from harope_bench.core.registry import read_toml

PERCENT = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,9})?)\s*%")


def _margin(value: bool | float | str) -> float | str:
    if isinstance(value, bool):
        raise ValueError("true and false are no margins")
    if isinstance(value, str) and not PERCENT.fullmatch(value):
        raise ValueError(
            f"{value!r} is no margin; write a number of the metric's unit, or a share of the"
            " baseline as '5%'"
        )
    if not isinstance(value, str) and value < 0:
        raise ValueError(f"margin {value} is below 0")
    return value


class GateRule(Record):
    """What is asked of one metric.

    margin: the worsening we would mind, in the metric's unit, or as '5%' of the baseline's value.
    confidence: of the two-sided interval of the worsening that is held against it.
    """

    margin: Annotated[bool | float | str, AfterValidator(_margin)] = "5%"
    confidence: float = Field(default=0.95, gt=0.5, le=0.9999)
    on_inconclusive: Literal["pass", "fail", "cannot-tell"] = "cannot-tell"

    def margin_of(self, baseline: float) -> float:
        """The margin in the metric's unit."""
        if isinstance(self.margin, str):
            return float(self.margin.rstrip("% ")) / 100 * abs(baseline)
        return self.margin


class Policy(Record):
    """A rule for each metric; without any, every metric of the baseline is held to the default."""

    default: GateRule = GateRule()
    metric: dict[str, GateRule] = {}

    def rule(self, metric: str) -> GateRule:
        """The rule of a metric."""
        return self.metric.get(metric, self.default)


def read_policy(path: Path | None) -> Policy:
    """The policy of a file, or the default one. A metric's table takes from [default] what it
    leaves out.

    Raises:
        BenchError: no readable TOML. OptionError: a field nobody knows, or a value it does not
            take; names both.
    """
    if path is None:
        return Policy()
    facts = read_toml(path)
    default = facts.get("default", {})
    metrics = facts.get("metric", {})
    if isinstance(default, dict) and isinstance(metrics, dict):
        facts["metric"] = {
            name: {**default, **rule} if isinstance(rule, dict) else rule
            for name, rule in metrics.items()
        }
    try:
        return Policy.model_validate(facts)
    except ValidationError as error:
        raise OptionError(f"{path}: {validation_summary(error)}; see docs/gate.md") from error
