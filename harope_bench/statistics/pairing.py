"""Comparison of one metric of two results: comparability, pairing and difference.

Tables, `compare` and `gate` use this module. Samples are paired if both runs generated the same
requests: suite, label or prompt, sample index, seed and resolution. Prompts are paired if both
results score the same prompts, for any seed, resolution, the number of copies or the
origin of the images. Images of a classifier are paired by their hash. Everything else is unpaired,
and the difference says why.
"""

from __future__ import annotations

import json
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
from harope_bench.core.schema import JudgeRecord, Measurement, Metric, Plan, Result
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

Direction = Literal["higher", "lower"]  # which values of a metric are better

EVIDENCE = {
    "L0": "L0: a reported number only; its error is assumed.",
    "L1": (
        "L1: this checkpoint against that checkpoint; a claim about the method needs several"
        " training seeds."
    ),
    "L2": "L2: this method against that method, several training seeds on each side.",
}
UNMOVED_TEXT = "no sample changed it, so the interval counts one sample in each direction"
BY_SAMPLE = "paired by sample"
BY_PROMPT = "paired by prompt"
BY_IMAGE = "paired by image"


class MeasurementKey(NamedTuple):
    """The facts that two measurements must share to be comparable.

    A field is None if it is not recorded, because images came without a plan or a results file does
    not name its judge. "none" is a setting that does not apply to a backbone. The kind of
    a judge is always recorded: it is official if the results file says so.
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
    sampling_options: str | None


# Fields that say how a number was measured. Measurements that differ in them are never compared.
MEASUREMENT_FIELDS = MeasurementKey._fields[:9]
# Fields that say how images were generated. Rows of a table must agree in them; `compare` may be
# asked about their effect.
SETTING_FIELDS = MeasurementKey._fields[9:]


def measurement_key(result: Result, measurement: Measurement) -> MeasurementKey:
    """Return the key of one measurement of a result."""
    plan = result.plan
    judge = result.judge
    settings = plan.settings if plan else None
    values = settings.model_dump() if settings else {}
    setting_values = [
        ("none" if values[name] is None else values[name]) if values else None
        for name in SETTING_FIELDS[1:-1]
    ]
    sampling_options = None
    if settings is not None:
        sampling_options = json.dumps(settings.sampling_options, sort_keys=True)
        if not settings.sampling_options:
            sampling_options = "none"
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
        *[*setting_values, sampling_options],
    )


def first_key_difference(
    baseline_key: MeasurementKey,
    new_key: MeasurementKey,
    fields: Sequence[str] = MeasurementKey._fields,
) -> str | None:
    """Return the first of some fields in which two keys are known to differ, as text; else None."""
    return next(iter(key_differences(baseline_key, new_key, fields)), None)


def key_differences(
    baseline_key: MeasurementKey,
    new_key: MeasurementKey,
    fields: Sequence[str] = MeasurementKey._fields,
) -> list[str]:
    """Return every field in which two keys are known to differ, as text.

    Only the given fields are compared. Fields that a key does not record are in
    `unrecorded_fields`.
    """
    baseline_values = baseline_key._asdict()
    new_values = new_key._asdict()
    differences = []
    for name in fields:
        old_value = baseline_values[name]
        new_value = new_values[name]
        if old_value != new_value and None not in (old_value, new_value):
            differences.append(f"{name.replace('_', ' ')} {old_value} against {new_value}")
    return differences


def unrecorded_fields(
    keys: Sequence[MeasurementKey], fields: Sequence[str] = MeasurementKey._fields
) -> list[str]:
    """Return each field that some keys do not record, with their number, as text.

    Whether the measurements agree in these fields is unknown.
    """
    key_values = [key._asdict() for key in keys]
    texts = []
    for name in fields:
        count = sum(values[name] is None for values in key_values)
        label = name.replace("_", " ")
        if 0 < count < len(keys):
            texts.append(f"{label} ({count:,} of {len(keys):,})")
        elif count:
            texts.append(label)
    return texts


def compare_results(
    metric: str,
    direction: Direction,
    baseline_result: StoredResult,
    new_result: StoredResult,
    fields: Sequence[str] = MeasurementKey._fields,
) -> Difference:
    """Return new minus baseline in one metric, paired if possible.

    Args:
        metric: name of the metric.
        direction: whether higher or lower values are better.
        baseline_result: the result to compare with.
        new_result: the result of interest.
        fields: fields of the measurement keys. Results that differ in one are not comparable.
    """
    baseline_measurement = baseline_result.result.find_measurement(metric)
    new_measurement = new_result.result.find_measurement(metric)
    if baseline_measurement is None or new_measurement is None:
        n_results = "neither" if baseline_measurement is new_measurement else "one"
        return significance.not_comparable(f"{metric} is in {n_results} of the two")

    # Comparability: keys must agree, except in what pairing makes equal
    pairs = pair_contributions(metric, baseline_result, new_result)
    declared_metric = _declared_metric(baseline_result.result, metric)
    baseline_key = measurement_key(baseline_result.result, baseline_measurement)
    new_key = measurement_key(new_result.result, new_measurement)
    if declared_metric is None or not declared_metric.needs_equal_copies:
        baseline_key, new_key = _equate_paired_fields(
            baseline_result, new_result, baseline_key, new_key, pairs
        )
    key_difference = first_key_difference(baseline_key, new_key, fields)
    if key_difference:
        return significance.not_comparable(key_difference)

    # Difference: over prompts, unpaired, or over samples
    value_range = None
    if declared_metric is not None and declared_metric.bounds is not None:
        value_range = declared_metric.bounds[1] - declared_metric.bounds[0]
    if pairs.prompt_pairs is not None:
        difference = _paired_prompt_difference(
            direction, baseline_measurement, new_measurement, pairs.prompt_pairs, value_range
        )
        return _limit_interval(difference, value_range)
    if pairs.reason or pairs.baseline_contributions is None or pairs.new_contributions is None:
        return _unpaired_difference(
            direction, baseline_measurement, new_measurement, pairs.reason, value_range
        )
    return _paired_sample_difference(
        direction,
        baseline_measurement,
        new_measurement,
        pairs.baseline_contributions,
        pairs.new_contributions,
        pairs.pairing,
        value_range,
    )


def _unpaired_difference(
    direction: Direction,
    baseline_measurement: Measurement,
    new_measurement: Measurement,
    unpaired_reason: str,
    value_range: float | None,
) -> Difference:
    """Return the unpaired difference, with the reason why samples are not paired."""
    difference = _limit_interval(
        significance.difference(direction, baseline_measurement, new_measurement), value_range
    )
    prefix = "" if difference.delta is not None else f"{difference.reason}; "
    reason = f"{prefix}unpaired: {unpaired_reason}{_unknown_error_note(difference)}"
    return difference._replace(reason=reason)


def _paired_sample_difference(
    direction: Direction,
    baseline_measurement: Measurement,
    new_measurement: Measurement,
    baseline_contributions: np.ndarray,
    new_contributions: np.ndarray,
    pairing: str,
    value_range: float | None,
) -> Difference:
    """Return the difference of paired samples; of binary contributions, by McNemar's test.

    Args:
        direction: whether higher or lower values are better.
        baseline_measurement: measurement to compare with.
        new_measurement: measurement of interest.
        baseline_contributions: contributions (N,) to the baseline's value.
        new_contributions: contributions (N,) of the same samples to the new value.
        pairing: how the samples are paired, as text.
        value_range: the metric's upper bound minus its lower one; None without bounds.
    """
    difference = significance.difference(
        direction, baseline_measurement, new_measurement, baseline_contributions, new_contributions
    )
    if is_binary(baseline_contributions) and is_binary(new_contributions):
        return _paired_fraction_difference(
            direction,
            difference._replace(reason=pairing),
            baseline_contributions,
            new_contributions,
            value_range,
        )
    difference = _limit_interval(difference, value_range)
    unmoved_difference = _unmoved_interval(difference, new_measurement.n_scored, value_range)
    if unmoved_difference is not None:
        return unmoved_difference._replace(reason=f"{pairing}; {UNMOVED_TEXT}")
    return difference._replace(reason=pairing + _unknown_error_note(difference))


def _limit_interval(difference: Difference, value_range: float | None) -> Difference:
    """Return the difference with its intervals cut to the differences that two values can have.

    Args:
        difference: the difference of a metric.
        value_range: the metric's upper bound minus its lower one; None without bounds.
    """
    if value_range is None:
        return difference
    if difference.new_seeds_interval is not None:
        se, low, high = difference.new_seeds_interval
        limited = Interval(se, max(low, -value_range), min(high, value_range))
        difference = difference._replace(new_seeds_interval=limited)
    if difference.low is None or difference.high is None:
        return difference
    return difference._replace(
        low=max(difference.low, -value_range), high=min(difference.high, value_range)
    )


def _judge_text(judge: JudgeRecord, sha256: str = "") -> str | None:
    """Return a judge as text; None if it is not recorded.

    Without `sha256` judges with different weights have the same text.
    """
    if not judge.has_known_weights:
        return None
    parts = (f"{judge.name}@{judge.version}", sha256, judge.preprocessing)
    return " ".join(part for part in parts if part)


def _equate_paired_fields(
    baseline_result: StoredResult,
    new_result: StoredResult,
    baseline_key: MeasurementKey,
    new_key: MeasurementKey,
    pairs: PairedContributions,
) -> tuple[MeasurementKey, MeasurementKey]:
    """Return both keys, equal in the fields that do not matter for paired values.

    For prompts it is the number of images. For images of a classifier it is the reference, which
    hashes the file names, and the hash of the judge, which stands for the labels.
    """
    if pairs.prompt_pairs is not None:
        return baseline_key, new_key._replace(
            images=baseline_key.images, measurement_name=baseline_key.measurement_name
        )
    if pairs.pairing == BY_IMAGE:
        return (
            baseline_key._replace(judge=_judge_text(baseline_result.result.judge)),
            new_key._replace(
                judge=_judge_text(new_result.result.judge), reference=baseline_key.reference
            ),
        )
    return baseline_key, new_key


def _declared_metric(result: Result, name: str) -> Metric | None:
    """Return the metric as the result's evaluator declares it.

    None if the evaluator is not installed or has no such metric.
    """
    try:
        contract = registry.load_plugin("evaluators", result.evaluator, EvaluatorContract)
    except UnknownNameError:
        return None
    metrics = contract.profile_metrics(result.profile)
    return next((metric for metric in metrics if metric.name == name), None)


def _unknown_error_note(difference: Difference) -> str:
    """Return what to add to the reason of a difference without a known error."""
    if difference.delta is None or difference.se is not None:
        return ""
    return "; all samples changed equally or not at all, so the standard error is not known"


def _unmoved_interval(
    difference: Difference, n_samples: int, value_range: float | None
) -> Difference | None:
    """Return the difference with an interval, if no sample moved a metric with bounds.

    The interval is the one of Bonett and Price, as if one sample had moved the metric up over its
    full range and one down. Other images may leave the halves of recall unchanged, because recall
    counts covered references: the values are equal, but not certain.

    Returns:
        None if the error is known, the value moved, or the metric has no bounds.
    """
    if difference.se is not None or difference.delta != 0 or not value_range:
        return None
    unit = bonett_price_interval(0, 0, n_samples, significance.Z)
    return difference._replace(
        se=value_range * unit.se, low=value_range * unit.low, high=value_range * unit.high
    )


def _paired_fraction_difference(
    direction: Direction,
    difference: Difference,
    baseline_contributions: np.ndarray,
    new_contributions: np.ndarray,
    value_range: float | None,
) -> Difference:
    """Return the difference of two paired fractions by McNemar's exact test.

    The test is exact because few pairs may differ. The interval has a width even if none does.

    Args:
        direction: whether higher or lower values are better.
        difference: the paired difference without this test.
        baseline_contributions: contributions (N,), 0 or 1, or 0 or 100.
        new_contributions: contributions (N,) of the same samples.
        value_range: the metric's upper bound minus its lower one; None without bounds.
    """
    if difference.delta is None:
        return difference
    test = mcnemar_test(baseline_contributions, new_contributions)
    is_higher_better = direction == "higher"
    wins = test.wins if is_higher_better else test.losses
    losses = test.losses if is_higher_better else test.wins

    # Without any correct sample the contributions do not show their unit.
    success_value = float(max(baseline_contributions.max(), new_contributions.max(), 1.0))
    unit = max(success_value, value_range or 0.0)
    interval = bonett_price_interval(test.wins, test.losses, test.ties, significance.Z)
    return difference._replace(
        se=unit * interval.se,
        low=min(unit * interval.low, difference.delta),
        high=max(unit * interval.high, difference.delta),
        p=test.p,
        verdict=significance.verdict(direction, difference.delta, test.p),
        test="McNemar, exact",
        wins=wins,
        losses=losses,
        ties=test.ties,
        success_value=success_value,
    )


def _paired_prompt_difference(
    direction: Direction,
    baseline_measurement: Measurement,
    new_measurement: Measurement,
    pairs: PromptPairs,
    value_range: float | None,
) -> Difference:
    """Return the difference of two scores over paired prompts."""
    if baseline_measurement.value is None or new_measurement.value is None:
        return significance.not_comparable("a value is missing")
    try:
        ratio = paired_ratio(
            pairs.baseline_samples, pairs.new_samples, not pairs.request_difference, value_range
        )
    except TooFewImagesError as error:
        return significance.not_comparable(str(error))
    return _clustered_difference(
        direction, new_measurement.value - baseline_measurement.value, ratio, pairs
    )


def _clustered_difference(
    direction: Direction, delta: float, ratio: PairedRatio, pairs: PromptPairs
) -> Difference:
    """Return the difference with its interval for new prompts.

    `ratio` has its own delta, which equals `delta` up to rounding.
    """
    interval = None
    if ratio.se is not None:
        interval = significance.student_interval(delta, ratio.se, ratio.df)
    flips = "exact" if ratio.is_exact else f"{PERMUTATIONS:,} random flips"
    difference = Difference(
        delta,
        interval.se if interval else None,
        interval.low if interval else None,
        interval.high if interval else None,
        ratio.p,
        is_paired=True,
        verdict=significance.verdict(direction, delta, ratio.p),
        reason=_prompt_pairing_text(ratio, pairs),
        test=f"sign-flip test over prompts ({flips})",
        df=ratio.df,
        n_prompts=ratio.n_prompts,
    )

    new_seeds = ratio.new_seeds_interval
    if new_seeds is not None:
        half_width = (new_seeds.high - new_seeds.low) / 2
        difference = difference._replace(
            new_seeds_interval=Interval(new_seeds.se, delta - half_width, delta + half_width)
        )
    # Contributions are no scores of single prompts, so there are no wins and losses.
    if pairs.is_linear:
        return difference
    is_higher_better = direction == "higher"
    wins = ratio.wins if is_higher_better else ratio.losses
    losses = ratio.losses if is_higher_better else ratio.wins
    return difference._replace(wins=wins, losses=losses, ties=ratio.ties)


def _prompt_pairing_text(ratio: PairedRatio, pairs: PromptPairs) -> str:
    """Return how the prompts are paired, and where the error comes from if prompts did not move."""
    if pairs.request_difference:
        text = f"{BY_PROMPT}: {pairs.request_difference}"
    else:
        text = f"{BY_SAMPLE}, clustered by prompt"
    if ratio.se is None:
        return (
            f"{text}; all prompts changed equally or not at all, so the standard error is not known"
        )
    if ratio.n_unmoved_tasks == ratio.n_tasks:
        return (
            f"{text}; all prompts changed equally or not at all, so the interval"
            " counts one prompt in each direction"
        )
    if ratio.n_unmoved_tasks:
        return (
            f"{text}; {ratio.n_unmoved_tasks} of {ratio.n_tasks} tasks did not change, so the"
            " interval counts one prompt in each direction for them"
        )
    return text


class PairedContributions(NamedTuple):
    """Contributions of two runs in the same order, or paired prompts, or why there are no pairs.

    Attributes:
        baseline_contributions: contributions (N,) of the run to compare with; None without pairs.
        new_contributions: contributions (N,) of the run of interest; None without pairs.
        reason: why there are no pairs; empty if there are.
        prompt_pairs: the prompts of both runs, if prompts are paired.
        pairing: how samples are paired, as text.
        has_sample_rows: whether a contribution is one of a sample. False for recall, whose
            contributions are random halves of the samples.
    """

    baseline_contributions: np.ndarray | None
    new_contributions: np.ndarray | None
    reason: str
    prompt_pairs: PromptPairs | None = None
    pairing: str = BY_SAMPLE
    has_sample_rows: bool = True


def _without_pairs(reason: str) -> PairedContributions:
    return PairedContributions(baseline_contributions=None, new_contributions=None, reason=reason)


def pair_contributions(
    metric: str, baseline_result: StoredResult, new_result: StoredResult
) -> PairedContributions:
    """Return the contributions of the same samples, images or prompts of two runs.

    Samples are the same if seed, suite, resolution, sample indices, labels and prompts are equal.
    The references must be equal too. `METRIC_halves` takes precedence over `METRIC`: recall's
    contributions are those of reference images, but other seeds change the samples. The halves
    hold the same samples in both runs. They are multiplied by sqrt(H), so that sd / sqrt(H) of
    their difference is its standard error. If a run has no halves, as where all have one recall,
    nothing is paired: reference images in the balls of the same samples are not independent.
    """
    for stored_result in (baseline_result, new_result):
        arrays_file = stored_result.result.arrays_file
        if arrays_file is None or not recorded_arrays_path(stored_result).is_file():
            return _without_pairs("per-sample values were not kept")

    # Names of the arrays to pair
    arrays = [read_arrays(baseline_result), read_arrays(new_result)]
    n_with_halves = sum(f"{metric}_halves" in run_arrays for run_arrays in arrays)
    has_halves = n_with_halves == len(arrays)
    name = f"{metric}_halves" if has_halves else metric
    if any(name not in run_arrays or "indices" not in run_arrays for run_arrays in arrays):
        return _without_pairs(f"no per-sample values of {metric}")

    # Images and prompts pair by themselves, samples by their requests
    if all(IMAGE_HASHES in run_arrays for run_arrays in arrays):
        return _pair_equal_images(name, arrays[0], arrays[1])
    request_difference = _request_difference(baseline_result, new_result)
    if all("prompts" in run_arrays for run_arrays in arrays):
        return _pair_prompts(metric, baseline_result, new_result, request_difference)
    if request_difference:
        return _without_pairs(request_difference)
    if not np.array_equal(arrays[0]["indices"], arrays[1]["indices"]):
        return _without_pairs("other sample indices")

    if n_with_halves == 1:
        return _without_pairs("one run has no random halves")
    baseline_values, new_values = (
        np.asarray(run_arrays[name], dtype=np.float64) for run_arrays in arrays
    )
    if baseline_values.shape != new_values.shape:
        return _without_pairs(
            f"{len(baseline_values):,} against {len(new_values):,} per-sample values"
        )
    if has_halves:
        scale = len(baseline_values) ** 0.5
        return PairedContributions(
            baseline_values * scale, new_values * scale, reason="", has_sample_rows=False
        )
    if len(baseline_values) != len(arrays[0]["indices"]):
        return _without_pairs("neither run has random halves")
    return PairedContributions(baseline_values, new_values, reason="")


def _pair_equal_images(
    metric: str, baseline_arrays: Mapping[str, np.ndarray], new_arrays: Mapping[str, np.ndarray]
) -> PairedContributions:
    """Return the contributions of equal images in the order of their hashes.

    File names and folders of the images do not matter.
    """
    baseline_order = np.lexsort(
        (baseline_arrays["labels"], *baseline_arrays[IMAGE_HASHES].T)
    )  # (N,)
    new_order = np.lexsort((new_arrays["labels"], *new_arrays[IMAGE_HASHES].T))
    baseline_hashes = baseline_arrays[IMAGE_HASHES][baseline_order]  # (N, 32)
    new_hashes = new_arrays[IMAGE_HASHES][new_order]
    if not np.array_equal(baseline_hashes, new_hashes):
        n_shared = len({*map(bytes, baseline_hashes)} & {*map(bytes, new_hashes)})
        return _without_pairs(
            f"other images: {len(baseline_hashes):,} against {len(new_hashes):,}, {n_shared:,} in"
            " both"
        )
    if not np.array_equal(
        baseline_arrays["labels"][baseline_order], new_arrays["labels"][new_order]
    ):
        return _without_pairs("other labels of the same images")
    return PairedContributions(
        np.asarray(baseline_arrays[metric], dtype=np.float64)[baseline_order],
        np.asarray(new_arrays[metric], dtype=np.float64)[new_order],
        reason="",
        pairing=BY_IMAGE,
    )


def _pair_prompts(
    metric: str, baseline_result: StoredResult, new_result: StoredResult, request_difference: str
) -> PairedContributions:
    """Return the prompts that both results score.

    They must come from one prompts file, and their texts must be equal if both results record them.
    """
    if baseline_result.result.reference_sha256 != new_result.result.reference_sha256:
        return _without_pairs("other prompts: their files differ")
    text_difference = prompt_text_difference(
        prompt_texts(baseline_result), prompt_texts(new_result)
    )
    if text_difference:
        return _without_pairs(text_difference)
    pairs = match_prompts(
        metric, read_arrays(baseline_result), read_arrays(new_result), request_difference
    )
    if isinstance(pairs, str):
        return _without_pairs(pairs)
    return PairedContributions(
        baseline_contributions=None, new_contributions=None, reason="", prompt_pairs=pairs
    )


def _request_difference(baseline_result: StoredResult, new_result: StoredResult) -> str:
    """Return why the samples of two runs are not the same requests; empty if they are."""
    baseline_plan = baseline_result.result.plan
    new_plan = new_result.result.plan
    if baseline_plan is None or new_plan is None:
        return "a run has no plan"
    if baseline_result.result.reference_sha256 != new_result.result.reference_sha256:
        return "other reference images"
    new_fields = _request_fields(new_plan)
    for name, value in _request_fields(baseline_plan).items():
        if value != new_fields[name]:
            return f"other {name}"

    # The plan decides labels and prompts. The records are compared too, if both are available.
    baseline_requests, new_requests = (
        _recorded_requests(run_folder_of(stored_result.path) / RECORDS_FILE)
        for stored_result in (baseline_result, new_result)
    )
    if baseline_requests is None or new_requests is None or baseline_requests == new_requests:
        return ""
    return "other labels or prompts"


def _request_fields(plan: Plan) -> dict[str, object]:
    """Return the fields of a plan that decide its requests, by their names in messages."""
    return {
        "seed": plan.settings.seed,
        "suite": plan.suite,
        "suite version": plan.suite_version,
        "resolution": plan.settings.resolution,
        "choice of labels": plan.settings.labels,
    }


def prompt_texts(stored_result: StoredResult) -> Mapping[int, str]:
    """Return the recorded text of each prompt, by prompt index.

    The texts come from the result's sample scores, else from the run's records. Empty if neither
    is available.
    """
    file_name = stored_result.result.sample_scores_file
    if file_name and Path(file_name).name == file_name:
        path = stored_result.path.parent / file_name
        stamp = file_stamp(path)
        if stamp is not None:
            return _read_prompt_texts(path, stamp)

    requests = _recorded_requests(run_folder_of(stored_result.path) / RECORDS_FILE) or {}
    arrays = read_arrays(stored_result)
    texts: dict[int, str] = {}
    for index, prompt in zip(arrays["indices"].tolist(), arrays["prompts"].tolist(), strict=True):
        text = requests[index][1] if index in requests else None
        if text is not None:
            texts[prompt] = text
    return texts


@lru_cache(maxsize=32)
def _read_prompt_texts(path: Path, stamp: tuple[int, int]) -> dict[int, str]:
    """Return the text of each prompt from a file of sample scores; `stamp` keys the cache."""
    texts: dict[int, str] = {}
    for line in read_lines(path):
        prompt_index = line.get("prompt_index")
        prompt = line.get("prompt")
        if isinstance(prompt_index, int) and isinstance(prompt, str):
            texts[prompt_index] = printable_line(prompt)
    return texts


def _recorded_requests(path: Path) -> dict[int, tuple[int | None, str | None]] | None:
    """Return label and prompt of each sample, by index, from a run's records; None without them."""
    stamp = file_stamp(path)
    return None if stamp is None else _read_recorded_requests(path, stamp)


