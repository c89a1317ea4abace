"""Before a run: images, training seeds, disk and time that a wanted difference costs."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harope_bench.core.errors import OptionError, UnknownName
from harope_bench.core.index_ranges import MOST
from harope_bench.core.limits import check_most
from harope_bench.core.schema import Measurement, Metric, Plan
from harope_bench.data.image_io import encode
from harope_bench.data.result_store import StoredResult, read_results
from harope_bench.evaluators.base import load_evaluator
from harope_bench.models.load_checkpoint import checkpoint, open_drawer
from harope_bench.pipeline.generate import draw_one, make_plan
from harope_bench.statistics.compare import in_columns, shown
from harope_bench.statistics.intervals.power import (
    SAMPLING_COV,
    SAMPLING_IMAGES,
    TRAINING_COV,
    Noise,
    assumed_fid,
    images_for_method,
    images_for_pair,
    seeds_for_method,
    smallest,
)
from harope_bench.statistics.pairing import RULER, contrast
from harope_bench.suites.base import Suite, load_suite

SEEDS = (1, 2, 3, 5, 10)  # rows of the table of designs
RAW = 3  # bytes a pixel of an uncompressed image


@dataclass(frozen=True)
class Known:
    """The metric's noise and where it is known from, in words; the value it belongs to."""

    value: float
    noise: Noise
    sources: tuple[str, ...]


@dataclass(frozen=True)
class Cost:
    """Seconds and bytes an image, each with how it is known; None where it is not."""

    seconds: float | None
    bytes: float
    sources: tuple[str, ...]


@dataclass(frozen=True)
class Design:
    """What so many training seeds a method can see with `images` each, and images a run for the wanted difference."""

    seeds: int
    smallest: float | None
    smallest_estimated: float | None
    images: int | None


@dataclass(frozen=True)
class Budget:
    """The answer of `plan`. images: a run's, by which disk and time are counted; seeds: of each method, None where nobody knows."""

    metric: Metric
    difference: float
    power: float
    known: Known
    cost: Cost
    images: int
    images_pair: int
    seeds: int | None
    designs: tuple[Design, ...]


