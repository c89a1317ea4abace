"""Pairs of two results: prompts whatever the seed or origin, pictures by hash, ratio scores, and no
certainty from no difference.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import fake_runs
import numpy as np
import pytest
from click.testing import CliRunner

from harope_bench.cli import main
from harope_bench.core import registry
from harope_bench.core.annotations import VqaAnnotation, VqaAnswer
from harope_bench.core.array_archive import write_arrays
from harope_bench.core.errors import ShapeError, TooFewImagesError
from harope_bench.core.schema import JudgeRecord, Plan
from harope_bench.core.storage import write_text
from harope_bench.data.result_store import StoredResult, read_arrays, read_result
from harope_bench.evaluators.base import AnnotatedImage
from harope_bench.evaluators.prompt_scores import contributions
from harope_bench.leaderboards.rankings import build_sections
from harope_bench.pipeline.evaluate_prompts import OFFICIAL_RUN
from harope_bench.pipeline.plan_study import find_metric_noise
from harope_bench.reports.leaderboard_pages import build_leaderboard
from harope_bench.reports.run_card import check_agreement, collect_checks
from harope_bench.reports.runs import read_runs
from harope_bench.statistics import compare
from harope_bench.statistics.gate import baseline, decide, policy
from harope_bench.statistics.intervals.clusters import clustered_mean, prompt_means, sign_flip_test
from harope_bench.statistics.intervals.paired_fractions import bonett_price_interval
from harope_bench.statistics.intervals.paired_ratios import (
    PromptSamples,
    paired_ratio,
    prompt_contributions,
)
from harope_bench.statistics.pairing import (
    MEASUREMENT_FIELDS,
    compare_results,
    key_differences,
    measurement_key,
    unrecorded_fields,
)
from harope_bench.statistics.significance import Difference, standard_error

OWN_JUDGE = JudgeRecord(
    name="mask2former",
    version=1,
    judge_class="equivalent",
    weights_sha256="ab" * 32,
    preprocessing="none",
)
PROMPTS = 60
METRIC, ANY_TEXT = "images_correct", "prompts_correct"


def plan(resolution: int = 512, **settings: Any) -> Plan:
    """The plan of a run of GenEval's prompts."""
    name = fake_runs.checkpoint("flux-harope", "harope", scale="paper", suite="geneval")
    return fake_runs.plan(name, "geneval", **{"resolution": resolution, **settings})


def hits(seed: int, copies: int = 4, chance: float = 0.6, prompts: int = PROMPTS) -> np.ndarray:
    """Verdicts (copies, prompts); prompts are easy or hard alike in every run, images of a prompt
    differ.
    """
    level = np.clip(np.random.default_rng(99).normal(chance, 0.35, prompts), 0.02, 0.98)
    return (np.random.default_rng(seed).random((copies, prompts)) < level).astype(float)


def scored(
    folder: Path,
    right: np.ndarray,
    of: Plan | None = None,
    texts: list[str] | None = None,
    **fields: Any,
) -> StoredResult:
    """A GenEval result over the images `right` (copies, prompts), index = copy * prompts + prompt;
    an import where there is no plan.
    """
    copies, prompts = right.shape
    rows = right.ravel()
    arrays = {
        "indices": np.arange(rows.size),
        "prompts": np.tile(np.arange(prompts), copies),
        METRIC: rows,
    }
    measurement = fake_runs.measurement(
        METRIC,
        float(rows.mean()),
        clustered_mean(prompt_means(rows, arrays["prompts"])).new_prompts_interval.se,
        rows.size,
    )
    inputs = {
        "evaluator": "geneval",
        "scale": "paper",
        "judge": OFFICIAL_RUN if of is None else OWN_JUDGE,
        "samples_sha256": f"{rows.sum():064.0f}",
    }
    path = fake_runs.write_result(
        folder, fake_runs.result(of, [measurement], **{**inputs, **fields}), arrays, "geneval"
    )
    if texts is not None:
        lines = [
            json.dumps({"index": i, "prompt_index": i, "prompt": text}) + "\n"
            for i, text in enumerate(texts)
        ]
        write_text(path.with_suffix(".sample_scores.jsonl"), "".join(lines))
        write_text(
            path,
            read_result(path)
            .model_copy(update={"sample_scores_file": "geneval.sample_scores.jsonl"})
            .to_json(),
        )
    return StoredResult(read_result(path), path)


def any_correct(folder: Path, right: np.ndarray, of: Plan | None = None) -> StoredResult:
    """The same with the share of prompts that have a correct image."""
    item = scored(folder, right, of)
    rows = np.tile(right.max(0), len(right))
    measurement = fake_runs.measurement(
        ANY_TEXT, float(rows.mean()), standard_error(right.max(0)), rows.size
    )
    write_text(
        item.path,
        item.result.model_copy(
            update={"measurements": (*item.result.measurements, measurement)}
        ).to_json(),
    )
    write_arrays(item.path.with_suffix(".npz"), read_arrays(item) | {ANY_TEXT: rows})
    return StoredResult(read_result(item.path), item.path)


