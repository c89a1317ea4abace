"""compare: pairs, footing, evidence, and words, on made-up runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fake_runs
import numpy as np
import pytest
from click.testing import CliRunner

from harope_bench.cli import main
from harope_bench.core.array_archive import load_arrays
from harope_bench.core.errors import OptionError, StorageError, UnknownNameError
from harope_bench.core.schema import JudgeRecord, Result
from harope_bench.core.storage import write_text
from harope_bench.data.result_store import StoredResult, read_result
from harope_bench.statistics.compare import compare_runs, comparison_text, load_compared_runs
from harope_bench.statistics.pairing import (
    MEASUREMENT_FIELDS,
    compare_results,
    first_key_difference,
    measurement_key,
    pair_contributions,
)
from harope_bench.statistics.significance import critical_value, standard_error


def change_result(run: Path, **fields: Any) -> None:
    """Rewrites fields of a run's result."""
    path = run / "results/fidelity.json"
    write_text(path, read_result(path).model_copy(update=fields).to_json())


def seeds(folder: Path, encoding: str, count: int, shift: float = 0.0) -> Path:
    """Runs of several training seeds of one method, drawn with the same noise."""
    for k in range(count):
        run = fake_runs.micro_run(folder / f"s{k}", encoding)
        result = read_result(run / "results/fidelity.json")
        assert result.plan is not None
        name = result.plan.checkpoint.model_copy(
            update={"sha256": f"{k}" * 64, "training_seed": k, "name": f"{encoding}-{k}"}
        )
        moved_values = [
            m.model_copy(update={"value": m.value + shift + 0.1 * k})
            if m.metric == "fid" and m.value
            else m
            for m in result.measurements
        ]
        change_result(
            run,
            plan=result.plan.model_copy(update={"checkpoint": name}),
            measurements=tuple(moved_values),
        )
    return folder


def test_two_encodings_on_the_same_requests_are_pairs(tmp_path: Path) -> None:
    a, b = (fake_runs.micro_run(tmp_path / e, e, samples=500) for e in ("rope-axial", "harope"))
    runs = compare_runs(load_compared_runs(a), load_compared_runs(b))
    fid = runs.metrics[0]
    assert runs.level == "L1" and (fid.verdict, fid.difference.is_paired) == ("better", True)
    rows = [load_arrays(run / "results/fidelity.npz")["fid"] for run in (a, b)]
    assert fid.difference.se == pytest.approx(standard_error(rows[1] - rows[0]))
    assert fid.detectable_difference == pytest.approx(2.8016 * (fid.difference.se or 0), rel=1e-4)
    assert all(
        line.p_adjusted >= line.difference.p
        for line in runs.metrics
        if line.p_adjusted is not None and line.difference.p is not None
    )
    share = next(line for line in runs.metrics if line.metric.name == "precision")
    assert share.difference.test == "McNemar, exact" and share.difference.wins is not None
    text = "\n".join(comparison_text(runs))
    assert (
        "paired by suite, label or prompt, sample index, seed, resolution" in text
        and "this checkpoint against that" in text
    )


def test_a_run_against_itself_is_not_resolved(tmp_path: Path) -> None:
    run = fake_runs.micro_run(tmp_path / "a", "harope")
    assert {
        line.verdict
        for line in compare_runs(load_compared_runs(run), load_compared_runs(run)).metrics
    } == {"not resolved"}


def test_other_seeds_are_unpaired_and_wider(tmp_path: Path) -> None:
    a, b = (fake_runs.micro_run(tmp_path / f"{seed}", "harope", seed=seed) for seed in (0, 1))
    fid = compare_runs(load_compared_runs(a), load_compared_runs(b), ["fid"]).metrics[0].difference
    assert (fid.is_paired, fid.reason) == (
        False,
        "unpaired: other seed",
    ) and fid.se == pytest.approx(np.hypot(*errors(a, b)))


def errors(*runs: Path) -> list[float]:
    return [
        float(read_result(run / "results/fidelity.json").find_measurement("fid").se) for run in runs
    ]  # type: ignore[union-attr, arg-type]


def test_other_labels_of_the_same_index_are_no_pairs(tmp_path: Path) -> None:
    a, b = (fake_runs.micro_run(tmp_path / e, e, samples=20) for e in ("rope-axial", "harope"))
    path = b / "samples.jsonl"
    path.write_text(path.read_text().replace('"label": 3', '"label": 4'))
    assert (
        compare_runs(load_compared_runs(a), load_compared_runs(b), ["fid"])
        .metrics[0]
        .difference.reason
        == "unpaired: other labels or prompts"
    )


