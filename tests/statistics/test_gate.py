"""gate: three outcomes and not comparable, baselines with a reason, and what CI reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import fake_runs
import numpy as np
import pytest
from click.testing import CliRunner, Result

import harope_bench
from harope_bench.cli import main
from harope_bench.core.array_archive import write_arrays
from harope_bench.core.errors import BenchError, OptionError
from harope_bench.core.schema import Metric
from harope_bench.core.storage import write_text
from harope_bench.data.result_store import read_result
from harope_bench.statistics.compare import MetricComparison
from harope_bench.statistics.gate import baseline, decide, policy, render
from harope_bench.statistics.intervals.paired_fractions import bonett_price_interval
from harope_bench.statistics.significance import Difference

OURS_PATH = Path(harope_bench.__file__).parent / "leaderboards/baselines"


def run(*parts: object, exit_code: int = 0) -> Result:
    result = CliRunner().invoke(main, [str(part) for part in parts])
    assert result.exit_code == exit_code, result.output
    return result


def pair(folder: Path, shift: float, own_value: float = 1.0, n: int = 500) -> tuple[Path, Path]:
    """Two runs with an FID of 20 and 20 + shift, whose samples differ by noise of sd `own`."""
    rng, runs = np.random.default_rng(0), (folder / "old", folder / "new")
    shared_count = 20 * rng.normal(size=n)
    for path, value in zip(runs, (20.0, 20.0 + shift), strict=True):
        fake_runs.micro_run(path, "harope", n=n, samples=n)
        rows = shared_count + own_value * rng.normal(size=n)
        write_arrays(path / "results/fidelity.npz", {"fid": rows, "indices": np.arange(n)})
        result = read_result(path / "results/fidelity.json")
        kept_measurement = fake_runs.measurement(
            "fid", value, float(rows.std(ddof=1) / np.sqrt(n)), n
        )
        write_text(
            path / "results/fidelity.json",
            result.model_copy(update={"measurements": (kept_measurement,)}).to_json(),
        )
    return runs


@pytest.mark.parametrize(
    ("worsening", "low", "high", "margin", "outcome"),
    [
        (0.0, 0.0, 0.0, 0.0, "pass"),
        (0.0, -0.5, 0.5, 1.0, "pass"),
        (-9.0, -10.0, -8.0, 1.0, "pass"),
        (0.5, 0.2, 0.8, 1.0, "pass"),  # worse beyond doubt, and less than we would mind
        (0.9, 0.2, 1.6, 1.0, "cannot tell"),
        (1.1, 0.2, 2.0, 1.0, "regression"),
        (3.0, 2.0, 4.0, 1.0, "regression"),
        (3.0, -1.0, 7.0, 1.0, "cannot tell"),
        (0.0, -5.0, 5.0, 1.0, "cannot tell"),
    ],
)
def test_rule(worsening: float, low: float, high: float, margin: float, outcome: str) -> None:
    assert decide.decide_outcome(worsening, low, high, margin) == outcome


@pytest.mark.parametrize(
    ("shift", "own_value", "n", "outcome", "exit_code"),
    [
        (0.0, 1.0, 500, "pass", 0),
        (3.0, 1.0, 500, "regression", 3),
        (0.5, 9.0, 40, "cannot tell", 4),
        (-5.0, 1.0, 500, "pass", 0),
    ],
    ids=["equal", "worse", "tiny", "better"],
)
def test_outcomes_of_simulated_runs(
    tmp_path: Path, shift: float, own_value: float, n: int, outcome: str, exit_code: int
) -> None:
    old_pair, new_pair = pair(tmp_path, shift, own_value, n)
    assert run("gate", old_pair, new_pair, exit_code=exit_code).stdout.endswith(
        f"gate: {outcome}\n"
    )


@pytest.mark.parametrize(
    ("moved_value", "outcome"), [(2e-12, "pass"), (-2e-12, "pass"), (1e-3, "not comparable")]
)
def test_sums_in_another_order_are_no_unknown_difference_of_the_same_images(
    tmp_path: Path, moved_value: float, outcome: str
) -> None:
    """The same images on another processor: every sample's share is equal and the eigenvalues
    differ in their last bits.
    """
    old_pair, new_pair = pair(tmp_path, 0.0)
    for side in (old_pair, new_pair):
        write_arrays(
            side / "results/fidelity.npz",
            {"fid": np.linspace(0, 1, 500), "indices": np.arange(500)},
        )
    path = new_pair / "results/fidelity.json"
    kept_measurement = fake_runs.measurement("fid", 20.0 + moved_value, 0.1, 500)
    write_text(
        path, read_result(path).model_copy(update={"measurements": (kept_measurement,)}).to_json()
    )
    (decision,) = decide.run_gate(
        *map(baseline.load_baseline_or_runs, (old_pair, new_pair)), policy.Policy()
    ).decisions
    assert decision.outcome == outcome


def test_false_alarms_and_misses_are_as_rare_as_the_confidence_says() -> None:
    """Equal runs: a regression in at most 2.5%. A worsening of exactly the margin: a pass in at
    most 2.5%.
    """
    rng, se, margin = np.random.default_rng(0), 1.0, 2.0
    ends = [(w, w - 1.96 * se, w + 1.96 * se) for w in rng.normal(0, se, 4000)]
    assert np.mean([decide.decide_outcome(*e, margin) == "regression" for e in ends]) < 0.03
    ends = [(w, w - 1.96 * se, w + 1.96 * se) for w in rng.normal(margin, se, 4000)]
    assert np.mean([decide.decide_outcome(*e, margin) == "pass" for e in ends]) == pytest.approx(
        0.025, abs=0.01
    )


def scored(
    folder: Path, evaluator: str, metric: str, rows: np.ndarray, images: str, **arrays: np.ndarray
) -> Path:
    """A run with one score of another evaluator; `images` tells which images it has."""
    path = fake_runs.micro_run(folder, "harope", n=len(rows))
    plan = read_result(path / "results/fidelity.json").plan
    value = (
        float(rows.mean())
        if f"{metric}_tasks" not in arrays
        else float(
            np.mean(
                [
                    rows[arrays[f"{metric}_tasks"] == t].mean()
                    for t in np.unique(arrays[f"{metric}_tasks"])
                ]
            )
        )
    )
    result = fake_runs.result(
        plan,
        [fake_runs.measurement(metric, value, 1.0, len(rows))],
        evaluator=evaluator,
        samples_sha256=images * 32,
    )
    (path / "results/fidelity.json").unlink()
    fake_runs.write_result(
        path, result, {metric: rows, "indices": np.arange(len(rows)), **arrays}, evaluator
    )
    return path


def prompt_decision(
    folder: Path, worse_value: float, prompts: int = 40, own_value: float = 8.0, metric: str = "dpg"
) -> decide.Decision:
    """The gate's decision about two DPG-Bench scores around 70 whose prompts differ by sd 20 and
    whose changes by sd `own`.
    """
    rng, of = np.random.default_rng(prompts), np.repeat(np.arange(prompts), 4)
    old_values = np.clip(
        rng.normal(70, 20, prompts)[of] + rng.normal(0, own_value, 4 * prompts), 0, 100
    )
    new_value = old_values - worse_value - own_value * rng.normal(size=4 * prompts)
    runs = [
        scored(folder / side, "dpg-bench", metric, rows, side, prompts=of)
        for side, rows in (("aa", old_values), ("bb", new_value))
    ]
    rule = policy.Policy(metric={metric: policy.GateRule(margin=8.0)})
    (decision,) = decide.run_gate(*map(baseline.load_baseline_or_runs, runs), rule).decisions
    return decision


def test_a_score_of_prompts_that_fell_is_a_regression(tmp_path: Path) -> None:
    """In points of the score: counted as prompts won and lost, the wrong way, the interval ends at
    1 and no margin is ever reached.
    """
    prompt_decision_result = prompt_decision(tmp_path, 17.8)
    assert (
        prompt_decision_result.low is not None
        and prompt_decision_result.worsening is not None
        and prompt_decision_result.high is not None
        and prompt_decision_result.outcome == "regression"
    )
    assert (
        prompt_decision_result.low < prompt_decision_result.worsening < prompt_decision_result.high
        and prompt_decision_result.worsening == pytest.approx(17.8, abs=3 * 8 / np.sqrt(160))
    )
    assert prompt_decision_result.high - prompt_decision_result.low == pytest.approx(
        2 * 2.02 * 8 / np.sqrt(160), rel=0.25
    )  # t of 39 degrees of freedom
    counts = prompt_decision_result.metric_comparison.difference
    wrong_bonett_price_interval = bonett_price_interval(
        counts.wins or 0, counts.losses or 0, counts.ties or 0, 1.96
    )
    assert (
        decide.decide_outcome(
            prompt_decision_result.worsening or 0,
            -wrong_bonett_price_interval.high,
            -wrong_bonett_price_interval.low,
            8.0,
        )
        == "pass"
    )
    (tmp_path / "gate.toml").write_text("[metric.dpg]\nmargin = 8.0\n")
    output = run(
        "gate", tmp_path / "aa", tmp_path / "bb", "--config", tmp_path / "gate.toml", exit_code=3
    ).stdout
    assert "clustered by prompt, the interval is for new prompts" in output and output.endswith(
        "gate: regression\n"
    )


@pytest.mark.parametrize(
    ("worse_value", "outcome"),
    [(0.0, "pass"), (-20.0, "pass"), (5.0, "pass"), (8.3, "cannot tell")],
)
def test_scores_of_prompts_are_held_against_the_margin(
    tmp_path: Path, worse_value: float, outcome: str
) -> None:
    assert prompt_decision(tmp_path, worse_value).outcome == outcome


def test_five_prompts_are_never_a_regression_and_wide(tmp_path: Path) -> None:
    few_prompt_decision = prompt_decision(tmp_path / "few", 30.0, prompts=5)
    assert few_prompt_decision.outcome == "cannot tell" and (few_prompt_decision.low or 0) <= 0
    assert prompt_decision(tmp_path / "more", 30.0, prompts=8).outcome == "regression"


def test_prompts_that_did_not_move_keep_a_width_unless_the_images_are_the_same(
    tmp_path: Path,
) -> None:
    of, rows = np.arange(20), np.full(20, 50.0)
    runs = [
        scored(tmp_path / side, "dpg-bench", "dpg", rows, side, prompts=of) for side in ("aa", "bb")
    ]
    rule = policy.Policy(metric={"dpg": policy.GateRule(margin=8.0)})
    first_value, second = map(baseline.load_baseline_or_runs, runs)
    (other_decision,), (decision,) = (
        decide.run_gate(first_value, second, rule).decisions,
        decide.run_gate(first_value, first_value, rule).decisions,
    )
    assert other_decision.outcome == "cannot tell" and other_decision.high == pytest.approx(
        1.96 * 100 * np.sqrt(2) / 22, rel=1e-3
    )
    assert (decision.low, decision.high, decision.outcome) == (0.0, 0.0, "pass")


def test_the_overall_of_tasks_is_no_share_of_prompts(tmp_path: Path) -> None:
    """Six tasks, 4 images of each of 54 prompts: 0.1 worse in the mean of tasks."""
    rng, of = np.random.default_rng(0), np.repeat(np.arange(54), 4)
    draws = rng.random((54, 4))
    rows = [(draws < level).astype(float).ravel() for level in (0.75, 0.65)]
    runs = [
        scored(tmp_path / side, "geneval", "overall", row, side, prompts=of, overall_tasks=of % 6)
        for side, row in zip(("aa", "bb"), rows, strict=True)
    ]
    (decision,) = decide.run_gate(
        *map(baseline.load_baseline_or_runs, runs),
        policy.Policy(metric={"overall": policy.GateRule(margin=0.01)}),
    ).decisions
    counts = decision.metric_comparison.difference
    assert decision.low is not None and decision.high is not None and decision.worsening is not None
    assert (
        decision.outcome == "regression" and decision.low < decision.worsening < decision.high < 0.2
    )
    share = (
        (counts.losses or 0) - (counts.wins or 0)
    ) / 54  # of prompts, which is far from the score's worsening
    assert share > decision.high


@pytest.mark.parametrize(
    ("hit_count", "metric", "evaluator"), [(1, "precision", "fidelity"), (100, "top1", "top1")]
)
def test_shares_of_samples_have_the_unit_of_their_rows(
    tmp_path: Path, hit_count: int, metric: str, evaluator: str
) -> None:
    rng = np.random.default_rng(3)
    old_flag = rng.random(400) < 0.8
    new_flag = old_flag & (rng.random(400) < 0.95)
    runs = [
        scored(tmp_path / side, evaluator, metric, hit_count * rows.astype(float), side)
        for side, rows in (("aa", old_flag), ("bb", new_flag))
    ]
    (decision,) = decide.run_gate(
        *map(baseline.load_baseline_or_runs, runs),
        policy.Policy(metric={metric: policy.GateRule(margin=0.01 * hit_count)}),
    ).decisions
    lost_count = int((old_flag & ~new_flag).sum())
    expected = bonett_price_interval(0, lost_count, 400 - lost_count, 1.959964)
    assert (decision.low, decision.high) == pytest.approx(
        (-hit_count * expected.high, -hit_count * expected.low), rel=1e-5
    )
    assert (
        decision.worsening == pytest.approx(hit_count * lost_count / 400)
        and decision.outcome == "regression"
    )


def line(metric: Metric, difference: Difference) -> MetricComparison:
    return MetricComparison(
        metric, metric.name, 10, 50.0, 50.0, difference, None, None, difference.verdict
    )


TOP1 = Metric(name="top1", title="Top-1", direction="higher", unit="percent", decimals=2)


def test_where_nobody_is_right_the_unit_is_the_metrics() -> None:
    silent_difference = Difference(
        0.0,
        0.0,
        0.0,
        0.0,
        1.0,
        True,
        "not resolved",
        "",
        wins=0,
        losses=0,
        ties=98,
        success_value=1.0,
    )
    gate_interval = decide.gate_interval(line(TOP1, silent_difference), 0.95, False)
    assert gate_interval is not None and gate_interval.high == pytest.approx(
        100 * bonett_price_interval(0, 0, 98, 1.959964).high
    )


@pytest.mark.parametrize("direction", ["higher", "lower"])
@pytest.mark.parametrize(
    ("wins", "losses", "ties"),
    [(0, 9, 1), (9, 0, 1), (50, 50, 0), (0, 1, 0), (300, 0, 0), (3, 7, 990)],
)
def test_every_interval_holds_its_own_difference(
    direction: Any, wins: int, losses: int, ties: int
) -> None:
    n = wins + losses + ties
    delta = 100 * (wins - losses) / n * (1 if direction == "higher" else -1)
    metric = TOP1.model_copy(update={"direction": direction})
    for p in (0.001, 0.5):
        difference = Difference(
            delta,
            1.0,
            delta - 2,
            delta + 2,
            p,
            True,
            "worse",
            "",
            wins=wins,
            losses=losses,
            ties=ties,
            success_value=100.0,
        )
        for confidence in (0.6, 0.95, 0.9999):
            decision = decide.decide_metric(
                line(metric, difference), policy.GateRule(margin=1.0, confidence=confidence)
            )
            assert (
                decision.low is not None
                and decision.worsening is not None
                and decision.high is not None
            )
            assert decision.low <= decision.worsening <= decision.high
            assert decision.worsening == pytest.approx(100 * (losses - wins) / n)


def test_what_to_do_when_nobody_can_tell(tmp_path: Path) -> None:
    old_pair, new_pair = pair(tmp_path, 0.5, 9.0, 40)
    for word, exit_code in (("pass", 0), ("fail", 3), ("cannot-tell", 4)):
        (tmp_path / "gate.toml").write_text(
            f'[default]\nmargin = 0.1\n[metric.fid]\non_inconclusive = "{word}"\n'
        )
        output = run(
            "gate", old_pair, new_pair, "--config", tmp_path / "gate.toml", exit_code=exit_code
        ).stdout
        assert (f"cannot tell, on_inconclusive = {word}" in output) == (
            word != "cannot-tell"
        ) and "0.100" in output


def test_direction_is_the_metrics(tmp_path: Path) -> None:
    a, b = (fake_runs.micro_run(tmp_path / e, e) for e in ("harope", "ape"))
    verdict = decide.run_gate(
        baseline.load_baseline_or_runs(a), baseline.load_baseline_or_runs(b), policy.Policy()
    )
    assert {d.outcome for d in verdict.decisions} == {"regression"}
    assert all((d.worsening or 0) > 0 for d in verdict.decisions)


def test_a_changed_reference_is_not_comparable(tmp_path: Path) -> None:
    old_pair, new_pair = pair(tmp_path, 0.0)
    path = new_pair / "results/fidelity.json"
    write_text(path, read_result(path).model_copy(update={"reference_sha256": "cd" * 32}).to_json())
    output = run("gate", old_pair, new_pair, "--json", exit_code=4).stdout
    document = json.loads(output)
    assert document["outcome"] == "not comparable" and document["decisions"][0][
        "reason"
    ].startswith("reference ")


def test_a_baseline_keeps_pairs_and_says_why(tmp_path: Path) -> None:
    old_pair, new_pair = pair(tmp_path, 0.1)
    folder = tmp_path / "b/base.json"
    assert (
        "1 numbers of digits-harope, new: first"
        in run("gate", folder, old_pair, "--update", "--reason", "first").stdout
    )
    output = run("gate", folder, new_pair).stdout
    assert "paired by sample" in output and "images/" in output.split("changed most")[1]
    run("gate", folder, new_pair, "--update", "--reason", "new VAE")
    document = json.loads(folder.read_text())
    assert (
        document["reason"] == "new VAE"
        and len(document["replaces_sha256"]) == 64
        and document["provenance"]["version"]
    )
    assert str(tmp_path) not in json.dumps([r["plan"] for r in document["results"]])
    assert "+0.000 to +0.000" in run("gate", folder, new_pair).stdout


@pytest.mark.no_numbers
def test_a_baseline_never_updates_itself(tmp_path: Path) -> None:
    old_pair, new_pair = pair(tmp_path, 0.0)
    run("gate", tmp_path / "b.json", old_pair, "--update", exit_code=2)
    run("gate", tmp_path / "b.json", old_pair, "--reason", "x", exit_code=2)
    run("gate", tmp_path / "b.json", old_pair, "--update", "--reason", " ", exit_code=1)
    assert (
        "written to a .json"
        in run("gate", old_pair, new_pair, "--update", "--reason", "x", exit_code=1).stderr
    )
    run("gate", tmp_path / "b.json", old_pair, "--update", "--reason", "x")
    before = (tmp_path / "b.json").read_bytes()
    run("gate", tmp_path / "b.json", new_pair)
    assert (tmp_path / "b.json").read_bytes() == before


@pytest.mark.parametrize(
    "forge",
    [
        lambda fields: fields["results"][0]["measurements"][0].update(value=1.5),
        lambda fields: fields["results"][0]["measurements"][0].update(se=9.0),
        lambda fields: fields.update(reason="new weights"),
        lambda fields: fields["provenance"].update(command="by hand"),
        lambda fields: fields["contribution_files"].clear(),
        lambda fields: fields.update(digest="0" * 64),
    ],
)
def test_a_forged_field_of_a_baseline_is_noticed(tmp_path: Path, forge: Any) -> None:
    old_pair, new_pair = pair(tmp_path, 0.0)
    run("gate", tmp_path / "b.json", old_pair, "--update", "--reason", "x")
    text = (tmp_path / "b.json").read_text()
    (tmp_path / "b.json").write_text(
        text.replace("\n", "\r\n"), newline=""
    )  # git may change line ends
    run("gate", tmp_path / "b.json", new_pair)
    document = json.loads(text)
    forge(document)
    (tmp_path / "b.json").write_text(json.dumps(document))
    assert (
        "was edited after it was written"
        in run("gate", tmp_path / "b.json", new_pair, exit_code=1).stderr
    )


def test_altered_contributions_are_noticed(tmp_path: Path) -> None:
    old_pair, new_pair = pair(tmp_path, 0.0)
    run("gate", tmp_path / "b.json", old_pair, "--update", "--reason", "x")
    (tmp_path / "b.fidelity.npz").write_bytes((new_pair / "results/fidelity.npz").read_bytes())
    assert "has sha256" in run("gate", tmp_path / "b.json", new_pair, exit_code=1).stderr
    (tmp_path / "b.json").write_text('{"format": 1}')
    assert "is no baseline" in run("gate", tmp_path / "b.json", new_pair, exit_code=1).stderr


def test_junit_has_a_test_a_metric(tmp_path: Path) -> None:
    a, b = (fake_runs.micro_run(tmp_path / e, e) for e in ("harope", "ape"))
    run("gate", a, b, "--junit", tmp_path / "x/gate.xml", exit_code=3)
    suite = ElementTree.parse(tmp_path / "x/gate.xml").getroot()
    assert (suite.tag, suite.get("tests"), suite.get("failures"), suite.get("errors")) == (
        "testsuite",
        "4",
        "4",
        "0",
    )
    assert [case.get("name") for case in suite] == ["fid-500", "is", "precision", "recall"]
    assert {child.tag for case in suite for child in case} == {"failure", "system-out"}


@pytest.mark.no_numbers
def test_summary_is_added_small_and_harmless(tmp_path: Path) -> None:
    old_pair, new_pair = pair(tmp_path, 3.0)
    path = new_pair / "results/fidelity.json"
    plan = read_result(path).plan
    assert plan is not None
    hostile = plan.checkpoint.model_copy(update={"name": "<script>|[x](y)`"})
    write_text(
        path,
        read_result(path)
        .model_copy(update={"plan": plan.model_copy(update={"checkpoint": hostile})})
        .to_json(),
    )
    verdict = decide.run_gate(
        baseline.load_baseline_or_runs(old_pair),
        baseline.load_baseline_or_runs(old_pair),
        policy.Policy(),
    )
    assert len(render.markdown(verdict).encode()) < render.MAX_SUMMARY_BYTES
    (tmp_path / "s.md").write_text("before\n")
    run(
        "gate",
        old_pair,
        pair(tmp_path / "two", 3.0)[1],
        "--summary",
        tmp_path / "s.md",
        exit_code=3,
    )
    text = (tmp_path / "s.md").read_text()
    assert text.startswith("before\n## harope-bench gate: regression") and "Changed most" in text
    assert "<" not in render._escape_markdown(
        "<script>|[x](y)`"
    ) and "|" not in render._escape_markdown("a|b")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[metric.fid]\nmargn = 1", "metric.fid.margn"),
        ('[metric.fid]\nmargin = "much"', "'much' is no margin"),
        ("[default]\nmargin = -1", "below 0"),
        ("[default]\nconfidence = 0.3", "default.confidence"),
        ('[default]\non_inconclusive = "maybe"', "default.on_inconclusive"),
        ("metric = 3", "metric"),
        ("[", "not readable TOML"),
    ],
)
def test_a_wrong_gate_toml_names_the_field(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "gate.toml").write_text(text)
    with pytest.raises(BenchError, match=message):
        policy.read_policy(tmp_path / "gate.toml")


def test_an_unknown_metric_offers_the_nearest(tmp_path: Path) -> None:
    old_pair, new_pair = pair(tmp_path, 0.0)
    (tmp_path / "gate.toml").write_text("[metric.fdi]\n")
    assert (
        "did you mean fid"
        in run("gate", old_pair, new_pair, "--config", tmp_path / "gate.toml", exit_code=1).stderr
    )


@pytest.mark.parametrize(
    "name", ["digits-rope-axial", "digits-harope", "shapes-rope-axial", "shapes-harope"]
)
def test_our_own_baselines_are_whole_and_of_the_shipped_weights(name: str) -> None:
    from harope_bench.models.load_checkpoint import load_checkpoint_record

    side: Any = baseline.load_baseline_or_runs(OURS_PATH / f"{name}.json")
    plan = side.runs[0][0].result.plan
    names = set(
        policy.read_policy(
            OURS_PATH / ("gate.toml" if plan.suite == "digits" else f"gate-{plan.suite}.toml")
        ).metric
    )
    assert plan.checkpoint.sha256 == load_checkpoint_record(name).sha256
    assert (
        names == set(side.metric_names())
        if plan.suite == "digits"
        else names < set(side.metric_names())
    )
    assert sum(file.stat().st_size for file in OURS_PATH.glob(f"{name}.*")) < 61_000


def test_hostile_texts_stay_texts_in_junit_and_markdown(tmp_path: Path) -> None:
    from harope_bench.core.escaping import printable_line
    from harope_bench.statistics.gate.render import _escape_markdown

    hostile = "x\r\r## gate: pass\r\r\x01\x1b[31m @team <b>"
    assert (
        "\r" not in _escape_markdown(hostile)
        and "@" not in _escape_markdown(hostile)
        and "<b>" not in _escape_markdown(hostile)
    )
    assert printable_line(hostile).isprintable()


@pytest.mark.parametrize(
    "text",
    [
        "confidence = 0.9999999999999999",
        "margin = true",
        'margin = "٥%"',
        f'margin = "{"9" * 400}%"',
        "margin = nan",
    ],
)
def test_rules_that_are_no_rules_are_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "gate.toml").write_text(f"[default]\n{text}\n")
    with pytest.raises(OptionError):
        policy.read_policy(tmp_path / "gate.toml")


def test_one_prompt_that_moved_a_little_does_not_narrow_the_interval(tmp_path: Path) -> None:
    """What nothing moved tells is not less than what one hair's breadth tells."""
    rows, of = np.full(96, 0.5), np.repeat(np.arange(24), 4)
    moved_rows = rows.copy()
    moved_rows[:4] += 0.01
    scored(tmp_path / "aa", "geneval", "overall", rows, "aa", prompts=of)
    widths = []
    for side, other_rows in (("bb", rows), ("cc", moved_rows)):
        run = scored(tmp_path / side, "geneval", "overall", other_rows, side, prompts=of)
        rule = policy.Policy(metric={"overall": policy.GateRule(margin=0.05)})
        (decision,) = decide.run_gate(
            baseline.load_baseline_or_runs(tmp_path / "aa"),
            baseline.load_baseline_or_runs(run),
            rule,
        ).decisions
        widths.append((decision.high or 0) - (decision.low or 0))
    assert widths[0] == pytest.approx(widths[1], rel=0.05) and min(widths) > 0.1