def difference(old_stored_result: StoredResult, new_stored_result: StoredResult) -> Difference:
    return compare_results(
        METRIC, "higher", old_stored_result, new_stored_result, MEASUREMENT_FIELDS
    )


# ------------------------------------------------------------------------------------------ prompts
# pair


def test_two_imports_of_the_same_553_prompts_are_paired_by_prompt(tmp_path: Path) -> None:
    """A gain that separate errors do not show: paired by prompt the error is little more than
    half.
    """
    old_stored_result = scored(tmp_path / "old", hits(1, chance=0.50, prompts=553))
    new_stored_result = scored(tmp_path / "new", hits(2, chance=0.56, prompts=553))
    difference_result = difference(old_stored_result, new_stored_result)
    alone_values = np.hypot(
        *(item.result.measurements[0].se or 0.0 for item in (old_stored_result, new_stored_result))
    )
    assert (
        difference_result.is_paired,
        difference_result.n_prompts,
        difference_result.verdict,
    ) == (True, 553, "better")
    assert (
        difference_result.se is not None
        and difference_result.se < 0.6 * alone_values
        and abs(difference_result.delta or 0.0) < 1.96 * alone_values
    )
    assert difference_result.reason == "paired by prompt: a run has no plan"
    output = (
        CliRunner().invoke(main, ["compare", str(tmp_path / "old"), str(tmp_path / "new")]).stdout
    )
    assert "paired by prompt: a run has no plan" in output and "same prompts, new seeds" in output
    assert (
        "not recorded, so it is unknown whether the sides agree: judge, suite, resolution" in output
    )


@pytest.mark.parametrize(
    ("first_plan", "two", "copies", "reason"),
    [
        (None, plan(), 4, "a run has no plan"),
        (plan(), plan(seed=1), 4, "other seed"),
        (plan(), plan(1024), 4, "other resolution"),
        (plan(), plan(seed=1), 1, "other seed"),
        (None, None, 1, "a run has no plan"),
        (plan(), plan(), 1, "other sample indices"),
    ],
    ids=[
        "import and run",
        "two seeds",
        "two resolutions",
        "four copies and one",
        "imports of other copies",
        "more copies of one seed",
    ],
)
def test_prompts_pair_whatever_made_the_images(
    tmp_path: Path, first_plan: Plan | None, two: Plan | None, copies: int, reason: str
) -> None:
    old_stored_result, new_stored_result = (
        scored(tmp_path / "old", hits(1), first_plan),
        scored(tmp_path / "new", hits(2, copies), two),
    )
    difference_result = difference(old_stored_result, new_stored_result)
    moves = hits(2, copies).mean(0) - hits(1).mean(0)
    assert (
        difference_result.reason == f"paired by prompt: {reason}"
        and difference_result.n_prompts == PROMPTS
    )
    assert difference_result.delta == pytest.approx(
        moves.mean()
    ) and difference_result.se == pytest.approx(standard_error(moves))
    assert (difference_result.wins, difference_result.losses) == (
        int((moves > 0).sum()),
        int((moves < 0).sum()),
    )
    assert (difference_result.new_seeds_interval is None) == (
        copies == 1
    )  # one image tells nothing of other seeds


def test_an_interval_ends_at_the_largest_difference_of_two_fractions(tmp_path: Path) -> None:
    """Two prompts leave one degree of freedom: Student's interval alone would be wider than 1."""
    old_hits = np.zeros((4, 2))
    new_hits = np.array([[1.0, 0.0]] * 4)
    old_stored_result = scored(tmp_path / "old", old_hits)
    new_stored_result = scored(tmp_path / "new", new_hits)
    difference_result = difference(old_stored_result, new_stored_result)
    assert difference_result.delta == 0.5 and difference_result.se is not None
    assert difference_result.delta + 12 * difference_result.se > 1
    assert (difference_result.low, difference_result.high) == (-1.0, 1.0)


@pytest.mark.parametrize("of", [None, plan()], ids=["imports", "runs"])
def test_any_of_four_images_is_not_compared_with_any_of_one(
    tmp_path: Path, of: Plan | None
) -> None:
    """The better run has one image a prompt: the more images, the likelier is a correct one among
    them.
    """
    old_any_correct, new_any_correct = (
        any_correct(tmp_path / "old", hits(1), of),
        any_correct(tmp_path / "new", hits(2, 1, chance=0.65), of),
    )
    results = compare_results(
        ANY_TEXT, "higher", old_any_correct, new_any_correct, MEASUREMENT_FIELDS
    )
    assert (results.verdict, results.reason) == ("not comparable", "images 240 against 60")
    assert (
        difference(old_any_correct, new_any_correct).n_prompts == PROMPTS
    )  # a mean over images pairs all the same
    again = any_correct(tmp_path / "again", hits(3), of)
    assert (
        compare_results(ANY_TEXT, "higher", old_any_correct, again, MEASUREMENT_FIELDS).n_prompts
        == PROMPTS
    )


