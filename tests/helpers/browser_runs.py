"""Runs of every kind that a report shows, and runs whose texts attack it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fake_runs as fake
from document import HOSTILE
from geneval_files import write_finished_run, write_prompt_metadata
from PIL import Image

from harope_bench.cli import main
from harope_bench.core.chart_schema import AttentionDistanceChart, CheckpointDistances
from harope_bench.core.json_lines import append_line
from harope_bench.core.schema import SampleRecord, make_warnings
from harope_bench.core.storage import sha256_file, write_text
from harope_bench.reports.chart_files import write_figure

# text that turns around, a word without a place to break it, and markup
LONG_WORD = "Donaudampfschifffahrtselektrizitaetenhauptbetriebswerkbauunterbeamten" * 4
BIDI = "\u202e\u2066reversed\u2069 \u05e9\u05dc\u05d5\u05dd \u200f(a < b)"
RUNNING_PARTS = (
    "<img src=x onerror=\"window.wasRun = 'image'\">",
    "<script>window.wasRun = 'script'</script>",
    "<svg onload=\"window.wasRun = 'svg'\"></svg>",
    "<a href=\"javascript:window.wasRun = 'link'\">link</a>",
    '" onmouseover="window.wasRun = 1" autofocus onfocus="window.wasRun = 2" x="',
    "<link rel=stylesheet href=https://example.org/x.css><base href=https://example.org/>",
    "</title></style></pre></svg></script><iframe src=https://example.org></iframe>",
)
HOSTILE_TEXT = f"{HOSTILE} {' '.join(RUNNING_PARTS)} {BIDI} {LONG_WORD}"
HOSTILE_TASK = f"colours\"><script>window.wasRun = 'task'</script>{BIDI}"

A_SCORES = (1.0, 0.0, 1.0, 0.0, 1.0, 1.0, 1.0, None)
B_SCORES = (1.0, 1.0, 1.0, 0.0, 1.0, 1.0, 0.0, None)


def write_prompt_run(
    folder: Path, encoding: str, scores: Sequence[float | None], text: str = ""
) -> None:
    """Write a run of one image a score, with verdicts, reasons and detections; `text` replaces
    every text that comes from outside.
    """
    (folder / "images").mkdir(parents=True)
    owner = fake.checkpoint(f"shapes-{encoding}", encoding, suite="shapes")
    write_text(folder / "plan.json", fake.plan(owner, "shapes", resolution=32).to_json())
    rows: list[dict[str, Any]] = []
    for index, score in enumerate(scores):
        prompt = text or f"{index + 2} benches beside a lamp"
        file = f"images/{index:06d}.png"
        Image.new("RGB", (32, 32), (20 * index, 90, 160)).save(folder / file)
        record = SampleRecord(
            index=index, file=file, sha256=sha256_file(folder / file), prompt=prompt
        )
        append_line(folder / "samples.jsonl", record.to_json())
        rows.append(_score_row(index, prompt, score, text))
    n_correct = sum(score or 0.0 for score in scores)
    n_scored = sum(score is not None for score in scores)
    result = fake.result(
        fake.plan(owner, "shapes", resolution=32),
        [fake.measurement("overall", n_correct / n_scored, 0.1, n=n_scored)],
        evaluator="geneval",
        version=3,
        profile="geneval",
        suite="shapes",
        sample_scores_file="geneval.sample_scores.jsonl",
    )
    path = fake.write_result(folder, result, name="geneval")
    path.with_name("geneval.sample_scores.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows)
    )


def _score_row(index: int, prompt: str, score: float | None, text: str) -> dict[str, Any]:
    task = ("counting", "colors")[index % 2]
    detection = {"score": 0.9, "box": [4, 4, 20, 24], "colour": text or "red"}
    clause = {
        "expected": {"class": text or "bench", "count": 3},
        "is_met": score == 1.0,
        "detections": [detection, {"score": 0.1, "box": [10, 12, 30, 30], "colour": "blue"}],
    }
    return {
        "index": index,
        "prompt_index": index,
        "copy": 0,
        "prompt": prompt,
        "task": HOSTILE_TASK if text else task,
        "reason": text or ("as expected" if score == 1.0 else "expected 3 benches, found 2"),
        "scores": {} if score is None else {task: score, "images_correct": score},
        "evidence": {"threshold": 0.3, "clauses": [clause]},
    }


def write_imported_runs(folder: Path, home: Path) -> None:
    """Import two finished runs of GenEval's own script, images beside them."""
    write_prompt_metadata(home)
    for name, seed in (("theirs-a", 0), ("theirs-b", 3)):
        source = folder.parent / f"{folder.name}-source" / name
        source.mkdir(parents=True)
        for row in write_finished_run(source / "results.jsonl", seed, images=1):
            path = source / row["filename"]
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (512, 384), (200, 90, seed)).save(path)
        arguments = ["eval", str(source / "results.jsonl"), "--suite", "geneval"]
        main([*arguments, "--out", str(folder / name)], standalone_mode=False)


