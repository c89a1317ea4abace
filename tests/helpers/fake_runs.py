"""Run folders as the conductors leave them, made in a moment: plausible numbers, tiny pictures, no
network.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from harope_bench.core.array_archive import write_arrays
from harope_bench.core.json_lines import append_line
from harope_bench.core.schema import (
    Checkpoint,
    JudgeRecord,
    Measurement,
    Plan,
    Provenance,
    Result,
    SampleRecord,
    Settings,
)
from harope_bench.core.storage import sha256_file, write_text

ENCODINGS = ("ape", "rope-vanilla", "rope-axial", "videorope", "string", "harope")
CENTRES = {
    "ape": 24.0,
    "rope-vanilla": 18.4,
    "rope-axial": 15.6,
    "videorope": 17.5,
    "string": 15.5,
    "harope": 13.2,
}
HASH = "ab" * 32


def checkpoint(name: str = "digits-ape", encoding: str = "ape", **fields: Any) -> Checkpoint:
    """A registered checkpoint's record."""
    inputs: dict[str, Any] = {
        "name": name,
        "backbone": "dit",
        "encoding": encoding,
        "weights": f"{name}.safetensors",
        "sha256": HASH,
        "source": "a test",
        "scale": "micro",
        "suite": "digits",
        "sampler": "flow",
        "steps": 32,
        "guidance": 1.5,
        "training_steps": 4500,
    }
    return Checkpoint(**{**inputs, **fields})


def plan(name: Checkpoint, suite: str = "digits", **settings: Any) -> Plan:
    """A plan of that checkpoint."""
    fields: dict[str, Any] = {
        "resolution": 28,
        "sampler": "flow",
        "steps": 32,
        "guidance": 1.5,
        "tile": 50,
    }
    return Plan(
        checkpoint=name, suite=suite, suite_version=1, settings=Settings(**{**fields, **settings})
    )


def measurement(
    metric: str, value: float | None, se: float | None = 0.1, n: int = 500, **fields: Any
) -> Measurement:
    """A measurement named as the evaluator names it."""
    ends = (
        {}
        if value is None or se is None
        else {"low": value - 2 * se, "high": value + 2 * se, "interval": "normal"}
    )
    name = metric if metric != "fid" else "fid-50k" if n == 50_000 else f"fid-{n}"
    inputs: dict[str, Any] = {
        "metric": metric,
        "name": name,
        "value": value,
        "se": se,
        "n_asked": n,
        "n_scored": n,
        **ends,
    }
    return Measurement(**{**inputs, **fields})


def result(of: Plan | None, measurements: Sequence[Measurement], **fields: Any) -> Result:
    """A result of the evaluator fidelity."""
    micro = of is None or of.checkpoint.scale == "micro"
    judge = JudgeRecord(
        name="digits-net" if micro else "inception",
        version=1,
        judge_class="micro" if micro else "official",
        weights_sha256=HASH,
        preprocessing="none",
    )
    inputs: dict[str, Any] = {
        "evaluator": "fidelity",
        "version": 1,
        "profile": "adm",
        "rules": "official",
        "parity": "formulas of ADM to 1e-6 on features",
        "scale": "micro" if micro else "paper",
        "target": of.checkpoint.name if of else "my pictures",
        "plan": of,
        "plan_digest": of.digest if of else None,
        "samples_sha256": HASH,
        "judge": judge,
        "reference": "digits",
        "reference_sha256": HASH,
        "measurements": tuple(measurements),
        "provenance": provenance(),
    }
    return Result(**{**inputs, **fields})


def provenance() -> Provenance:
    """Who, where and when; fixed."""
    return Provenance(
        version="0.1.0",
        commit="0" * 40,
        dirty=False,
        python="3.11.7",
        platform="Linux",
        device="cpu",
        packages={"numpy": "2.0"},
        flags={"threads": 1},
        command="harope-bench reproduce table2",
        started="2026-11-21T10:00:00Z",
        finished="2026-11-21T10:01:00Z",
    )


def write_result(
    folder: Path, result: Result, rows: dict[str, np.ndarray] | None = None, name: str = "fidelity"
) -> Path:
    """results/NAME.json, and its per-sample arrays beside it if there are any."""
    path = folder / "results" / f"{name}.json"
    if rows is not None:
        write_arrays(path.with_suffix(".npz"), rows)
        result = result.model_copy(update={"arrays_file": f"{name}.npz"})
    write_text(path, result.to_json(indent=1) + "\n")
    return path


def write_samples(folder: Path, count: int = 40, side: int = 28, **fields: Any) -> None:
    """Pictures of class-coloured noise and their list."""
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(count):
        pixels = rng.integers(0, 60, (side, side, 3)) + np.array([i % 10 * 19, 80, 60])
        file = f"images/{i:06d}.png"
        Image.fromarray(pixels.astype(np.uint8)).save(folder / file)
        append_line(
            folder / "samples.jsonl",
            SampleRecord(
                index=i, file=file, sha256=sha256_file(folder / file), label=i % 10, **fields
            ).to_json(),
        )


def micro_run(
    folder: Path, encoding: str, n: int = 500, seed: int = 0, samples: int = 0, **fields: Any
) -> Path:
    """One row of the micro Table 2: noise shared between encodings, so that pairing matters."""
    name = plan(checkpoint(f"digits-{encoding}", encoding, **fields), seed=seed)
    write_text(folder / "plan.json", name.to_json(indent=1) + "\n")
    common_default_rng, own_default_rng = (
        np.random.default_rng(seed),
        np.random.default_rng(ENCODINGS.index(encoding)),
    )
    fid = (
        CENTRES[encoding]
        + 20 * common_default_rng.normal(size=n)
        + 5 * own_default_rng.normal(size=n)
    )
    result_value = (
        8.5
        - CENTRES[encoding] / 20
        + common_default_rng.normal(size=n)
        + 0.3 * own_default_rng.normal(size=n)
    )
    share = 0.95 - CENTRES[encoding] / 100
    inside, covered_flag = (
        (common_default_rng.random(n) + 0.1 * own_default_rng.random(n) < share).astype(float),
        (common_default_rng.random(n) < share - 0.1).astype(float),
    )
    rows = {"fid": fid, "is": result_value, "precision": inside, "recall": covered_flag}
    values = {**{k: float(v.mean()) for k, v in rows.items()}, "fid": CENTRES[encoding]}
    errors = {k: float(v.std(ddof=1) / np.sqrt(n)) for k, v in rows.items()}
    made_result = result(name, [measurement(k, values[k], errors[k], n) for k in rows])
    if samples:
        write_samples(folder, samples)
    write_result(folder, made_result, {**rows, "indices": np.arange(n)})
    return folder


def micro_table(folder: Path, n: int = 500, samples: int = 0) -> Path:
    """All six rows of the micro Table 2."""
    for encoding in ENCODINGS:
        micro_run(folder / f"digits-{encoding}", encoding, n, samples=samples)
    return folder
