"""Two results, one metric: may they be compared, are they pairs, and what is the difference. Tables, `compare` and `gate` ask here.

A pair is one (suite, label or prompt, sample index, seed, resolution) drawn by both; anything else is unpaired and says why.
An evaluator that scores prompts adds `prompts` and, where it has tasks, `tasks` (N,) to its per-sample arrays; a row of NaN in such
an evaluator's metric is a sample that does not count for it (another task's).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from pydantic import ValidationError

from harope_bench import statistics
from harope_bench.errors import StorageError, TooFewImages
from harope_bench.intervals.clusters import PERMUTATIONS, ClusterScore, SignFlip, cluster_score, prompt_means, sign_flip
from harope_bench.intervals.shares import is_share, mcnemar
from harope_bench.records import Measurement, Result, fault
from harope_bench.statistics import Difference, Interval
from harope_bench.store import disk, load_arrays, read_lines

EVIDENCE = {
    "L0": "L0: a reported number only; its error is assumed.",
    "L1": "L1: this checkpoint against that checkpoint; a claim about the method needs several training seeds.",
    "L2": "L2: this method against that method, several training seeds on each side.",
}


class Found(NamedTuple):
    """A result and the file it was read from (its per-sample arrays lie beside it)."""

    result: Result
    path: Path


def collect(runs: Path) -> list[Found]:
    """Every result under a folder (`**/results/*.json`), in the order of the paths.

    Raises:
        StorageError: the folder is not there, or a file is not a result; the file is named.
    """
    if not runs.is_dir():
        raise StorageError(f"{runs} is not a folder; give the folder that holds the runs")
    return [Found(read_result(path), path) for path in sorted(runs.glob("**/results/*.json"))]


def read_result(path: Path) -> Result:
    """One result file; StorageError names the file and the field."""
    with disk(path):
        data = path.read_bytes()
    try:
        return Result.model_validate_json(data)
    except ValidationError as error:
        raise StorageError(f"{path} is not a result ({fault(error)}); delete it and evaluate again") from error


class Footing(NamedTuple):
    """What two numbers must share before one may be called the better. None: the images came without a plan."""

    number: str
    images: int
    evaluator: str
    profile: str
    rules: str
    judge: str
    reference: str
    suite: str | None
    resolution: int | None
    sampler: str | None
    steps: int | None
    guidance: float | None
    pos_scaling: str | None


RULER = Footing._fields[:8]  # how it was measured: unlike rulers are never compared
SETTINGS = Footing._fields[8:]  # how it was drawn: in a table they must agree, `compare` may be asked about them


def footing(result: Result, measurement: Measurement) -> Footing:
    """The footing of one number of a result."""
    plan, judge = result.plan, result.judge
    settings = plan.settings if plan else None
    return Footing(
        measurement.name,
        measurement.n_scored,
        f"{result.evaluator}@{result.version}",
        result.profile,
        result.rules,
        f"{judge.name}@{judge.version} {judge.weights_sha256[:12]} {judge.preprocessing}",
        result.reference_sha256[:12],
        f"{plan.suite}@{plan.suite_version}" if plan else None,
        settings.resolution if settings else None,
        settings.sampler if settings else None,
        settings.steps if settings else None,
        settings.guidance if settings else None,
        (settings.pos_scaling or "none") if settings else None,
    )


def unlike(one: Footing, other: Footing, fields: Sequence[str] = Footing._fields) -> str | None:
    """The first of `fields` in which two footings are known to differ, in words; None where they agree."""
    return next(iter(unlikes(one, other, fields)), None)


def unlikes(one: Footing, other: Footing, fields: Sequence[str] = Footing._fields) -> list[str]:
    """Every one of `fields` in which two footings are known to differ, in words."""
    pairs = [(name, getattr(one, name), getattr(other, name)) for name in fields]
    return [f"{name} {a} against {b}" for name, a, b in pairs if a != b and None not in (a, b)]


def contrast(
    metric: str, direction: Literal["higher", "lower"], old: Found, new: Found, fields: Sequence[str] = Footing._fields
) -> Difference:
    """New minus old in one metric, paired by sample where both drew the same samples; not comparable where `fields` differ."""
    before, after = old.result.measured(metric), new.result.measured(metric)
    if before is None or after is None:
        return statistics.silent(f"{metric} is in {'neither' if before is after else 'one'} of the two")
    if differs := unlike(footing(old.result, before), footing(new.result, after), fields):
        return statistics.silent(differs)
    rows = paired_rows(metric, old, new)
    if rows.why or rows.old is None or rows.new is None:
        return statistics.difference(direction, before, after)._replace(why=f"unpaired: {rows.why}")
    if rows.prompts is not None:
        return _by_prompt(direction, before, after, rows)
    found = statistics.difference(direction, before, after, rows.old, rows.new)
    return _by_share(direction, found, rows.old, rows.new) if is_share(rows.old) and is_share(rows.new) else found


def _by_share(direction: Literal["higher", "lower"], found: Difference, old: np.ndarray, new: np.ndarray) -> Difference:
    """The interval stays first-order; p is exact, because discordant pairs may be few."""
    if found.delta is None:
        return found
    pairs = mcnemar(old, new)
    won, lost = (pairs.wins, pairs.losses) if direction == "higher" else (pairs.losses, pairs.wins)
    word = statistics.verdict(direction, found.delta, pairs.p)
    hit = float(max(old.max(), new.max(), 1.0))
    return found._replace(p=pairs.p, verdict=word, test="McNemar, exact", wins=won, losses=lost, ties=pairs.ties, hit=hit)


def _by_prompt(direction: Literal["higher", "lower"], before: Measurement, after: Measurement, rows: Rows) -> Difference:
    if before.value is None or after.value is None or rows.old is None or rows.new is None or rows.prompts is None:
        return statistics.silent("a value is missing")
    means = prompt_means(rows.new - rows.old, rows.prompts, rows.tasks)
    try:
        score = cluster_score(means)
    except TooFewImages as error:
        return statistics.silent(str(error))
    return _clustered(direction, after.value - before.value, score, sign_flip(means))


def _clustered(direction: Literal["higher", "lower"], delta: float, score: ClusterScore, flips: SignFlip) -> Difference:
    won, lost = (flips.wins, flips.losses) if direction == "higher" else (flips.losses, flips.wins)
    new, again = score.new_prompts, score.new_seeds
    ends = statistics.student(delta, new.se, score.df)
    test = f"sign flips of prompts, {'every one' if flips.exact else f'{PERMUTATIONS:,} random'}"
    word = statistics.verdict(direction, delta, flips.p)
    why = "paired by sample, clustered by prompt"
    if score.df is None:
        why += "; all prompts moved alike or not at all, so the error of 0 is none"
    found = Difference(delta, *ends, flips.p, True, word, why, test, score.df)
    half = 0.0 if again is None else (again.high - again.low) / 2
    rerun = None if again is None else Interval(again.se, delta - half, delta + half)
    return found._replace(again=rerun, wins=won, losses=lost, ties=flips.ties)


class Rows(NamedTuple):
    """Per-sample contributions of two runs in one order, with prompts and tasks where there are any; or why they are no pairs."""

    old: np.ndarray | None
    new: np.ndarray | None
    why: str
    prompts: np.ndarray | None = None
    tasks: np.ndarray | None = None


def paired_rows(metric: str, old: Found, new: Found) -> Rows:
    """Rows of the same samples of two runs.

    The key is seed, suite, resolution, sample indices, labels and prompts; the references must be equal too. `METRIC_drawn` goes
    before `METRIC`: recall's own rows are the reference images, but it is the samples that another draw changes.
    """
    for item in (old, new):
        if item.result.per_sample is None or not beside(item).is_file():
            return Rows(None, None, "per-sample values were not kept")
    if other := _other_samples(old, new):
        return Rows(None, None, other)
    arrays = [arrays_of(item) for item in (old, new)]
    name = f"{metric}_drawn" if all(f"{metric}_drawn" in a for a in arrays) else metric
    if any(name not in a or "indices" not in a for a in arrays):
        return Rows(None, None, f"no per-sample values of {metric}")
    if not np.array_equal(arrays[0]["indices"], arrays[1]["indices"]):
        return Rows(None, None, "other sample indices")
    one, two = (np.asarray(a[name], dtype=np.float64) for a in arrays)
    if one.shape != two.shape:
        return Rows(None, None, f"{len(one):,} against {len(two):,} per-sample values")
    return _with_prompts(metric, one, two, *arrays)


def _with_prompts(metric: str, one: np.ndarray, two: np.ndarray, old: dict[str, np.ndarray], new: dict[str, np.ndarray]) -> Rows:
    if "prompts" not in old or "prompts" not in new:
        return Rows(one, two, "")
    strata = f"{metric}_tasks"  # of a mean of task means alone
    if any(not np.array_equal(old.get(key, ()), new.get(key, ())) for key in ("prompts", strata)):
        return Rows(None, None, "other prompts")
    counts = ~np.isnan(one)
    if not np.array_equal(counts, ~np.isnan(two)):
        return Rows(None, None, "other samples were left out")
    tasks = old[strata][counts] if strata in old else None
    return Rows(one[counts], two[counts], "", old["prompts"][counts], tasks)


def _other_samples(old: Found, new: Found) -> str:
    a, b = old.result, new.result
    if a.plan is None or b.plan is None:
        return "a run has no plan"
    if a.reference_sha256 != b.reference_sha256:
        return "other reference images"
    keys = [(p.settings.seed, p.suite, p.suite_version, p.settings.resolution) for p in (a.plan, b.plan)]
    names = ("seed", "suite", "suite version", "resolution")
    if other := next((f"other {name}" for name, x, y in zip(names, *keys, strict=True) if x != y), ""):
        return other
    asked = [_asked(item.path.parent.parent / "samples.jsonl") for item in (old, new)]
    return "other labels or prompts" if None not in asked and asked[0] != asked[1] else ""


def _asked(path: Path) -> dict[int, tuple[int | None, str | None]] | None:
    """Label and prompt by index as a run's list has them; None where there is no list."""
    if not path.is_file():
        return None
    status = path.stat()
    return _read_asked(path, (status.st_mtime_ns, status.st_size))


