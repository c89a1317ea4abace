"""Sweeps: one metric of one suite along an axis.

The axis is the resolution, the training resolution or the position scaling.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from harope_bench.core.chart_schema import SweepChart, SweepLine, SweepPoint
from harope_bench.core.errors import OptionError, UnknownNameError
from harope_bench.core.metric_names import match_metric_name
from harope_bench.core.schema import Checkpoint, Measurement, Metric, Plan, Result
from harope_bench.data.result_store import StoredResult
from harope_bench.evaluators.base import load_evaluator

Axis = Literal["resolution", "training-resolution", "pos-scaling"]
AXES: tuple[Axis, ...] = ("resolution", "training-resolution", "pos-scaling")
# settings that must agree along a line, with the text of a label that names them; seed, tile and
# device are not among them, since they change only the noise and the last bits
LINE_SETTINGS = {
    "sampler": "{}",
    "steps": "{} steps",
    "guidance": "guidance {}",
    "dtype": "{}",
    "guidance_channels": "guided channels {}",
    "mu_policy": "time shift {}",
    "guidance_interval": "guided at times {}",
    "shift": "times shifted by {:g}",
    "diffusion": "diffusion {}",
    "vae_sha256": "autoencoder {:.8}",
    "vae_tiling": "autoencoder tiling {}",
    "fold": "folded {}",
}


class SweepRun(NamedTuple):
    """One result of the metric, with its value on every axis."""

    result: Result
    plan: Plan
    measurement: Measurement
    axis_values: dict[Axis, str | None]


def build_sweep_chart(
    results: Sequence[StoredResult], suite: str | None, metric: str, axis: Axis
) -> SweepChart:
    """Return the chart of a metric along an axis.

    A line has the runs of one label; see _line_label. Of several runs with one axis value, the one
    with the most images is used, then the one with the lowest seed.

    Raises:
        OptionError: there is no result of the metric, there are several suites and `suite` is
            None, or no run has a value on the axis.
    """
    metric = _match_metric(results, metric)
    runs = [
        run
        for stored_result in results
        if (run := _make_sweep_run(stored_result.result, metric)) is not None
        and suite in (None, run.plan.suite)
    ]
    suites = sorted({run.plan.suite for run in runs})
    if not runs:
        raise OptionError(
            f"no result has a value of {metric}{f' on suite {suite}' if suite else ''}; the results"
            f" have: {_metric_names(results)}"
        )
    if len(suites) > 1:
        raise OptionError(
            f"{metric} was measured on suites {', '.join(suites)}; name one with --suite"
        )
    runs_on_axis = [r for r in runs if r.axis_values[axis]]
    excluded_runs = [r for r in runs if not r.axis_values[axis]]
    if not runs_on_axis:
        raise OptionError(
            f"no run of {metric} records its {axis}; checkpoints need it in their config"
        )

    lines: dict[str, dict[str, SweepRun]] = {}
    for run in sorted(runs_on_axis, key=_run_order):
        lines.setdefault(_line_label(run, runs_on_axis, axis), {}).setdefault(
            str(run.axis_values[axis]), run
        )
    metric_record = _find_metric(runs_on_axis[0].result, metric)
    is_numeric = axis != "pos-scaling"
    return SweepChart(
        suite=suites[0],
        metric=metric,
        title=metric_record.title,
        direction=metric_record.direction,
        decimals=metric_record.decimals,
        axis=axis,
        is_numeric=is_numeric,
        lines=tuple(
            SweepLine(label=label, points=_points(line, is_numeric))
            for label, line in sorted(lines.items())
        ),
        excluded=tuple(
            f"{run.plan.checkpoint.name} does not record its {axis}" for run in excluded_runs
        ),
    )


def _match_metric(results: Sequence[StoredResult], name: str) -> str:
    """Return the name of a measured metric; the name as it is if no result has it."""
    measured_names = (m.metric for item in results for m in item.result.measurements)
    try:
        return match_metric_name(name, measured_names)
    except UnknownNameError:
        return name


def _make_sweep_run(result: Result, metric: str) -> SweepRun | None:
    """Return the run of a result, None without a plan or a value of the metric."""
    measurement = result.find_measurement(metric)
    if result.plan is None or measurement is None or measurement.value is None:
        return None
    axis_values = {axis: _axis_value(result.plan, axis) for axis in AXES}
    return SweepRun(result, result.plan, measurement, axis_values)


def _axis_value(plan: Plan, axis: Axis) -> str | None:
    """Return a run's value on an axis, None where its checkpoint does not record it."""
    if axis == "resolution":
        return str(plan.settings.resolution)
    if axis == "pos-scaling":
        return plan.settings.pos_scaling or "none"
    size = plan.checkpoint.config.get("size")
    return str(size) if isinstance(size, int) and not isinstance(size, bool) else None


