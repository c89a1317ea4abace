"""Sample set to results: calls judges and evaluators by name. Knows no metric and no model."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from harope_bench import registry
from harope_bench.device import require
from harope_bench.errors import OptionError, PlanMismatch, StorageError
from harope_bench.observe import observe
from harope_bench.provenance import now, provenance
from harope_bench.records import Result
from harope_bench.samples import Run, SampleSet, open_samples
from harope_bench.store import load_arrays, sha256_file, write_arrays, write_text

RESULTS, OBSERVATIONS = "results", "observations"


@dataclass(frozen=True)
class Scored:
    """A result and whether this call had to work for it."""

    result: Result
    path: Path
    fresh: bool


@dataclass(frozen=True)
class Asked:
    """How a sample set is to be scored."""

    suite: str
    reference: Path | None = None
    rules: Literal["official", "corrected"] = "official"
    rescore: bool = False
    device: str = "cpu"


def evaluate(target: Path, out: Path, asked: Asked, evaluators: Sequence[str] | None = None, count: int | None = None) -> list[Scored]:
    """Scores a sample set with each evaluator; results and observations go below `out`.

    A result of the same images, judge, reference and evaluator version is kept, unless asked to rescore.

    Args:
        count: only the first so many samples. A run's own folder holds the score of all that was asked for.

    Raises:
        SampleError: images missing, corrupt or altered. UnknownName: a name nobody knows.
        PlanMismatch: `out` holds results of other images. OptionError: rules or a judge that are not there.
    """
    plugin = registry.load("suites", asked.suite)
    names = list(evaluators or plugin.evaluators)
    for name in names:
        _check(name, plugin, asked)
    require(asked.device)
    samples = open_samples(target, count)
    if samples.plan is not None and samples.plan.suite != asked.suite:
        raise OptionError(f"{target} was drawn for suite {samples.plan.suite}, asked for {asked.suite}; leave --suite out")
    if count is not None and out == target and (more := len(Run(out).asked())) > count:
        raise OptionError(
            f"{out} was asked for {more:,} samples, --count {count:,} would score a part; leave --count out or give another --out"
        )
    return [_score(samples, name, out, asked) for name in names]


def _check(name: str, suite: Any, asked: Asked) -> None:
    registry.find("evaluators", name)
    if name not in suite.judges:
        raise OptionError(f"suite {asked.suite} has no judge for evaluator {name}; it has {', '.join(suite.judges) or 'none'}")
    known = registry.load("evaluators", name).rules
    if asked.rules not in known:
        raise OptionError(f"evaluator {name} has {', '.join(known)} rules, not {asked.rules}; leave --rules out")


def _score(samples: SampleSet, name: str, out: Path, asked: Asked) -> Scored:
    started = now()
    suite = registry.load("suites", asked.suite)
    judge = suite.judges[name]
    label, digest, statistics = open_reference(suite, judge, asked.reference)
    evaluator: Any = registry.load("evaluators", name)
    path = out / RESULTS / f"{name}{variant(asked, digest)}.json"
    facts = {
        "evaluator": name,
        "version": evaluator.version,
        "profile": evaluator.profile,
        "rules": asked.rules,
        "samples_sha256": set_digest(samples),
        "reference_sha256": digest,
        "target": samples.name,
    }
    claim(path, samples, facts)
    seen = observe(samples, judge, out / OBSERVATIONS / judge, asked.device, asked.rescore)
    facts["judge"] = seen.judge
    if not asked.rescore and (kept := standing(path, facts)) is not None:
        return Scored(kept, path, False)
    score = evaluator.score(seen.observations, statistics)
    rows = {**score.per_sample, "indices": seen.observations.indices}
    write_arrays(path.with_suffix(".npz"), {k: np.asarray(v) for k, v in rows.items()})
    result = Result(
        **facts,
        parity=evaluator.parity,
        scale="micro" if seen.judge.judge_class == "micro" else "paper",
        plan=samples.plan,
        plan_digest=samples.plan.digest if samples.plan else None,
        reference=label,
        measurements=score.measurements,
        warnings=(*samples.warnings, *score.warnings),
        per_sample=path.with_suffix(".npz").name,
        provenance=provenance(started, asked.device),
    )
    write_text(path, result.to_json(indent=1) + "\n")
    return Scored(result, path, True)


def variant(asked: Asked, reference_sha256: str) -> str:
    """What a result's file name carries beside its evaluator: rules and reference where they are not the suite's own."""
    rules = "" if asked.rules == "official" else f"_{asked.rules}"
    return rules if asked.reference is None else f"{rules}_ref-{reference_sha256[:8]}"


def claim(path: Path, samples: SampleSet, facts: dict[str, Any]) -> None:
    """PlanMismatch if a result of other images lies where this one would go; a run that grew is the same work."""
    found = read_result(path) if path.is_file() else None
    if found is None or found.samples_sha256 == facts["samples_sha256"]:
        return
    if samples.plan is None or found.plan_digest != samples.plan.digest:
        raise PlanMismatch(f"{path} is of other images ({found.target}), asked for {samples.name}; choose another --out")


def open_reference(suite: Any, judge: str, path: Path | None) -> tuple[str, str, dict[str, np.ndarray]]:
    """Name, sha256 and arrays of the suite's reference, or of the file given in its place.

    Raises:
        StorageError: the file is not an npz. OptionError: it was made with another judge's weights.
    """
    if path is not None:
        if not path.is_file():
            raise StorageError(f"reference {path} is not there; give an .npz with mu and sigma")
        arrays = load_arrays(path)
        if not {"mu", "sigma"} <= arrays.keys():
            raise StorageError(
                f"reference {path} has {', '.join(arrays) or 'nothing'}, wanted mu and sigma; make it with `harope-bench train`"
            )
        return path.name, sha256_file(path), arrays
    found = suite.reference(judge)
    if found.judge_sha256 != registry.load("judges", judge).weights_sha256():
        raise OptionError(f"reference {found.name} was made with other weights of {judge}; rebuild it with `harope-bench train`")
    return found.name, found.sha256, load_arrays(found.path)


def set_digest(samples: SampleSet) -> str:
    """Hex sha256 of indices, image hashes and failures: two equal sets have one digest."""
    rows = list(zip(samples.indices, samples.hashes, strict=True))
    return hashlib.sha256(repr((rows, sorted(samples.failed.items()))).encode()).hexdigest()


def standing(path: Path, facts: dict[str, Any]) -> Result | None:
    """The result at `path` if it is of exactly this work."""
    found = read_result(path) if path.is_file() and path.with_suffix(".npz").is_file() else None
    return found if found and all(getattr(found, key) == value for key, value in facts.items()) else None


def read_result(path: Path) -> Result | None:
    """The result in a file, or None if another version wrote it."""
    try:
        return Result.model_validate_json(path.read_bytes())
    except ValueError:
        return None


def same_numbers(a: Result, b: Result) -> bool:
    """Whether two results say the same, provenance aside."""
    return a.model_copy(update={"provenance": b.provenance}) == b