def test_a_folder_judged_here_pairs_with_a_run(tmp_path: Path) -> None:
    """Images without a plan whose judge is known."""
    old_stored_result, new_stored_result = (
        scored(tmp_path / "old", hits(1), plan()),
        scored(tmp_path / "new", hits(2), judge=OWN_JUDGE),
    )
    assert (
        difference(old_stored_result, new_stored_result).reason
        == "paired by prompt: a run has no plan"
    )


def test_samples_pair_only_where_seed_resolution_and_indices_agree(tmp_path: Path) -> None:
    old_stored_result, new_stored_result = (
        scored(tmp_path / "old", hits(1), plan()),
        scored(tmp_path / "new", hits(2), plan()),
    )
    assert (
        difference(old_stored_result, new_stored_result).reason
        == "paired by sample, clustered by prompt"
    )


def test_a_judge_of_another_kind_than_an_imports_is_not_comparable(tmp_path: Path) -> None:
    substitute = OWN_JUDGE.model_copy(update={"judge_class": "substitute"})
    old_stored_result, new_stored_result = (
        scored(tmp_path / "old", hits(1)),
        scored(tmp_path / "new", hits(2), plan(), judge=substitute),
    )
    assert (
        difference(old_stored_result, new_stored_result).reason
        == "judge kind official against substitute"
    )


def test_other_prompts_are_no_pairs_and_the_reason_is_said(tmp_path: Path) -> None:
    texts = [f"a photo of {i} owls" for i in range(PROMPTS)]
    old_stored_result = scored(tmp_path / "old", hits(1), texts=texts)
    stored_result = scored(tmp_path / "same", hits(2), texts=texts)
    other_stored_result = scored(
        tmp_path / "other", hits(2), texts=[*texts[:3], "a \x1b[31mdog", *texts[4:]]
    )
    fewer = scored(tmp_path / "fewer", hits(2)[:, :40])
    another_file = scored(tmp_path / "file", hits(2), reference_sha256="cd" * 32)
    assert difference(old_stored_result, stored_result).is_paired
    assert (
        difference(old_stored_result, other_stored_result).reason
        == "unpaired: other prompts: number 3 is 'a photo of 3 owls' against 'a  [31mdog'"
    )
    assert not difference(old_stored_result, other_stored_result).is_paired
    assert (
        difference(old_stored_result, fewer).delta is None
        and "images 240 against 160" in difference(old_stored_result, fewer).reason
    )
    assert (
        difference(old_stored_result, another_file).delta is None
        and "reference" in difference(old_stored_result, another_file).reason
    )


def test_prompts_that_count_in_one_run_alone_are_no_pairs(tmp_path: Path) -> None:
    """The same number of images, one prompt left out of each."""
    left, right = hits(1), hits(2)
    left[:, 0], right[:, 1] = np.nan, np.nan
    old_stored_result, new_stored_result = (
        scored(tmp_path / "old", hits(1)),
        scored(tmp_path / "new", hits(2)),
    )
    for item, rows in ((old_stored_result, left), (new_stored_result, right)):
        arrays = dict(np.load(item.path.with_suffix(".npz"))) | {METRIC: rows.ravel()}
        write_arrays(item.path.with_suffix(".npz"), arrays)
    assert (
        difference(old_stored_result, new_stored_result).reason
        == "unpaired: other prompts: 59 against 59, 58 in both"
    )


def test_a_lost_image_does_not_unpair_its_prompt(tmp_path: Path) -> None:
    old_stored_result, new_stored_result = (
        scored(tmp_path / "old", hits(1)),
        scored(tmp_path / "new", hits(2)),
    )
    rows = hits(2).ravel()
    rows[7] = np.nan
    write_arrays(
        new_stored_result.path.with_suffix(".npz"),
        dict(np.load(new_stored_result.path.with_suffix(".npz"))) | {METRIC: rows},
    )
    difference_result = difference(old_stored_result, new_stored_result)
    assert (
        difference_result.is_paired
        and difference_result.n_prompts == PROMPTS
        and difference_result.se is not None
    )


def test_other_seeds_of_the_same_prompts_add_what_both_runs_vary(tmp_path: Path) -> None:
    """Taken for pairs, images of other seeds would give about the same; what counts is the spread
    of both runs within prompts.
    """
    old_stored_result, new_stored_result = (
        scored(tmp_path / "old", hits(1), plan()),
        scored(tmp_path / "new", hits(2), plan(seed=1)),
    )
    difference_result = difference(old_stored_result, new_stored_result)
    parts = [run.var(0, ddof=1) / 4 for run in (hits(1), hits(2))]
    assert (
        difference_result.new_seeds_interval is not None
        and difference_result.new_seeds_interval.se
        == pytest.approx(np.sqrt(sum(p.sum() for p in parts)) / PROMPTS)
    )


