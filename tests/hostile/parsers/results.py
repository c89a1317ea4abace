"""Readers of runs, results, baselines and policies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hostile import documents as d
from hostile.parsers.table import Files, Table

from harope_bench.analysis.cost import measure_cost
from harope_bench.core import checksums
from harope_bench.data import result_store
from harope_bench.data.run_folder import RunFolder
from harope_bench.data.sample_set import open_samples
from harope_bench.pipeline import gpu_rates, rescore_prompts, verify_results
from harope_bench.reports import failures, gallery, runs
from harope_bench.statistics import compare
from harope_bench.statistics.gate import baseline as gate_baseline
from harope_bench.statistics.gate import policy, render

TABLE = Table()
parser = TABLE.add


def read_run(folder: Path) -> object:
    run = RunFolder(folder)
    return (
        run.plan,
        run.read_records(),
        run.requested_indices(),
        run.is_final,
        open_samples(folder),
        open_samples(folder, 2),
    )


def read_results(folder: Path) -> object:
    path = folder / "results/fidelity.json"
    results = (
        result_store.read_result(path),
        result_store.read_result_or_none(path),
        measure_cost._stored_result(path, path),
    )
    return results, result_store.read_results(folder)


parser("run", d.run_files, read_run, "plan.json", "samples.jsonl", "requests.jsonl")
parser("result", d.run_files, read_results, "results/fidelity.json")
parser(
    "result with hashes",
    d.run_files,
    lambda f: (checksums.record_file_hashes(f / "results", ["fidelity.json"]), read_results(f)),
    "results/fidelity.json",
)


def read_comparison(folder: Path) -> object:
    baseline, new_compared_runs = (
        compare.load_compared_runs(folder / "old"),
        compare.load_compared_runs(folder / "new"),
    )
    comparison = compare.compare_runs(baseline, new_compared_runs)
    return (
        compare.comparison_text(comparison),
        compare.comparison_json(comparison),
        render._largest_changes(np.arange(4.0), folder / "new"),
    )


def two_runs() -> Files:
    return {
        f"{name}/{path}": data for name in ("old", "new") for path, data in d.run_files().items()
    }


parser(
    "two runs",
    two_runs,
    read_comparison,
    "new/results/fidelity.json",
    "new/results/fidelity.npz",
    "new/samples.jsonl",
)


def two_prompt_runs() -> Files:
    prompts = {
        "fid": np.arange(4.0),
        "is": np.arange(4.0),
        "indices": np.arange(4),
        "prompts": np.arange(4),
    }
    record = d.json.loads(d.run_files()["results/fidelity.json"])
    record |= {
        "plan": None,
        "plan_digest": None,
        "sample_scores_file": "fidelity.sample_scores.jsonl",
        "suite": "geneval",
    }
    files = {
        **d.run_files(),
        "results/fidelity.json": d.json_bytes(record),
        "results/fidelity.npz": d.npz_bytes(prompts),
    }
    del files["plan.json"]
    return {f"{name}/{path}": data for name in ("old", "new") for path, data in files.items()}


parser(
    "two runs of prompts",
    two_prompt_runs,
    read_comparison,
    "new/results/fidelity.sample_scores.jsonl",
    "new/results/fidelity.npz",
)
parser(
    "results to verify",
    d.run_files,
    lambda f: other_result(f),
    "results/fidelity.npz",
    "results/fidelity.sample_scores.jsonl",
)


def other_result(folder: Path) -> object:
    path = folder / "results/fidelity.json"
    (again := folder / "again").mkdir()
    for name in ("fidelity.npz", "fidelity.sample_scores.jsonl"):
        (again / name).write_bytes(d.run_files()[f"results/{name}"])
    files = rescore_prompts.file_differences(path, again / "fidelity.json")
    return files, list(
        verify_results._array_file_differences(path.with_suffix(".npz"), {"fid": np.arange(4.0)})
    )


def read_failures(folder: Path) -> object:
    failures_result = failures.read_failures(folder)
    return (
        failures.rows_csv(failures_result),
        failures.rows_jsonl(failures_result),
        failures.read_warnings(folder),
    )


parser(
    "failures",
    d.run_files,
    read_failures,
    "results/fidelity.sample_scores.jsonl",
    "results/fidelity.json",
)
parser(
    "report's runs",
    d.run_files,
    lambda f: gallery.build_gallery(runs.read_runs(f)),
    "samples.jsonl",
    "plan.json",
    "images/000000.png",
)
parser(
    "gallery with scores",
    d.gallery_files,
    lambda f: gallery.build_gallery(runs.read_runs(f)),
    "a/results/geneval.sample_scores.jsonl",
    "a/results/geneval.json",
    "a/annotations/eye/judge.json",
    "a/annotations/eye/annotations.jsonl",
)
parser(
    "gallery with features",
    d.feature_gallery_files,
    lambda f: gallery.build_gallery(runs.read_runs(f)),
    "a/features/eye/judge.json",
    "a/features/eye/features.npy",
    "a/images/000000.png",
)
parser(
    "baseline",
    lambda: {"x.json": d.baseline()},
    lambda f: gate_baseline.load_baseline_or_runs(f / "x.json"),
)
parser(
    "baseline to replace", lambda: {"x.json": d.baseline(), **{f"run/{name}": data for name, data in d.run_files().items()}},
    lambda f: gate_baseline.write_baseline(f / "x.json", f / "run", "signed"), "x.json",
)  # fmt: skip
parser(
    "gate's policy",
    {"gate.toml": d.toml(d.POLICY)},
    lambda f: [policy.read_policy(f / "gate.toml").rule(m).margin_of(3.0) for m in ("fid", "is")],
)
RATES = {
    "rates": {
        "gpu": "H200",
        "source": "measured",
        "generation": [{"backbone": "dit", "resolution": 256, "steps": 50, "float32": 1.5}],
        "judging": [{"evaluator": "fidelity", "seconds": 0.01}],
    }
}


def read_rates(folder: Path) -> object:
    rates = gpu_rates.load_rates(folder / "rates.json")
    seconds = [rates.generation_seconds("dit", side, 50, "float32") for side in (28, 1024)]
    return rates, seconds, rates.judging_seconds(("fidelity", "geneval"))


parser("rates of a GPU", {"rates.json": d.json_bytes(RATES)}, read_rates)
