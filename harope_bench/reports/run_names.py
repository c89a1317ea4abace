"""Names of runs by what was run, such as "mmdit-micro, HARoPE, 32 px", and their ids in a page."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from harope_bench.core.schema import Plan
from harope_bench.reports.runs import ReportedRun

ENCODING_TITLES = {
    "ape": "APE",
    "harope": "HARoPE",
    "head-freq": "per-head frequencies",
    "rope-axial": "axial RoPE",
    "rope-matrix": "RoPE with matrix",
    "rope-mixed": "mixed RoPE",
    "rope-svd-control": "SVD control",
    "rope-vanilla": "vanilla RoPE",
    "string": "STRING",
    "videorope": "VideoRoPE",
}
MAX_NAME_CHARACTERS = 60


def encoding_title(encoding: str) -> str:
    """Return the name of an encoding as papers print it; the registered name of other encodings."""
    return ENCODING_TITLES.get(encoding, encoding)


def describe_plan(plan: Plan) -> str:
    """Return backbone, encoding and image size of a plan: "mmdit-micro, HARoPE, 32 px"."""
    checkpoint = plan.checkpoint
    network = checkpoint.backbone
    if checkpoint.scale == "micro" and not network.endswith("-micro"):
        network = f"{network}-micro"
    return f"{network}, {encoding_title(checkpoint.encoding)}, {plan.settings.resolution:,} px"


def describe_run(run: ReportedRun) -> str:
    """Return the user's label of a run, what was run, or the evaluated target."""
    label = next(
        (stored_result.result.label for stored_result in run.results if stored_result.result.label),
        None,
    )
    if label:
        return label
    if run.plan is not None:
        return describe_plan(run.plan)
    return _end_of_text(run.title)


def _end_of_text(text: str) -> str:
    """Return the end of a long text, where the name of a file is."""
    if len(text) <= MAX_NAME_CHARACTERS:
        return text
    return f"...{text[-MAX_NAME_CHARACTERS:]}"


def unique_run_names(runs: Sequence[ReportedRun]) -> dict[str, str]:
    """Return the name of each run by its id; namesakes are followed by checkpoint, then by id."""
    names = {run.id: describe_run(run) for run in runs}
    for suffix_of in (lambda run: run.title, lambda run: run.id):
        counts = Counter(names.values())
        for run in runs:
            suffix = _end_of_text(suffix_of(run))
            if counts[names[run.id]] > 1 and suffix != names[run.id]:
                names[run.id] = f"{names[run.id]}, {suffix}"
    return names


def short_run_names(runs: Sequence[ReportedRun]) -> dict[str, str]:
    """Return the names of runs by their ids without the parts that all of them have in common."""
    names = unique_run_names(runs)
    parts_by_run = {run.id: names[run.id].split(", ") for run in runs}
    common_parts = set.intersection(*map(set, parts_by_run.values())) if runs else set()
    return {
        run_id: ", ".join(part for part in parts if part not in common_parts) or names[run_id]
        for run_id, parts in parts_by_run.items()
    }


def unique_anchors(names: Iterable[str], prefix: str) -> dict[str, str]:
    """Return an id for each name that a link can contain. It depends on the names alone."""
    anchors: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for name in names:
        anchor = f"{prefix}-{slug(name)}"
        counts[anchor] += 1
        anchors[name] = anchor if counts[anchor] == 1 else f"{anchor}--{counts[anchor]}"
    return anchors


def slug(text: str) -> str:
    """Return a text in lower case with hyphens for everything but ASCII letters and digits."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:MAX_NAME_CHARACTERS] or "unnamed"
