"""Estimates for a study: images, training seeds, disk and time to detect a given difference."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harope_bench.core.errors import OptionError
from harope_bench.core.index_ranges import MAX_INDICES
from harope_bench.core.limits import check_maximum
from harope_bench.core.metric_names import match_metric_name
from harope_bench.core.schema import Measurement, Metric, Plan
from harope_bench.data.image_io import encode_png
from harope_bench.data.result_store import StoredResult, read_results
from harope_bench.evaluators.base import load_evaluator
from harope_bench.models.load_checkpoint import load_checkpoint_record, open_generator
from harope_bench.pipeline.generate import generate_one, make_plan
from harope_bench.pipeline.run_costs import RAW_BYTES_PER_PIXEL, bytes_text
from harope_bench.statistics.compare import align_columns, format_number
from harope_bench.statistics.intervals.power import (
    SAMPLING_COV,
    SAMPLING_IMAGES,
    TRAINING_COV,
    NoiseLevels,
    assumed_fid_noise,
    detectable_method_difference,
    images_for_method,
    images_for_pair,
    seeds_for_method,
)
from harope_bench.statistics.pairing import MEASUREMENT_FIELDS, compare_results
from harope_bench.suites.base import Suite, load_suite

SEED_COUNTS = (1, 2, 3, 5, 10)  # training seeds of the table of designs
# Metrics that are fractions of independent images, so that their value gives their variance.
BINOMIAL_METRICS = frozenset({"precision", "recall"})


@dataclass(frozen=True)
class MetricNoise:
    """The noise of a metric at a value of it, and a text for each source of the noise."""

    value: float
    noise: NoiseLevels
    sources: tuple[str, ...]


@dataclass(frozen=True)
class ImageCost:
    """Seconds and bytes for an image, and a text for the source of each; None where unknown."""

    seconds: float | None
    bytes: float
    sources: tuple[str, ...]


@dataclass(frozen=True)
class StudyDesign:
    """Power of a design with this number of training seeds of each method.

    smallest_difference: detectable with the given images; standard deviation over seeds known.
    smallest_difference_estimated: the same with the standard deviation estimated from these seeds.
    images: number of images of a run that detects the requested difference; None if more images
        do not help.
    """

    seeds: int
    smallest_difference: float | None
    smallest_difference_estimated: float | None
    images: int | None


@dataclass(frozen=True)
class Budget:
    """The answer of the command `plan`.

    images: number of images of a run, from which disk and time are computed.
    images_pair: number of images of each of two checkpoints, to detect their difference.
    seeds_per_method: training seeds; None where their standard deviation is unknown.
    """

    metric: Metric
    difference: float
    power: float
    metric_noise: MetricNoise
    cost: ImageCost
    images: int
    images_pair: int
    seeds_per_method: int | None
    designs: tuple[StudyDesign, ...]


def estimate_budget(
    plan: Plan,
    metric: str,
    difference: float,
    power: float,
    runs: Path | None = None,
    value: float | None = None,
    images: int | None = None,
    rate: float | None = None,
) -> Budget:
    """Return what it takes to detect a difference between this checkpoint and another.

    Args:
        runs: folder of runs that the noise is measured from; None for published constants.
        value: value of the metric, if no run measured it.
        images: number of images of each run; None for the suite's count.
        rate: generated images per second; None to measure it with one padded batch.

    Raises:
        UnknownNameError: The suite has no such metric.
        OptionError: Neither a run nor a constant gives the metric's noise, or there are more than
            MAX_INDICES images.
    """
    check_maximum("--count", images or 0, MAX_INDICES)
    suite = load_suite(plan.suite)
    metric_record = find_metric(suite, metric)
    results = read_results(runs) if runs else []
    metric_noise = find_metric_noise(plan, metric_record, results, value)
    noise = metric_noise.noise
    image_count = images or suite.count
    return Budget(
        metric_record,
        difference,
        power,
        metric_noise,
        image_cost(plan, rate),
        image_count,
        images_for_pair(noise, difference, power),
        seeds_for_method(noise, difference, image_count, power),
        tuple(_design(noise, seeds, image_count, difference, power) for seeds in SEED_COUNTS),
    )


def find_metric(suite: Suite, name: str) -> Metric:
    """Return the metric of that name among those of the suite's evaluators."""
    metrics = {
        m.name: m for evaluator in suite.evaluators for m in load_evaluator(evaluator).metrics
    }
    return metrics[match_metric_name(name, metrics)]


def _design(
    noise: NoiseLevels, seeds: int, images: int, difference: float, power: float
) -> StudyDesign:
    smallest = detectable_method_difference(noise, images, seeds, power)
    smallest_estimated = detectable_method_difference(
        noise, images, seeds, power, is_estimated=True
    )
    images_needed = images_for_method(noise, difference, seeds, power)
    return StudyDesign(seeds, smallest, smallest_estimated, images_needed)