@lru_cache(maxsize=32)
def _read_asked(path: Path, stamp: tuple[int, int]) -> dict[int, tuple[int | None, str | None]]:
    return {line["index"]: (line.get("label"), line.get("prompt")) for line in read_lines(path) if "index" in line}


def beside(item: Found) -> Path:
    """Path of the per-sample arrays: a plain file name beside the result, never a path of its choosing."""
    name = item.result.per_sample or ""
    if Path(name).name != name:
        raise StorageError(f"{item.path} names per-sample values outside its folder ({name}); evaluate the run again")
    return item.path.parent / name


@lru_cache(maxsize=32)
def _read(path: Path, stamp: tuple[int, int]) -> dict[str, np.ndarray]:
    return load_arrays(path)


def arrays_of(item: Found) -> dict[str, np.ndarray]:
    """The per-sample arrays of a result, read once as long as the file does not change: every cell of a table asks again."""
    path = beside(item)
    status = path.stat()
    return _read(path, (status.st_mtime_ns, status.st_size))


def holm_adjusted(found: Sequence[Difference]) -> list[float | None]:
    """Holm-adjusted p values of the differences that have one, in the order given."""
    tested = [i for i, item in enumerate(found) if item.p is not None]
    adjusted: list[float | None] = [None] * len(found)
    for i, p in zip(tested, statistics.holm([found[i].p or 0.0 for i in tested]), strict=True):
        adjusted[i] = p
    return adjusted


def spread(found: Difference, confidence: float) -> Interval | None:
    """The two-sided interval of that confidence (0 to 1) around a difference; None where no error is known."""
    if found.delta is None or found.se is None:
        return None
    half = statistics.quantile(confidence, found.df) * found.se
    return Interval(found.se, found.delta - half, found.delta + half)
