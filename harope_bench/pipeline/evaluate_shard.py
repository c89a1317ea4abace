"""One shard of an evaluation: `eval --shard 2/16` does its part of all work but scoring.

A shard generates its samples and extracts or annotates them into a part of the run. The next `eval`
without --shard takes what shards have left, does what is missing, and scores.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from harope_bench.core.errors import OptionError, PendingAnswersError
from harope_bench.core.index_ranges import IndexRanges
from harope_bench.core.json_lines import read_lines
from harope_bench.core.schema import JudgeRecord
from harope_bench.core.shard import Shard
from harope_bench.data.run_claim import RunPart, claim_run, part_folders, remove_empty_parts
from harope_bench.data.run_folder import ANNOTATIONS_FOLDER, FEATURES_FOLDER, RunFolder
from harope_bench.data.sample_set import SampleSet, open_part_samples
from harope_bench.judges.base import load_feature_extractor
from harope_bench.pipeline import evaluate_prompts, feature_parts
from harope_bench.pipeline.annotate import annotate_samples
from harope_bench.pipeline.chosen_judges import chosen_feature_extractor, without_feature_extractor
from harope_bench.pipeline.classify import classify_shard
from harope_bench.pipeline.eval_options import (
    EvalOptions,
    feature_scorings,
    prompt_scoring,
    real_image_selection,
)
from harope_bench.pipeline.evaluate import (
    check_feature_scoring,
    resolve_profile,
    select_samples,
)
from harope_bench.pipeline.evaluate_target import (
    image_evaluators,
    network_evaluators,
    resolve_runs,
)
from harope_bench.pipeline.external_annotator import ANNOTATIONS_FILE
from harope_bench.pipeline.extract_features import (
    SHARD_SIZE,
    FeatureShard,
    extract_in_workers,
    find_extractor_record,
    find_shard_record,
    shard_key,
    shard_name,
    split_into_batches,
)
from harope_bench.pipeline.generate import generate, requested_indices, shard_part
from harope_bench.pipeline.target import CHECKPOINTS, CLASSIFIERS, Target, TargetKind
from harope_bench.suites.base import load_prompt_suite, load_suite


class ShardSummary(NamedTuple):
    """What one shard of a run did now.

    Attributes:
        out: The run folder.
        n_samples: Samples or images of the shard.
    """

    out: Path
    n_samples: int
    n_generated: int = 0
    n_extracted: int = 0
    n_annotated: int = 0
    n_classified: int = 0


def evaluate_shard(
    text: str,
    options: EvalOptions,
    shard: Shard,
    suites: Sequence[str] = (),
    resolutions: Sequence[int] = (),
) -> list[ShardSummary]:
    """Do one shard of each run of a target; score nothing. Arguments: `evaluate_target`.

    Raises:
        RunBusyError: Another process writes the run folder, or this shard.
        OptionError: An option does not apply to a shard.
        BenchError: See `evaluate_target`.
    """
    if options.is_rescored:
        raise OptionError("--rescore only scores, and a shard scores nothing; leave --shard out")
    if options.subset is not None:
        raise OptionError(
            "--subset chooses from all images, and a shard has a part of them; leave --shard out"
        )
    if network_evaluators(options):
        raise OptionError(
            f"{network_evaluators(options)[0]} measures the network, which has no shards; leave"
            " --shard out"
        )
    if options.label is not None:
        raise OptionError("--label names a result, and a shard has none; leave --label out")
    summaries: list[ShardSummary] = []
    pending: list[PendingAnswersError] = []
    for target, run_options in resolve_runs(text, options, suites, resolutions):
        try:
            summaries.append(_do_shard(target, run_options, shard))
        except PendingAnswersError as error:  # does not stop the other runs
            pending.append(error)
    if pending:
        raise pending[0]
    return summaries


def _do_shard(target: Target, options: EvalOptions, shard: Shard) -> ShardSummary:
    """Do one shard of a run."""
    if target.kind is TargetKind.OFFICIAL_RESULTS:
        raise OptionError(f"{target.name} is scored already, nothing is shared; leave --shard out")
    if target.kind in CLASSIFIERS:
        assert target.plan is not None
        count = options.count
        if count is None and target.kind is TargetKind.CLASSIFIER_RUN:
            count = len(RunFolder(target.path).requested_indices())
        selection = real_image_selection(options, count)
        evaluators = image_evaluators(options) or None
        classified = classify_shard(target.plan, target.out, selection, shard, evaluators)
        return ShardSummary(
            target.out, classified.image_count, n_classified=classified.new_image_count
        )
    if target.kind in CHECKPOINTS:
        return _do_shard_of_checkpoint(target, options, shard)
    samples = select_samples(
        target.path, feature_scorings(options, str(target.suite), None)[0], options.count
    )
    all_indices = sorted({*samples.indices, *samples.failed})
    indices = IndexRanges.from_indices(shard.take(all_indices))
    part = RunPart(shard.name, indices, IndexRanges.from_indices(all_indices))
    return _judge_part(target, options, part, samples)


def _do_shard_of_checkpoint(target: Target, options: EvalOptions, shard: Shard) -> ShardSummary:
    """Generate a shard of a checkpoint's samples, then extract or annotate them."""
    plan = target.plan
    assert plan is not None
    part = shard_part(shard, requested_indices(plan.suite, options.count), plan.settings.tile)
    _check_scoring(target, options)
    with _claim_part(target.out, part):
        generation = generate(plan, part.indices, target.out, options.batch, part=part)
        samples = open_part_samples(RunFolder(target.out), part.requested_indices)
        summary = _judge_part(target, options, part, samples)
        return summary._replace(n_generated=generation.n_generated)


