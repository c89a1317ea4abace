"""Entries of the gallery: the images of one request with verdict, reason and detections."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import numpy as np
from PIL import Image

from harope_bench.core.errors import StorageError
from harope_bench.core.storage import make_folder, write_bytes, write_text
from harope_bench.reports import gallery_scores
from harope_bench.reports.gallery_differences import NearestReference, find_nearest
from harope_bench.reports.gallery_groups import GroupPlan, RunOfGroup
from harope_bench.reports.gallery_images import ImageOrReason, full_size_png, make_thumbnail
from harope_bench.reports.gallery_records import (
    GalleryEntry,
    GalleryImage,
    GalleryOptions,
    ImageBox,
    NearestImage,
)
from harope_bench.reports.gallery_scores import (
    PARTLY,
    RIGHT,
    UNSCORED,
    WRONG,
    DrawnBox,
    ScoredImage,
)

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
ASSETS_MARKER = ".harope-bench-gallery"  # in a folder whose images a later report may replace
VERDICT_GLYPHS = {RIGHT: "✓", WRONG: "✗", PARTLY: "◐", UNSCORED: "?"}


class EntryImages(NamedTuple):
    """The images of one request, by the position of the run, and their nearest references."""

    images: tuple[ImageOrReason, ...]
    nearest: tuple[NearestReference | None, ...]


def iterate_entry_images(plan: GroupPlan) -> Iterator[tuple[int, EntryImages]]:
    """Yield the images of each entry, with the references nearest to odd samples.

    The images of one entry are in memory at a time, because they can be large.
    """
    readers = [run.images.open_reader(plan.sorted_indices) for run in plan.runs]
    for index in plan.sorted_indices:
        images = tuple(read_image(index) for read_image in readers)
        yield index, EntryImages(images, _nearest_to_odd(plan, index, images))


def _nearest_to_odd(
    plan: GroupPlan, index: int, images: Sequence[ImageOrReason]
) -> tuple[NearestReference | None, ...]:
    """Return the nearest reference image of each sample that is nearest to another class."""
    if plan.references is None:
        return (None,) * len(images)
    pixels_by_run = {
        k: np.asarray(image) for k, image in enumerate(images) if not isinstance(image, str)
    }
    nearest = find_nearest(pixels_by_run, plan.references)
    labels = [_label(run, index) for run in plan.runs]
    return tuple(
        nearest[k] if k in nearest and label not in (None, nearest[k].label) else None
        for k, label in enumerate(labels)
    )


def _label(run: RunOfGroup, index: int) -> int | None:
    """Return the requested label of a sample; None without one."""
    record = run.images.records.get(index)
    if record is not None:
        return record.label
    samples = run.images.external_samples
    return None if samples is None else samples.labels.get(index)


def detections_of_run(
    run: RunOfGroup, indices: Sequence[int]
) -> Mapping[int, tuple[DrawnBox, ...]]:
    """Return the stored detections of a run's images by index."""
    if run.result is None:
        return {}
    return gallery_scores.read_detections(run.result, run.scores, set(indices))


def build_entry(
    plan: GroupPlan,
    index: int,
    entry_images: EntryImages | None,
    detections: Sequence[Mapping[int, tuple[DrawnBox, ...]]],
    options: GalleryOptions,
) -> GalleryEntry:
    """Return the entry of one request."""
    anchor = f"{plan.anchor}-{index}"
    scores = [run.scores.get(index) for run in plan.runs]
    images = tuple(
        _build_image(plan, k, index, entry_images, detections[k].get(index), anchor, options)
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
        marked_letters=_marked_letters(plan, scores, images),
        difference_text=_difference_text(plan, index),
        images=images,
    )


def _details(plan: GroupPlan, index: int, scores: Sequence[ScoredImage | None]) -> str:
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


def _prompt(runs: Sequence[RunOfGroup], index: int) -> str:
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
    plan: GroupPlan, scores: Sequence[ScoredImage | None], images: Sequence[GalleryImage]
) -> str:
    """Return the letters of the runs that are wrong; without scores, of those that are odd."""
    if plan.has_scores:
        return "".join(
            LETTERS[k] for k, score in enumerate(scores) if score is not None and score.is_wrong
        )
    return "".join(image.letter for image in images if image.nearest is not None)


