"""The gallery: images of equal requests side by side, those on which the runs disagree first."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import numpy as np
from PIL import Image

from harope_bench.core.errors import StorageError
from harope_bench.core.storage import make_folder, write_bytes, write_text
from harope_bench.data.result_store import StoredResult
from harope_bench.reports import gallery_scores
from harope_bench.reports.gallery_differences import (
    Differences,
    NearestReference,
    ReferenceImages,
    evenly_spaced_indices,
    find_nearest,
    load_reference_images,
    measure_differences,
)
from harope_bench.reports.gallery_images import (
    ImageOrReason,
    RunImages,
    Thumbnail,
    full_size_png,
    make_thumbnail,
    open_run_images,
)
from harope_bench.reports.gallery_scores import (
    PARTLY,
    RIGHT,
    UNSCORED,
    WRONG,
    DrawnBox,
    ScoredImage,
    TaskOutcome,
    read_scores,
)
from harope_bench.reports.runs import ReportedRun

MAX_PAGE_BYTES = 5_000_000
RESERVED_BYTES = 1_000_000  # of the page, for everything but the gallery
MAX_ENTRIES = 60  # of one group, however few bytes they have
MAX_SHOTS = 160  # images of one group, all entries together
MAX_UNSORTED_ENTRIES = 40  # of one group without scores or differences
MAX_RUNS = 8  # of one group, side by side
ENTRY_BYTES = 400  # of the markup of one entry
SHOT_BYTES = 700  # of the markup of one image of an entry
BOX_BYTES = 220  # of the markup of one detection
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
ASSETS_MARKER = ".harope-bench-gallery"  # in a folder whose images a later report may replace
VERDICT_GLYPHS = {RIGHT: "✓", WRONG: "✗", PARTLY: "◐", UNSCORED: "?"}


@dataclass(frozen=True)
class GalleryOptions:
    """How the gallery is built.

    Attributes:
        has_images: Whether images are embedded; otherwise verdicts and reasons alone are shown.
        assets: Folder for full-size images, which the page links; None writes none.
        max_bytes: Size of the page that the embedded images may fill, with RESERVED_BYTES left for
            everything else.
        page_folder: Folder of the page, from which the links to `assets` start.
    """

    has_images: bool = True
    assets: Path | None = None
    max_bytes: int = MAX_PAGE_BYTES
    page_folder: Path = Path()


@dataclass(frozen=True)
class GalleryRun:
    """A run of a group: its letter, its name, how its images were generated, its summary."""

    id: str
    letter: str
    title: str
    caption: str
    note: str


@dataclass(frozen=True)
class ShotBox:
    """A detection drawn over an image, in the coordinates of the image.

    number: its position in the list beside the image.
    """

    number: int
    x: float
    y: float
    width: float
    height: float
    text: str
    is_counted: bool


@dataclass(frozen=True)
class NearestShot:
    """The reference image nearest to an odd sample."""

    thumbnail: Thumbnail
    text: str


@dataclass(frozen=True)
class Shot:
    """One image of an entry.

    Attributes:
        thumbnail: None if there is no image; `missing_reason` then says why.
        link: Address of the full-size file; empty without one.
        image_size: (width, height) in pixels, for the boxes.
        verdict: In words; empty if the group has no scores.
    """

    letter: str
    thumbnail: Thumbnail | None
    missing_reason: str
    link: str
    alt_text: str
    image_size: tuple[int, int]
    verdict: str
    verdict_glyph: str
    score_text: str
    reason: str
    boxes: tuple[ShotBox, ...]
    answers: tuple[str, ...]
    nearest: NearestShot | None

    @property
    def n_bytes(self) -> int:
        """Return roughly how many bytes the image adds to the page."""
        texts = (self.reason, self.alt_text, self.missing_reason, *self.answers)
        n_bytes = SHOT_BYTES + sum(len(text.encode()) for text in texts)
        n_bytes += BOX_BYTES * len(self.boxes)
        if self.thumbnail is not None:
            n_bytes += len(self.thumbnail.uri)
        if self.nearest is not None:
            n_bytes += len(self.nearest.thumbnail.uri)
        return n_bytes


@dataclass(frozen=True)
class GalleryEntry:
    """The images of one request.

    Attributes:
        anchor: Id in the page, which does not depend on what else is shown.
        marked_letters: Letters of the runs that are wrong, or odd in a group without scores.
        difference_text: How much the runs differ, in words.
    """

    anchor: str
    index: int
    title: str
    details: str
    prompt: str
    task: str
    marked_letters: str
    difference_text: str
    shots: tuple[Shot, ...]


@dataclass(frozen=True)
class GalleryGroup:
    """Runs of one suite and one size with the requests they share.

    Attributes:
        order_text: How the entries are sorted, in words.
        n_requests: Number of requests that all runs share; `entries` are the first of them.
        tasks: Tasks among the entries, for the filter.
        filters: (value, title) of the filter by run: empty for all, `any`, or letters.
        outcomes: Prompts won and lost by task.
    """

    anchor: str
    title: str
    runs: tuple[GalleryRun, ...]
    entries: tuple[GalleryEntry, ...]
    order_text: str
    n_requests: int
    tasks: tuple[str, ...]
    filters: tuple[tuple[str, str], ...]
    outcomes: tuple[TaskOutcome, ...]
    has_scores: bool
    has_boxes: bool
    note: str


@dataclass(frozen=True)
class Gallery:
    """All groups of the page.

    has_images: Whether images are embedded.
    """

    groups: tuple[GalleryGroup, ...]
    has_images: bool

    @property
    def has_references(self) -> bool:
        """Return whether a sample has a nearest reference image."""
        return any(
            shot.nearest for group in self.groups for entry in group.entries for shot in entry.shots
        )

    @property
    def anchors_by_run(self) -> dict[str, str]:
        """Return the anchor of the first group of each run, by the run's id."""
        anchors: dict[str, str] = {}
        for group in self.groups:
            for run in group.runs:
                anchors.setdefault(run.id, group.anchor)
        return anchors


