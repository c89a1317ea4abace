"""The contract of an evaluator."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from harope_bench.testing.contract_violations import PLAIN_NAME_PATTERN, ContractViolations

if TYPE_CHECKING:
    import numpy as np

    from harope_bench.evaluators.base import EvaluatorOutput, FeatureEvaluator, Features


def check_evaluator(
    name: str | FeatureEvaluator, seen: Features, reference: Mapping[str, np.ndarray]
) -> None:
    """Holds an evaluator to the contract of evaluators/base.py on synthetic observations.

    Args:
        name: a registered evaluator, or the plug-in itself.
        seen: enough rows that every metric has a value.
        reference: the arrays it compares with.

    Raises:
        AssertionError: lists every promise that does not hold.
    """
    from harope_bench.evaluators.base import load_feature_evaluator

    plugin = load_feature_evaluator(name) if isinstance(name, str) else name
    bench = _FeatureEvaluatorContract(
        plugin,
        seen,
        reference,
        ContractViolations(
            f"evaluator {name if isinstance(name, str) else type(name).__qualname__}"
        ),
    )
    bench.complaints.run_checks(
        [
            bench.declares_required_members,
            bench.measures_every_metric,
            bench.counts_failures,
            bench.gives_reasons_for_missing_values,
            bench.is_deterministic,
        ]
    )


class _FeatureEvaluatorContract:
    """One evaluator on the bench, one method a promise."""

    def __init__(
        self,
        plugin: FeatureEvaluator,
        seen: Features,
        reference: Mapping[str, np.ndarray],
        complaints: ContractViolations,
    ):
        self.plugin = plugin
        self.features = seen
        self.reference = reference
        self.complaints = complaints
        self.expect = complaints.expect

    def evaluate(self, seen: Features) -> EvaluatorOutput:
        """What the evaluator says of these observations."""
        return self.plugin.evaluate(seen, self.reference)

    def first_rows(self, n: int) -> Features:
        """The first n rows alone."""
        seen = self.features
        arrays = {name: array[:n] for name, array in seen.arrays.items()}
        labels = None if seen.labels is None else seen.labels[:n]
        return seen._replace(
            indices=seen.indices[:n], labels=labels, arrays=arrays, failed=0, cached_moments=None
        )

    def declares_required_members(self) -> None:
        """Version, profile, parity claim, and metrics with plain, unique names."""
        expect = self.expect
        plugin = self.plugin
        expect(
            isinstance(plugin.version, int) and plugin.version >= 1,
            f"version is {plugin.version!r}, wanted an integer from 1",
        )
        expect(
            isinstance(plugin.profile, str) and plugin.profile.strip(),
            "says nothing of its profile",
        )
        expect(
            isinstance(plugin.parity, str) and plugin.parity.strip(),
            "makes no parity claim; say against what, or that there is none",
        )
        expect(plugin.metrics, "declares no metric")
        names = [metric.name for metric in plugin.metrics]
        expect(len(set(names)) == len(names), f"metric names repeat: {names}")
        for metric in plugin.metrics:
            expect(
                PLAIN_NAME_PATTERN.fullmatch(metric.name),
                f"metric name {metric.name!r} is not plain",
            )
            expect(metric.decimals >= 0, f"metric {metric.name} has {metric.decimals} decimals")

    def measures_every_metric(self) -> None:
        """Each declared metric once, with a finite value, honest counts and an ordered interval."""
        self._check_measurements(
            "on all rows",
            self.evaluate(self.features),
            len(self.features.indices),
            self.features.failed,
        )
        for m in self.evaluate(self.features).measurements:
            self.expect(
                m.value is not None,
                f"{m.metric} has no value on {len(self.features.indices)} good rows: {m.reason}",
            )

    def _check_measurements(
        self, when: str, score: EvaluatorOutput, rows: int, failed: int
    ) -> None:
        import numpy as np

        declared = [m.name for m in self.plugin.metrics]
        found = [m.metric for m in score.measurements]
        bounds = {m.name: m.bounds for m in self.plugin.metrics}
        self.expect(
            sorted(declared) == sorted(found), f"{when} it measures {found}, declares {declared}"
        )
        for m in score.measurements:
            self.expect(
                PLAIN_NAME_PATTERN.fullmatch(m.name),
                f"{when} measurement name {m.name!r} is not plain",
            )
            self.expect(
                m.n_asked == rows + failed,
                f"{when} {m.name} says {m.n_asked} asked, there were {rows} rows and {failed}"
                " failed",
            )
            self.expect(
                m.n_asked == m.n_scored + m.n_failed + m.n_abstained,
                f"{when} {m.name}: asked is not scored + failed + abstained",
            )
            self.expect(
                m.n_failed >= failed,
                f"{when} {m.name} says {m.n_failed} failed, there were {failed}",
            )
            numbers = [x for x in (m.value, m.se, m.low, m.high) if x is not None]
            self.expect(
                all(map(math.isfinite, numbers)),
                f"{when} {m.name} holds a number that is not finite: {numbers}",
            )
            self.expect(
                m.value is not None or (m.reason or "").strip(),
                f"{when} {m.name} is None without a reason",
            )
            if m.low is not None and m.high is not None and m.value is not None:
                self.expect(
                    m.low <= m.value <= m.high,
                    f"{when} {m.name}: {m.value} is outside its interval {m.low} to {m.high}",
                )
                self.expect(
                    m.low < m.high,
                    f"{when} {m.name}: an interval of width 0 claims to be certain; give none, and"
                    " a warning",
                )
                self.expect(m.interval, f"{when} {m.name} has an interval without a name")
                low, high = bounds.get(m.metric) or (-math.inf, math.inf)
                self.expect(
                    low <= m.low and m.high <= high,
                    f"{when} {m.name}: {m.low} to {m.high} leaves {low} to {high}, its unit's"
                    " range",
                )
        lengths = {
            rows,
            *(len(array) for array in self.reference.values() if array.ndim),
        }  # recall has a row a reference image
        for metric, contributions in score.per_sample.items():
            known = {
                *declared,
                *(f"{name}_{what}" for name in declared for what in ("halves", "tasks")),
                "indices",
                "prompts",
            }
            self.expect(
                metric in known, f"{when} per_sample has {metric!r}, which is no declared metric"
            )
            fits = metric.endswith("_halves") or len(contributions) in lengths
            self.expect(
                fits,
                f"{when} per_sample of {metric} has {len(contributions)} rows for {rows} samples",
            )
            left_out = (
                np.isnan(contributions)
                if "prompts" in score.per_sample
                else np.zeros(len(contributions), dtype=bool)
            )
            self.expect(
                np.isfinite(contributions[~left_out]).all(),
                f"{when} per_sample of {metric} is not finite",
            )

    def counts_failures(self) -> None:
        """Images that could not be judged are counted and change no value."""
        good = self.evaluate(self.features)
        worse = self.evaluate(self.features._replace(failed=self.features.failed + 3))
        self._check_measurements(
            "with three more failures", worse, len(self.features.indices), self.features.failed + 3
        )
        values = {m.metric: m.value for m in good.measurements}
        for m in worse.measurements:
            wanted = values.get(m.metric)
            self.expect(
                m.value == wanted,
                f"{m.metric} is {m.value} with three failures, {wanted} without: a failure must not"
                " be scored",
            )

    def gives_reasons_for_missing_values(self) -> None:
        """No rows, one row, two rows: None with a reason where nothing can be said, never a crash
        or a made-up number.
        """
        for n in (0, 1, 2):
            self._check_measurements(f"on {n} rows", self.evaluate(self.first_rows(n)), n, 0)
        for m in self.evaluate(self.first_rows(0)).measurements:
            self.expect(
                m.value is None,
                f"{m.metric} is {m.value} on no images at all, wanted None with a reason",
            )

    def is_deterministic(self) -> None:
        """The same observations give the same score, and are not changed."""
        import numpy as np

        held = {
            **{f"seen {k}": v for k, v in self.features.arrays.items()},
            **{f"reference {k}": v for k, v in self.reference.items()},
        }
        kept = {name: array.copy() for name, array in held.items()}
        one = self.evaluate(self.features)
        other = self.evaluate(self.features)
        self.expect(one.measurements == other.measurements, "says something else the second time")
        for name, array in held.items():
            self.expect(np.array_equal(array, kept[name]), f"changes its input {name}")
