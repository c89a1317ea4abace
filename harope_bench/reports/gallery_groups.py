"""Groups of the gallery: which runs and requests are side by side, and in which order."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from harope_bench.data.result_store import StoredResult
from harope_bench.reports import gallery_scores
from harope_bench.reports.gallery_differences import (
    Differences,
    ReferenceImages,
    evenly_spaced_indices,
    load_reference_images,
    measure_differences,
)
from harope_bench.reports.gallery_images import RunImages, open_run_images
from harope_bench.reports.gallery_scores import ScoredImage, read_scores
from harope_bench.reports.runs import ReportedRun

MAX_ENTRIES = 60  # of one group, however few bytes they have
MAX_UNSORTED_ENTRIES = 40  # of one group without scores or differences
MAX_RUNS = 8  # of one group, side by side


class RunOfGroup(NamedTuple):
    """A run of a group with its images, the scores of its images, and their result."""

    run: ReportedRun
    images: RunImages
    scores: Mapping[int, ScoredImage]
    result: StoredResult | None

    @property
    def indices(self) -> set[int]:
        """Return the indices of all requests that the run has an image or a score of."""
        return self.images.indices | set(self.scores)


class GroupPlan(NamedTuple):
    """The runs of a group and the indices of its entries in their order, before images are read."""

    anchor: str
    title: str
    runs: tuple[RunOfGroup, ...]
    sorted_indices: tuple[int, ...]
    n_requests: int
    order_text: str
    differences: Differences
    references: ReferenceImages | None
    note: str

    @property
    def has_scores(self) -> bool:
        """Return whether any run has scores of single images."""
        return any(run.scores for run in self.runs)


def plan_groups(runs: Sequence[ReportedRun], has_images: bool) -> list[GroupPlan]:
    """Return the groups: runs of one suite and size, once for each evaluator of single images."""
    plans: list[GroupPlan] = []
    for suite, suite_runs in _runs_by_suite(runs).items():
        images_by_run = {run.id: open_run_images(run) for run in suite_runs}
        for name in _score_names(suite_runs) or [""]:
            members = [_run_of_group(run, images_by_run[run.id], name) for run in suite_runs]
            plans += _plan_members(suite, name, [m for m in members if m.indices], has_images)
    return _with_unique_anchors(plans)


def _runs_by_suite(runs: Sequence[ReportedRun]) -> dict[str, list[ReportedRun]]:
    """Return the runs by the title of their suite and size; a run of no suite is alone."""
    versions: dict[str, set[int]] = {}
    for run in runs:
        if run.plan is not None:
            versions.setdefault(run.plan.suite, set()).add(run.plan.suite_version)
    runs_by_suite: dict[str, list[ReportedRun]] = {}
    for run in runs:
        runs_by_suite.setdefault(_suite_title(run, versions), []).append(run)
    return runs_by_suite


def _suite_title(run: ReportedRun, versions: Mapping[str, set[int]]) -> str:
    """Return the suite and size of a run in words, with the version where runs have several."""
    suite = suite_of_run(run)
    if suite is None:
        return run.id
    if run.plan is None:
        side = next(
            (
                stored_result.result.side
                for stored_result in run.results
                if stored_result.result.side
            ),
            None,
        )
        return suite if side is None else f"{suite}, {side} px"
    version = ""
    if len(versions.get(suite, ())) > 1:
        version = f" version {run.plan.suite_version}"
    return f"{suite}{version}, {run.plan.settings.resolution} px"


def suite_of_run(run: ReportedRun) -> str | None:
    """Return the suite of a run, from its plan or its results; None if neither names one."""
    if run.plan is not None:
        return run.plan.suite
    return next((i.result.suite_name for i in run.results if i.result.suite_name), None)


def _score_names(runs: Sequence[ReportedRun]) -> list[str]:
    """Return the names of the results with scores of single images, one for each evaluator.

    Of several results of one evaluator, such as those of two sets of rules, the one that most runs
    have is shown.
    """
    counts: dict[str, dict[str, int]] = {}
    for run in runs:
        for stored_result in run.results:
            if stored_result.result.sample_scores_file is not None:
                by_name = counts.setdefault(stored_result.result.evaluator, {})
                by_name[stored_result.path.stem] = by_name.get(stored_result.path.stem, 0) + 1
    return [
        min(by_name, key=lambda name: (-by_name[name], len(name), name))
        for _, by_name in sorted(counts.items())
    ]


def _run_of_group(run: ReportedRun, images: RunImages, name: str) -> RunOfGroup:
    """Return a run with the scores of the result with this name."""
    result = next(
        (stored_result for stored_result in run.results if stored_result.path.stem == name), None
    )
    scores = {} if result is None else read_scores(result)
    return RunOfGroup(run, images, scores, result)


def _plan_members(
    suite: str, name: str, members: Sequence[RunOfGroup], has_images: bool
) -> list[GroupPlan]:
    """Return the group of these runs; if they share no request, a group for each of them."""
    if not members:
        return []
    group_members = members[:MAX_RUNS]
    if len(group_members) > 1 and not _shared_indices(group_members):
        return [plan for m in members for plan in _plan_members(suite, name, [m], has_images)]
    note = ""
    if len(members) > len(group_members):
        note = f"{len(members) - len(group_members)} more runs of this suite are not shown here."
    title = suite if name in ("", suite) else f"{suite}, {name}"
    plan = _plan_group(title, group_members, note, has_images)
    return [plan] if plan.has_scores or has_images else []


def _shared_indices(members: Sequence[RunOfGroup]) -> list[int]:
    """Return the sorted indices that all runs have; scored ones alone where there are scores."""
    index_sets = [set(m.scores) or m.indices for m in members]
    return sorted(set.intersection(*index_sets))


def _plan_group(
    title: str, members: Sequence[RunOfGroup], note: str, has_images: bool
) -> GroupPlan:
    """Return a group with its entries sorted: by disagreement, or by how much images differ."""
    indices = _shared_indices(members)
    differences = Differences({}, "")
    references = None
    if any(member.scores for member in members):
        sorted_indices = sorted(indices, key=lambda i: _disagreement_key(members, i))
        order_text = "worst score first"
        if len(members) > 1:
            order_text = "largest difference between the scores first, then the worst score"
    else:
        if has_images:
            differences = measure_differences([member.images for member in members], indices)
            suite = suite_of_run(members[0].run)
            references = load_reference_images(suite) if suite else None
        sorted_indices, order_text = _sort_by_difference(indices, differences)
    return GroupPlan(
        anchor=f"gallery-{_slug(title)}",
        title=title,
        runs=tuple(members),
        sorted_indices=tuple(sorted_indices[:MAX_ENTRIES]),
        n_requests=len(indices),
        order_text=order_text,
        differences=differences,
        references=references,
        note=note,
    )


def _disagreement_key(members: Sequence[RunOfGroup], index: int) -> tuple[float, float, int]:
    """Return the sort key of a request: largest disagreement, then lowest mean score."""
    scores = [member.scores.get(index) for member in members]
    return -gallery_scores.disagreement(scores), gallery_scores.mean_value(scores), index


def _sort_by_difference(indices: Sequence[int], differences: Differences) -> tuple[list[int], str]:
    """Return the indices by descending difference, or evenly spaced ones without differences."""
    if differences.by_index:
        by_index = differences.by_index
        compared_indices = sorted(by_index, key=lambda index: (-by_index[index].value, index))
        return compared_indices, f"those that differ most first, by {differences.text}"
    return evenly_spaced_indices(indices, MAX_UNSORTED_ENTRIES), "evenly spaced, by their index"


def _slug(text: str) -> str:
    """Return a text as a part of an id: small letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:60] or "images"


def _with_unique_anchors(plans: Sequence[GroupPlan]) -> list[GroupPlan]:
    """Return the groups, with a number after an anchor that an earlier group has."""
    counts: dict[str, int] = {}
    unique_plans = []
    for plan in plans:
        counts[plan.anchor] = counts.get(plan.anchor, 0) + 1
        number = counts[plan.anchor]
        anchor = plan.anchor if number == 1 else f"{plan.anchor}-{number}"
        unique_plans.append(plan._replace(anchor=anchor))
    return unique_plans