class _RunOfGroup(NamedTuple):
    """A run of a group with its images, the scores of its images, and their result."""

    run: ReportedRun
    images: RunImages
    scores: Mapping[int, ScoredImage]
    result: StoredResult | None

    @property
    def indices(self) -> set[int]:
        """Return the indices of all requests that the run has an image or a score of."""
        return self.images.indices | set(self.scores)


class _GroupPlan(NamedTuple):
    """The runs of a group and the indices of its entries in their order, before images are read."""

    anchor: str
    title: str
    runs: tuple[_RunOfGroup, ...]
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


class _LoadedEntry(NamedTuple):
    """The images of one request, by the position of the run, and their nearest references."""

    images: tuple[ImageOrReason, ...]
    nearest: tuple[NearestReference | None, ...]


def build_gallery(runs: Sequence[ReportedRun], options: GalleryOptions | None = None) -> Gallery:
    """Return the gallery of these runs, and write the full-size images if a folder is given.

    Raises:
        StorageError: A file of scores is damaged, or the folder for images holds other files.
    """
    options = options or GalleryOptions()
    if options.assets is not None and options.has_images:
        _check_assets_folder(options.assets)
    plans = _plan_groups(runs, options.has_images)
    budget = max(0, options.max_bytes - RESERVED_BYTES) // max(1, len(plans))
    groups = [_build_group(plan, options, budget) for plan in plans]
    return Gallery(tuple(group for group in groups if group.entries), options.has_images)


# --------------------------------------------------------------------------------------- groups


def _plan_groups(runs: Sequence[ReportedRun], has_images: bool) -> list[_GroupPlan]:
    """Return the groups: runs of one suite and size, once for each evaluator of single images."""
    plans: list[_GroupPlan] = []
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
        side = next((item.result.side for item in run.results if item.result.side), None)
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
        for item in run.results:
            if item.result.sample_scores_file is not None:
                by_name = counts.setdefault(item.result.evaluator, {})
                by_name[item.path.stem] = by_name.get(item.path.stem, 0) + 1
    return [
        min(by_name, key=lambda name: (-by_name[name], len(name), name))
        for _, by_name in sorted(counts.items())
    ]


