"""Time and memory of the fidelity metrics as the number of images grows: features on disk, each
stage in a process of its own.

    python benchmarks/fidelity_scale.py --folder /tmp/scale --write
    python benchmarks/fidelity_scale.py --folder /tmp/scale --only kid kid-subsets --write   # the
    other rows of the table stay

Features are made up (non-negative, with a decaying spectrum): time and memory of these metrics
hardly depend on the values.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
from pathlib import Path
from typing import Any

import measure
import numpy as np

SIZES = (5_000, 10_000, 20_000, 50_000)
REFERENCE = 10_000
WIDTHS = {"features": 2048, "spatial": 2023, "logits": 1008}
BLOCK = 1000
LIMIT = 1536  # MB
STAGES = (
    "moments",
    "fid",
    "sfid",
    "is",
    "precision-recall",
    "precision-recall-float16",
    "kid",
    "kid-subsets",
    "evaluator",
)


def make(path: Path, rows: int, width: int, seed: int, shift: float) -> None:
    """Rows (N, width) float32 in a .npy file, written in blocks."""
    rng, memmap = (
        np.random.default_rng(seed),
        np.lib.format.open_memmap(path, "w+", np.float32, (rows, width)),
    )
    scale = (5 / np.sqrt(np.arange(1, width + 1))).astype(np.float32)
    for start in range(0, rows, BLOCK):
        part = rng.standard_normal((min(BLOCK, rows - start), width), dtype=np.float32)
        memmap[start : start + BLOCK] = np.abs(part * scale + np.float32(shift))
    memmap.flush()


def prepare(folder: Path, sizes: tuple[int, ...]) -> None:
    """Write samples at the largest size (smaller sizes read their first rows), reference rows, and
    the
    reference's moments.
    """
    from harope_bench.metrics.moments import Moments

    folder.mkdir(parents=True, exist_ok=True)
    for seed, (name, width) in enumerate(WIDTHS.items()):
        make(folder / f"{name}.npy", max(sizes), width, seed, 0.05)
        if name != "logits":
            make(folder / f"reference-{name}.npy", REFERENCE, width, seed + 10, 0.0)
            real = Moments.from_rows(
                np.load(folder / f"reference-{name}.npy", mmap_mode="r")
            ).to_gaussian()
            np.savez(folder / f"moments-{name}.npz", mean=real.mean, covariance=real.covariance)


def stage(name: str, folder: Path, rows: int) -> dict[str, Any]:
    """Run one stage in this process; its numbers."""
    from harope_bench.metrics import (
        float16_neighbours,
        frechet,
        inception_score,
        kernel_distance,
        moments,
        neighbours,
    )

    values = {key: np.load(folder / f"{key}.npy", mmap_mode="r")[:rows] for key in WIDTHS}

    def distance(key: str) -> float:
        with np.load(folder / f"moments-{key}.npz", allow_pickle=False) as real:
            return frechet.frechet_distance(
                moments.Moments.from_rows(values[key]).to_gaussian(),
                moments.Gaussian(real["mean"], real["covariance"]),
            )

    def beside(rule: Any) -> Any:
        return rule(values["features"], np.load(folder / "reference-features.npy", mmap_mode="r"))

    def shares(rule: Any) -> list[float]:
        beside_result = beside(rule)
        return [
            float(beside_result.generated_inside.mean()),
            float(beside_result.real_inside.mean()),
        ]

    runs = {
        "moments": lambda: moments.Moments.from_rows(values["features"]).count,
        "fid": lambda: distance("features"),
        "sfid": lambda: distance("spatial"),
        "is": lambda: inception_score.inception_score(values["logits"]).value,
        "precision-recall": lambda: shares(neighbours.neighbour_balls),
        "precision-recall-float16": lambda: shares(float16_neighbours.float16_balls),
        "kid": lambda: beside(kernel_distance.kid).value,
        "kid-subsets": lambda: beside(kernel_distance.kid_subsets).mean,
        "evaluator": lambda: _evaluate_features(values, folder),
    }
    spent_time, answer = measure.time_call(runs[name])
    return {"wall": spent_time.wall, "cpu": spent_time.cpu, "answer": answer}


def _evaluate_features(fields: dict[str, np.ndarray], folder: Path) -> dict[str, float | None]:
    """Run the whole evaluator on mapped arrays: five metrics with their errors and warnings."""
    from harope_bench.evaluators.base import Features
    from harope_bench.evaluators.fidelity import PLUGIN

    reference = {"features": np.load(folder / "reference-features.npy", mmap_mode="r")}
    for key, (mean, covariance) in {
        "features": ("mu", "sigma"),
        "spatial": ("mu_s", "sigma_s"),
    }.items():
        with np.load(folder / f"moments-{key}.npz", allow_pickle=False) as real:
            reference |= {mean: real["mean"], covariance: real["covariance"]}
    score = PLUGIN.evaluate(Features(np.arange(len(fields["features"])), None, fields), reference)
    return {m.metric: m.value for m in score.measurements}


def exponent(sizes: list[int], values: list[float]) -> float:
    """p of value = c N^p between the two largest sizes."""
    return math.log(values[-1] / values[-2]) / math.log(sizes[-1] / sizes[-2])


def report(fields: dict[str, dict[int, dict[str, Any]]]) -> str:
    """Seconds and MB of each stage at each size, and how both grow."""
    rows = []
    for name, by_size in fields.items():
        sizes = sorted(by_size)
        seconds, memory = ([by_size[n][key] for n in sizes] for key in ("cpu", "anonymous"))
        cells = [f"{s:.1f} s, {m:,.0f} MB" for s, m in zip(seconds, memory, strict=True)]
        grown_text = (
            f"{exponent(sizes, seconds):.2f}, {exponent(sizes, memory):.2f}"
            if len(sizes) > 1
            else "-"
        )
        rows.append([name, *cells, grown_text])
    return measure.table(
        [
            "stage",
            *(f"{n:,} images" for n in sorted(next(iter(fields.values())))),
            "exponents (time, memory)",
        ],
        rows,
    )


def merge_tables(old_text: str, new_text: str) -> str:
    """Return the new table with those rows of the old one that were not measured now, in the order
    of
    STAGES, if both are of the same sizes.
    """
    (head, *before), (expected, *flags) = (
        text.strip().splitlines() or [""] for text in (old_text, new_text)
    )
    if head != expected:
        return new_text
    rows = {line.split(" | ")[0]: line for line in [*before[1:], *flags[1:]]}
    return "\n".join(
        [expected, flags[0], *(rows[f"| {name}"] for name in STAGES if f"| {name}" in rows)]
    )


def main() -> None:
    """Make features, run the stages, tell and delete."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--folder",
        type=Path,
        required=True,
        help="empty folder for 1.2 GB of features, deleted at the end",
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--only", nargs="+", choices=STAGES, default=STAGES)
    parser.add_argument("--json", type=Path, help="write everything measured here")
    parser.add_argument(
        "--write", action="store_true", help="put the table into docs/performance.md"
    )
    parser.add_argument("--stage", choices=STAGES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.stage:
        print(json.dumps(stage(options.stage, options.folder, options.sizes[0])))
        return
    if options.folder.exists() and any(options.folder.iterdir()):
        sys.exit(f"{options.folder} is not empty; name another folder")
    try:
        prepare(options.folder, tuple(options.sizes))
        stages = {
            name: {n: run_stage(name, n, options.folder) for n in options.sizes}
            for name in options.only
        }
    finally:
        shutil.rmtree(options.folder, ignore_errors=True)
    text = report(stages)
    print(text)
    if options.json:
        options.json.write_text(
            json.dumps({"machine": measure.machine(), "stages": stages}, indent=1)
        )
    if options.write:
        measure.write_between("scale", merge_tables(measure.marker_text("scale"), text))
    worst_largest_value = max(
        run["anonymous"] for by_size in stages.values() for run in by_size.values()
    )
    print(
        f"largest memory {worst_largest_value:,.0f} MB, target below {LIMIT:,} MB:"
        f" {'held' if worst_largest_value < LIMIT else 'MISSED'}"
    )


def run_stage(name: str, rows: int, folder: Path) -> dict[str, Any]:
    """One stage in a fresh process, with its memory."""
    run = measure.in_process(
        [sys.executable, __file__, "--stage", name, "--folder", str(folder), "--sizes", str(rows)]
    )
    print(
        f"{name} {rows:,}: {run.answer['cpu']:.1f} s, {run.anonymous:,.0f} MB",
        file=sys.stderr,
        flush=True,
    )
    return {**run.answer, "anonymous": run.anonymous, "resident": run.resident}


if __name__ == "__main__":
    main()