JUDGE = JudgeRecord(
    name="digits-net",
    version=1,
    judge_class="micro",
    weights_sha256="cd" * 32,
    preprocessing="none",
)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"reference_sha256": "cd" * 32}, "reference"),
        ({"judge": JUDGE}, "judge"),
        ({"version": 9}, "evaluator"),
        ({"profile": "x"}, "profile"),
    ],
)
def test_unlike_rulers_are_not_comparable(
    tmp_path: Path, fields: dict[str, Any], field: str
) -> None:
    a, b = (fake_runs.micro_run(tmp_path / e, e) for e in ("rope-axial", "harope"))
    change_result(b, **fields)
    lines = compare_runs(load_compared_runs(a), load_compared_runs(b)).metrics
    assert {line.verdict for line in lines} == {"not comparable"}
    assert all(
        line.difference.reason.startswith(f"{field} ") and line.difference.delta is None
        for line in lines
    )


def test_other_counts_are_not_comparable(tmp_path: Path) -> None:
    a, b = (
        fake_runs.micro_run(tmp_path / "a", "ape", n=500),
        fake_runs.micro_run(tmp_path / "b", "ape", n=400),
    )
    assert (
        "fid-500 against fid-400"
        in compare_runs(load_compared_runs(a), load_compared_runs(b)).metrics[0].difference.reason
    )


def test_other_guidance_is_compared_and_said(tmp_path: Path) -> None:
    a, b = (fake_runs.micro_run(tmp_path / e, e) for e in ("rope-axial", "harope"))
    plan = read_result(b / "results/fidelity.json").plan
    assert plan is not None
    change_result(
        b,
        plan=plan.model_copy(
            update={"settings": plan.settings.model_copy(update={"guidance": 3.0})}
        ),
    )
    runs = compare_runs(load_compared_runs(a), load_compared_runs(b))
    assert (
        runs.notes == ("generated differently: guidance 1.5 against 3.0",)
        and runs.metrics[0].verdict == "better"
    )


def test_several_training_seeds_are_a_method(tmp_path: Path) -> None:
    a, b = seeds(tmp_path / "a", "rope-axial", 3), seeds(tmp_path / "b", "harope", 3)
    runs = compare_runs(load_compared_runs(a), load_compared_runs(b), ["fid"])
    line = runs.metrics[0]
    assert (
        runs.level == "L2"
        and line.difference.test.startswith("Student")
        and (line.difference.df or 0) >= 4
    )
    assert line.difference.reason == "3 against 3 training seeds, same requests generated by all"
    rows = [load_arrays(x / "s0/results/fidelity.npz")["fid"] for x in (a, b)]
    assert line.difference.se == pytest.approx(
        np.sqrt(2 * 0.01 / 3 + standard_error(rows[1] - rows[0]) ** 2)
    )
    assert "this method against that method" in "\n".join(comparison_text(runs))


def test_a_side_is_one_method(tmp_path: Path) -> None:
    fake_runs.micro_table(tmp_path / "t")
    with pytest.raises(OptionError, match="several methods"):
        load_compared_runs(tmp_path / "t")
    for k in (0, 1):
        fake_runs.micro_run(tmp_path / f"same/{k}", "ape")
    with pytest.raises(OptionError, match="same weights"):
        load_compared_runs(tmp_path / "same")
    with pytest.raises(OptionError, match="found 1 and 2"):
        compare_runs(
            load_compared_runs(tmp_path / "same/0"),
            load_compared_runs(seeds(tmp_path / "s", "ape", 2)),
        )
    (tmp_path / "empty").mkdir()
    with pytest.raises(StorageError, match="holds no result"):
        load_compared_runs(tmp_path / "empty")
    with pytest.raises(UnknownNameError, match="did you mean fid"):
        compare_runs(
            load_compared_runs(tmp_path / "same/0"),
            load_compared_runs(tmp_path / "same/1"),
            ["fidd"],
        )