def budget(
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
        runs: folder of runs to measure the noise from; without it the published constants stand. value: the metric's value, where no
            run tells it. images: of each run; the suite's own number if None. rate: images a second; a tile is drawn now if None.

    Raises:
        UnknownName: the suite has no such metric. OptionError: neither a run nor a constant tells its noise, or more than MOST images.
    """
    check_most("--count", images or 0, MOST)
    suite = load_suite(plan.suite)
    facts, found = metric_of(suite, metric), read_results(runs) if runs else []
    known = known_noise(plan, facts, found, value)
    count = images or suite.count
    designs = tuple(_design(known.noise, seeds, count, difference, power) for seeds in SEEDS)
    pair, seeds = images_for_pair(known.noise, difference, power), seeds_for_method(known.noise, difference, count, power)
    return Budget(facts, difference, power, known, cost(plan, rate), count, pair, seeds, designs)


def metric_of(suite: Suite, name: str) -> Metric:
    """The metric of that name among those of the suite's evaluators."""
    metrics = {m.name: m for evaluator in suite.evaluators for m in load_evaluator(evaluator).metrics}
    if name not in metrics:
        raise UnknownName("metric", name, metrics)
    return metrics[name]


def _design(noise: Noise, seeds: int, images: int, difference: float, power: float) -> Design:
    known, estimated = smallest(noise, images, seeds, power), smallest(noise, images, seeds, power, estimated=True)
    return Design(seeds, known, estimated, images_for_method(noise, difference, seeds, power))


def known_noise(plan: Plan, metric: Metric, found: Sequence[StoredResult], value: float | None) -> Known:
    """The noise from runs of this suite where there are some, completed by the constants.

    Raises:
        OptionError: nothing tells the metric's value or its noise.
    """
    own = [item for item in found if _is_of(plan, metric, item)]
    if own:
        return _measured(plan, metric, own)
    if metric.unit == "share" and value is not None:
        if not 0 < value < 1:
            raise OptionError(f"{metric.name} is a share, --value {value:g} is not between 0 and 1; correct it")
        told = f"drawing: binomial at {value:g}, images independent; training: not known, give --runs with several training seeds"
        return Known(value, Noise(None, math.sqrt(value * (1 - value))), (told,))
    if metric.name == "fid" and value is not None:
        return Known(value, assumed_fid(value), (_training_words(), _sampling_words()))
    ask = "--value" if metric.name == "fid" or metric.unit == "share" else "runs that measured it"
    raise OptionError(f"nothing tells the noise of {metric.name} for suite {plan.suite}; give --runs DIR, or {ask}")


def _training_words() -> str:
    return f"training: {TRAINING_COV:.1%} of FID, assumed (arXiv 2606.20536)"


def _sampling_words() -> str:
    return f"drawing: {SAMPLING_COV:.1%} of FID at {SAMPLING_IMAGES:,} images, assumed (clean-fid's README)"


def _is_of(plan: Plan, metric: Metric, item: StoredResult) -> bool:
    measured, of = item.result.measured(metric.name), item.result.plan
    same = of is not None and of.suite == plan.suite and of.settings.resolution == plan.settings.resolution
    return same and measured is not None and measured.value is not None and measured.se is not None


def _measured(plan: Plan, metric: Metric, found: Sequence[StoredResult]) -> Known:
    own = [item for item in found if item.result.plan and item.result.plan.checkpoint.sha256 == plan.checkpoint.sha256]
    first, about = (own or list(found))[0], _number(metric, (own or list(found))[0])
    value, images = float(about.value or 0.0), about.n_scored
    sampling = float(about.se or 0.0) * math.sqrt(images)
    sources = [f"drawing: measured, standard error {about.se:.3g} at {images:,} images of {first.result.target}"]
    training, told = _training(plan, metric, found)
    if training is None and metric.name == "fid":
        training, told = TRAINING_COV * value, _training_words()
    paired = _paired(metric, first, found)
    if paired is not None:
        sources.append(f"pairs: measured, {paired / math.sqrt(images):.3g} at {images:,} images, median over pairs of checkpoints")
    return Known(value, Noise(training, sampling, paired), (told, *sources))


def _number(metric: Metric, item: StoredResult) -> Measurement:
    measured = item.result.measured(metric.name)
    assert measured is not None
    return measured


def _training(plan: Plan, metric: Metric, found: Sequence[StoredResult]) -> tuple[float | None, str]:
    """Spread over training seeds of this encoding, the drawing noise in it left in: it cannot make the answer too small."""
    values: dict[str, float | None] = {}
    for item in found:
        of = item.result.plan
        if of and (of.checkpoint.encoding, of.checkpoint.options) == (plan.checkpoint.encoding, plan.checkpoint.options):
            values.setdefault(of.checkpoint.sha256, _number(metric, item).value)
    if len(values) < 2:
        return None, "training: not known, give --runs with several training seeds"
    spread = float(np.std(np.array(list(values.values()), dtype=np.float64), ddof=1))
    return spread, f"training: measured over {len(values)} training seeds of {plan.checkpoint.encoding}"


def _paired(metric: Metric, first: StoredResult, found: Sequence[StoredResult]) -> float | None:
    """Spread of one sample's difference between `first` and each other checkpoint of the same requests or prompts; the median."""
    spreads = []
    for other in found:
        if other.path == first.path:
            continue
        difference = contrast(metric.name, metric.direction, first, other, RULER)
        if difference.paired and difference.se:
            spreads.append(difference.se * math.sqrt(_number(metric, first).n_scored))
    return float(np.median(spreads)) if spreads else None


def cost(plan: Plan, rate: float | None) -> Cost:
    """Seconds and bytes an image: from one tile drawn now, or from the rate that is given."""
    if rate is not None:
        side = plan.settings.resolution
        return Cost(1 / rate, RAW * side * side, (f"time: {rate:g} images a second, given", "disk: uncompressed, a PNG is smaller"))
    drawer = open_drawer(checkpoint(plan.checkpoint.name), plan.settings)
    draw_one(drawer, plan, 0)  # the first tile also pays for warming up
    started = time.perf_counter()
    image = draw_one(drawer, plan, 0)  # one row is kept, the whole tile is drawn
    seconds = (time.perf_counter() - started) / plan.settings.tile
    size = len(encode(image)) if image is not None else RAW * plan.settings.resolution**2
    told = f"a tile of {plan.settings.tile} drawn now on {plan.settings.device}"
    return Cost(seconds, size, (f"time: {told}, {1 / seconds:.3g} images a second", "disk: one PNG drawn now"))


def plan_for(name: str, suite: str | None, resolution: int | None, device: str) -> Plan:
    """The plan whose cost is asked."""
    return make_plan(name, suite, {"resolution": resolution, "device": device})


def words(found: Budget) -> list[str]:
    """The budget as lines of text."""
    unit, digits = found.metric.title, found.metric.decimals + 1
    told = [
        f"wanted: a difference of {found.difference:g} in {unit} (about {found.known.value:.4g}), found with {found.power:.0%} power at 5%"
    ]
    told += [f"  {source}" for source in (*found.known.sources, *found.cost.sources)]
    how = "paired" if found.known.noise.paired is not None else "unpaired"
    told += [
        "",
        f"this checkpoint against that one (L1): {found.images_pair:,} images from each, {how}; {_spent(found, 2, found.images_pair)}",
    ]
    told.append(f"this method against that one (L2), {found.images:,} images a run: {_seeds_words(found)}")
    head = (
        "training seeds a method",
        "smallest, spread known",
        "smallest, spread from these seeds",
        "images a run for the difference, spread known",
        "cost",
    )
    return [*told, "", *in_columns([head, *(_row(found, design, digits) for design in found.designs)])]


def _seeds_words(found: Budget) -> str:
    if found.seeds is None:
        return "training seeds cannot be told, the training spread is not known"
    return f"{found.seeds:,} training seeds of each; {_spent(found, 2 * found.seeds, found.images)}"


def _row(found: Budget, design: Design, digits: int) -> tuple[str, ...]:
    images = "-" if design.images is None else f"{design.images:,}"
    spent = _spent(found, 2 * design.seeds, found.images)
    return (str(design.seeds), shown(design.smallest, digits), shown(design.smallest_estimated, digits), images, spent)


def _spent(found: Budget, runs: int, images: int) -> str:
    seconds = None if found.cost.seconds is None else found.cost.seconds * runs * images
    return f"{runs * images:,} images, {_bytes(found.cost.bytes * runs * images)}, {_time(seconds)}"


def _bytes(count: float) -> str:
    power = min(4, int(math.log(max(count, 1), 1000)))
    return f"{count / 1000**power:.3g} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "time not known"
    return f"{seconds / 3600:.3g} h" if seconds >= 3600 else f"{seconds / 60:.3g} min"


def facts(found: Budget) -> dict[str, object]:
    """The budget as plain JSON values."""
    noise, designs = found.known.noise, [vars(design) for design in found.designs]
    return {
        "metric": found.metric.name,
        "difference": found.difference,
        "power": found.power,
        "value": found.known.value,
        "noise": noise._asdict(),
        "sources": [*found.known.sources, *found.cost.sources],
        "images": found.images,
        "images_pair": found.images_pair,
        "seeds": found.seeds,
        "designs": designs,
        "seconds_per_image": found.cost.seconds,
        "bytes_per_image": found.cost.bytes,
    }