def _run_of_group(run: ReportedRun, images: RunImages, name: str) -> _RunOfGroup:
    """Return a run with the scores of the result with this name."""
    result = next((item for item in run.results if item.path.stem == name), None)
    scores = {} if result is None else read_scores(result)
    return _RunOfGroup(run, images, scores, result)


def _plan_members(
    suite: str, name: str, members: Sequence[_RunOfGroup], has_images: bool
) -> list[_GroupPlan]:
    """Return the group of these runs; if they share no request, a group for each of them."""
    if not members:
        return []
    shown = members[:MAX_RUNS]
    if len(shown) > 1 and not _shared_indices(shown):
        return [plan for m in members for plan in _plan_members(suite, name, [m], has_images)]
    note = ""
    if len(members) > len(shown):
        note = f"{len(members) - len(shown)} more runs of this suite are not shown here."
    title = suite if name in ("", suite) else f"{suite}, {name}"
    plan = _plan_group(title, shown, note, has_images)
    return [plan] if plan.has_scores or has_images else []


def _shared_indices(members: Sequence[_RunOfGroup]) -> list[int]:
    """Return the sorted indices that all runs have; scored ones alone where there are scores."""
    index_sets = [set(m.scores) or m.indices for m in members]
    return sorted(set.intersection(*index_sets))