def prompt_run(folder: Path, encoding: str, chance: float, tasks: bool = True) -> StoredResult:
    """A run whose precision stands for a score of prompts: 30 prompts of 4 images in three
    tasks.
    """
    run = fake_runs.micro_run(folder, encoding, n=120)
    rng = np.random.default_rng(len(encoding))
    prompts = np.repeat(np.arange(30), 4)
    hits = (rng.random(120) < chance).astype(float)
    hits[:4] = np.nan  # the first prompt does not count
    arrays = {"indices": np.arange(120), "prompts": prompts, "precision": hits}
    np.savez(
        run / "results/fidelity.npz",
        **arrays,
        **({"precision_tasks": prompts // 10} if tasks else {}),
    )
    result = read_result(run / "results/fidelity.json")
    value = float(np.mean([np.nanmean(hits[prompts // 10 == t]) for t in range(3)]))
    measured_tuple = tuple(
        m.model_copy(update={"value": value}) if m.metric == "precision" else m
        for m in result.measurements
    )
    change_result(run, measurements=measured_tuple)
    return StoredResult(read_result(run / "results/fidelity.json"), run / "results/fidelity.json")


def test_prompts_are_clusters_and_have_two_intervals(tmp_path: Path) -> None:
    a, b = prompt_run(tmp_path / "a", "rope-axial", 0.3), prompt_run(tmp_path / "b", "harope", 0.8)
    results = compare_results("precision", "higher", a, b, MEASUREMENT_FIELDS)
    assert (
        results.verdict == "better"
        and results.test.startswith("sign-flip test")
        and results.new_seeds_interval is not None
    )
    assert (results.wins or 0) + (results.losses or 0) + (results.ties or 0) == 29
    assert (
        results.df is not None
        and results.df < 29
        and results.low
        == pytest.approx(
            (results.delta or 0) - critical_value(0.95, results.df) * (results.se or 0)
        )
    )
    message = "\n".join(
        comparison_text(
            compare_runs(
                load_compared_runs(tmp_path / "a"),
                load_compared_runs(tmp_path / "b"),
                ["precision"],
            )
        )
    )
    assert "same prompts, new seeds" in message and "24 better, 1 worse, 4 equal" in message


def test_other_prompts_are_no_pairs(tmp_path: Path) -> None:
    a, b = (
        prompt_run(tmp_path / "a", "rope-axial", 0.3),
        prompt_run(tmp_path / "b", "harope", 0.8, tasks=False),
    )
    assert pair_contributions("precision", a, b).reason == "other prompts"


def test_tasks_of_one_metric_are_not_those_of_another(tmp_path: Path) -> None:
    """A mean over images is not compared as the mean of its tasks' means: the interval belongs to
    the number beside it.
    """
    runs = [
        prompt_run(tmp_path / name, name, chance)
        for name, chance in (("rope-axial", 0.3), ("harope", 0.8))
    ]
    for run in runs:
        arrays = dict(load_arrays(run.path.with_suffix(".npz")))
        np.savez(run.path.with_suffix(".npz"), **arrays, recall=arrays["precision"])
    tasks = [
        rows.prompt_pairs.baseline_samples.tasks
        for name in ("precision", "recall")
        if (rows := pair_contributions(name, *runs)).prompt_pairs is not None
    ]
    assert [len(set(numbers.tolist())) for numbers in tasks] == [3, 1]


def test_images_without_a_plan_are_compared_unpaired(tmp_path: Path) -> None:
    run = fake_runs.micro_run(tmp_path / "a", "harope")
    fake_runs.micro_run(tmp_path / "b", "harope")
    change_result(tmp_path / "b", plan=None, plan_digest=None)
    result, two = (read_result(tmp_path / x / "results/fidelity.json") for x in "ab")
    assert first_key_difference(foot(result), foot(two)) is None
    assert (
        compare_runs(load_compared_runs(run), load_compared_runs(tmp_path / "b"), ["fid"])
        .metrics[0]
        .difference.reason
        == "unpaired: a run has no plan"
    )


def foot(result: Result) -> Any:
    measured_measurement = result.find_measurement("fid")
    assert measured_measurement is not None
    return measurement_key(result, measured_measurement)


def test_compare_from_the_command_line(tmp_path: Path) -> None:
    a, b = (fake_runs.micro_run(tmp_path / e, e) for e in ("rope-axial", "harope"))
    command_result = CliRunner().invoke(
        main, ["compare", str(a), str(b), "--metric", "fid", "--json"]
    )
    document = json.loads(command_result.stdout)
    assert (
        command_result.exit_code == 0
        and document["level"] == "L1"
        and document["metrics"][0]["verdict"] == "better"
    )
    assert CliRunner().invoke(main, ["compare", str(a), str(tmp_path / "nowhere")]).exit_code == 1
