"""The gallery: images of equal requests side by side, those on which the runs disagree first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from harope_bench.reports import gallery_scores
from harope_bench.reports.gallery_entries import (
    LETTERS,
    EntryImages,
    build_entry,
    check_assets_folder,
    detections_of_run,
    iterate_entry_images,
    write_assets,
)
from harope_bench.reports.gallery_groups import GroupPlan, RunOfGroup, plan_groups
from harope_bench.reports.gallery_records import (
    RESERVED_BYTES,
    Gallery,
    GalleryEntry,
    GalleryGroup,
    GalleryOptions,
    GalleryRun,
)
from harope_bench.reports.gallery_scores import TaskOutcome
from harope_bench.reports.runs import ReportedRun

MAX_IMAGES = 400  # of the page
MAX_GROUP_IMAGES = 144  # of one group
MIN_GROUP_IMAGES = 24  # of one group, however many groups there are


def build_gallery(runs: Sequence[ReportedRun], options: GalleryOptions | None = None) -> Gallery:
    """Return the gallery of these runs, and write the full-size images if a folder is given.

    Raises:
        StorageError: A file of scores is damaged, or the folder for images holds other files.
    """
    options = options or GalleryOptions()
    if options.assets is not None and options.has_images:
        check_assets_folder(options.assets)
    plans = plan_groups(runs, options.has_images)
    n_groups = max(1, len(plans))
    budget = max(0, options.max_bytes - RESERVED_BYTES) // n_groups
    max_images = max(MIN_GROUP_IMAGES, min(MAX_GROUP_IMAGES, MAX_IMAGES // n_groups))
    groups = [_build_group(_limit_images(plan, max_images), options, budget) for plan in plans]
    return Gallery(tuple(group for group in groups if group.entries), options.has_images)


def _limit_images(plan: GroupPlan, max_images: int) -> GroupPlan:
    """Return a group with the first entries that have at most `max_images` images in all."""
    return plan._replace(sorted_indices=plan.sorted_indices[: max_images // len(plan.runs)])


def _build_group(plan: GroupPlan, options: GalleryOptions, budget: int) -> GalleryGroup:
    """Return a group with as many entries as its budget in bytes allows."""
    detections = [detections_of_run(run, plan.sorted_indices) for run in plan.runs]
    entries: list[GalleryEntry] = []
    for index, entry_images in _iterate_entries(plan, options.has_images):
        entry = build_entry(plan, index, entry_images, detections, options)
        budget -= entry.n_bytes
        if budget < 0:
            break
        entries.append(entry)
        if options.assets is not None and entry_images is not None:
            write_assets(options.assets, entry, entry_images.images)
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
        has_boxes=any(image.boxes for entry in entries for image in entry.images),
        note=plan.note,
    )


def _iterate_entries(plan: GroupPlan, has_images: bool) -> Iterable[tuple[int, EntryImages | None]]:
    """Return the indices of the entries in order, with their images unless these are left out."""
    if has_images:
        return iterate_entry_images(plan)
    return ((index, None) for index in plan.sorted_indices)


def _gallery_runs(runs: Sequence[RunOfGroup]) -> tuple[GalleryRun, ...]:
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


def _outcomes(plan: GroupPlan) -> tuple[TaskOutcome, ...]:
    """Return the prompts won and lost by task, if there are several runs and all have scores."""
    if len(plan.runs) < 2 or not all(run.scores for run in plan.runs):
        return ()
    return gallery_scores.count_outcomes([run.scores for run in plan.runs])


def _filters(plan: GroupPlan, entries: Sequence[GalleryEntry]) -> tuple[tuple[str, str], ...]:
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