def find_metric_noise(
    plan: Plan, metric: Metric, results: Sequence[StoredResult], value: float | None
) -> MetricNoise:
    """Return the noise measured from runs of this suite, or else from published constants.

    Raises:
        OptionError: Nothing gives the metric's value or its noise.
    """
    comparable_results = [
        stored_result for stored_result in results if _is_comparable(plan, metric, stored_result)
    ]
    if comparable_results:
        return _measured_noise(plan, metric, comparable_results)
    if metric.name in BINOMIAL_METRICS and value is not None:
        return _binomial_noise(metric, value)
    if metric.name == "fid" and value is not None:
        sources = (_training_text(), _sampling_text())
        return MetricNoise(value, assumed_fid_noise(value), sources)

    needs_value = metric.name == "fid" or metric.name in BINOMIAL_METRICS
    raise OptionError(
        f"the noise of {metric.name} for suite {plan.suite} is unknown; give --runs DIR, or"
        f" {'--value' if needs_value else 'runs that measured it'}"
    )


def _binomial_noise(metric: Metric, value: float) -> MetricNoise:
    """Return the noise of a fraction of independent images: sqrt(p (1 - p)) for one image."""
    if not 0 < value < 1:
        raise OptionError(
            f"{metric.name} is a fraction, --value {value:g} is not between 0 and 1; correct it"
        )
    source = (
        f"sampling: binomial at {value:g}, images independent; training: unknown, give --runs with"
        " several training seeds"
    )
    return MetricNoise(
        value,
        NoiseLevels(training_deviation=None, sampling_deviation=math.sqrt(value * (1 - value))),
        (source,),
    )


def _training_text() -> str:
    return f"training: {TRAINING_COV:.1%} of FID, assumed (arXiv 2606.20536)"


def _sampling_text() -> str:
    return (
        f"sampling: {SAMPLING_COV:.1%} of FID at {SAMPLING_IMAGES:,} images, assumed (clean-fid's"
        " README)"
    )


def _is_comparable(plan: Plan, metric: Metric, stored_result: StoredResult) -> bool:
    """Return whether a result measured the metric on the plan's suite at its resolution."""
    measurement = stored_result.result.find_measurement(metric.name)
    if measurement is None or measurement.value is None or measurement.se is None:
        return False
    result_plan = stored_result.result.plan
    return (
        result_plan is not None
        and result_plan.suite == plan.suite
        and result_plan.settings.resolution == plan.settings.resolution
    )


def _measured_noise(plan: Plan, metric: Metric, results: Sequence[StoredResult]) -> MetricNoise:
    """Return the noise from comparable results, those of the plan's checkpoint first."""
    checkpoint_results = [
        stored_result
        for stored_result in results
        if stored_result.result.plan
        and stored_result.result.plan.checkpoint.identity == plan.checkpoint.identity
    ]
    base_result = (checkpoint_results or list(results))[0]
    measurement = _measurement_of(metric, base_result)
    value = float(measurement.value or 0.0)
    image_count = measurement.n_scored

    # Standard deviation of one image: the standard error times sqrt(N).
    sampling_noise = float(measurement.se or 0.0) * math.sqrt(image_count)
    sources = [
        f"sampling: measured, standard error {measurement.se:.3g} at {image_count:,} images of"
        f" {base_result.result.target}"
    ]
    training_noise, training_source = _training_noise(plan, metric, results)
    if training_noise is None and metric.name == "fid":
        training_noise = TRAINING_COV * value
        training_source = _training_text()
    paired_noise = _paired_noise(metric, base_result, results)
    if paired_noise is not None:
        sources.append(
            f"pairs: measured, standard error {paired_noise / math.sqrt(image_count):.3g} at"
            f" {image_count:,} images, median over pairs of checkpoints"
        )
    noise = NoiseLevels(training_noise, sampling_noise, paired_noise)
    return MetricNoise(value, noise, (training_source, *sources))


def _measurement_of(metric: Metric, stored_result: StoredResult) -> Measurement:
    measurement = stored_result.result.find_measurement(metric.name)
    assert measurement is not None
    return measurement


def _training_noise(
    plan: Plan, metric: Metric, results: Sequence[StoredResult]
) -> tuple[float | None, str]:
    """Return the standard deviation over training seeds of this encoding, and its source.

    Sampling noise is included, so the estimate of seeds can be too large and not too small.
    """
    values: dict[str, float | None] = {}
    encoding = (plan.checkpoint.encoding, plan.checkpoint.options)
    for stored_result in results:
        if stored_result.result.plan is None:
            continue
        checkpoint = stored_result.result.plan.checkpoint
        if (checkpoint.encoding, checkpoint.options) == encoding:
            values.setdefault(checkpoint.identity, _measurement_of(metric, stored_result).value)
    if len(values) < 2:
        return None, "training: unknown, give --runs with several training seeds"
    deviation = float(np.std(np.array(list(values.values()), dtype=np.float64), ddof=1))
    source = f"training: measured over {len(values)} training seeds of {plan.checkpoint.encoding}"
    return deviation, source