def test_gate_ranks_and_plan_pair_prompts_of_other_seeds(tmp_path: Path) -> None:
    old_stored_result, new_stored_result = (
        scored(tmp_path / name, hits(seed, chance=level), plan(seed=seed))
        for name, seed, level in (("a", 1, 0.5), ("b", 2, 0.6))
    )
    rule = policy.Policy(metric={METRIC: policy.GateRule(margin=0.05)})
    (decision,) = decide.run_gate(
        baseline.load_baseline_or_runs(tmp_path / "b"),
        baseline.load_baseline_or_runs(tmp_path / "a"),
        rule,
    ).decisions
    assert "paired by prompt: other seed, the interval is for new prompts" in decision.reason
    (section,) = build_sections([old_stored_result, new_stored_result])
    step = section.results[1].ranks[METRIC].difference
    assert step is not None and step.is_paired and step.reason == "paired by prompt: other seed"
    metric = next(
        m for m in registry.load_by_name("evaluators", "geneval").metrics if m.name == METRIC
    )
    noise = find_metric_noise(plan(), metric, [old_stored_result, new_stored_result], None).noise
    assert (
        noise.paired_deviation is not None
        and noise.paired_deviation < noise.sampling_deviation * np.sqrt(2) * 0.8
    )


def test_methods_of_prompts_share_the_prompts(tmp_path: Path) -> None:
    """Three training seeds a side: what new prompts would move both methods by is in the error,
    though all generated with other seeds.
    """
    for side, shift in (("old", 0), ("new", 3)):
        for k in range(3):
            of = plan(seed=k + shift)
            name = of.checkpoint.model_copy(update={"sha256": f"{k + shift}" * 64})
            scored(
                tmp_path / side / f"s{k}",
                hits(k + shift),
                of.model_copy(update={"checkpoint": name}),
            )
    (line,) = compare.compare_runs(
        *(compare.load_compared_runs(tmp_path / side) for side in ("old", "new"))
    ).metrics
    assert line.difference.reason == "3 against 3 training seeds, same prompts scored by all"
    assert line.difference.se is not None and line.difference.se > 0


# ---------------------------------------------------------------------------------------- ratio
# metrics


def questions(rng: np.random.Generator, prompts: int = 67) -> tuple[np.ndarray, np.ndarray]:
    """Questions answered with yes, in points of 100, and how many were asked, (prompts,) each."""
    weights = rng.integers(1, 6, prompts).astype(float)
    return 100 * rng.binomial(weights.astype(int), 0.9), weights


def of_prompts(
    totals: np.ndarray, weights: np.ndarray, tasks: np.ndarray | None = None
) -> PromptSamples:
    return PromptSamples(
        totals,
        weights,
        np.arange(len(totals)),
        np.zeros(len(totals), int) if tasks is None else tasks,
    )


def entity(
    folder: Path, totals: np.ndarray, weights: np.ndarray, keep_sums: bool = True
) -> StoredResult:
    """A DPG-Bench result of one image a prompt; without sums as results before had it."""
    rows = contributions(totals, weights)
    sums = {"entity_total": totals, "entity_weight": weights} if keep_sums else {}
    arrays = {
        "indices": np.arange(len(rows)),
        "prompts": np.arange(len(rows)),
        "entity": rows,
        **sums,
    }
    measurement = fake_runs.measurement(
        "entity", float(totals.sum() / weights.sum()), standard_error(rows), len(rows)
    )
    path = fake_runs.write_result(
        folder, fake_runs.result(plan(), [measurement], evaluator="dpg-bench"), arrays, "dpg-bench"
    )
    return StoredResult(read_result(path), path)


def test_one_prompt_that_changed_is_one_win_and_the_rest_are_ties(tmp_path: Path) -> None:
    totals, weights = questions(np.random.default_rng(0))
    better = totals.copy()
    position = int(np.argmax(weights * 100 - totals))
    better[position] += 100
    old_stored_result, new_stored_result = (
        entity(tmp_path / "old", totals, weights),
        entity(tmp_path / "new", better, weights),
    )
    results = compare_results(
        "entity", "higher", old_stored_result, new_stored_result, MEASUREMENT_FIELDS
    )
    assert (results.wins, results.losses, results.ties, results.p) == (1, 0, 66, 1.0)
    assert (
        results.verdict == "not resolved"
        and results.low is not None
        and results.low < 0 < (results.high or 0)
    )
    wrong_contributions = contributions(better, weights) - contributions(
        totals, weights
    )  # terms of the sum are no scores of prompts
    assert (wrong_contributions != 0).sum() == 67


