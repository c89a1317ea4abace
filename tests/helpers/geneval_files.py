"""GenEval on a metadata file of twelve prompts, and finished runs of its own script on them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harope_bench.core.annotations import Detection
from harope_bench.core.formats import versioned_json_text
from harope_bench.core.storage import sha256_file
from harope_bench.evaluators.rules.geneval import (
    COLOURS,
    PromptSpec,
    colour_query_indices,
    counted_detections,
    evaluate_image,
)
from harope_bench.suites.geneval import ASSET, METADATA_FILE, GenEvalSuite

# two prompts of each task, written for these tests
CLAUSES: dict[str, list[list[dict[str, Any]]]] = {
    "single_object": [[{"class": "owl", "count": 1}], [{"class": "lamp", "count": 1}]],
    "two_object": [
        [{"class": "owl", "count": 1}, {"class": name, "count": 1}] for name in ("lamp", "urn")
    ],
    "counting": [[{"class": "owl", "count": 2}], [{"class": "urn", "count": 3}]],
    "colors": [
        [{"class": "owl", "count": 1, "color": "red"}],
        [{"class": "urn", "count": 1, "color": "pink"}],
    ],
    "position": [
        [{"class": "owl", "count": 1}, {"class": "urn", "count": 1, "position": [r, 0]}]
        for r in ("left of", "below")
    ],
    "color_attr": [
        [{"class": "owl", "count": 1, "color": "red"}, {"class": "urn", "count": 1, "color": c}]
        for c in ("blue", "white")
    ],
}


def prompt_metadata() -> list[dict[str, Any]]:
    """Return the metadata line of each prompt, two of each task."""
    records = []
    for tag, prompts in CLAUSES.items():
        for include in prompts:
            exclude = (
                {"exclude": [{"class": include[0]["class"], "count": include[0]["count"] + 1}]}
                if tag == "counting"
                else {}
            )
            records.append(
                {
                    "tag": tag,
                    "include": include,
                    **exclude,
                    "prompt": f"a drawing, {tag} {len(records)}",
                }
            )
    return records


class TwelvePrompts(GenEvalSuite):
    """The suite on a metadata file of twelve prompts."""

    count = 48


@pytest.fixture
def geneval_suite(bench_home: Path) -> TwelvePrompts:
    """GenEval on the metadata file of twelve prompts, which is in the home of this test."""
    write_prompt_metadata(bench_home)
    return TwelvePrompts()


def write_prompt_metadata(home: Path) -> None:
    """Write the metadata file of twelve prompts into a home, as if it had been fetched."""
    folder = home / "assets" / ASSET
    folder.mkdir(parents=True)
    (folder / METADATA_FILE).write_text(
        "".join(json.dumps(line) + "\n" for line in prompt_metadata())
    )
    (folder / "receipt.json").write_text(
        versioned_json_text(
            "receipt", {"files": {METADATA_FILE: sha256_file(folder / METADATA_FILE)}}
        )
    )


def expected_verdict(
    expected: PromptSpec, items: Sequence[Detection], colours: dict[int, str]
) -> tuple[bool, str]:
    """Return verdict and reasons in the script's own form of words, which the reader must take
    apart.
    """
    counted_detections_result, reasons, groups = counted_detections(items, expected.tag), [], []
    for clause in expected.include:
        group = counted_detections_result.get(clause.name, [])[: clause.count]
        package_colours = [colours.get(p, "") for p in group]
        fault = ""
        if len(group) < clause.count:
            fault = f"expected {clause.name}>={clause.count}, found {len(group)}"
        elif clause.color and package_colours.count(clause.color) < clause.count:
            records = ", ".join(
                f"{package_colours.count(c)} {c}" for c in COLOURS if c in package_colours
            )
            fault = (
                f"expected {clause.color} {clause.name}>={clause.count}, found"
                f" {package_colours.count(clause.color)} {clause.color}; and {records}"
            )
        elif clause.position and groups[clause.position[1]] is None:
            fault = f"no target for {clause.name} to be {clause.position[0]}"
        elif clause.position and not evaluate_image(expected, items, colours).is_correct:
            fault = f"expected {clause.name} {clause.position[0]} target, found  target"
        groups.append(None if fault else group)
        reasons += [fault] if fault else []
    for clause in expected.exclude:
        if (n := len(counted_detections_result.get(clause.name, []))) >= clause.count:
            reasons.append(f"expected {clause.name}<{clause.count}, found {n}")
    return not reasons, "\n".join(reasons)


def write_finished_run(path: Path, seed: int = 0, images: int = 4) -> list[dict[str, Any]]:
    """Write a results file as pandas does, of random scenes, in no order; return its rows."""
    rng, rows = np.random.default_rng(seed), []
    for prompt, prompt_metadata_result in enumerate(prompt_metadata()):
        expected = PromptSpec.model_validate(prompt_metadata_result)
        for copy in range(images):
            records = []
            for clause in expected.include:
                for _ in range(int(rng.integers(clause.count - 1, clause.count + 2))):
                    x, y = (int(v) for v in rng.integers(0, 400, 2))
                    score = float(np.float32(rng.choice([0.31, 0.95, 0.95, 0.99])))
                    records.append(
                        Detection(label=clause.name, score=score, box=(x, y, x + 50, y + 40))
                    )
            likely_flag = [c.color for c in expected.include if c.color] * 3 or ["red"]
            colours = {
                p: str(rng.choice([*likely_flag, *COLOURS]))
                for p in colour_query_indices(expected, records)
            }
            correct_expected_verdict, reason = expected_verdict(expected, records, colours)
            counted_detections_result = counted_detections(records, expected.tag)
            details = {
                n: [[*records[p].box, records[p].score] for p in result_value]
                for n, result_value in counted_detections_result.items()
            }
            rows.append(
                {
                    "filename": f"out/{prompt:05d}/samples/{copy:05d}.png",
                    "tag": prompt_metadata_result["tag"],
                    "prompt": prompt_metadata_result["prompt"],
                    "correct": correct_expected_verdict,
                    "reason": reason,
                    "metadata": json.dumps(prompt_metadata_result),
                    "details": json.dumps(details),
                }
            )
    order = rng.permutation(len(rows))
    rows = [rows[k] for k in order]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return rows