@lru_cache(maxsize=32)
def _read_recorded_requests(
    path: Path, stamp: tuple[int, int]
) -> dict[int, tuple[int | None, str | None]]:
    """Return label and prompt of each sample, by index; `stamp` keys the cache."""
    checksums.check_recorded_hash(
        path, "restore the recorded file, or generate the run again in another folder"
    )
    return {
        index: (line.get("label"), line.get("prompt"))
        for index, line in read_lines_by_field(path, "index", int).items()
    }


def adjusted_p_values(differences: Sequence[Difference]) -> list[float | None]:
    """Return the Holm-adjusted p value of each difference, in the same order; None without a p."""
    p_by_index = {
        i: difference.p for i, difference in enumerate(differences) if difference.p is not None
    }
    p_adjusted: list[float | None] = [None] * len(differences)
    holm_values = significance.holm_adjust(list(p_by_index.values()))
    for i, p in zip(p_by_index, holm_values, strict=True):
        p_adjusted[i] = p
    return p_adjusted


def difference_interval(difference: Difference, confidence: float) -> Interval | None:
    """Return the two-sided interval of that confidence (0 to 1); None if the error is unknown."""
    if difference.delta is None or difference.se is None:
        return None
    half_width = significance.critical_value(confidence, difference.df) * difference.se
    return Interval(difference.se, difference.delta - half_width, difference.delta + half_width)
