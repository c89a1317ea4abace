"""Two results, one metric: may they be compared, are they pairs, and what is the difference.
Tables, `compare` and `gate` ask here.

Samples pair where both runs generated the same (suite, label or prompt, sample index, seed,
resolution). Prompts pair where both results
score the same prompts, whatever the seed, the resolution, the number of copies or the origin of the
images. Pictures of a classifier
pair by their hash. Anything else is unpaired and says why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from harope_bench.core import checksums, registry
from harope_bench.core.errors import TooFewImagesError, UnknownNameError
from harope_bench.core.escaping import printable_line
from harope_bench.core.json_lines import read_lines, read_lines_by_field
from harope_bench.core.plugin_contracts import EvaluatorContract
from harope_bench.core.schema import JudgeRecord, Measurement, Metric, Result
from harope_bench.core.storage import file_stamp
from harope_bench.data.array_checks import IMAGE_HASHES
from harope_bench.data.result_paths import run_folder_of
from harope_bench.data.result_store import StoredResult, read_arrays, recorded_arrays_path
from harope_bench.data.run_folder import RECORDS_FILE
from harope_bench.statistics import significance
from harope_bench.statistics.intervals.clusters import PERMUTATIONS
from harope_bench.statistics.intervals.paired_fractions import (
    bonett_price_interval,
    is_binary,
    mcnemar_test,
)
from harope_bench.statistics.intervals.paired_ratios import PairedRatio, paired_ratio
from harope_bench.statistics.prompt_pairs import PromptPairs, match_prompts, prompt_text_difference
from harope_bench.statistics.significance import Difference, Interval

EVIDENCE = {
    "L0": "L0: a reported number only; its error is assumed.",
    "L1": (
        "L1: this checkpoint against that checkpoint; a claim about the method needs several"
        " training seeds."
    ),
    "L2": "L2: this method against that method, several training seeds on each side.",
}


class MeasurementKey(NamedTuple):
    """What two numbers must share before one may be called the better.

    None: not recorded, because the images came without a plan or a file of results does not name
    its judge. A setting that means
    nothing to a backbone is "none". A judge that is not recorded is still of a kind: official by
    its file's own word.
    """

    measurement_name: str
    images: int
    evaluator: str
    profile: str
    rules: str
    judge: str | None
    judge_kind: str
    reference: str
    suite: str | None
    resolution: int | None
    sampler: str | None
    steps: int | str | None
    guidance: float | str | None
    pos_scaling: str | None


MEASUREMENT_FIELDS = MeasurementKey._fields[
    :9
]  # how it was measured: unlike rulers are never compared
SETTING_FIELDS = MeasurementKey._fields[
    9:
]  # how it was drawn: in a table they must agree, `compare` may be asked about them


def measurement_key(result: Result, measurement: Measurement) -> MeasurementKey:
    """The footing of one number of a result."""
    plan = result.plan
    judge = result.judge
    settings = plan.settings if plan else None
    values = settings.model_dump() if settings else {}
    return MeasurementKey(
        measurement.name,
        measurement.n_scored,
        f"{result.evaluator}@{result.version}",
        result.profile,
        result.rules,
        _judge_text(judge, judge.weights_sha256[:12]),
        "official" if judge.judge_class == "equivalent" else judge.judge_class,
        result.reference_sha256[:12],
        f"{plan.suite}@{plan.suite_version}" if plan else None,
        settings.resolution if settings else None,
        *(
            ("none" if values[name] is None else values[name]) if values else None
            for name in SETTING_FIELDS[1:]
        ),
    )


def first_key_difference(
    one: MeasurementKey, other: MeasurementKey, fields: Sequence[str] = MeasurementKey._fields
) -> str | None:
    """The first of `fields` in which two footings are known to differ, in words; None where they
    agree.
    """
    return next(iter(key_differences(one, other, fields)), None)


def key_differences(
    one: MeasurementKey, other: MeasurementKey, fields: Sequence[str] = MeasurementKey._fields
) -> list[str]:
    """Every one of `fields` in which two footings are known to differ, in words; `unrecorded` names
    those nobody can compare.
    """
    first = one._asdict()
    second = other._asdict()
    pairs = [(name, first[name], second[name]) for name in fields]
    return [
        f"{name.replace('_', ' ')} {a} against {b}"
        for name, a, b in pairs
        if a != b and None not in (a, b)
    ]


def unrecorded_fields(
    footings: Sequence[MeasurementKey], fields: Sequence[str] = MeasurementKey._fields
) -> list[str]:
    """Return each of `fields` that some of the footings do not record, with how many do not: of
    these nobody knows whether they agree.
    """
    records = [footing._asdict() for footing in footings]
    counts = {name: sum(record[name] is None for record in records) for name in fields}
    return [
        (
            f"{name.replace('_', ' ')} ({count:,} of {len(footings):,})"
            if count < len(footings)
            else name.replace("_", " ")
        )
        for name, count in counts.items()
        if count
    ]


def compare_results(
    metric: str,
    direction: Literal["higher", "lower"],
    old: StoredResult,
    new: StoredResult,
    fields: Sequence[str] = MeasurementKey._fields,
) -> Difference:
    """New minus old in one metric, paired by sample where both drew the same samples; not
    comparable where `fields` differ.
    """
    before = old.result.find_measurement(metric)
    after = new.result.find_measurement(metric)
    if before is None or after is None:
        return significance.not_comparable(
            f"{metric} is in {'neither' if before is after else 'one'} of the two"
        )
    rows = pair_contributions(metric, old, new)
    declared = _declared_metric(old.result, metric)
    one = measurement_key(old.result, before)
    other = measurement_key(new.result, after)
    if declared is None or not declared.needs_equal_copies:
        one, other = _equate_paired_fields(old, new, one, other, rows)
    if differs := first_key_difference(one, other, fields):
        return significance.not_comparable(differs)
    span = (
        None
        if declared is None or declared.bounds is None
        else declared.bounds[1] - declared.bounds[0]
    )
    if rows.prompt_pairs is not None:
        return _paired_prompt_difference(direction, before, after, rows.prompt_pairs, span)
    if rows.reason or rows.baseline is None or rows.new is None:
        unpaired = significance.difference(direction, before, after)
        said = "" if unpaired.delta is not None else f"{unpaired.reason}; "
        return unpaired._replace(
            reason=f"{said}unpaired: {rows.reason}{_unknown_error_note(unpaired)}"
        )
    paired = significance.difference(direction, before, after, rows.baseline, rows.new)
    granted = _unmoved_interval(paired, after.n_scored, span)
    paired = (
        granted._replace(reason=f"{rows.pairing}; {UNMOVED_TEXT}")
        if granted
        else paired._replace(reason=rows.pairing + _unknown_error_note(paired))
    )
    if is_binary(rows.baseline) and is_binary(rows.new):
        return _paired_fraction_difference(
            direction, paired._replace(reason=rows.pairing), rows.baseline, rows.new, span
        )
    return paired


def _judge_text(judge: JudgeRecord, sha256: str = "") -> str | None:
    """Return a judge in words, None where it is not recorded; without `sha256` two judges of other
    weights have the same words.
    """
    parts = (f"{judge.name}@{judge.version}", sha256, judge.preprocessing)
    return " ".join(part for part in parts if part) if judge.has_known_weights else None


def _equate_paired_fields(
    old: StoredResult,
    new: StoredResult,
    one: MeasurementKey,
    other: MeasurementKey,
    rows: PairedContributions,
) -> tuple[MeasurementKey, MeasurementKey]:
    """Return both footings without what the pairs vouch for: how many images a prompt has, or what
    equal pictures are called.
    """
    if rows.prompt_pairs is not None:
        return one, other._replace(images=one.images, measurement_name=one.measurement_name)
    if rows.pairing == BY_IMAGE:
        judges = [
            _judge_text(item.result.judge) for item in (old, new)
        ]  # for labels the hash is that of the pictures' names
        return one._replace(judge=judges[0]), other._replace(
            judge=judges[1], reference=one.reference
        )
    return one, other


def _declared_metric(result: Result, name: str) -> Metric | None:
    """Return the metric as its evaluator declares it; None where the evaluator is not installed or
    has no such metric.
    """
    try:
        metrics = registry.load_plugin("evaluators", result.evaluator, EvaluatorContract).metrics
    except UnknownNameError:
        return None
    return next((metric for metric in metrics if metric.name == name), None)


def _unknown_error_note(difference: Difference) -> str:
    """Return what to add to the reason where a difference has no known error."""
    known = difference.delta is None or difference.se is not None
    return "" if known else "; all samples moved alike or not at all, so the error is not known"


def _unmoved_interval(unmoved: Difference, samples: int, span: float | None) -> Difference | None:
    """Return an interval for a bounded metric that no sample moved, as if one each way had moved it
    over its whole scale.

    Other pictures may leave recall's halves as they were, since it counts what is covered: an equal
    value, not a certain one.
    None where a spread was seen, the value moved, or the metric has no bounds.
    """
    if unmoved.se is not None or unmoved.delta != 0 or not span:
        return None
    around = bonett_price_interval(0, 0, samples, significance.Z)
    return unmoved._replace(se=span * around.se, low=span * around.low, high=span * around.high)


def _paired_fraction_difference(
    direction: Literal["higher", "lower"],
    found: Difference,
    old: np.ndarray,
    new: np.ndarray,
    span: float | None,
) -> Difference:
    """Shares: p is exact, because discordant pairs may be few, and the interval keeps a width where
    none is.
    """
    if found.delta is None:
        return found
    pairs = mcnemar_test(old, new)
    won, lost = (pairs.wins, pairs.losses) if direction == "higher" else (pairs.losses, pairs.wins)
    word = significance.verdict(direction, found.delta, pairs.p)
    hit = float(max(old.max(), new.max(), 1.0))
    around = bonett_price_interval(pairs.wins, pairs.losses, pairs.ties, significance.Z)
    unit = max(hit, span or 0.0)  # where nobody is right the rows do not show their unit
    low = min(unit * around.low, found.delta)
    high = max(unit * around.high, found.delta)
    found = found._replace(
        se=unit * around.se, low=low, high=high, p=pairs.p, verdict=word, test="McNemar, exact"
    )
    return found._replace(wins=won, losses=lost, ties=pairs.ties, success_value=hit)


def _paired_prompt_difference(
    direction: Literal["higher", "lower"],
    before: Measurement,
    after: Measurement,
    pairs: PromptPairs,
    span: float | None,
) -> Difference:
    if before.value is None or after.value is None:
        return significance.not_comparable("a value is missing")
    try:
        ratio = paired_ratio(pairs.baseline, pairs.new, not pairs.request_difference, span)
    except TooFewImagesError as error:
        return significance.not_comparable(str(error))
    return _clustered_difference(direction, after.value - before.value, ratio, pairs)


def _clustered_difference(
    direction: Literal["higher", "lower"], delta: float, ratio: PairedRatio, pairs: PromptPairs
) -> Difference:
    """Return the difference with its interval for new prompts; `ratio` is around its own delta,
    which is the same up to rounding.
    """
    around = None if ratio.se is None else significance.student_interval(delta, ratio.se, ratio.df)
    se, low, high = (None, None, None) if around is None else around
    test = f"sign flips of prompts, {'every one' if ratio.is_exact else f'{PERMUTATIONS:,} random'}"
    word = significance.verdict(direction, delta, ratio.p)
    found = Difference(
        delta,
        se,
        low,
        high,
        ratio.p,
        True,
        word,
        _prompt_pairing_text(ratio, pairs),
        test,
        ratio.df,
        n_prompts=ratio.n_prompts,
    )
    if ratio.new_seeds_interval is not None:
        half = (ratio.new_seeds_interval.high - ratio.new_seeds_interval.low) / 2
        found = found._replace(
            new_seeds_interval=Interval(ratio.new_seeds_interval.se, delta - half, delta + half)
        )
    if pairs.is_linear:  # of contributions no prompt's own score can be told
        return found
    won, lost = (ratio.wins, ratio.losses) if direction == "higher" else (ratio.losses, ratio.wins)
    return found._replace(wins=won, losses=lost, ties=ratio.ties)


def _prompt_pairing_text(ratio: PairedRatio, pairs: PromptPairs) -> str:
    """Return how the prompts pair, in words, and what an error rests on where prompts did not
    move.
    """
    reason = pairs.request_difference
    how = f"{BY_PROMPT}: {reason}" if reason else f"{BY_SAMPLE}, clustered by prompt"
    if ratio.se is None:
        return f"{how}; all prompts moved alike or not at all, so the error is not known"
    if ratio.n_unmoved_tasks == ratio.n_tasks:
        return (
            f"{how}; all prompts moved alike or not at all, the interval grants one prompt each way"
        )
    if ratio.n_unmoved_tasks:
        return (
            f"{how}; {ratio.n_unmoved_tasks} of {ratio.n_tasks} tasks did not move, the interval"
            " grants one prompt each way of theirs"
        )
    return how


UNMOVED_TEXT = "no sample moved it, the interval grants one sample each way"
BY_SAMPLE = "paired by sample"
BY_PROMPT = "paired by prompt"
BY_IMAGE = "paired by picture"


class PairedContributions(NamedTuple):
    """Per-sample contributions of two runs in one order, or the prompts that both score; or why
    they are no pairs.

    is_of_samples: a row is a sample's; False for recall, whose rows are halves of the samples or
    reference images.
    """

    baseline: np.ndarray | None
    new: np.ndarray | None
    reason: str
    prompt_pairs: PromptPairs | None = None
    pairing: str = BY_SAMPLE
    has_sample_rows: bool = True


def pair_contributions(metric: str, old: StoredResult, new: StoredResult) -> PairedContributions:
    """Return the rows of the same samples, pictures or prompts of two runs.

    The key of a sample is seed, suite, resolution, sample indices, labels and prompts; the
    references must be equal too. `METRIC_halves`
    goes before `METRIC`: recall's own rows are the reference images, but it is the samples that
    another draw changes. The halves are
    the same samples in both runs and come times sqrt(H), so that sd / sqrt(H) of their difference
    is its error.
    """
    for item in (old, new):
        if item.result.arrays_file is None or not recorded_arrays_path(item).is_file():
            return PairedContributions(None, None, "per-sample values were not kept")
    arrays = [read_arrays(item) for item in (old, new)]
    has_halves = all(f"{metric}_halves" in a for a in arrays)
    name = f"{metric}_halves" if has_halves else metric
    if any(name not in a or "indices" not in a for a in arrays):
        return PairedContributions(None, None, f"no per-sample values of {metric}")
    if all(IMAGE_HASHES in a for a in arrays):
        return _pair_equal_images(name, *arrays)
    other = _request_difference(old, new)
    if all("prompts" in a for a in arrays):
        return _pair_prompts(metric, old, new, other)
    if other:
        return PairedContributions(None, None, other)
    if not np.array_equal(arrays[0]["indices"], arrays[1]["indices"]):
        return PairedContributions(None, None, "other sample indices")
    one, two = (np.asarray(a[name], dtype=np.float64) for a in arrays)
    if one.shape != two.shape:
        return PairedContributions(
            None, None, f"{len(one):,} against {len(two):,} per-sample values"
        )
    if has_halves:
        return PairedContributions(
            one * len(one) ** 0.5, two * len(two) ** 0.5, "", has_sample_rows=False
        )
    return PairedContributions(one, two, "", has_sample_rows=len(one) == len(arrays[0]["indices"]))


def _pair_equal_images(
    metric: str, old: dict[str, np.ndarray], new: dict[str, np.ndarray]
) -> PairedContributions:
    """Return the rows of equal pictures in the order of their hashes, whatever they are called and
    wherever they lie.
    """
    before, after = (np.lexsort((arrays["labels"], *arrays[IMAGE_HASHES].T)) for arrays in (old, new))
    hashes = old[IMAGE_HASHES][before], new[IMAGE_HASHES][after]
    if not np.array_equal(hashes[0], hashes[1]):
        shared = len({*map(bytes, hashes[0])} & {*map(bytes, hashes[1])})
        return PairedContributions(
            None,
            None,
            f"other pictures: {len(hashes[0]):,} against {len(hashes[1]):,}, {shared:,} in both",
        )
    if not np.array_equal(old["labels"][before], new["labels"][after]):
        return PairedContributions(None, None, "other labels of the same pictures")
    one, two = (
        np.asarray(a[metric], dtype=np.float64)[order] for a, order in ((old, before), (new, after))
    )
    return PairedContributions(one, two, "", pairing=BY_IMAGE)


def _pair_prompts(
    metric: str, old: StoredResult, new: StoredResult, other_samples: str
) -> PairedContributions:
    """Return the prompts that both results score: of one file of prompts, with equal texts where
    both record them.
    """
    if old.result.reference_sha256 != new.result.reference_sha256:
        return PairedContributions(None, None, "other prompts: their files differ")
    if other := prompt_text_difference(*(prompt_texts(item) for item in (old, new))):
        return PairedContributions(None, None, other)
    pairs = match_prompts(metric, read_arrays(old), read_arrays(new), other_samples)
    return (
        PairedContributions(None, None, pairs)
        if isinstance(pairs, str)
        else PairedContributions(None, None, "", pairs)
    )


def _request_difference(old: StoredResult, new: StoredResult) -> str:
    """Return why the samples of two runs are not the same requests; empty where they are."""
    a = old.result
    b = new.result
    if a.plan is None or b.plan is None:
        return "a run has no plan"
    if a.reference_sha256 != b.reference_sha256:
        return "other reference images"
    names = ("seed", "suite", "suite version", "resolution", "choice of labels")
    keys = [
        (p.settings.seed, p.suite, p.suite_version, p.settings.resolution, p.settings.labels)
        for p in (a.plan, b.plan)
    ]
    if other := next(
        (f"other {name}" for name, x, y in zip(names, *keys, strict=True) if x != y), ""
    ):
        return other
    # the plan decides labels and prompts; the lists are held against each other where both are here
    asked = [_recorded_requests(run_folder_of(item.path) / RECORDS_FILE) for item in (old, new)]
    return "other labels or prompts" if None not in asked and asked[0] != asked[1] else ""


def prompt_texts(item: StoredResult) -> Mapping[int, str]:
    """Return the recorded text of each prompt, by number: of the result's rows, else of the run's
    list; empty where neither is here.
    """
    name = item.result.sample_scores_file
    path = item.path.parent / name if name and Path(name).name == name else None
    if path is not None and (stamp := file_stamp(path)) is not None:
        return _read_texts(path, stamp)
    asked = _recorded_requests(run_folder_of(item.path) / RECORDS_FILE) or {}
    arrays = read_arrays(item)
    numbers = zip(arrays["indices"].tolist(), arrays["prompts"].tolist(), strict=True)
    return {
        prompt: text
        for index, prompt in numbers
        if index in asked and (text := asked[index][1]) is not None
    }


@lru_cache(maxsize=32)
def _read_texts(path: Path, stamp: tuple[int, int]) -> dict[int, str]:
    lines = [
        line
        for line in read_lines(path)
        if isinstance(line.get("prompt"), int) and isinstance(line.get("text"), str)
    ]
    return {line["prompt"]: printable_line(line["text"]) for line in lines}


def _recorded_requests(path: Path) -> dict[int, tuple[int | None, str | None]] | None:
    """Label and prompt by index as a run's list has them; None where there is no list."""
    stamp = file_stamp(path)
    return None if stamp is None else _read_recorded_requests(path, stamp)


@lru_cache(maxsize=32)
def _read_recorded_requests(
    path: Path, stamp: tuple[int, int]
) -> dict[int, tuple[int | None, str | None]]:
    checksums.check_recorded_hash(
        path, "bring that one back, or generate the run again in another folder"
    )
    return {
        index: (line.get("label"), line.get("prompt"))
        for index, line in read_lines_by_field(path, "index", int).items()
    }


def adjusted_p_values(found: Sequence[Difference]) -> list[float | None]:
    """Holm-adjusted p values of the differences that have one, in the order given."""
    tested = [i for i, item in enumerate(found) if item.p is not None]
    adjusted: list[float | None] = [None] * len(found)
    for i, p in zip(
        tested, significance.holm_adjust([found[i].p or 0.0 for i in tested]), strict=True
    ):
        adjusted[i] = p
    return adjusted


def difference_interval(found: Difference, confidence: float) -> Interval | None:
    """The two-sided interval of that confidence (0 to 1) around a difference; None where no error
    is known.
    """
    if found.delta is None or found.se is None:
        return None
    half = significance.quantile(confidence, found.df) * found.se
    return Interval(found.se, found.delta - half, found.delta + half)