def _difference_text(plan: GroupPlan, index: int) -> str:
    """Return how much the images of a request differ, and which of more than two runs do."""
    difference = plan.differences.by_index.get(index)
    if difference is None:
        return ""
    text = f"difference {difference.value:.3g}"
    if len(plan.runs) > 2:
        text += f" ({LETTERS[difference.first_run]} against {LETTERS[difference.second_run]})"
    return text


def _build_image(
    plan: GroupPlan,
    position: int,
    index: int,
    entry_images: EntryImages | None,
    detections: tuple[DrawnBox, ...] | None,
    anchor: str,
    options: GalleryOptions,
) -> GalleryImage:
    """Return one image of an entry with its verdict.

    Args:
        position: Position of the run.
        entry_images: Images of the entry; None if images are left out.
        detections: Stored detections; None if only the evidence of the score has some.
    """
    letter = LETTERS[position]
    score = plan.runs[position].scores.get(index)
    image = None
    missing_reason = ""
    nearest = None
    if entry_images is not None:
        loaded_image = entry_images.images[position]
        nearest = _nearest_image(entry_images.nearest[position])
        if not isinstance(loaded_image, str):
            image = loaded_image
        elif plan.runs[position].images.indices:  # otherwise the run's note says it once
            missing_reason = loaded_image
    if detections is None:
        detections = score.detections if score is not None else ()
    verdict = (score.verdict if score is not None else UNSCORED) if plan.has_scores else ""
    has_asset = image is not None and options.assets is not None
    return GalleryImage(
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
        boxes=tuple(_image_box(k, box) for k, box in enumerate(detections, 1)),
        answers=score.answers if score is not None else (),
        nearest=nearest,
    )


def _score_note(score: ScoredImage | None) -> str:
    """Return the score where the verdict alone does not say it, else an empty text."""
    if score is None or score.value in (None, 0.0) or score.verdict == RIGHT:
        return ""
    return score.score_text


def _image_box(number: int, box: DrawnBox) -> ImageBox:
    """Return a detection with its text: class, confidence, and corners in pixels."""
    x0, y0, x1, y1 = box.box
    corners = ", ".join(f"{value:.0f}" for value in box.box)
    text = f"{box.label} {box.score:.2f} at ({corners})"
    if not box.is_counted:
        text += ", below the threshold"
    width = max(0.0, x1 - x0)
    height = max(0.0, y1 - y0)
    return ImageBox(
        number, round(x0, 2), round(y0, 2), round(width, 2), round(height, 2), text, box.is_counted
    )


def _nearest_image(nearest: NearestReference | None) -> NearestImage | None:
    """Return the nearest reference image as the page shows it."""
    if nearest is None:
        return None
    thumbnail = make_thumbnail(Image.fromarray(np.ascontiguousarray(nearest.pixels)))
    return NearestImage(
        thumbnail,
        f"nearest reference: class {nearest.label}, RMS difference {nearest.distance:.0f}",
    )


# ---------------------------------------------------------------------------- full-size images


def check_assets_folder(folder: Path) -> None:
    """Raise StorageError if a folder holds files that no gallery wrote."""
    if folder.exists() and not folder.is_dir():
        raise StorageError(f"{folder} is a file, wanted a folder for images; choose another one")
    is_own = (folder / ASSETS_MARKER).is_file()
    if folder.is_dir() and not is_own and any(folder.iterdir()):
        raise StorageError(
            f"{folder} holds files that no report wrote; give an empty or a new folder to --assets"
        )


def write_assets(folder: Path, entry: GalleryEntry, images: Sequence[ImageOrReason]) -> None:
    """Write the full-size images of an entry; their names depend on the entry's id alone."""
    make_folder(folder)
    marker = folder / ASSETS_MARKER
    if not marker.is_file():
        write_text(marker, "images of a harope-bench report\n")
    for gallery_image, image in zip(entry.images, images, strict=True):
        if not isinstance(image, str):
            name = asset_name(entry.anchor, gallery_image.letter)
            write_bytes(folder / name, full_size_png(image))


def asset_name(anchor: str, letter: str) -> str:
    """Return the name of the full-size file of an image."""
    return f"{anchor}-{letter.lower()}.png"


def _asset_link(options: GalleryOptions, anchor: str, letter: str) -> str:
    """Return the address of a full-size file, relative to the page."""
    assert options.assets is not None
    name = asset_name(anchor, letter)
    page_folder = options.page_folder.resolve()
    relative_folder = Path(os.path.relpath(options.assets.resolve(), page_folder)).as_posix()
    return f"{quote(relative_folder)}/{name}"
