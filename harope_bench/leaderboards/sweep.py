"""Results along an axis: one metric of one suite at several resolutions, training resolutions or
position scalings.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from harope_bench.core.chart_schema import SweepChart, SweepLine, SweepPoint
from harope_bench.core.errors import OptionError
from harope_bench.core.schema import Checkpoint, Measurement, Metric, Plan, Result
from harope_bench.data.result_store import StoredResult
from harope_bench.evaluators.base import load_evaluator

Axis = Literal["resolution", "training-resolution", "pos-scaling"]
AXES: tuple[Axis, ...] = ("resolution", "training-resolution", "pos-scaling")
# settings that must agree along a line, in words; seed, tile and device stay out: they choose noise
# and last bits
LINE_SETTINGS = {
    "sampler": "{}",
    "steps": "{} steps",
    "guidance": "guidance {}",
    "dtype": "{}",
    "guidance_channels": "guided channels {}",
    "mu_policy": "time shift {}",
    "vae_sha256": "autoencoder {:.8}",
    "vae_tiling": "autoencoder tiling {}",
    "fold": "folded {}",
}


class SweepRun(NamedTuple):
    """One result of the metric, with its place on every axis."""

    result: Result
    plan: Plan
    measurement: Measurement
    axis_values: dict[Axis, str | None]


def build_sweep_chart(
    found: Sequence[StoredResult], suite: str | None, metric: str, axis: Axis
) -> SweepChart:
    """The metric along the axis; a line holds the runs of one encoding and ruler that agree in all
    that is drawn but the axis.

    Of several runs at one place the one over the most images counts, of equals the lower seed.

    Raises:
        OptionError: no result of the metric, several suites and none named, or nothing with a place
            on the axis.
    """
    runs = [
        run
        for item in found
        if (run := _make_sweep_run(item.result, metric)) is not None
        and suite in (None, run.plan.suite)
    ]
    suites = sorted({run.plan.suite for run in runs})
    if not runs:
        raise OptionError(
            f"no result has a value of {metric}{f' on suite {suite}' if suite else ''}; known"
            f" there: {_metric_names(found)}"
        )
    if len(suites) > 1:
        raise OptionError(
            f"{metric} was measured on suites {', '.join(suites)}; name one with --suite"
        )
    placed = [r for r in runs if r.axis_values[axis]]
    left = [r for r in runs if not r.axis_values[axis]]
    if not placed:
        raise OptionError(
            f"no run of {metric} says its {axis}; checkpoints need it in their config"
        )
    lines: dict[str, dict[str, SweepRun]] = {}
    for run in sorted(placed, key=_run_order):
        lines.setdefault(_line_label(run, placed, axis), {}).setdefault(
            str(run.axis_values[axis]), run
        )
    facts = _find_metric(placed[0].result, metric)
    numeric = axis != "pos-scaling"
    return SweepChart(
        suite=suites[0],
        metric=metric,
        title=facts.title,
        direction=facts.direction,
        decimals=facts.decimals,
        axis=axis,
        is_numeric=numeric,
        lines=tuple(
            SweepLine(label=label, points=_points(line, numeric))
            for label, line in sorted(lines.items())
        ),
        excluded=tuple(f"{run.plan.checkpoint.name} does not say its {axis}" for run in left),
    )


def _make_sweep_run(result: Result, metric: str) -> SweepRun | None:
    measurement = result.find_measurement(metric)
    if result.plan is None or measurement is None or measurement.value is None:
        return None
    return SweepRun(
        result, result.plan, measurement, {axis: _axis_value(result.plan, axis) for axis in AXES}
    )


def _axis_value(plan: Plan, axis: Axis) -> str | None:
    """Where a run stands on an axis; None where its checkpoint does not say it."""
    if axis == "resolution":
        return str(plan.settings.resolution)
    if axis == "pos-scaling":
        return plan.settings.pos_scaling or "none"
    size = plan.checkpoint.config.get("size")
    return str(size) if isinstance(size, int) and not isinstance(size, bool) else None


def _line_label(run: SweepRun, runs: Sequence[SweepRun], axis: Axis) -> str:
    """Checkpoint (its encoding where training resolution is the axis) and what differs between the
    runs beside the axis.

    Runs of one label make a line, so whatever a line must agree in stands here.
    """
    along = axis == "training-resolution"
    parts = [_line_name(run, along)]
    alike = [
        r for r in runs if _line_name(r, along) == parts[0]
    ]  # two encodings may be drawn unlike without a word in each label
    if along:
        parts += [
            of(run.plan.checkpoint)
            for of in (_network_text, _training_text)
            if len({of(r.plan.checkpoint) for r in runs}) > 1
        ]
    for other, words in (("resolution", "{} px"), ("pos-scaling", "scaling {}")):
        if other != axis and len({r.axis_values[other] for r in runs}) > 1:  # type: ignore[index]
            parts.append(words.format(run.axis_values[other]))  # type: ignore[index]
    for setting, words in LINE_SETTINGS.items():
        if len({r.plan.settings.model_dump()[setting] for r in alike}) > 1:
            value = run.plan.settings.model_dump()[setting]
            parts.append(
                f"no {setting.replace('_', ' ')}" if value is None else words.format(value)
            )
    parts += [
        of(run.result)
        for of in (_judge_text, _rules_text, _profile_text)
        if len({of(r.result) for r in runs}) > 1
    ]
    return ", ".join(parts)


def _line_name(run: SweepRun, by_encoding: bool) -> str:
    """What a line is called first: its encoding along training resolutions, else its checkpoint."""
    return run.plan.checkpoint.encoding if by_encoding else run.plan.checkpoint.name


def _network_text(checkpoint: Checkpoint) -> str:
    """Backbone, and the encoding's options where there are any."""
    return " ".join(
        [
            checkpoint.backbone,
            *(f"{key}={value}" for key, value in sorted(checkpoint.options.items())),
        ]
    )


def _training_text(checkpoint: Checkpoint) -> str:
    return (
        "training steps not told"
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
    return (-run.measurement.n_scored, run.plan.settings.seed, run.plan.checkpoint.name)


def _points(line: dict[str, SweepRun], numeric: bool) -> tuple[SweepPoint, ...]:
    order = sorted(line, key=lambda place: (float(place), "") if numeric else (0.0, place))
    found = [(place, line[place].measurement) for place in order]
    return tuple(
        SweepPoint(axis_value=p, value=m.value, low=m.low, high=m.high, images=m.n_scored)
        for p, m in found
        if m.value is not None
    )


def _find_metric(result: Result, name: str) -> Metric:
    plugin = load_evaluator(result.evaluator)
    return next(metric for metric in plugin.metrics if metric.name == name)


def _metric_names(found: Sequence[StoredResult]) -> str:
    return (
        ", ".join(
            sorted(
                {
                    m.metric
                    for item in found
                    for m in item.result.measurements
                    if m.value is not None
                }
            )
        )
        or "none"
    )