def _line_label(run: SweepRun, runs: Sequence[SweepRun], axis: Axis) -> str:
    """Return the label of a run's line: the checkpoint and every setting in which the runs differ.

    The encoding replaces the checkpoint along training resolutions. Runs of one label form a line,
    so everything that must agree along a line is part of the label.
    """
    is_by_encoding = axis == "training-resolution"
    parts = [_line_name(run, is_by_encoding)]

    # network and training differ between the checkpoints of one encoding
    if is_by_encoding:
        for checkpoint_text in (_network_text, _training_text):
            if len({checkpoint_text(r.plan.checkpoint) for r in runs}) > 1:
                parts.append(checkpoint_text(run.plan.checkpoint))

    # values on the other axes
    axis_formats: tuple[tuple[Axis, str], ...] = (
        ("resolution", "{} px"),
        ("pos-scaling", "scaling {}"),
    )
    for label_axis, template in axis_formats:
        if label_axis != axis and len({r.axis_values[label_axis] for r in runs}) > 1:
            parts.append(template.format(run.axis_values[label_axis]))

    # settings in which the runs of this line name differ
    namesakes = [r for r in runs if _line_name(r, is_by_encoding) == parts[0]]
    for setting, template in LINE_SETTINGS.items():
        if len({r.plan.settings.model_dump().get(setting) for r in namesakes}) > 1:
            value = run.plan.settings.model_dump().get(setting)
            missing_text = f"no {setting.replace('_', ' ')}"
            parts.append(missing_text if value is None else template.format(value))

    # judge, rules and profile
    for result_text in (_judge_text, _rules_text, _profile_text):
        if len({result_text(r.result) for r in runs}) > 1:
            parts.append(result_text(run.result))
    return ", ".join(parts)


def _line_name(run: SweepRun, by_encoding: bool) -> str:
    """Return the first part of a line's label: its encoding or its checkpoint."""
    return run.plan.checkpoint.encoding if by_encoding else run.plan.checkpoint.name


def _network_text(checkpoint: Checkpoint) -> str:
    """Return the backbone and the encoding's options."""
    return " ".join(
        [
            checkpoint.backbone,
            *(f"{key}={value}" for key, value in sorted(checkpoint.options.items())),
        ]
    )


def _training_text(checkpoint: Checkpoint) -> str:
    """Return how many steps a checkpoint was trained for."""
    return (
        "training steps not recorded"
        if checkpoint.training_steps is None
        else f"trained {checkpoint.training_steps:,} steps"
    )


def _judge_text(result: Result) -> str:
    return f"{result.judge.name} {result.judge.weights_sha256[:8]}"


def _rules_text(result: Result) -> str:
    return result.rules + (" with --allow-missing" if result.is_lenient else "")


def _profile_text(result: Result) -> str:
    return result.profile


def _run_order(run: SweepRun) -> tuple[int, int, str]:
    """Return the sort key of a run: most images, lowest seed, name."""
    return (-run.measurement.n_scored, run.plan.settings.seed, run.plan.checkpoint.name)


def _points(line: dict[str, SweepRun], is_numeric: bool) -> tuple[SweepPoint, ...]:
    """Return the points of a line, sorted by axis value."""
    axis_values = sorted(
        line, key=lambda axis_value: (float(axis_value), "") if is_numeric else (0.0, axis_value)
    )
    measurements = [(axis_value, line[axis_value].measurement) for axis_value in axis_values]
    return tuple(
        SweepPoint(axis_value=axis_value, value=m.value, low=m.low, high=m.high, images=m.n_scored)
        for axis_value, m in measurements
        if m.value is not None
    )


def _find_metric(result: Result, name: str) -> Metric:
    """Return the record of a metric of a result's evaluator."""
    plugin = load_evaluator(result.evaluator)
    return next(metric for metric in plugin.metrics if metric.name == name)


def _metric_names(results: Sequence[StoredResult]) -> str:
    """Return the names of the metrics that have a value, or "none"."""
    measurements = [m for stored_result in results for m in stored_result.result.measurements]
    names = {m.metric for m in measurements if m.value is not None}
    return ", ".join(sorted(names)) or "none"
