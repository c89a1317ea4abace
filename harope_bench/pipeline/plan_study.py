"""Before a run: images, training seeds, disk and time that a wanted difference costs."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harope_bench.core.errors import OptionError, UnknownNameError
from harope_bench.core.index_ranges import MAX_INDICES
from harope_bench.core.limits import check_maximum
from harope_bench.core.schema import Measurement, Metric, Plan
from harope_bench.data.image_io import encode_png
from harope_bench.data.result_store import StoredResult, read_results
from harope_bench.evaluators.base import load_evaluator
from harope_bench.models.load_checkpoint import load_checkpoint_record, open_generator
from harope_bench.pipeline.generate import generate_one, make_plan
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

SEED_COUNTS = (1, 2, 3, 5, 10)  # rows of the table of designs
# Metrics that are fractions of independent images, so that their value gives their variance.
BINOMIAL_METRICS = frozenset({"precision", "recall"})
RAW_BYTES_PER_PIXEL = 3  # bytes a pixel of an uncompressed image


@dataclass(frozen=True)
class MetricNoise:
    """The metric's noise and where it is known from, in words; the value it belongs to."""

    value: float
    noise: NoiseLevels
    sources: tuple[str, ...]


@dataclass(frozen=True)
class ImageCost:
    """Seconds and bytes an image, each with how it is known; None where it is not."""

    seconds: float | None
    bytes: float
    sources: tuple[str, ...]


@dataclass(frozen=True)
class StudyDesign:
    """What so many training seeds a method can see with `images` each, and images a run for the
    wanted difference.
    """

    seeds: int
    smallest_difference: float | None
    smallest_difference_estimated: float | None
    images: int | None


@dataclass(frozen=True)
class Budget:
    """The answer of `plan`. images: a run's, by which disk and time are counted; seeds: of each
    method, None where nobody knows.
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
    """What it takes to find a difference of that size between this checkpoint and another.

    Args:
        runs: folder of runs to measure the noise from; without it the published constants stand.
            value: the metric's value, where no
            run tells it. images: of each run; the suite's own number if None. rate: images a
            second; a tile is drawn now if None.

    Raises:
        UnknownName: the suite has no such metric. OptionError: neither a run nor a constant tells
            its noise, or more than MOST images.
    """
    check_maximum("--count", images or 0, MAX_INDICES)
    suite = load_suite(plan.suite)
    facts = find_metric(suite, metric)
    found = read_results(runs) if runs else []
    known = find_metric_noise(plan, facts, found, value)
    count = images or suite.count
    designs = tuple(_design(known.noise, seeds, count, difference, power) for seeds in SEED_COUNTS)
    pair = images_for_pair(known.noise, difference, power)
    seeds = seeds_for_method(known.noise, difference, count, power)
    return Budget(
        facts, difference, power, known, image_cost(plan, rate), count, pair, seeds, designs
    )


def find_metric(suite: Suite, name: str) -> Metric:
    """The metric of that name among those of the suite's evaluators."""
    metrics = {
        m.name: m for evaluator in suite.evaluators for m in load_evaluator(evaluator).metrics
    }
    if name not in metrics:
        raise UnknownNameError("metric", name, metrics)
    return metrics[name]


def _design(
    noise: NoiseLevels, seeds: int, images: int, difference: float, power: float
) -> StudyDesign:
    known = detectable_method_difference(noise, images, seeds, power)
    estimated = detectable_method_difference(noise, images, seeds, power, is_estimated=True)
    return StudyDesign(seeds, known, estimated, images_for_method(noise, difference, seeds, power))


def find_metric_noise(
    plan: Plan, metric: Metric, found: Sequence[StoredResult], value: float | None
) -> MetricNoise:
    """The noise from runs of this suite where there are some, completed by the constants.

    Raises:
        OptionError: nothing tells the metric's value or its noise.
    """
    own = [item for item in found if _is_comparable(plan, metric, item)]
    if own:
        return _measured_noise(plan, metric, own)
    if metric.unit == "fraction" and value is not None:
        if not 0 < value < 1:
            raise OptionError(
                f"{metric.name} is a fraction, --value {value:g} is not between 0 and 1; correct it"
            )
        told = (
            f"drawing: binomial at {value:g}, images independent; training: not known, give --runs"
            " with several training seeds"
        )
        return MetricNoise(value, NoiseLevels(None, math.sqrt(value * (1 - value))), (told,))
    if metric.name == "fid" and value is not None:
        return MetricNoise(value, assumed_fid_noise(value), (_training_words(), _sampling_words()))
    ask = "--value" if metric.name == "fid" or metric.unit == "fraction" else "runs that measured it"
    raise OptionError(
        f"nothing tells the noise of {metric.name} for suite {plan.suite}; give --runs DIR, or"
        f" {ask}"
    )