def _plan_group(
    title: str, members: Sequence[_RunOfGroup], note: str, has_images: bool
) -> _GroupPlan:
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
    return _GroupPlan(
        anchor=f"gallery-{_slug(title)}",
        title=title,
        runs=tuple(members),
        sorted_indices=tuple(sorted_indices[: min(MAX_ENTRIES, MAX_SHOTS // len(members))]),
        n_requests=len(indices),
        order_text=order_text,
        differences=differences,
        references=references,
        note=note,
    )


def _disagreement_key(members: Sequence[_RunOfGroup], index: int) -> tuple[float, float, int]:
    """Return the sort key of a request: largest disagreement, then lowest mean score."""
    scores = [member.scores.get(index) for member in members]
    return -gallery_scores.disagreement(scores), gallery_scores.mean_value(scores), index


def _sort_by_difference(indices: Sequence[int], differences: Differences) -> tuple[list[int], str]:
    """Return the indices by descending difference, or evenly spaced ones without differences."""
    if differences.by_index:
        by_index = differences.by_index
        compared = sorted(by_index, key=lambda index: (-by_index[index].value, index))
        return compared, f"those that differ most first, by {differences.text}"
    return evenly_spaced_indices(indices, MAX_UNSORTED_ENTRIES), "evenly spaced, by their index"


def _slug(text: str) -> str:
    """Return a text as a part of an id: small letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:60] or "images"


def _with_unique_anchors(plans: Sequence[_GroupPlan]) -> list[_GroupPlan]:
    """Return the groups, with a number after an anchor that an earlier group has."""
    counts: dict[str, int] = {}
    unique_plans = []
    for plan in plans:
        counts[plan.anchor] = counts.get(plan.anchor, 0) + 1
        number = counts[plan.anchor]
        anchor = plan.anchor if number == 1 else f"{plan.anchor}-{number}"
        unique_plans.append(plan._replace(anchor=anchor))
    return unique_plans


# --------------------------------------------------------------------------------------- entries


def _build_group(plan: _GroupPlan, options: GalleryOptions, budget: int) -> GalleryGroup:
    """Return a group with as many entries as its budget in bytes allows."""
    loaded = _load_entries(plan) if options.has_images else {}
    detections = [_detections_of_run(run, plan.sorted_indices) for run in plan.runs]
    entries: list[GalleryEntry] = []
    for index in plan.sorted_indices:
        entry = _build_entry(plan, index, loaded.get(index), detections, options)
        budget -= ENTRY_BYTES + len(entry.prompt.encode()) + sum(s.n_bytes for s in entry.shots)
        if budget < 0:
            break
        entries.append(entry)
        if options.assets is not None and index in loaded:
            _write_assets(options.assets, entry, loaded[index].images)
    return GalleryGroup(
        anchor=plan.anchor,
        title=plan.title,
        runs=_gallery_runs(plan.runs),
        entries=tuple(entries),
        order_text=plan.order_text,
        n_requests=plan.n_requests,
        tasks=tuple(sorted({entry.task for entry in entries if entry.task})),
        filters=_filters(plan, entries),
        outcomes=_outcomes(plan),
        has_scores=plan.has_scores,
        has_boxes=any(shot.boxes for entry in entries for shot in entry.shots),
        note=plan.note,
    )


def _load_entries(plan: _GroupPlan) -> dict[int, _LoadedEntry]:
    """Return the images of all entries by index, with the references nearest to odd samples."""
    images_by_run = [dict(run.images.load(plan.sorted_indices)) for run in plan.runs]
    nearest_by_run = [
        _nearest_to_odd(plan, run, images_by_run[k]) for k, run in enumerate(plan.runs)
    ]
    return {
        index: _LoadedEntry(
            tuple(images.get(index, "no such sample in this run") for images in images_by_run),
            tuple(nearest.get(index) for nearest in nearest_by_run),
        )
        for index in plan.sorted_indices
    }


def _nearest_to_odd(
    plan: _GroupPlan, run: _RunOfGroup, images: Mapping[int, ImageOrReason]
) -> dict[int, NearestReference]:
    """Return the nearest reference image of each sample that is nearest to another class."""
    if plan.references is None:
        return {}
    samples = {i: np.asarray(image) for i, image in images.items() if not isinstance(image, str)}
    return {
        index: nearest
        for index, nearest in find_nearest(samples, plan.references).items()
        if _label(run, index) not in (None, nearest.label)
    }


def _label(run: _RunOfGroup, index: int) -> int | None:
    """Return the requested label of a sample; None without one."""
    record = run.images.records.get(index)
    if record is not None:
        return record.label
    samples = run.images.external_samples
    return None if samples is None else samples.labels.get(index)


def _detections_of_run(
    run: _RunOfGroup, indices: Sequence[int]
) -> Mapping[int, tuple[DrawnBox, ...]]:
    """Return the stored detections of a run's images by index."""
    if run.result is None:
        return {}
    return gallery_scores.read_detections(run.result, run.scores, set(indices))


def _build_entry(
    plan: _GroupPlan,
    index: int,
    loaded: _LoadedEntry | None,
    detections: Sequence[Mapping[int, tuple[DrawnBox, ...]]],
    options: GalleryOptions,
) -> GalleryEntry:
    """Return the entry of one request."""
    anchor = f"{plan.anchor}-{index}"
    scores = [run.scores.get(index) for run in plan.runs]
    shots = tuple(
        _build_shot(plan, k, index, loaded, detections[k].get(index), anchor, options)
        for k in range(len(plan.runs))
    )
    task = next((score.task for score in scores if score is not None), "")
    return GalleryEntry(
        anchor=anchor,
        index=index,
        title=f"sample {index}",
        details=_details(plan, index, scores),
        prompt=_prompt(plan.runs, index),
        task=task,
        marked_letters=_marked_letters(plan, scores, shots),
        difference_text=_difference_text(plan, index),
        shots=shots,
    )


def _details(plan: _GroupPlan, index: int, scores: Sequence[ScoredImage | None]) -> str:
    """Return task or class, number of the image among those of its prompt, and seed in words."""
    parts = []
    scored_image = next((score for score in scores if score is not None), None)
    if scored_image is not None:
        parts.append(scored_image.task)
        parts.append(f"image {scored_image.copy} of prompt {scored_image.prompt_index}")
    labels = {label for run in plan.runs if (label := _label(run, index)) is not None}
    if labels:
        parts.append(f"class {' / '.join(map(str, sorted(labels)))}")
    seeds = {run.run.plan.settings.seed for run in plan.runs if run.run.plan is not None}
    if len(seeds) == 1 and all(run.run.plan for run in plan.runs):
        parts.append(f"seed {next(iter(seeds))}")
    return ", ".join(parts)


def _prompt(runs: Sequence[_RunOfGroup], index: int) -> str:
    """Return the prompt of a request; different prompts of several runs joined by a slash."""
    prompts: dict[str, None] = {}  # an ordered set
    for run in runs:
        record = run.images.records.get(index)
        if record is not None and record.prompt:
            prompts[record.prompt] = None
        elif index in run.scores and run.scores[index].prompt:
            prompts[run.scores[index].prompt] = None
    return " / ".join(prompts)


def _marked_letters(
    plan: _GroupPlan, scores: Sequence[ScoredImage | None], shots: Sequence[Shot]
) -> str:
    """Return the letters of the runs that are wrong; without scores, of those that are odd."""
    if plan.has_scores:
        return "".join(
            LETTERS[k] for k, score in enumerate(scores) if score is not None and score.is_wrong
        )
    return "".join(shot.letter for shot in shots if shot.nearest is not None)


def _difference_text(plan: _GroupPlan, index: int) -> str:
    """Return how much the images of a request differ, and which of more than two runs do."""
    difference = plan.differences.by_index.get(index)
    if difference is None:
        return ""
    text = f"difference {difference.value:.3g}"
    if len(plan.runs) > 2:
        text += f" ({LETTERS[difference.first_run]} against {LETTERS[difference.second_run]})"
    return text


def _build_shot(
    plan: _GroupPlan,
    position: int,
    index: int,
    loaded: _LoadedEntry | None,
    detections: tuple[DrawnBox, ...] | None,
    anchor: str,
    options: GalleryOptions,
) -> Shot:
    """Return one image of an entry with its verdict.

    Args:
        position: Position of the run.
        loaded: Images of the entry; None if images are left out.
        detections: Stored detections; None if only the evidence of the score has some.
    """
    letter = LETTERS[position]
    score = plan.runs[position].scores.get(index)
    image = None
    missing_reason = ""
    nearest = None
    if loaded is not None:
        loaded_image = loaded.images[position]
        nearest = _nearest_shot(loaded.nearest[position])
        if not isinstance(loaded_image, str):
            image = loaded_image
        elif plan.runs[position].images.indices:  # otherwise the run's note says it once
            missing_reason = loaded_image
    if detections is None:
        detections = score.detections if score is not None else ()
    verdict = (score.verdict if score is not None else UNSCORED) if plan.has_scores else ""
    has_asset = image is not None and options.assets is not None
    return Shot(
        letter=letter,
        thumbnail=None if image is None else make_thumbnail(image),
        missing_reason=missing_reason,
        link=_asset_link(options, anchor, letter) if has_asset else "",
        alt_text=f"{letter}, sample {index}{f': {verdict}' if verdict else ''}",
        image_size=(1, 1) if image is None else image.size,
        verdict=verdict,
        verdict_glyph=VERDICT_GLYPHS.get(verdict, ""),
        score_text=_score_note(score),
        reason=score.reason if score is not None else "",
        boxes=tuple(_shot_box(k, box) for k, box in enumerate(detections, 1)),
        answers=score.answers if score is not None else (),
        nearest=nearest,
    )


def _score_note(score: ScoredImage | None) -> str:
    """Return the score where the verdict alone does not say it, else an empty text."""
    if score is None or score.value in (None, 0.0) or score.verdict == RIGHT:
        return ""
    return score.score_text


def _shot_box(number: int, box: DrawnBox) -> ShotBox:
    """Return a detection with its text: class, confidence, and corners in pixels."""
    x0, y0, x1, y1 = box.box
    corners = ", ".join(f"{value:.0f}" for value in box.box)
    text = f"{box.label} {box.score:.2f} at ({corners})"
    if not box.is_counted:
        text += ", below the threshold"
    width = max(0.0, x1 - x0)
    height = max(0.0, y1 - y0)
    return ShotBox(
        number, round(x0, 2), round(y0, 2), round(width, 2), round(height, 2), text, box.is_counted
    )


def _nearest_shot(nearest: NearestReference | None) -> NearestShot | None:
    """Return the nearest reference image as the page shows it."""
    if nearest is None:
        return None
    thumbnail = make_thumbnail(Image.fromarray(np.ascontiguousarray(nearest.pixels)))
    return NearestShot(
        thumbnail,
        f"nearest reference: class {nearest.label}, RMS difference {nearest.distance:.0f}",
    )


# --------------------------------------------------------------------------- runs and summaries


def _gallery_runs(runs: Sequence[_RunOfGroup]) -> tuple[GalleryRun, ...]:
    """Return what the page says of the runs of a group; equal titles get the runs' folders."""
    titles = [run_title(run.run) for run in runs]
    return tuple(
        GalleryRun(
            id=run.run.id,
            letter=letter,
            title=title if titles.count(title) == 1 else f"{title} ({run.run.id})",
            caption=run_caption(run.run),
            note="" if run.images.indices else run.images.missing_reason,
        )
        for run, letter, title in zip(runs, LETTERS, titles, strict=False)
    )


def run_title(run: ReportedRun) -> str:
    """Return the label that the user gave, or the name of checkpoint or target."""
    return next((i.result.label for i in run.results if i.result.label), None) or run.title


def run_caption(run: ReportedRun) -> str:
    """Return the encoding and the generation settings of a run."""
    if run.plan is None:
        return "images without a plan: how they were generated is not known"
    settings = run.plan.settings
    scaling = ""
    if settings.pos_scaling not in (None, "none"):
        scaling = f", scaling {settings.pos_scaling}"
    return (
        f"{run.plan.checkpoint.encoding}, {settings.resolution} px{scaling}; seed {settings.seed},"
        f" {settings.sampling_text}"
    )


def _outcomes(plan: _GroupPlan) -> tuple[TaskOutcome, ...]:
    """Return the prompts won and lost by task, if there are several runs and all have scores."""
    if len(plan.runs) < 2 or not all(run.scores for run in plan.runs):
        return ()
    return gallery_scores.count_outcomes([run.scores for run in plan.runs])


def _filters(plan: _GroupPlan, entries: Sequence[GalleryEntry]) -> tuple[tuple[str, str], ...]:
    """Return the values and titles of the filter by run, with the number of shown entries."""
    letters = LETTERS[: len(plan.runs)]
    n_marked = sum(bool(entry.marked_letters) for entry in entries)
    all_title = f"all ({len(entries)})"
    if not plan.has_scores:
        if not n_marked:
            return ()
        return (("", all_title), ("any", f"nearest to another class ({n_marked})"))
    if len(letters) == 1:
        return (("", all_title), (letters, f"wrong ({n_marked})"))
    counts = dict.fromkeys((*letters, letters), 0)
    for entry in entries:
        if entry.marked_letters in counts:
            counts[entry.marked_letters] += 1
    every = "both" if len(letters) == 2 else "all runs"
    any_filter = (("any", f"any run wrong ({n_marked})"),) if len(letters) > 2 else ()
    return (
        ("", all_title),
        *any_filter,
        *((letter, f"only {letter} wrong ({counts[letter]})") for letter in letters),
        (letters, f"{every} wrong ({counts[letters]})"),
    )


# ---------------------------------------------------------------------------- full-size images


def _check_assets_folder(folder: Path) -> None:
    """Raise StorageError if a folder holds files that no gallery wrote."""
    if folder.exists() and not folder.is_dir():
        raise StorageError(f"{folder} is a file, wanted a folder for images; choose another one")
    is_own = (folder / ASSETS_MARKER).is_file()
    if folder.is_dir() and not is_own and any(folder.iterdir()):
        raise StorageError(
            f"{folder} holds files that no report wrote; give an empty or a new folder to --assets"
        )


def _write_assets(folder: Path, entry: GalleryEntry, images: Sequence[ImageOrReason]) -> None:
    """Write the full-size images of an entry; their names depend on the entry's id alone."""
    make_folder(folder)
    marker = folder / ASSETS_MARKER
    if not marker.is_file():
        write_text(marker, "images of a harope-bench report\n")
    for shot, image in zip(entry.shots, images, strict=True):
        if not isinstance(image, str):
            write_bytes(folder / _asset_name(entry.anchor, shot.letter), full_size_png(image))


def _asset_name(anchor: str, letter: str) -> str:
    """Return the name of the full-size file of an image."""
    return f"{anchor}-{letter.lower()}.png"


def _asset_link(options: GalleryOptions, anchor: str, letter: str) -> str:
    """Return the address of a full-size file, relative to the page."""
    assert options.assets is not None
    name = _asset_name(anchor, letter)
    page_folder = options.page_folder.resolve()
    relative_folder = Path(os.path.relpath(options.assets.resolve(), page_folder)).as_posix()
    return f"{quote(relative_folder)}/{name}"