@contextmanager
def _claim_part(out: Path, part: RunPart) -> Iterator[None]:
    """Claim a part; afterwards remove its folder if it holds nothing that the run lacks."""
    with claim_run(out, part):
        yield
    remove_empty_parts(out)


def _check_scoring(target: Target, options: EvalOptions) -> None:
    """Check judges and references before the first image is generated."""
    suite = str(target.suite)
    annotation_evaluators, evaluators = _evaluators(target, options)
    if annotation_evaluators:
        evaluate_prompts.check_prompt_scoring(prompt_scoring(options, suite), annotation_evaluators)
    if evaluators:
        scorings = feature_scorings(options, suite, _extractor(target, options))
        check_feature_scoring(target.out, scorings, evaluators, options.count)


def _evaluators(target: Target, options: EvalOptions) -> tuple[list[str], list[str]]:
    """Return the names of the evaluators of annotations, and of those of features."""
    names = image_evaluators(options) or load_suite(str(target.suite)).evaluators
    annotation_names = []
    if evaluate_prompts.is_prompt_suite(str(target.suite)):
        annotation_names = [name for name in names if evaluate_prompts.scores_annotations(name)]
    return annotation_names, [name for name in names if name not in annotation_names]


def _extractor(target: Target, options: EvalOptions) -> str | None:
    """Return the feature extractor that the user chose."""
    annotation_evaluators, _ = _evaluators(target, options)
    if evaluate_prompts.is_prompt_suite(str(target.suite)):
        return chosen_feature_extractor(options.judge, bool(annotation_evaluators))
    return options.judge


def _judge_part(
    target: Target, options: EvalOptions, part: RunPart, samples: SampleSet
) -> ShardSummary:
    """Extract and annotate the images of a part.

    Args:
        samples: Of the whole run. Images of other parts may be missing.
    """
    with _claim_part(target.out, part):
        annotation_evaluators, feature_evaluators = _evaluators(target, options)
        n_annotated = n_extracted = 0
        if feature_evaluators:
            n_extracted = _extract_part(target, options, part, samples, feature_evaluators)
        if annotation_evaluators:
            n_annotated = _annotate_part(target, options, part, samples, annotation_evaluators)
    return ShardSummary(
        target.out, len(part.indices), n_extracted=n_extracted, n_annotated=n_annotated
    )