def _paired_noise(
    metric: Metric, base_result: StoredResult, results: Sequence[StoredResult]
) -> float | None:
    """Return the standard deviation of one sample's paired difference between two checkpoints.

    It is the median over all checkpoints with the same requests as `base_result`; None without one.
    """
    deviations = []
    image_count = _measurement_of(metric, base_result).n_scored
    for stored_result in results:
        if stored_result.path == base_result.path:
            continue
        difference = compare_results(
            metric.name, metric.direction, base_result, stored_result, MEASUREMENT_FIELDS
        )
        if difference.is_paired and difference.se:
            deviations.append(difference.se * math.sqrt(image_count))
    return float(np.median(deviations)) if deviations else None


def image_cost(plan: Plan, rate: float | None) -> ImageCost:
    """Return seconds and bytes for an image, from the given rate or by generating one batch."""
    settings = plan.settings
    raw_bytes = RAW_BYTES_PER_PIXEL * settings.resolution * settings.resolution
    if rate is not None:
        sources = (f"time: {rate:g} images a second, given", "disk: uncompressed, a PNG is smaller")
        return ImageCost(1 / rate, raw_bytes, sources)

    generator = open_generator(load_checkpoint_record(plan.checkpoint.name), settings)
    generate_one(generator, plan, 0)  # the first batch includes one-time costs
    start_time = time.perf_counter()
    image = generate_one(generator, plan, 0)  # generates a whole padded batch and returns one row
    seconds = (time.perf_counter() - start_time) / settings.tile
    byte_count = raw_bytes if image is None else len(encode_png(image))
    sources = (
        f"time: a batch of {settings.tile} generated now on {settings.device},"
        f" {1 / seconds:.3g} images a second",
        "disk: one PNG generated now",
    )
    return ImageCost(seconds, byte_count, sources)


def plan_for(name: str, suite: str | None, resolution: int | None, device: str) -> Plan:
    """Return the plan whose cost is estimated."""
    return make_plan(name, suite, {"resolution": resolution, "device": device})


def budget_lines(budget: Budget) -> list[str]:
    """Return the budget as lines of text."""
    metric_noise = budget.metric_noise
    sources = [f"  {source}" for source in (*metric_noise.sources, *budget.cost.sources)]
    pairing = "unpaired" if metric_noise.noise.paired_deviation is None else "paired"
    header = (
        "training seeds a method",
        "smallest, SD known",
        "smallest, SD from these seeds",
        "images a run for the difference, SD known",
        "cost",
    )
    decimals = budget.metric.decimals + 1
    rows = [_design_row(budget, design, decimals) for design in budget.designs]
    return [
        f"target: a difference of {budget.difference:g} in {budget.metric.title} (about"
        f" {metric_noise.value:.4g}), detected with {budget.power:.0%} power at 5%",
        *sources,
        "",
        f"this checkpoint against another checkpoint (L1): {budget.images_pair:,} images from each,"
        f" {pairing}; {_cost_text(budget, 2, budget.images_pair)}",
        f"this method against another method (L2), {budget.images:,} images a run:"
        f" {_seeds_text(budget)}",
        "",
        *align_columns([header, *rows]),
    ]


def _seeds_text(budget: Budget) -> str:
    seeds = budget.seeds_per_method
    if seeds is None:
        return (
            "the number of training seeds is unknown, because the standard deviation between"
            " trainings is unknown"
        )
    return f"{seeds:,} training seeds of each; {_cost_text(budget, 2 * seeds, budget.images)}"


def _design_row(budget: Budget, design: StudyDesign, decimals: int) -> tuple[str, ...]:
    return (
        str(design.seeds),
        format_number(design.smallest_difference, decimals),
        format_number(design.smallest_difference_estimated, decimals),
        "-" if design.images is None else f"{design.images:,}",
        _cost_text(budget, 2 * design.seeds, budget.images),
    )


def _cost_text(budget: Budget, runs: int, images: int) -> str:
    """Return images, disk and time of so many runs of so many images."""
    total = runs * images
    seconds = None if budget.cost.seconds is None else budget.cost.seconds * total
    return f"{total:,} images, {bytes_text(budget.cost.bytes * total)}, {_time_text(seconds)}"


def _time_text(seconds: float | None) -> str:
    if seconds is None:
        return "time unknown"
    return f"{seconds / 3600:.3g} h" if seconds >= 3600 else f"{seconds / 60:.3g} min"


def budget_fields(budget: Budget) -> dict[str, object]:
    """Return the budget as plain JSON values."""
    return {
        "metric": budget.metric.name,
        "difference": budget.difference,
        "power": budget.power,
        "value": budget.metric_noise.value,
        "noise": budget.metric_noise.noise._asdict(),
        "sources": [*budget.metric_noise.sources, *budget.cost.sources],
        "images": budget.images,
        "images_pair": budget.images_pair,
        "seeds": budget.seeds_per_method,
        "designs": [vars(design) for design in budget.designs],
        "seconds_per_image": budget.cost.seconds,
        "bytes_per_image": budget.cost.bytes,
    }
