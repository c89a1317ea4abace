"""Checks a run against its own records: image hashes, scores, and some samples drawn again."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path

from harope_bench import registry
from harope_bench.catalogue import checkpoint, open_drawer
from harope_bench.errors import BenchError, SampleError
from harope_bench.evaluate import OBSERVATIONS, RESULTS, open_reference, read_result
from harope_bench.generate import draw_one
from harope_bench.observe import observe
from harope_bench.records import Plan, Result
from harope_bench.samples import Run, SampleSet, encode, open_samples
from harope_bench.store import check_hash, sha256_bytes

REDRAW_SEED = 0  # which samples are drawn again: the same ones at every call


@dataclass
class Findings:
    """What was checked, in words, and what was wrong."""

    checked: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


def verify(folder: Path, redraw: int) -> Findings:
    """Recomputes hashes and scores and redraws `redraw` random samples of a run folder.

    Raises:
        SampleError: the folder is no run.
    """
    if not (folder / "plan.json").exists():
        raise SampleError(f"{folder} has no plan.json; give a folder that `generate` or `eval` made")
    samples, findings = open_samples(folder), Findings()
    _images(samples, findings)
    for path in sorted((folder / RESULTS).glob("*.json")):
        _scores(samples, folder, path, findings)
    plan = samples.plan
    if redraw and plan is not None and not findings.wrong:
        _redraw(plan, folder, samples.indices, redraw, findings)
    return findings


def _images(samples: SampleSet, findings: Findings) -> None:
    before = len(findings.wrong)
    for index in samples.indices:
        try:
            for _ in samples.batches([index], 1):
                pass
        except SampleError as error:
            findings.wrong.append(str(error))
    findings.checked.append(f"{len(samples.indices):,} image hashes, {len(findings.wrong) - before:,} wrong")


def _scores(samples: SampleSet, folder: Path, path: Path, findings: Findings) -> None:
    """Scores the stored observations again and compares with the stored result, number by number."""
    stored = read_result(path)
    if stored is None:
        findings.wrong.append(f"{path} is not a result this version reads")
        return
    try:
        again = _score_again(samples, folder, stored)
    except BenchError as error:
        findings.wrong.append(f"{path}: {error}")
        return
    if again is None:
        findings.checked.append(f"{path.name}: its reference was a file of the user's, not scored again")
        return
    different = [m.name for m, n in zip(stored.measurements, again.measurements, strict=False) if m != n]
    if different or len(stored.measurements) != len(again.measurements):
        findings.wrong.append(
            f"{path}: {', '.join(different) or 'the number of measurements'} differ from the score of the stored observations"
        )
    findings.checked.append(f"{path.name}: {len(stored.measurements)} measurements scored again, {len(different)} differ")


def _score_again(samples: SampleSet, folder: Path, stored: Result) -> Result | None:
    assert samples.plan is not None
    suite = registry.load("suites", samples.plan.suite)
    _, digest, statistics = open_reference(suite, stored.judge.name, None)
    if digest != stored.reference_sha256:
        return None
    seen = observe(samples, stored.judge.name, folder / OBSERVATIONS / stored.judge.name, "cpu", rescore=True)
    score = registry.load("evaluators", stored.evaluator).score(seen.observations, statistics)
    return stored.model_copy(update={"measurements": score.measurements})


def _redraw(plan: Plan, folder: Path, indices: list[int], count: int, findings: Findings) -> None:
    found = checkpoint(plan.checkpoint.name)
    if found.sha256 != plan.checkpoint.sha256:
        raise SampleError(f"checkpoint {found.name} is registered with other weights than this run's; nothing can be drawn again")
    check_hash(Path(found.weights), found.sha256)
    drawer, records = open_drawer(found, plan.settings), Run(folder).records()
    chosen = sorted(random.Random(REDRAW_SEED).sample(indices, min(count, len(indices))))
    for index in chosen:
        image = draw_one(drawer, plan, index)
        if image is None or sha256_bytes(encode(image)) != records[index].sha256:
            findings.wrong.append(f"sample {index} drawn again is another image (other hardware, threads or library version?)")
    findings.checked.append(f"{len(chosen)} samples drawn again: {', '.join(map(str, chosen))}")
