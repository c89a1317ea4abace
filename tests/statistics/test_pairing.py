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
METRIC, ANY = "images_correct", "prompts_correct"


def plan(resolution: int = 512, **settings: Any) -> Plan:
    """The plan of a run of GenEval's prompts."""
    who = fake_runs.checkpoint("flux-harope", "harope", scale="paper", suite="geneval")
    return fake_runs.plan(who, "geneval", **{"resolution": resolution, **settings})


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
    **facts: Any,
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
    made = fake_runs.measurement(
        METRIC,
        float(rows.mean()),
        clustered_mean(prompt_means(rows, arrays["prompts"])).new_prompts_interval.se,
        rows.size,
    )
    given = {
        "evaluator": "geneval",
        "scale": "paper",
        "judge": OFFICIAL_RUN if of is None else OWN_JUDGE,
        "samples_sha256": f"{rows.sum():064.0f}",
    }
    path = fake_runs.write_result(
        folder, fake_runs.result(of, [made], **{**given, **facts}), arrays, "geneval"
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
    made = fake_runs.measurement(ANY, float(rows.mean()), standard_error(right.max(0)), rows.size)
    write_text(
        item.path,
        item.result.model_copy(
            update={"measurements": (*item.result.measurements, made)}
        ).to_json(),
    )
    write_arrays(item.path.with_suffix(".npz"), read_arrays(item) | {ANY: rows})
    return StoredResult(read_result(item.path), item.path)


def difference(old: StoredResult, new: StoredResult) -> Difference:
    return compare_results(METRIC, "higher", old, new, MEASUREMENT_FIELDS)


# ------------------------------------------------------------------------------------------ prompts
# pair


def test_two_imports_of_the_same_553_prompts_are_paired_by_prompt(tmp_path: Path) -> None:
    """A gain that separate errors do not show: paired by prompt the error is little more than
    half.
    """
    old = scored(tmp_path / "old", hits(1, chance=0.50, prompts=553))
    new = scored(tmp_path / "new", hits(2, chance=0.56, prompts=553))
    found = difference(old, new)
    alone = np.hypot(*(item.result.measurements[0].se or 0.0 for item in (old, new)))
    assert (found.is_paired, found.n_prompts, found.verdict) == (True, 553, "better")
    assert (
        found.se is not None and found.se < 0.6 * alone and abs(found.delta or 0.0) < 1.96 * alone
    )
    assert found.reason == "paired by prompt: a run has no plan"
    told = (
        CliRunner().invoke(main, ["compare", str(tmp_path / "old"), str(tmp_path / "new")]).stdout
    )
    assert "paired by prompt: a run has no plan" in told and "same prompts, new seeds" in told
    assert (
        "not recorded, so it is unknown whether the sides agree: judge, suite, resolution" in told
    )


@pytest.mark.parametrize(
    ("one", "two", "copies", "why"),
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
    tmp_path: Path, one: Plan | None, two: Plan | None, copies: int, why: str
) -> None:
    old, new = (
        scored(tmp_path / "old", hits(1), one),
        scored(tmp_path / "new", hits(2, copies), two),
    )
    found = difference(old, new)
    moves = hits(2, copies).mean(0) - hits(1).mean(0)
    assert found.reason == f"paired by prompt: {why}" and found.n_prompts == PROMPTS
    assert found.delta == pytest.approx(moves.mean()) and found.se == pytest.approx(
        standard_error(moves)
    )
    assert (found.wins, found.losses) == (int((moves > 0).sum()), int((moves < 0).sum()))
    assert (found.new_seeds_interval is None) == (
        copies == 1
    )  # one image tells nothing of other seeds


@pytest.mark.parametrize("of", [None, plan()], ids=["imports", "runs"])
def test_any_of_four_images_is_not_compared_with_any_of_one(
    tmp_path: Path, of: Plan | None
) -> None:
    """The better run has one image a prompt: the more images, the likelier is a correct one among
    them.
    """
    old, new = (
        any_correct(tmp_path / "old", hits(1), of),
        any_correct(tmp_path / "new", hits(2, 1, chance=0.65), of),
    )
    found = compare_results(ANY, "higher", old, new, MEASUREMENT_FIELDS)
    assert (found.verdict, found.reason) == ("not comparable", "images 240 against 60")
    assert difference(old, new).n_prompts == PROMPTS  # a mean over images pairs all the same
    again = any_correct(tmp_path / "again", hits(3), of)
    assert compare_results(ANY, "higher", old, again, MEASUREMENT_FIELDS).n_prompts == PROMPTS


def test_a_folder_judged_here_pairs_with_a_run(tmp_path: Path) -> None:
    """Images without a plan whose judge is known."""
    old, new = (
        scored(tmp_path / "old", hits(1), plan()),
        scored(tmp_path / "new", hits(2), judge=OWN_JUDGE),
    )
    assert difference(old, new).reason == "paired by prompt: a run has no plan"


def test_samples_pair_only_where_seed_resolution_and_indices_agree(tmp_path: Path) -> None:
    old, new = scored(tmp_path / "old", hits(1), plan()), scored(tmp_path / "new", hits(2), plan())
    assert difference(old, new).reason == "paired by sample, clustered by prompt"


def test_a_judge_of_another_kind_than_an_imports_is_not_comparable(tmp_path: Path) -> None:
    substitute = OWN_JUDGE.model_copy(update={"judge_class": "substitute"})
    old, new = (
        scored(tmp_path / "old", hits(1)),
        scored(tmp_path / "new", hits(2), plan(), judge=substitute),
    )
    assert difference(old, new).reason == "judge kind official against substitute"


def test_other_prompts_are_no_pairs_and_the_reason_is_said(tmp_path: Path) -> None:
    texts = [f"a photo of {i} owls" for i in range(PROMPTS)]
    old = scored(tmp_path / "old", hits(1), texts=texts)
    same = scored(tmp_path / "same", hits(2), texts=texts)
    other = scored(tmp_path / "other", hits(2), texts=[*texts[:3], "a \x1b[31mdog", *texts[4:]])
    fewer = scored(tmp_path / "fewer", hits(2)[:, :40])
    another_file = scored(tmp_path / "file", hits(2), reference_sha256="cd" * 32)
    assert difference(old, same).is_paired
    assert (
        difference(old, other).reason
        == "unpaired: other prompts: number 3 is 'a photo of 3 owls' against 'a  [31mdog'"
    )
    assert not difference(old, other).is_paired
    assert (
        difference(old, fewer).delta is None
        and "images 240 against 160" in difference(old, fewer).reason
    )
    assert (
        difference(old, another_file).delta is None
        and "reference" in difference(old, another_file).reason
    )


def test_prompts_that_count_in_one_run_alone_are_no_pairs(tmp_path: Path) -> None:
    """The same number of images, one prompt left out of each."""
    left, right = hits(1), hits(2)
    left[:, 0], right[:, 1] = np.nan, np.nan
    old, new = scored(tmp_path / "old", hits(1)), scored(tmp_path / "new", hits(2))
    for item, rows in ((old, left), (new, right)):
        arrays = dict(np.load(item.path.with_suffix(".npz"))) | {METRIC: rows.ravel()}
        write_arrays(item.path.with_suffix(".npz"), arrays)
    assert difference(old, new).reason == "unpaired: other prompts: 59 against 59, 58 in both"


def test_a_lost_image_does_not_unpair_its_prompt(tmp_path: Path) -> None:
    old, new = scored(tmp_path / "old", hits(1)), scored(tmp_path / "new", hits(2))
    rows = hits(2).ravel()
    rows[7] = np.nan
    write_arrays(
        new.path.with_suffix(".npz"), dict(np.load(new.path.with_suffix(".npz"))) | {METRIC: rows}
    )
    found = difference(old, new)
    assert found.is_paired and found.n_prompts == PROMPTS and found.se is not None


def test_other_seeds_of_the_same_prompts_add_what_both_runs_vary(tmp_path: Path) -> None:
    """Taken for pairs, images of other seeds would give about the same; what counts is the spread
    of both runs within prompts.
    """
    old, new = (
        scored(tmp_path / "old", hits(1), plan()),
        scored(tmp_path / "new", hits(2), plan(seed=1)),
    )
    found = difference(old, new)
    parts = [run.var(0, ddof=1) / 4 for run in (hits(1), hits(2))]
    assert found.new_seeds_interval is not None and found.new_seeds_interval.se == pytest.approx(
        np.sqrt(sum(p.sum() for p in parts)) / PROMPTS
    )


def test_gate_ranks_and_plan_pair_prompts_of_other_seeds(tmp_path: Path) -> None:
    old, new = (
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
    (section,) = build_sections([old, new])
    step = section.results[1].ranks[METRIC].difference
    assert step is not None and step.is_paired and step.reason == "paired by prompt: other seed"
    metric = next(
        m for m in registry.load_by_name("evaluators", "geneval").metrics if m.name == METRIC
    )
    noise = find_metric_noise(plan(), metric, [old, new], None).noise
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
            who = of.checkpoint.model_copy(update={"sha256": f"{k + shift}" * 64})
            scored(
                tmp_path / side / f"s{k}",
                hits(k + shift),
                of.model_copy(update={"checkpoint": who}),
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
    made = fake_runs.measurement(
        "entity", float(totals.sum() / weights.sum()), standard_error(rows), len(rows)
    )
    path = fake_runs.write_result(
        folder, fake_runs.result(plan(), [made], evaluator="dpg-bench"), arrays, "dpg-bench"
    )
    return StoredResult(read_result(path), path)


def test_one_prompt_that_changed_is_one_win_and_the_rest_are_ties(tmp_path: Path) -> None:
    totals, weights = questions(np.random.default_rng(0))
    better = totals.copy()
    place = int(np.argmax(weights * 100 - totals))
    better[place] += 100
    old, new = entity(tmp_path / "old", totals, weights), entity(tmp_path / "new", better, weights)
    found = compare_results("entity", "higher", old, new, MEASUREMENT_FIELDS)
    assert (found.wins, found.losses, found.ties, found.p) == (1, 0, 66, 1.0)
    assert (
        found.verdict == "not resolved"
        and found.low is not None
        and found.low < 0 < (found.high or 0)
    )
    wrong = contributions(better, weights) - contributions(
        totals, weights
    )  # terms of the sum are no scores of prompts
    assert (wrong != 0).sum() == 67


def test_equal_prompts_are_no_certainty(tmp_path: Path) -> None:
    totals, weights = questions(np.random.default_rng(0))
    found = compare_results(
        "entity",
        "higher",
        *(entity(tmp_path / name, totals, weights) for name in ("old", "new")),
        MEASUREMENT_FIELDS,
    )  # type: ignore[misc]
    assert (found.delta, found.p, found.ties, found.verdict) == (0.0, 1.0, 67, "not resolved")
    assert found.low is not None and found.high is not None and found.low < -1 and found.high > 1
    assert "the interval grants one prompt each way" in found.reason


def test_results_without_sums_are_compared_and_no_prompt_is_counted(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    (totals, weights), moved = questions(rng), rng.random(67) < 0.3
    other = np.where(moved, 100 * rng.binomial(weights.astype(int), 0.8), totals)
    old, new = (
        entity(tmp_path / "old", totals, weights, keep_sums=False),
        entity(tmp_path / "new", other, weights),
    )
    found = compare_results("entity", "higher", old, new, MEASUREMENT_FIELDS)
    exact = compare_results(
        "entity", "higher", entity(tmp_path / "full", totals, weights), new, MEASUREMENT_FIELDS
    )
    assert (found.wins, found.losses, found.ties, found.n_prompts) == (
        None,
        None,
        None,
        67,
    ) and exact.wins is not None
    assert found.delta == exact.delta and found.se == pytest.approx(exact.se, rel=0.1)
    told = decide.decide_metric(
        compare.MetricComparison(
            registry.load_by_name("evaluators", "dpg-bench").metrics[1],
            "entity",
            67,
            90.0,
            89.0,
            found,
            None,
            None,
            found.verdict,
        ),
        policy.GateRule(margin=50.0),
    )
    assert told.outcome == "pass" and "new prompts" in told.reason


def test_few_prompts_try_every_exchange_of_a_ratio() -> None:
    """By a slow loop over all ways to exchange whole prompts, in two tasks, with weights that
    differ between the runs.
    """
    rng = np.random.default_rng(5)
    tasks = np.array([0, 0, 0, 1, 1, 1, 1])
    weights = rng.integers(1, 5, (2, 7)).astype(float)
    totals = weights * rng.random((2, 7))
    totals[:, 6], weights[:, 6] = 1.0, 2.0  # does not move
    found = paired_ratio(*(of_prompts(totals[i], weights[i], tasks) for i in (0, 1)), True)

    def gap(chosen: tuple[int, ...]) -> float:
        side = np.array([*chosen])
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

    gaps = np.array([gap((*chosen, 0)) for chosen in itertools.product((0, 1), repeat=6)])
    assert found.is_exact and found.p == np.mean(np.abs(gaps) >= abs(gap((0,) * 7)) - 1e-12)
    assert found.delta == pytest.approx(gap((0,) * 7)) and found.ties == 1


def test_weights_of_one_give_the_errors_and_p_of_means() -> None:
    """A mean of task means: the ratio is the mean, so interval, degrees of freedom and p are those
    of prompts as clusters.
    """
    rng = np.random.default_rng(6)
    prompts, tasks = np.repeat(np.arange(30), 4), np.repeat(np.arange(30) // 10, 4)
    rows = (rng.random((2, 120)) < [[0.5], [0.7]]).astype(float)
    found = paired_ratio(*(PromptSamples(row, np.ones(120), prompts, tasks) for row in rows), True)
    means = prompt_means(rows[1] - rows[0], prompts, tasks)
    score, flips = clustered_mean(means), sign_flip_test(means)
    assert (found.delta, found.se, found.df) == pytest.approx(
        (score.value, score.new_prompts_interval.se, score.df)
    )
    assert (
        found.new_seeds_interval is not None
        and score.new_seeds_interval is not None
        and found.new_seeds_interval == pytest.approx(tuple(score.new_seeds_interval))
    )
    assert (found.p, found.wins, found.losses, found.ties) == (
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
    old = of_prompts(np.r_[np.ones(20), np.tile([0.0, 1.0], 10)], np.ones(40), tasks)
    new = of_prompts(np.r_[np.ones(20), np.tile([1.0, 0.0, 1.0, 1.0], 5)], np.ones(40), tasks)
    wide, narrow = paired_ratio(old, new, True, 1.0), paired_ratio(old, new, True)
    assert (
        wide.se is not None
        and narrow.se is not None
        and (wide.n_unmoved_tasks, wide.n_tasks) == (1, 2)
    )
    assert wide.se == pytest.approx(
        np.hypot(narrow.se, bonett_price_interval(0, 0, 20, 1.0).se / 2)
    )
    still = paired_ratio(old, old, True, 1.0)
    assert (
        still.se == pytest.approx(bonett_price_interval(0, 0, 40, 1.0).se)
        and still.df is None
        and paired_ratio(old, old, True).se is None
    )


def test_ratios_of_other_prompts_or_of_one_are_refused() -> None:
    one = of_prompts(np.arange(4.0), np.ones(4))
    with pytest.raises(ShapeError, match="different prompts"):
        paired_ratio(one, one._replace(prompts=np.arange(1, 5)), True)
    with pytest.raises(ShapeError, match="no weight"):
        paired_ratio(one, of_prompts(np.arange(4.0), np.array([1.0, 1, 1, 0])), True)
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
        found = paired_ratio(
            *pair_of_ratios(rng, prompts, copies), False, 1.0, 199 if k % 3 == 0 else 1
        )
        assert found.se is not None and found.df is not None
        inside.append(abs(found.delta) <= stdtrit(found.df, 0.975) * found.se)
        alarms += [found.p < 0.05] if k % 3 == 0 else []
        seeds += (
            [abs(found.delta) <= (found.new_seeds_interval.high - found.new_seeds_interval.low) / 2]
            if found.new_seeds_interval
            else []
        )
    assert 0.93 <= np.mean(inside) <= 0.97 and 0.005 <= np.mean(alarms) <= 0.075
    assert not seeds or 0.93 <= np.mean(seeds) <= 0.97


def test_dpg_bench_keeps_the_sums_of_its_categories() -> None:
    """Two prompts of one and three questions: what pairing needs is beside the first-order
    contributions.
    """

    def sight(index: int, asked: int, yes: int) -> AnnotatedImage:
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
            for k in range(1, asked + 1)
        ]
        answers = tuple(VqaAnswer(text="yes" if k < yes else "no") for k in range(asked))
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
    ("hit", "evaluator", "metric"), [(1, "fidelity", "precision"), (100, "top1", "top1")]
)
@pytest.mark.parametrize("share", [0.0, 0.8])
def test_equal_shares_have_an_interval_with_a_width(
    tmp_path: Path, hit: int, evaluator: str, metric: str, share: float
) -> None:
    rows = hit * (np.arange(200) < 200 * share).astype(float)
    found = []
    for name in ("old", "new"):
        made = fake_runs.result(
            plan(),
            [fake_runs.measurement(metric, float(rows.mean()), 1.0, 200)],
            evaluator=evaluator,
        )
        path = fake_runs.write_result(
            tmp_path / name, made, {metric: rows, "indices": np.arange(200)}, evaluator
        )
        found.append(StoredResult(read_result(path), path))
    told = compare_results(metric, "higher", *found)
    assert (told.p, told.verdict, told.reason) == (1.0, "not resolved", "paired by sample")
    assert (
        told.low is not None
        and told.high is not None
        and (told.high - told.low) / hit == pytest.approx(2 * 1.96 * np.sqrt(2) / 202, rel=0.01)
    )


def test_recall_whose_halves_did_not_move_has_an_interval_with_a_width(tmp_path: Path) -> None:
    """Other pictures, the same cover: the gate must not call that unknown, nor certain."""
    runs, paths = [tmp_path / name for name in ("old", "new")], []
    for run, digest in zip(runs, "ab", strict=True):
        recall = fake_runs.measurement("recall", 0.77, 0.03, 200)
        made = fake_runs.result(plan(), [recall], evaluator="fidelity", samples_sha256=digest * 64)
        rows = {
            "recall": np.arange(300) % 4 > 0,
            "recall_halves": np.linspace(0.7, 0.8, 40),
            "indices": np.arange(200),
        }
        paths.append(fake_runs.write_result(run, made, rows, "fidelity"))
    told = compare_results(
        "recall", "higher", *(StoredResult(read_result(path), path) for path in paths)
    )
    assert told.low is not None and told.high is not None and told.se is not None
    assert told.high - told.low == pytest.approx(2 * 1.96 * np.sqrt(2) / 202, rel=0.01)
    assert (told.delta, told.p, told.verdict) == (
        0.0,
        1.0,
        "not resolved",
    ) and told.reason.endswith("grants one sample each way")
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
    assert (
        fid.difference.reason
        == "paired by sample; all samples moved alike or not at all, so the error is not known"
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
    made = fake_runs.result(
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
    path = fake_runs.write_result(folder, made, arrays, "top1")
    return StoredResult(read_result(path), path)


def test_classifiers_pair_by_picture_whatever_the_files_are_called(tmp_path: Path) -> None:
    rng, labels = np.random.default_rng(4), np.arange(100) % 10
    old, new = (100.0 * (rng.random(100) < level) for level in (0.5, 0.8))
    one = pictures(tmp_path / "old", np.arange(100), old, labels)
    found = compare_results(
        "top1",
        "higher",
        one,
        pictures(tmp_path / "new", rng.permutation(100), new, labels, "b"),
        MEASUREMENT_FIELDS,
    )
    assert (found.is_paired, found.reason, found.test) == (
        True,
        "paired by image",
        "McNemar, exact",
    )
    assert (found.wins, found.losses) == (int((new > old).sum()), int((new < old).sum()))
    relabelled = pictures(tmp_path / "labels", np.arange(100), new, (labels + 1) % 10, "b")
    assert compare_results("top1", "higher", one, relabelled, MEASUREMENT_FIELDS).reason.startswith(
        "judge "
    )
    same_names = pictures(tmp_path / "names", np.arange(100), new, (labels + 1) % 10)
    assert (
        compare_results("top1", "higher", one, same_names, MEASUREMENT_FIELDS).reason
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
    found = check_agreement("seed", values)
    assert (found.status, found.text) == (state, text)


def test_checks_of_imports_say_what_is_not_recorded(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 2)):
        item = scored(tmp_path / name, hits(seed))
        made = item.result.provenance.model_copy(update={"commit": None, "dirty": None})
        write_text(item.path, item.result.model_copy(update={"provenance": made}).to_json())
    told = {check.text: check.status for check in collect_checks(read_runs(tmp_path))}
    for what in ("seed", "judge weights", "sampler, steps and guidance", "commit of this package"):
        assert told[f"{what} is not recorded in any result"] == "open"
    assert told["all results share one reference"] == "yes"
    assert sum("uncommitted changes is not recorded" in text for text in told) == 2


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
    guided, free = (
        scored(tmp_path / name, hits(1), plan(guidance=value))
        for name, value in (("a", 3.0), ("b", None))
    )
    imported = scored(tmp_path / "c", hits(1))
    one, two, three = (
        measurement_key(item.result, item.result.measurements[0])
        for item in (guided, free, imported)
    )
    assert (
        key_differences(one, two) == ["guidance 3.0 against none"]
        and unrecorded_fields([one, two]) == []
    )
    assert key_differences(one, three) == [] and "guidance (1 of 2)" in unrecorded_fields(
        [one, three]
    )


def test_training_seeds_of_imports_are_not_other_draws() -> None:
    """Seeds that nobody recorded are not taken for different ones."""
    metric = registry.load_by_name("evaluators", "fidelity").metrics[0]
    made = fake_runs.result(None, [fake_runs.measurement("fid", 10.0, 0.2)])
    runs = [[StoredResult(made, Path(f"{side}{k}.json")) for k in range(2)] for side in "ab"]
    assert compare._shared_variance(metric, *runs) == (
        pytest.approx(0.08),
        "sampling errors assumed common to all runs of a side",
    )