def write_sizes(folder: Path) -> None:
    """Write runs at a second size, which give a sweep."""
    for encoding in ("rope-axial", "harope"):
        owner = fake.checkpoint(f"digits-{encoding}", encoding)
        measurements = [fake.measurement("fid", 66.0, n=100), fake.measurement("is", 5.0, n=100)]
        result = fake.result(fake.plan(owner, resolution=56), measurements)
        fake.write_result(folder / f"sizes/{encoding}-56", result)


def write_distances(path: Path, encodings: Sequence[str]) -> None:
    """Write the figure of attention distances, which a report draws again."""
    checkpoints = tuple(
        CheckpointDistances(
            checkpoint=f"digits-{encoding}",
            encoding=encoding,
            sha256=fake.HASH,
            pixels=((1.0, 2.0 + number), (3.0, 4.0 + number)),
            standard_deviation=(0.5, 0.5),
            uniform_distance=5.0,
            token_pixels=4.0,
            tokens=49,
            images=2,
            timesteps=(500.0,),
            resolution=28,
            sampler="flow",
            steps=4,
            guidance=1.5,
            seed=0,
        )
        for number, encoding in enumerate(encodings)
    )
    write_figure(AttentionDistanceChart(settings_text="two images", checkpoints=checkpoints), path)


def write_hostile_runs(folder: Path) -> None:
    """Write runs in which every text from outside attacks the page."""
    for name, encoding, scores in (
        ("a", "rope-axial", (0.0, 1.0)),
        (f"b\" onclick='x' {LONG_WORD}"[:200], "harope", (1.0, 0.0)),
    ):
        write_prompt_run(folder / name, encoding, scores, HOSTILE_TEXT)
    plan = fake.plan(fake.checkpoint(source=HOSTILE_TEXT))
    result = fake.result(
        plan,
        [fake.measurement("fid", 3.0)],
        target=HOSTILE_TEXT,
        parity=HOSTILE_TEXT,
        profile=HOSTILE_TEXT,
        reference=HOSTILE_TEXT,
        warnings=make_warnings("images", [HOSTILE_TEXT]),
    )
    write_text(folder / "c/plan.json", plan.to_json())
    fake.write_result(folder / "c", result)


def write_trained_run(folder: Path, home: Path, encoding: str, steps: int) -> None:
    """Write a run without results of a checkpoint of the user, with the log of its training."""
    owner = fake.checkpoint(f"my-{encoding}", encoding)
    write_text(folder / f"trained/{encoding}/plan.json", fake.plan(owner).to_json())
    toml_text = f'name = "{owner.name}"\nsha256 = "{owner.sha256}"\n'
    write_text(home / f"checkpoints/{owner.name}.toml", toml_text)
    lines = [f"{step},{100 / step}" for step in range(90, steps + 1, 90)]
    write_text(home / f"checkpoints/{owner.name}.log.csv", "\n".join(["step,loss", *lines, ""]))


def write_every_run(folder: Path, home: Path) -> None:
    """Write runs of Table 2 with samples and logs, two prompt runs, two imported runs, a sweep and
    a figure.
    """
    for encoding, steps in (("ape", 990), ("rope-axial", 4500), ("harope", 12_330)):
        fake.micro_run(folder / f"digits-{encoding}", encoding, n=100, samples=2)
        write_trained_run(folder, home, encoding, steps)
    write_prompt_run(folder / "shapes-a", "rope-axial", A_SCORES)
    write_prompt_run(folder / "shapes-b", "harope", B_SCORES)
    write_imported_runs(folder, home)
    write_sizes(folder)
    write_distances(folder / "figures/distances.svg", ("rope-axial", "harope"))