def _training_words() -> str:
    return f"training: {TRAINING_COV:.1%} of FID, assumed (arXiv 2606.20536)"


def _sampling_words() -> str:
    return (
        f"drawing: {SAMPLING_COV:.1%} of FID at {SAMPLING_IMAGES:,} images, assumed (clean-fid's"
        " README)"
    )


def _is_comparable(plan: Plan, metric: Metric, item: StoredResult) -> bool:
    measured = item.result.find_measurement(metric.name)
    of = item.result.plan
    same = (
        of is not None
        and of.suite == plan.suite
        and of.settings.resolution == plan.settings.resolution
    )
    return same and measured is not None and measured.value is not None and measured.se is not None


def _measured_noise(plan: Plan, metric: Metric, found: Sequence[StoredResult]) -> MetricNoise:
    own = [
        item
        for item in found
        if item.result.plan and item.result.plan.checkpoint.sha256 == plan.checkpoint.sha256
    ]
    first = (own or list(found))[0]
    about = _measurement_of(metric, (own or list(found))[0])
    value = float(about.value or 0.0)
    images = about.n_scored
    sampling = float(about.se or 0.0) * math.sqrt(images)
    sources = [
        f"drawing: measured, standard error {about.se:.3g} at {images:,} images of"
        f" {first.result.target}"
    ]
    training, told = _training_noise(plan, metric, found)
    if training is None and metric.name == "fid":
        training = TRAINING_COV * value
        told = _training_words()
    paired = _paired_noise(metric, first, found)
    if paired is not None:
        sources.append(
            f"pairs: measured, {paired / math.sqrt(images):.3g} at {images:,} images, median over"
            " pairs of checkpoints"
        )
    return MetricNoise(value, NoiseLevels(training, sampling, paired), (told, *sources))


def _measurement_of(metric: Metric, item: StoredResult) -> Measurement:
    measured = item.result.find_measurement(metric.name)
    assert measured is not None
    return measured


def _training_noise(
    plan: Plan, metric: Metric, found: Sequence[StoredResult]
) -> tuple[float | None, str]:
    """Spread over training seeds of this encoding, the drawing noise in it left in: it cannot make
    the answer too small.
    """
    values: dict[str, float | None] = {}
    for item in found:
        of = item.result.plan
        if of and (of.checkpoint.encoding, of.checkpoint.options) == (
            plan.checkpoint.encoding,
            plan.checkpoint.options,
        ):
            values.setdefault(of.checkpoint.sha256, _measurement_of(metric, item).value)
    if len(values) < 2:
        return None, "training: not known, give --runs with several training seeds"
    spread = float(np.std(np.array(list(values.values()), dtype=np.float64), ddof=1))
    return (
        spread,
        f"training: measured over {len(values)} training seeds of {plan.checkpoint.encoding}",
    )


def _paired_noise(
    metric: Metric, first: StoredResult, found: Sequence[StoredResult]
) -> float | None:
    """Spread of one sample's difference between `first` and each other checkpoint of the same
    requests or prompts; the median.
    """
    spreads = []
    for other in found:
        if other.path == first.path:
            continue
        difference = compare_results(
            metric.name, metric.direction, first, other, MEASUREMENT_FIELDS
        )
        if difference.is_paired and difference.se:
            spreads.append(difference.se * math.sqrt(_measurement_of(metric, first).n_scored))
    return float(np.median(spreads)) if spreads else None


