"""`compare` and `gate`: whether two runs differ, and whether one is a regression."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from harope_bench.api.evaluation import EvaluationResults
from harope_bench.api.frames import make_frame
from harope_bench.api.generation import Run
from harope_bench.api.html import table_html, title_html
from harope_bench.core.errors import OptionError
from harope_bench.core.record_base import validation_summary
from harope_bench.statistics.compare import (
    RunComparison,
    compare_runs,
    comparison_json,
    comparison_text,
    load_compared_runs,
)
from harope_bench.statistics.gate.baseline import load_baseline_or_runs
from harope_bench.statistics.gate.decide import GateResult, Outcome, run_gate
from harope_bench.statistics.gate.policy import GateRule, Policy, read_policy
from harope_bench.statistics.gate.render import gate_json, gate_text
from harope_bench.statistics.significance import Verdict

if TYPE_CHECKING:
    from pandas import DataFrame

RunOrPath = Run | EvaluationResults | str | os.PathLike[str]
COMPARISON_COLUMNS = (
    "metric",
    "measurement_name",
    "baseline",
    "new",
    "delta",
    "low",
    "high",
    "p",
    "p_adjusted",
    "detectable_difference",
    "verdict",
    "n_scored",
    "direction",
    "reason",
)
GATE_COLUMNS = (
    "metric",
    "measurement_name",
    "worsening",
    "low",
    "high",
    "margin",
    "confidence",
    "outcome",
    "reason",
)


@dataclass(frozen=True)
class Comparison:
    """The comparison of two runs.

    Attributes:
        comparison: The record with all fields.
    """

    comparison: RunComparison

    @property
    def rows(self) -> list[dict[str, object]]:
        """Return one row for each metric, as `harope-bench compare --json` has them."""
        rows = comparison_json(self.comparison)["metrics"]
        assert isinstance(rows, list)
        return rows

    @property
    def verdicts(self) -> dict[str, Verdict]:
        """Return the verdict by metric: better, worse, not resolved or not comparable."""
        return {metric.metric.name: metric.verdict for metric in self.comparison.metrics}

    def to_frame(self) -> DataFrame:
        """Return the rows as a data frame; MissingExtraError without pandas."""
        return make_frame(self.rows, COMPARISON_COLUMNS)

    def __str__(self) -> str:
        """Return the text that `harope-bench compare` prints."""
        return "\n".join(comparison_text(self.comparison))

    def __repr__(self) -> str:
        """Return the verdicts."""
        parts = [f"{metric} {verdict}" for metric, verdict in self.verdicts.items()]
        return f"Comparison({', '.join(parts)})"

    def _repr_html_(self) -> str:
        """Return the rows as a table, for a notebook."""
        titles = (self.comparison.new_runs.title, self.comparison.baseline_runs.title)
        notes = [self.comparison.evidence, *self.comparison.notes]
        table = table_html(COMPARISON_COLUMNS, self.rows)
        return title_html(f"{titles[0]} against {titles[1]}", notes) + table


@dataclass(frozen=True)
class GateOutcome:
    """The outcome of the gate.

    Attributes:
        result: The record with all fields.
    """

    result: GateResult

    @property
    def outcome(self) -> Outcome:
        """Return pass, regression, cannot tell or not comparable."""
        return self.result.outcome

    @property
    def is_pass(self) -> bool:
        """Return whether the outcome is "pass"."""
        return self.outcome == "pass"

    @property
    def rows(self) -> list[dict[str, object]]:
        """Return one row for each metric, as `harope-bench gate --json` has them."""
        rows = gate_json(self.result)["decisions"]
        assert isinstance(rows, list)
        return rows

    def to_frame(self) -> DataFrame:
        """Return the rows as a data frame; MissingExtraError without pandas."""
        return make_frame(self.rows, GATE_COLUMNS)

    def __str__(self) -> str:
        """Return the text that `harope-bench gate` prints."""
        return "\n".join(gate_text(self.result))

    def __repr__(self) -> str:
        """Return the outcome."""
        return f"GateOutcome({self.outcome})"

    def _repr_html_(self) -> str:
        """Return the rows as a table, for a notebook."""
        return title_html(f"gate: {self.outcome}") + table_html(GATE_COLUMNS, self.rows)


def compare(
    baseline: RunOrPath, new_run: RunOrPath, *, metrics: str | Sequence[str] = ()
) -> Comparison:
    """Compare the metrics of a new run with those of a baseline.

    A difference is new minus baseline. It is paired by sample if both runs generated the same
    requests.

    Args:
        baseline: Evaluated run: a `Run`, the results of `evaluate`, or a path. A folder with
            several runs of one method, one training seed each, is one side.
        new_run: Evaluated run that is compared with it, in the same forms.
        metrics: Names of the metrics to compare, over which p values are Holm-adjusted. By default
            all.

    Raises:
        StorageError: A side has no result.
        UnknownNameError: Neither side has such a metric.

    Examples:
        >>> import tempfile
        >>> from harope_bench.api.evaluation import evaluate
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     axial = evaluate("digits-rope-axial", count=20, steps=2, out=f"{folder}/axial")
        ...     harope = evaluate("digits-harope", count=20, steps=2, out=f"{folder}/harope")
        ...     compare(axial, harope, metrics="precision").rows[0]["n_scored"]
        20
    """
    names = [metrics] if isinstance(metrics, str) else list(metrics)
    baseline_runs = load_compared_runs(_path(baseline, "baseline"))
    return Comparison(
        compare_runs(baseline_runs, load_compared_runs(_path(new_run, "new_run")), names)
    )


def gate(
    baseline: RunOrPath,
    new_run: RunOrPath,
    *,
    config: str | os.PathLike[str] | None = None,
    metrics: str | Sequence[str] = (),
    margin: str | float | None = None,
    confidence: float | None = None,
) -> GateOutcome:
    """Test whether a new run is worse than a baseline by more than a margin.

    Args:
        baseline: An evaluated run, or the path of a baseline.json.
        new_run: An evaluated run.
        config: A gate.toml. It excludes the other options.
        metrics: Names of the metrics to test. By default all.
        margin: Acceptable worsening in the metric's unit, or as "5%" of the baseline's value, which
            is the default.
        confidence: Confidence of the interval of the worsening. By default 0.95.

    Raises:
        StorageError: A side has no result.
        OptionError: A value is invalid, or config is given with other options.

    Examples:
        >>> import tempfile
        >>> from harope_bench.api.evaluation import evaluate
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     results = evaluate("digits-harope", count=20, steps=2, out=folder)
        ...     gate(results, results, metrics="precision").outcome
        'pass'
    """
    names = [metrics] if isinstance(metrics, str) else list(metrics)
    if config is not None:
        if names or margin is not None or confidence is not None:
            raise OptionError("config excludes metrics, margin and confidence; give one of both")
        policy = read_policy(Path(config))
    else:
        policy = _make_policy(names, margin, confidence)
    baseline_runs = load_baseline_or_runs(_path(baseline, "baseline"))
    return GateOutcome(
        run_gate(baseline_runs, load_baseline_or_runs(_path(new_run, "new_run")), policy)
    )


def _make_policy(
    metrics: Sequence[str], margin: str | float | None, confidence: float | None
) -> Policy:
    """Return the policy of these options; None takes a default."""
    options = {"margin": margin, "confidence": confidence}
    try:
        rule = GateRule.model_validate({k: v for k, v in options.items() if v is not None})
    except ValidationError as error:
        raise OptionError(f"{validation_summary(error)}; see docs/guides/gate.md") from error
    return Policy(default=rule, metric=dict.fromkeys(metrics, rule))


def _path(side: RunOrPath, title: str) -> Path:
    """Return the folder or file of one side.

    Raises:
        OptionError: The results were in a temporary folder.
    """
    if isinstance(side, Run):
        return side.path
    if not isinstance(side, EvaluationResults):
        return Path(side)
    if side.path is None:
        raise OptionError(
            f"{title} was evaluated in a temporary folder, which is deleted; evaluate it with"
            " out=FOLDER"
        )
    return side.path