def test_equal_prompts_are_no_certainty(tmp_path: Path) -> None:
    totals, weights = questions(np.random.default_rng(0))
    results = compare_results(
        "entity",
        "higher",
        *(entity(tmp_path / name, totals, weights) for name in ("old", "new")),
        MEASUREMENT_FIELDS,
    )  # type: ignore[misc]
    assert (results.delta, results.p, results.ties, results.verdict) == (
        0.0,
        1.0,
        67,
        "not resolved",
    )
    assert (
        results.low is not None
        and results.high is not None
        and results.low < -1
        and results.high > 1
    )
    assert "the interval counts one prompt in each direction" in results.reason


def test_results_without_sums_are_compared_and_no_prompt_is_counted(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    (totals, weights), moved_flag = questions(rng), rng.random(67) < 0.3
    other_values = np.where(moved_flag, 100 * rng.binomial(weights.astype(int), 0.8), totals)
    old_stored_result, new_stored_result = (
        entity(tmp_path / "old", totals, weights, keep_sums=False),
        entity(tmp_path / "new", other_values, weights),
    )
    results = compare_results(
        "entity", "higher", old_stored_result, new_stored_result, MEASUREMENT_FIELDS
    )
    exact_results = compare_results(
        "entity",
        "higher",
        entity(tmp_path / "full", totals, weights),
        new_stored_result,
        MEASUREMENT_FIELDS,
    )
    assert (results.wins, results.losses, results.ties, results.n_prompts) == (
        None,
        None,
        None,
        67,
    ) and exact_results.wins is not None
    assert results.delta == exact_results.delta and results.se == pytest.approx(
        exact_results.se, rel=0.1
    )
    decide_metric = decide.decide_metric(
        compare.MetricComparison(
            registry.load_by_name("evaluators", "dpg-bench").metrics[1],
            "entity",
            67,
            90.0,
            89.0,
            results,
            None,
            None,
            results.verdict,
        ),
        policy.GateRule(margin=50.0),
    )
    assert decide_metric.outcome == "pass" and "new prompts" in decide_metric.reason


def test_few_prompts_try_every_exchange_of_a_ratio() -> None:
    """By a slow loop over all ways to exchange whole prompts, in two tasks, with weights that
    differ between the runs.
    """
    rng = np.random.default_rng(5)
    tasks = np.array([0, 0, 0, 1, 1, 1, 1])
    weights = rng.integers(1, 5, (2, 7)).astype(float)
    totals = weights * rng.random((2, 7))
    totals[:, 6], weights[:, 6] = 1.0, 2.0  # does not move
    paired_ratio_result = paired_ratio(
        *(of_prompts(totals[i], weights[i], tasks) for i in (0, 1)), True
    )

    def gap(chosen_items: tuple[int, ...]) -> float:
        side = np.array([*chosen_items])
        scores = [
            np.mean(
                [
                    totals[s, np.arange(7)][tasks == t].sum()
                    / weights[s, np.arange(7)][tasks == t].sum()
                    for t in (0, 1)
                ]
            )
            for s in (side, 1 - side)
        ]
        return float(scores[1] - scores[0])

    gaps = np.array(
        [gap((*chosen_items, 0)) for chosen_items in itertools.product((0, 1), repeat=6)]
    )
    assert paired_ratio_result.is_exact and paired_ratio_result.p == np.mean(
        np.abs(gaps) >= abs(gap((0,) * 7)) - 1e-12
    )
    assert (
        paired_ratio_result.delta == pytest.approx(gap((0,) * 7)) and paired_ratio_result.ties == 1
    )


def test_weights_of_one_give_the_errors_and_p_of_means() -> None:
    """A mean of task means: the ratio is the mean, so interval, degrees of freedom and p are those
    of prompts as clusters.
    """
    rng = np.random.default_rng(6)
    prompts, tasks = np.repeat(np.arange(30), 4), np.repeat(np.arange(30) // 10, 4)
    rows = (rng.random((2, 120)) < [[0.5], [0.7]]).astype(float)
    paired_ratio_result = paired_ratio(
        *(PromptSamples(row, np.ones(120), prompts, tasks) for row in rows), True
    )
    means = prompt_means(rows[1] - rows[0], prompts, tasks)
    score, flips = clustered_mean(means), sign_flip_test(means)
    assert (
        paired_ratio_result.delta,
        paired_ratio_result.se,
        paired_ratio_result.df,
    ) == pytest.approx((score.value, score.new_prompts_interval.se, score.df))
    assert (
        paired_ratio_result.new_seeds_interval is not None
        and score.new_seeds_interval is not None
        and paired_ratio_result.new_seeds_interval == pytest.approx(tuple(score.new_seeds_interval))
    )
    assert (
        paired_ratio_result.p,
        paired_ratio_result.wins,
        paired_ratio_result.losses,
        paired_ratio_result.ties,
    ) == (
        flips.p,
        flips.wins,
        flips.losses,
        flips.ties,
    )
    run = PromptSamples(rows[0], np.ones(120), prompts, tasks)
    assert prompt_contributions(run).mean() == pytest.approx(
        np.mean([rows[0][tasks == t].mean() for t in range(3)])
    )
    assert standard_error(prompt_contributions(run)) == pytest.approx(
        clustered_mean(prompt_means(rows[0], prompts, tasks)).new_prompts_interval.se, rel=0.1
    )


def test_a_task_in_which_no_prompt_moved_still_has_an_error() -> None:
    tasks = np.repeat([0, 1], 20)
    old_prompt_samples = of_prompts(np.r_[np.ones(20), np.tile([0.0, 1.0], 10)], np.ones(40), tasks)
    new_prompt_samples = of_prompts(
        np.r_[np.ones(20), np.tile([1.0, 0.0, 1.0, 1.0], 5)], np.ones(40), tasks
    )
    wide_paired_ratio, narrow_paired_ratio = (
        paired_ratio(old_prompt_samples, new_prompt_samples, True, 1.0),
        paired_ratio(old_prompt_samples, new_prompt_samples, True),
    )
    assert (
        wide_paired_ratio.se is not None
        and narrow_paired_ratio.se is not None
        and (wide_paired_ratio.n_unmoved_tasks, wide_paired_ratio.n_tasks) == (1, 2)
    )
    assert wide_paired_ratio.se == pytest.approx(
        np.hypot(narrow_paired_ratio.se, bonett_price_interval(0, 0, 20, 1.0).se / 2)
    )
    still_paired_ratio = paired_ratio(old_prompt_samples, old_prompt_samples, True, 1.0)
    assert (
        still_paired_ratio.se == pytest.approx(bonett_price_interval(0, 0, 40, 1.0).se)
        and still_paired_ratio.df is None
        and paired_ratio(old_prompt_samples, old_prompt_samples, True).se is None
    )


def test_ratios_of_other_prompts_or_of_one_are_refused() -> None:
    prompt_samples = of_prompts(np.arange(4.0), np.ones(4))
    with pytest.raises(ShapeError, match="different prompts"):
        paired_ratio(prompt_samples, prompt_samples._replace(prompts=np.arange(1, 5)), True)
    with pytest.raises(ShapeError, match="no weight"):
        paired_ratio(prompt_samples, of_prompts(np.arange(4.0), np.array([1.0, 1, 1, 0])), True)
    with pytest.raises(TooFewImagesError, match="two prompts"):
        paired_ratio(of_prompts(np.ones(1), np.ones(1)), of_prompts(np.ones(1), np.ones(1)), True)


def pair_of_ratios(rng: np.random.Generator, prompts: int, copies: int) -> list[PromptSamples]:
    """Two runs without a difference: prompts have a chance of their own and 1 to about 10
    questions; images of a prompt are alike.
    """
    weights, chance = rng.geometric(0.25, prompts), rng.beta(1.1, 0.4, prompts)
    of = np.tile(np.arange(prompts), copies)
    draws = [rng.binomial(weights[of], chance[of]).astype(float) for _ in (0, 1)]
    return [
        PromptSamples(totals, weights[of].astype(float), of, np.zeros(len(of), int))
        for totals in draws
    ]


@pytest.mark.parametrize(("prompts", "copies"), [(60, 1), (30, 4)])
def test_ratios_are_covered_and_exchanges_reject_at_their_rate(prompts: int, copies: int) -> None:
    from scipy.special import stdtrit

    rng, inside, alarms, seeds = np.random.default_rng(7), [], [], []
    for k in range(1000):
        paired_ratio_result = paired_ratio(
            *pair_of_ratios(rng, prompts, copies), False, 1.0, 199 if k % 3 == 0 else 1
        )
        assert paired_ratio_result.se is not None and paired_ratio_result.df is not None
        inside.append(
            abs(paired_ratio_result.delta)
            <= stdtrit(paired_ratio_result.df, 0.975) * paired_ratio_result.se
        )
        alarms += [paired_ratio_result.p < 0.05] if k % 3 == 0 else []
        seeds += (
            [
                abs(paired_ratio_result.delta)
                <= (
                    paired_ratio_result.new_seeds_interval.high
                    - paired_ratio_result.new_seeds_interval.low
                )
                / 2
            ]
            if paired_ratio_result.new_seeds_interval
            else []
        )
    assert 0.93 <= np.mean(inside) <= 0.97 and 0.005 <= np.mean(alarms) <= 0.075
    assert not seeds or 0.93 <= np.mean(seeds) <= 0.97


def test_dpg_bench_keeps_the_sums_of_its_categories() -> None:
    """Two prompts of one and three questions: what pairing needs is beside the first-order
    contributions.
    """

    def sight(index: int, count: int, yes: int) -> AnnotatedImage:
        rows = [
            {
                "row": 10 * index + k,
                "id": k,
                "question": f"Is it {k}?",
                "parents": [0],
                "broad": "entity",
                "detailed": "whole",
                "tuple": "entity - whole (owl)",
            }
            for k in range(1, count + 1)
        ]
        answers = tuple(VqaAnswer(text="yes" if k < yes else "no") for k in range(count))
        return AnnotatedImage(
            index,
            index,
            0,
            "t",
            {"item": f"a{index}", "questions": rows, "official_text": True},
            {"vqa": VqaAnnotation(answers=answers)},
        )

    score = registry.load_by_name("evaluators", "dpg-bench").evaluate(
        [sight(1, 1, 1), sight(2, 3, 2)], "corrected", False
    )
    assert score.per_sample["entity_total"].tolist() == [100.0, 200.0] and score.per_sample[
        "entity_weight"
    ].tolist() == [1.0, 3.0]
    assert "dpg_weight" not in score.per_sample  # every image weighs the same there


# ------------------------------------------------------------------------------- no certainty from
# nothing


@pytest.mark.parametrize(
    ("hit_count", "evaluator", "metric"), [(1, "fidelity", "precision"), (100, "top1", "top1")]
)
@pytest.mark.parametrize("share", [0.0, 0.8])
def test_equal_shares_have_an_interval_with_a_width(
    tmp_path: Path, hit_count: int, evaluator: str, metric: str, share: float
) -> None:
    rows = hit_count * (np.arange(200) < 200 * share).astype(float)
    records = []
    for name in ("old", "new"):
        result = fake_runs.result(
            plan(),
            [fake_runs.measurement(metric, float(rows.mean()), 1.0, 200)],
            evaluator=evaluator,
        )
        path = fake_runs.write_result(
            tmp_path / name, result, {metric: rows, "indices": np.arange(200)}, evaluator
        )
        records.append(StoredResult(read_result(path), path))
    results = compare_results(metric, "higher", *records)
    assert (results.p, results.verdict, results.reason) == (1.0, "not resolved", "paired by sample")
    assert (
        results.low is not None
        and results.high is not None
        and (results.high - results.low) / hit_count
        == pytest.approx(2 * 1.96 * np.sqrt(2) / 202, rel=0.01)
    )


def test_recall_whose_halves_did_not_move_has_an_interval_with_a_width(tmp_path: Path) -> None:
    """Other pictures, the same cover: the gate must not call that unknown, nor certain."""
    runs, paths = [tmp_path / name for name in ("old", "new")], []
    for run, digest in zip(runs, "ab", strict=True):
        recall = fake_runs.measurement("recall", 0.77, 0.03, 200)
        result = fake_runs.result(
            plan(), [recall], evaluator="fidelity", samples_sha256=digest * 64
        )
        rows = {
            "recall": np.arange(300) % 4 > 0,
            "recall_halves": np.linspace(0.7, 0.8, 40),
            "indices": np.arange(200),
        }
        paths.append(fake_runs.write_result(run, result, rows, "fidelity"))
    results = compare_results(
        "recall", "higher", *(StoredResult(read_result(path), path) for path in paths)
    )
    assert results.low is not None and results.high is not None and results.se is not None
    assert results.high - results.low == pytest.approx(2 * 1.96 * np.sqrt(2) / 202, rel=0.01)
    assert (results.delta, results.p, results.verdict) == (
        0.0,
        1.0,
        "not resolved",
    ) and results.reason.endswith("counts one sample in each direction")
    line = compare.compare_runs(
        *(compare.load_compared_runs(run) for run in runs), ["recall"]
    ).metrics[0]
    assert [
        decide.decide_metric(line, policy.GateRule(margin=margin)).outcome
        for margin in (0.02, 0.01)
    ] == ["pass", "cannot tell"]


def test_equal_rows_of_a_distance_have_no_known_error(tmp_path: Path) -> None:
    a, b = (fake_runs.micro_run(tmp_path / name, "harope") for name in "ab")
    fid = compare.compare_runs(
        compare.load_compared_runs(a), compare.load_compared_runs(b), ["fid"]
    ).metrics[0]
    assert (fid.verdict, fid.difference.p, fid.difference.se, fid.difference.low) == (
        "not resolved",
        1.0,
        None,
        None,
    )
    assert fid.difference.reason == (
        "paired by sample; all samples changed equally or not at all, so the standard error is not"
        " known"
    )
    assert (
        CliRunner().invoke(main, ["gate", str(a), str(b)]).exit_code == 0
    )  # the very same images: nothing is inferred


# --------------------------------------------------------------------------------------- equal
# pictures


def pictures(
    folder: Path, order: np.ndarray, right: np.ndarray, labels: np.ndarray, names: str = "a"
) -> StoredResult:
    """A classifier's result over 100 pictures that lie in another order, under other names."""
    hashes = np.random.default_rng(3).integers(0, 256, (100, 32)).astype(np.uint8)[order]
    judge = JudgeRecord(
        name="imagenet-labels",
        version=1,
        judge_class="official",
        weights_sha256=names * 64,
        preprocessing="RGB; 224",
    )
    result = fake_runs.result(
        plan(),
        [fake_runs.measurement("top1", float(right.mean()), 1.0, 100)],
        evaluator="top1",
        judge=judge,
        reference_sha256=names * 64,
    )
    arrays = {
        "indices": np.arange(100),
        "top1": right[order],
        "labels": labels[order],
        "image_hashes": hashes,
    }
    path = fake_runs.write_result(folder, result, arrays, "top1")
    return StoredResult(read_result(path), path)


def test_classifiers_pair_by_picture_whatever_the_files_are_called(tmp_path: Path) -> None:
    rng, labels = np.random.default_rng(4), np.arange(100) % 10
    old_value, new_value = (100.0 * (rng.random(100) < level) for level in (0.5, 0.8))
    stored_result = pictures(tmp_path / "old", np.arange(100), old_value, labels)
    results = compare_results(
        "top1",
        "higher",
        stored_result,
        pictures(tmp_path / "new", rng.permutation(100), new_value, labels, "b"),
        MEASUREMENT_FIELDS,
    )
    assert (results.is_paired, results.reason, results.test) == (
        True,
        "paired by image",
        "McNemar, exact",
    )
    assert (results.wins, results.losses) == (
        int((new_value > old_value).sum()),
        int((new_value < old_value).sum()),
    )
    relabelled_stored_result = pictures(
        tmp_path / "labels", np.arange(100), new_value, (labels + 1) % 10, "b"
    )
    assert compare_results(
        "top1", "higher", stored_result, relabelled_stored_result, MEASUREMENT_FIELDS
    ).reason.startswith("judge ")
    same_names = pictures(tmp_path / "names", np.arange(100), new_value, (labels + 1) % 10)
    assert (
        compare_results("top1", "higher", stored_result, same_names, MEASUREMENT_FIELDS).reason
        == "unpaired: other labels of the same images"
    )


# ------------------------------------------------------------------- a missing value agrees with
# nothing


@pytest.mark.parametrize(
    ("values", "state", "text"),
    [
        ([None, None], "open", "seed is not recorded in any result"),
        ([0, 0], "yes", "all results share one seed"),
        ([0, None, 0], "open", "2 of 3 results share one seed; it is not recorded in 1 of 3"),
        ([0, 1, None], "no", "results differ in seed (2 values); it is not recorded in 1 of 3"),
    ],
)
def test_a_check_passes_only_on_values_that_are_recorded(
    values: list[object], state: str, text: str
) -> None:
    agreement = check_agreement("seed", values)
    assert (agreement.status, agreement.text) == (state, text)


def test_checks_of_imports_say_what_is_not_recorded(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 2)):
        item = scored(tmp_path / name, hits(seed))
        provenance = item.result.provenance.model_copy(update={"commit": None, "dirty": None})
        write_text(item.path, item.result.model_copy(update={"provenance": provenance}).to_json())
    status = {check.text: check.status for check in collect_checks(read_runs(tmp_path))}
    for what_text in (
        "seed",
        "judge weights",
        "sampler, steps and guidance",
        "commit of this package",
    ):
        assert status[f"{what_text} is not recorded in any result"] == "open"
    assert status["all results share one reference"] == "yes"
    (text,) = [text for text in status if "uncommitted changes is not recorded" in text]
    assert text.startswith("2 of 2 results: ")


def test_a_leaderboard_says_what_its_rows_do_not_record(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 2)):
        scored(tmp_path / name, hits(seed))
    (block,) = build_leaderboard(tmp_path).sections
    assert (
        "These rows may differ in fields that were not recorded: judge, suite, resolution."
        in block.notes
    )
    assert any("weights not recorded" in text for _, text in block.protocol)