def _annotate_part(
    target: Target,
    options: EvalOptions,
    part: RunPart,
    samples: SampleSet,
    evaluators: Sequence[str],
) -> int:
    """Annotate the images of a part; return the number of images that are annotated now."""
    suite = load_prompt_suite(str(target.suite))
    scoring = prompt_scoring(options, str(target.suite))
    scoring = replace(scoring, judge=without_feature_extractor(scoring.judge))
    part_samples = samples.select_indices(part.indices)
    cases = {i: suite.case(i) for i in sorted({*part_samples.indices, *part_samples.failed})}
    out = part.folder(target.out) / ANNOTATIONS_FOLDER
    run_folders = [target.out, *part_folders(target.out)]
    other_folders = [path / ANNOTATIONS_FOLDER for path in run_folders]
    lines_before = _annotated_images(out)
    for choice in evaluate_prompts.select_prompt_evaluators(suite, scoring, evaluators):
        annotate_samples(
            part_samples,
            cases,
            choice.evaluator.metadata_key,
            choice.evaluator.annotator_roles,
            choice.judges,
            out,
            scoring.annotator_options,
            [path for path in other_folders if path != out],
        )
    new_lines = _annotated_images(out) - lines_before
    return len({index for _, index in new_lines.elements()})


def _annotated_images(out: Path) -> Counter[tuple[str, str]]:
    """Return the number of lines by judge's folder and image.

    Args:
        out: Parent of the judges' folders.
    """
    return Counter(
        (path.parent.name, str(line.get("index")))
        for path in out.glob(f"*/{ANNOTATIONS_FILE}")
        for line in read_lines(path)
    )


def _extract_part(
    target: Target,
    options: EvalOptions,
    part: RunPart,
    samples: SampleSet,
    evaluators: Sequence[str],
) -> int:
    """Extract the batches whose images are all of a part; return the number of images."""
    suite = load_suite(str(target.suite))
    scorings = feature_scorings(options, str(target.suite), _extractor(target, options))
    judges = dict.fromkeys(
        resolve_profile(suite, name, scoring).judge for scoring in scorings for name in evaluators
    )
    n_extracted = 0
    for judge in judges:
        n_extracted += _extract_with_judge(target.out, part, samples, judge, scorings[0].device)
    return n_extracted


def _extract_with_judge(
    out: Path, part: RunPart, samples: SampleSet, judge: str, device: str
) -> int:
    """Extract the batches of a part with one extractor; return the number of images."""
    relative_folder = Path(FEATURES_FOLDER) / judge
    folder = part.folder(out) / relative_folder
    stored_keys = feature_parts.stored_batches(out / relative_folder).keys()
    record = find_extractor_record(judge, out / relative_folder, rescore=False).record
    batch_size = load_feature_extractor(judge).batch_size
    part_samples = samples.select_indices(part.indices)
    hashes = part_samples.hashes_by_index

    # Batches lie as in the whole run, in which images that are not there yet are expected.
    groups = [
        samples.indices[i : i + SHARD_SIZE] for i in range(0, len(samples.indices), SHARD_SIZE)
    ]
    batches = [
        batch
        for number, group in enumerate(groups)
        if not _has_features(out / relative_folder, number, group, samples, record)
        for indices in [group[i : i + batch_size] for i in range(0, len(group), batch_size)]
        if all(index in hashes for index in indices)
        for batch in split_into_batches(indices, hashes, record, batch_size, part_samples.crop_side)
        if batch.key not in stored_keys
    ]
    for key, extracted_batch in extract_in_workers(part_samples, judge, batches, device):
        feature_parts.write_batch(folder, key, extracted_batch)
    return sum(len(batch.indices) for batch in batches)


def _has_features(
    folder: Path, number: int, indices: list[int], samples: SampleSet, record: JudgeRecord
) -> bool:
    """Return whether the run has the features of these images, one shard of its features.

    Args:
        folder: The extractor's folder in the run.
        number: Of the shard of features.
    """
    if not (folder / shard_name(number)).is_file():
        return False
    if samples.plan is not None and not set(indices) <= samples.recorded_hashes.keys():
        return False  # other parts have yet to generate some of the images
    hashes = samples.select_indices(set(indices)).hashes_by_index
    key = shard_key(record, [(i, hashes[i]) for i in indices], samples.crop_side)
    shard = FeatureShard(number, indices, key)
    return find_shard_record(folder, shard, load_feature_extractor(record.name).arrays) is not None
