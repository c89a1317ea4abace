"""`evaluate`, `compare`, `gate`, tables and frames say what the files and the commands say."""

from __future__ import annotations

import builtins
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from python_generators import noise_generator

import harope_bench as hb
from harope_bench.cli import main
from harope_bench.core.errors import (
    BenchError,
    GeneratorOutputError,
    MissingExtraError,
    OptionError,
    SampleError,
    StorageError,
    UnknownNameError,
)
from harope_bench.data.result_store import read_results

pandas = pytest.importorskip("pandas", reason="needs pip install 'harope-bench[frames]'")


def images(count: int = 6, side: int = 28, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, side, side, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an evaluated run of labels and one of prompts."""
    folder: Path = tmp_path_factory.mktemp("runs")
    hb.evaluate("digits-harope", count=12, steps=2, out=folder / "digits", label="=HARoPE")
    hb.evaluate("shapes-harope", "shapes", count=4, steps=2, out=folder / "shapes")
    return folder


# ------------------------------------------------------------------------------ images in memory


def test_images_in_memory_have_the_numbers_of_their_folder(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for position, image in enumerate(images()):
        Image.fromarray(image).save(folder / f"{position}.png")
    of_folder = hb.evaluate(folder, "digits", out=tmp_path / "a")
    of_array = hb.evaluate(images(), "digits")
    of_tensor = hb.evaluate(torch.from_numpy(images()), "digits", out=tmp_path / "b")
    assert of_folder.metrics == of_array.metrics == of_tensor.metrics
    assert len(of_folder.metrics) == 5


def test_images_of_prompts_in_memory_have_the_numbers_of_their_run(two_runs: Path) -> None:
    run_results = hb.evaluate(two_runs / "shapes")
    frame = hb.read_samples(two_runs / "shapes")
    stack = np.stack([np.asarray(Image.open(two_runs / "shapes" / f)) for f in frame.file])
    results = hb.evaluate(stack, "shapes")
    assert results.metrics == run_results.metrics
    assert len(results.metrics) > 5
    with pytest.raises(OptionError, match="order and pattern have no effect"):
        hb.evaluate(stack, "shapes", order="copy-major")


def test_images_without_out_leave_no_file_and_say_so(tmp_path: Path) -> None:
    results = hb.evaluate(images(), "digits")
    assert (results.path, results.files) == (None, ())
    assert "were in a temporary folder, which is deleted" in results._repr_html_()
    assert set(results.to_frame().metric) == set(results.metrics)
    with pytest.raises(OptionError, match="temporary folder, which is deleted; evaluate it with"):
        hb.compare(results, results)


def test_stored_images_are_evaluated_once_and_others_are_rejected(tmp_path: Path) -> None:
    first_results = hb.evaluate(images(), "digits", out=tmp_path)
    stamps = [path.stat().st_mtime_ns for path in first_results.files]
    again = hb.evaluate(images(), "digits", out=tmp_path)
    assert [path.stat().st_mtime_ns for path in again.files] == stamps
    with pytest.raises(SampleError, match="holds something else"):
        hb.evaluate(images(seed=1), "digits", out=tmp_path)


@pytest.mark.parametrize(
    ("target", "error", "message"),
    [
        (images().astype(np.float32), GeneratorOutputError, "the target returned float32"),
        (images()[0], GeneratorOutputError, r"the shape \(28, 28, 3\)"),
        (images().transpose(0, 3, 1, 2), GeneratorOutputError, r"the shape \(6, 3, 28, 28\)"),
        (images()[:0], GeneratorOutputError, r"the shape \(0, 28, 28, 3\)"),
        ([1, 2], GeneratorOutputError, "list"),
        ("no-such-target", UnknownNameError, "no file, folder or checkpoint"),
    ],
)
def test_a_wrong_target_is_named(target: Any, error: type[BenchError], message: str) -> None:
    with pytest.raises(error, match=message):
        hb.evaluate(target, "digits")


def test_images_in_memory_need_a_suite() -> None:
    with pytest.raises(OptionError, match="images in memory have no suite; give suite="):
        hb.evaluate(images())


# --------------------------------------------------------------------------------------- metrics


@pytest.mark.parametrize("name", ["fid", "FID", " Fid "])
def test_metrics_are_named_in_any_case(name: str) -> None:
    results = hb.evaluate(images(), "digits", metrics=[name])
    assert list(results.metrics) == ["fid"]
    assert len(results[0].measurements) == 5


def test_an_evaluator_stands_for_all_its_metrics() -> None:
    results = hb.evaluate(images(), "digits", metrics="Fidelity")
    assert len(results.metrics) == 5
    assert "EvaluationResults(fid" in repr(results)


def test_an_unknown_metric_suggests_names() -> None:
    with pytest.raises(UnknownNameError, match="no metric or evaluator named 'fidd'; did you mean"):
        hb.evaluate(images(), "digits", metrics="fidd")
    with pytest.raises(OptionError, match="metrics is empty"):
        hb.evaluate(images(), "digits", metrics=[])


def test_two_profiles_are_two_results_with_keys_of_their_own() -> None:
    results = hb.evaluate(images(), "digits", profile=["adm-exact", "adm"], metrics="fid")
    assert len(results) == 2
    assert list(results.metrics) == ["fid", "fid/adm"]


def test_a_generator_is_generated_and_evaluated(tmp_path: Path) -> None:
    results = hb.evaluate(noise_generator(), "digits", count=6, seed=3, out=tmp_path, metrics="is")
    assert results[0].plan is not None
    assert results[0].plan.settings.seed == 3
    assert results.metrics["is"].n_scored == 6
    assert results.path == tmp_path


def test_a_generator_whose_judge_is_missing_is_never_called(tmp_path: Path) -> None:
    def failing_images(requests: object, generators: object) -> None:
        raise AssertionError("called")

    generator = noise_generator(call=failing_images)
    with pytest.raises(UnknownNameError, match="no judge named 'digits-nett'"):
        hb.evaluate(generator, "digits", judge="digits-nett", count=2, out=tmp_path / "run")
    with pytest.raises(OptionError, match="need a folder; give out=FOLDER"):
        hb.evaluate(generator, "digits")
    with pytest.raises(OptionError, match="has no default suite"):
        hb.evaluate(generator, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------------------------------- frames


def test_frames_equal_the_files_of_results(two_runs: Path) -> None:
    frame = hb.read_results(two_runs)
    assert list(frame.columns[:13]) == [
        *("run", "checkpoint", "encoding", "suite", "resolution", "metric"),
        *("value", "se", "low", "high", "n", "judge", "profile"),
    ]
    stored_results = read_results(two_runs)
    assert len(frame) == sum(len(item.result.measurements) for item in stored_results)
    rows = iter(frame.to_dict("records"))
    for stored_result in stored_results:
        data = json.loads(stored_result.path.read_text())
        for measurement in data["measurements"]:
            row = next(rows)
            assert row["run"] == stored_result.path.parent.parent.name
            assert row["encoding"] == data["plan"]["checkpoint"]["encoding"]
            assert row["n"] == measurement["n_scored"]
            for field in ("value", "se", "low", "high"):
                number = math.nan if measurement[field] is None else measurement[field]
                assert row[field] == number or (math.isnan(row[field]) and math.isnan(number))


def test_samples_of_a_prompt_run_have_scores_and_reasons(two_runs: Path) -> None:
    frame = hb.read_samples(two_runs / "shapes")
    assert frame["index"].tolist() == [0, 1, 2, 3]
    assert list(frame.columns[:6]) == ["index", "label", "prompt", "status", "reason", "file"]
    assert len(frame.columns) > 6
    for file in frame.file:
        assert (two_runs / "shapes" / file).is_file()

    path = next((two_runs / "shapes" / "results").glob("geneval*.sample_scores.jsonl"))
    for line in path.read_text().splitlines():
        score_row = json.loads(line)
        row = frame[frame["index"] == score_row["index"]].iloc[0]
        assert row.prompt == score_row["prompt"]
        for metric, score in score_row["scores"].items():
            assert row[metric] == score


def test_samples_of_images_without_plan_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="holds no plan.json, so it is no run folder"):
        hb.read_samples(tmp_path)
    with pytest.raises(StorageError, match="holds no result; evaluate a run"):
        hb.read_results(tmp_path)


def test_without_pandas_the_extra_is_named(two_runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import_module = builtins.__import__

    def import_without_pandas(name: str, *arguments: Any, **options: Any) -> Any:
        if name == "pandas":
            raise ImportError(name)
        return import_module(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", import_without_pandas)
    with pytest.raises(MissingExtraError, match=r"pip install 'harope-bench\[frames\]'"):
        hb.read_results(two_runs)
    done = CliRunner().invoke(main, ["results", str(two_runs), "--format", "json"])
    assert done.exit_code == 0, done.output


# --------------------------------------------------------------------------------------- results


def test_the_command_lists_the_rows_of_the_frame(two_runs: Path, tmp_path: Path) -> None:
    frame = hb.read_results(two_runs)
    done = CliRunner().invoke(main, ["results", str(two_runs), "--format", "json"])
    assert [row["value"] for row in json.loads(done.output)] == [
        None if math.isnan(value) else value for value in frame.value
    ]

    file = tmp_path / "results.csv"
    done = CliRunner().invoke(
        main, ["results", str(two_runs), "--format", "csv", "--out", str(file)]
    )
    assert done.output.strip() == str(file)
    csv_frame = pandas.read_csv(file)
    assert list(csv_frame.columns) == list(frame.columns)
    assert np.allclose(csv_frame.value, frame.value, equal_nan=True, rtol=0, atol=0)
    assert set(csv_frame.label.dropna()) == {"'=HARoPE"}

    done = CliRunner().invoke(main, ["results", str(two_runs)])
    assert len(done.output.splitlines()) == len(frame) + 1
    assert "fid-12" in done.output


def test_the_command_names_what_is_missing(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["results", str(tmp_path / "nowhere")])
    assert done.exit_code == 1
    assert "does not exist; give a run folder" in done.output


# ------------------------------------------------------------------------- comparisons and tables


def test_a_comparison_says_what_the_command_says(two_runs: Path, tmp_path: Path) -> None:
    axial = hb.evaluate("digits-rope-axial", count=12, steps=2, out=tmp_path / "axial")
    comparison = hb.compare(axial, two_runs / "digits")
    arguments = [str(tmp_path / "axial"), str(two_runs / "digits")]
    done = CliRunner().invoke(main, ["compare", *arguments, "--json"])
    assert json.loads(done.output)["metrics"] == json.loads(json.dumps(comparison.rows))
    assert CliRunner().invoke(main, ["compare", *arguments]).output.strip() == str(comparison)
    assert comparison.to_frame().verdict.tolist() == list(comparison.verdicts.values())
    assert "<table>" in comparison._repr_html_()

    outcome = hb.gate(axial, two_runs / "digits")
    done = CliRunner().invoke(main, ["gate", *arguments, "--json"])
    assert json.loads(done.output)["decisions"] == json.loads(json.dumps(outcome.rows))
    assert outcome.to_frame().metric.tolist() == list(comparison.verdicts)
    assert outcome.outcome in outcome._repr_html_()


def test_options_of_the_gate_are_checked(two_runs: Path) -> None:
    run = two_runs / "digits"
    with pytest.raises(OptionError, match="margin"):
        hb.gate(run, run, margin="much")
    with pytest.raises(OptionError, match="config excludes metrics"):
        hb.gate(run, run, config="gate.toml", margin=1)
    assert hb.gate(run, run, metrics=["is"], margin=0.5).rows[0]["margin"] == 0.5


def test_a_table_says_what_the_command_says(two_runs: Path) -> None:
    view = hb.table("table2", runs=two_runs)
    done = CliRunner().invoke(main, ["table", "2", "--runs", str(two_runs)])
    assert view.to_markdown() == done.output
    frame = view.to_frame()
    harope_fid = frame[(frame.row == "harope") & (frame.column == "fid")].iloc[0]
    results = hb.read_results(two_runs)
    fid = results[(results.run == "digits") & (results.metric == "fid")].iloc[0]
    assert harope_fid.published == "8.90"
    assert harope_fid.measured == fid.value
    assert "<table" in view._repr_html_()
    assert "tabular" in view.to_latex()
    assert "8.90" in view.to_csv()
    with pytest.raises(OptionError, match="give runs=FOLDER"):
        hb.table(2, add="mine")
    with pytest.raises(UnknownNameError):
        hb.table(77)


def test_results_escape_texts_of_users(two_runs: Path) -> None:
    results = hb.evaluate(images(), "digits", label="<b>mine</b>")
    assert "<b>mine</b>" not in results._repr_html_()