def test_a_footing_tells_what_is_not_recorded_from_what_means_nothing(tmp_path: Path) -> None:
    guided_stored_result, free_stored_result = (
        scored(tmp_path / name, hits(1), plan(guidance=value))
        for name, value in (("a", 3.0), ("b", None))
    )
    imported_stored_result = scored(tmp_path / "c", hits(1))
    first_measurement_key, two, three = (
        measurement_key(item.result, item.result.measurements[0])
        for item in (guided_stored_result, free_stored_result, imported_stored_result)
    )
    assert (
        key_differences(first_measurement_key, two) == ["guidance 3.0 against none"]
        and unrecorded_fields([first_measurement_key, two]) == []
    )
    assert key_differences(
        first_measurement_key, three
    ) == [] and "guidance (1 of 2)" in unrecorded_fields([first_measurement_key, three])


def test_training_seeds_of_imports_are_not_other_draws() -> None:
    """Seeds that nobody recorded are not taken for different ones."""
    metric = registry.load_by_name("evaluators", "fidelity").metrics[0]
    result = fake_runs.result(None, [fake_runs.measurement("fid", 10.0, 0.2)])
    runs = [[StoredResult(result, Path(f"{side}{k}.json")) for k in range(2)] for side in "ab"]
    assert compare._shared_variance(metric, *runs) == (
        pytest.approx(0.08),
        "sampling errors assumed common to all runs of a side",
    )