def image_cost(plan: Plan, rate: float | None) -> ImageCost:
    """Seconds and bytes an image: from one tile drawn now, or from the rate that is given."""
    if rate is not None:
        side = plan.settings.resolution
        return ImageCost(
            1 / rate,
            RAW_BYTES_PER_PIXEL * side * side,
            (f"time: {rate:g} images a second, given", "disk: uncompressed, a PNG is smaller"),
        )
    drawer = open_generator(load_checkpoint_record(plan.checkpoint.name), plan.settings)
    generate_one(drawer, plan, 0)  # the first tile also pays for warming up
    started = time.perf_counter()
    image = generate_one(drawer, plan, 0)  # one row is kept, the whole tile is drawn
    seconds = (time.perf_counter() - started) / plan.settings.tile
    size = (
        len(encode_png(image))
        if image is not None
        else RAW_BYTES_PER_PIXEL * plan.settings.resolution**2
    )
    told = f"a tile of {plan.settings.tile} drawn now on {plan.settings.device}"
    return ImageCost(
        seconds,
        size,
        (f"time: {told}, {1 / seconds:.3g} images a second", "disk: one PNG drawn now"),
    )


def plan_for(name: str, suite: str | None, resolution: int | None, device: str) -> Plan:
    """The plan whose cost is asked."""
    return make_plan(name, suite, {"resolution": resolution, "device": device})


def budget_lines(found: Budget) -> list[str]:
    """The budget as lines of text."""
    unit = found.metric.title
    digits = found.metric.decimals + 1
    told = [
        f"wanted: a difference of {found.difference:g} in {unit} (about"
        f" {found.metric_noise.value:.4g}), found with {found.power:.0%} power at 5%"
    ]
    told += [f"  {source}" for source in (*found.metric_noise.sources, *found.cost.sources)]
    how = "paired" if found.metric_noise.noise.paired_deviation is not None else "unpaired"
    told += [
        "",
        (
            f"this checkpoint against that one (L1): {found.images_pair:,} images from each, {how};"
            f" {_cost_text(found, 2, found.images_pair)}"
        ),
    ]
    told.append(
        f"this method against that one (L2), {found.images:,} images a run: {_seeds_words(found)}"
    )
    head = (
        "training seeds a method",
        "smallest, spread known",
        "smallest, spread from these seeds",
        "images a run for the difference, spread known",
        "cost",
    )
    return [
        *told,
        "",
        *align_columns([head, *(_design_row(found, design, digits) for design in found.designs)]),
    ]


def _seeds_words(found: Budget) -> str:
    if found.seeds_per_method is None:
        return "training seeds cannot be told, the training spread is not known"
    return (
        f"{found.seeds_per_method:,} training seeds of each;"
        f" {_cost_text(found, 2 * found.seeds_per_method, found.images)}"
    )


def _design_row(found: Budget, design: StudyDesign, digits: int) -> tuple[str, ...]:
    images = "-" if design.images is None else f"{design.images:,}"
    spent = _cost_text(found, 2 * design.seeds, found.images)
    return (
        str(design.seeds),
        format_number(design.smallest_difference, digits),
        format_number(design.smallest_difference_estimated, digits),
        images,
        spent,
    )


def _cost_text(found: Budget, runs: int, images: int) -> str:
    seconds = None if found.cost.seconds is None else found.cost.seconds * runs * images
    return (
        f"{runs * images:,} images, {_bytes_text(found.cost.bytes * runs * images)},"
        f" {_time_text(seconds)}"
    )


def _bytes_text(count: float) -> str:
    power = min(4, int(math.log(max(count, 1), 1000)))
    return f"{count / 1000**power:.3g} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"


def _time_text(seconds: float | None) -> str:
    if seconds is None:
        return "time not known"
    return f"{seconds / 3600:.3g} h" if seconds >= 3600 else f"{seconds / 60:.3g} min"


def budget_fields(found: Budget) -> dict[str, object]:
    """The budget as plain JSON values."""
    noise = found.metric_noise.noise
    designs = [vars(design) for design in found.designs]
    return {
        "metric": found.metric.name,
        "difference": found.difference,
        "power": found.power,
        "value": found.metric_noise.value,
        "noise": noise._asdict(),
        "sources": [*found.metric_noise.sources, *found.cost.sources],
        "images": found.images,
        "images_pair": found.images_pair,
        "seeds": found.seeds_per_method,
        "designs": designs,
        "seconds_per_image": found.cost.seconds,
        "bytes_per_image": found.cost.bytes,
    }
