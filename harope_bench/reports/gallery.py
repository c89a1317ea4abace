"""Sheets of samples: the same sample indices of every run of a suite, for comparison by eye."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, NamedTuple

from harope_bench.core.errors import SampleError
from harope_bench.core.index_ranges import consecutive_ranges
from harope_bench.core.schema import SampleRecord
from harope_bench.data.image_io import open_image, read_image_bytes
from harope_bench.reports.runs import ReportedRun

if TYPE_CHECKING:
    from PIL.Image import Image

N_COLUMNS = 10  # the digits suite has ten labels in this order
MAX_SAMPLES = 40  # of a run without prompts: four rows
MAX_CAPTIONED_SAMPLES = 20  # of a run with prompts: two rows
MAX_THUMBNAIL_SIDE = 96  # pixels
MAX_SHEETS = 24  # keeps the page under 5 MB: a sheet of noise has 0.2 MB or less
MAX_CAPTION_CHARACTERS = 80  # of a prompt in the alt text; the list below the sheets has all
GAP_PIXELS = 2
MISSING_COLOUR = (128, 128, 128)


@dataclass(frozen=True)
class SampleSheet:
    """The samples of one run as one image, with its text and a data URI."""

    run: str
    title: str
    caption: str
    alt_text: str
    uri: str
    width: int
    height: int
    missing_samples: tuple[str, ...]


@dataclass(frozen=True)
class SamplePanel:
    """One sheet per run, with the same samples at the same positions.

    captions: index and prompt of each column, where each sheet is one row of a table. Empty for
        samples without prompts, whose sheets have rows of ten.
    column_step: pixels from one column to the next.
    """

    title: str
    captions: tuple[tuple[int, str], ...]
    column_step: int
    sheets: tuple[SampleSheet, ...]


class _LoadedSamples(NamedTuple):
    """The samples of a run by index: records, images, and the reason where an image is missing."""

    run: ReportedRun
    records: Mapping[int, SampleRecord]
    images: Mapping[int, Image | None]
    missing_reasons: Mapping[int, str]


def build_panels(runs: Sequence[ReportedRun]) -> list[SamplePanel]:
    """Return the panels of every suite, for the first MAX_SHEETS runs that have samples."""
    runs_with_samples = [run for run in runs if run.samples][:MAX_SHEETS]
    return [panel for group in _group_runs(runs_with_samples) for panel in _build_panels(group)]


def count_excluded_runs(runs: Sequence[ReportedRun]) -> int:
    """Return how many runs with samples are not shown because of MAX_SHEETS."""
    return max(0, sum(bool(run.samples) for run in runs) - MAX_SHEETS)


def _group_runs(runs: Sequence[ReportedRun]) -> list[list[ReportedRun]]:
    """Return groups of runs of one suite that have samples in common.

    A run without a plan is a group of its own, and so is each run of a suite without common
    samples.
    """
    runs_by_suite: dict[object, list[ReportedRun]] = {}
    for run in runs:
        suite = (run.plan.suite, run.plan.suite_version) if run.plan else run.id
        runs_by_suite.setdefault(suite, []).append(run)

    groups = []
    for suite_runs in runs_by_suite.values():
        if _shared_indices(suite_runs):
            groups.append(suite_runs)
        else:
            groups += [[run] for run in suite_runs]
    return groups


def _shared_indices(group: Sequence[ReportedRun]) -> list[int]:
    """Return the sorted sample indices that every run of a group has, generated or failed."""
    return sorted(set.intersection(*({record.index for record in run.samples} for run in group)))


def evenly_spaced_indices(indices: Sequence[int], count: int) -> list[int]:
    """Return at most `count` of the indices, evenly spaced from the first to the last.

    >>> evenly_spaced_indices(range(10), 4), evenly_spaced_indices([5, 7], 4)
    ([0, 3, 6, 9], [5, 7])
    """
    if len(indices) <= count:
        return list(indices)
    last_position = len(indices) - 1
    return [indices[k * last_position // (count - 1)] for k in range(count)]


def _build_panels(group: Sequence[ReportedRun]) -> list[SamplePanel]:
    """Return the panels of one group: one without prompts, or one per ten prompts."""
    prompts = _prompts_by_index(group)
    shared_indices = _shared_indices(group)
    title = f"suite {group[0].plan.suite}" if group[0].plan else group[0].title

    # without prompts each run chooses its samples and its thumbnail size
    if not all(prompts[index] for index in shared_indices):
        loaded_runs = [_load_samples(run, _sheet_indices(run, shared_indices)) for run in group]
        sheets = tuple(
            _make_sheet(loaded_run, list(loaded_run.images), _thumbnail_side([loaded_run]))
            for loaded_run in loaded_runs
        )
        return [SamplePanel(title, captions=(), column_step=0, sheets=sheets)]

    # with prompts all runs show the same samples, in panels of ten columns
    indices = evenly_spaced_indices(shared_indices, MAX_CAPTIONED_SAMPLES)
    loaded_runs = [_load_samples(run, indices) for run in group]
    side = _thumbnail_side(loaded_runs)
    panels = []
    for start in range(0, len(indices), N_COLUMNS):
        panel_indices = indices[start : start + N_COLUMNS]
        captions = tuple((i, prompts[i]) for i in panel_indices)
        sheets = tuple(_make_sheet(loaded_run, panel_indices, side) for loaded_run in loaded_runs)
        panels.append(SamplePanel(title, captions, side + GAP_PIXELS, sheets))
    return panels


def _prompts_by_index(group: Sequence[ReportedRun]) -> dict[int, str]:
    """Return the prompt of each index, empty without one.

    Different prompts of several runs are joined by a slash.
    """
    # a dict keeps the prompts of an index unique and in order
    prompts_by_index: dict[int, dict[str, None]] = {}
    for run in group:
        for record in run.samples:
            prompts_by_index.setdefault(record.index, {})[record.prompt or ""] = None
    return {index: " / ".join(filter(None, prompts)) for index, prompts in prompts_by_index.items()}


def _sheet_indices(run: ReportedRun, shared_indices: Sequence[int]) -> list[int]:
    """Return the samples of a sheet without prompts.

    They are the first ones if each column then has one class, else evenly spaced ones.
    """
    leading_indices = list(shared_indices[:MAX_SAMPLES])
    index_set = set(leading_indices)
    labels = [record.label for record in run.samples if record.index in index_set]
    if _column_classes(labels):
        return leading_indices
    return evenly_spaced_indices(shared_indices, MAX_SAMPLES)


def _column_classes(labels: Sequence[int | None]) -> list[int]:
    """Return the class of each column of rows of ten; empty where a column has several or none."""
    n_columns = min(N_COLUMNS, len(labels))
    column_labels = [set(labels[column::N_COLUMNS]) for column in range(n_columns)]
    if any(len(labels_of_column) != 1 for labels_of_column in column_labels):
        return []
    return [label for (label,) in column_labels if label is not None]


def _load_samples(run: ReportedRun, indices: Sequence[int]) -> _LoadedSamples:
    """Load the images of these samples; a missing one is None and has a reason."""
    records_by_index = {record.index: record for record in run.samples}
    records = {index: records_by_index[index] for index in indices}
    missing_reasons: dict[int, str] = {}
    images = {index: _load_image(run, record, missing_reasons) for index, record in records.items()}
    return _LoadedSamples(run, records, images, missing_reasons)


def _make_sheet(loaded_run: _LoadedSamples, indices: Sequence[int], side: int) -> SampleSheet:
    """Return the sheet of these samples, with thumbnails of `side` pixels."""
    missing_samples = tuple(
        f"sample {index}: {loaded_run.missing_reasons[index]}"
        for index in indices
        if index in loaded_run.missing_reasons
    )
    sheet_image = _paste_images([loaded_run.images[index] for index in indices], side)
    buffer = io.BytesIO()
    sheet_image.save(buffer, "PNG", optimize=True)
    records = [loaded_run.records[index] for index in indices]
    return SampleSheet(
        run=loaded_run.run.id,
        title=loaded_run.run.title,
        caption=_caption(loaded_run.run),
        alt_text=_alt_text(loaded_run.run, records, len(missing_samples)),
        uri="data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode(),
        width=sheet_image.width,
        height=sheet_image.height,
        missing_samples=missing_samples,
    )


def _load_image(
    run: ReportedRun, record: SampleRecord, missing_reasons: dict[int, str]
) -> Image | None:
    """Return the image of a sample, or None; the reason is then added to `missing_reasons`."""
    path = run.image_path(record)
    if path is None:
        reason = "no file inside the run"
        if record.status != "ok":
            reason = record.reason or "failed"
        missing_reasons[record.index] = reason
        return None
    try:
        with open_image(read_image_bytes(path), path.name) as image:
            return image.convert("RGB")
    except SampleError as error:
        is_missing = isinstance(error.__cause__, FileNotFoundError)
        missing_reasons[record.index] = "file missing" if is_missing else "not a readable image"
        return None


def _thumbnail_side(loaded_runs: Sequence[_LoadedSamples]) -> int:
    """Return the side of the thumbnails in pixels, from the first image of each run.

    Images that fit twice into the largest side are doubled, larger ones are reduced to it.
    """
    sides = []
    for loaded_run in loaded_runs:
        images = [image for image in loaded_run.images.values() if image is not None]
        width = images[0].width if images else 28
        is_small = 2 * width <= MAX_THUMBNAIL_SIDE
        sides.append(2 * width if is_small else min(width, MAX_THUMBNAIL_SIDE))
    return max(sides)


def _paste_images(images: Sequence[Image | None], side: int) -> Image:
    """Return the thumbnails in rows of ten; the gaps between them are transparent."""
    from PIL import Image

    step = side + GAP_PIXELS
    n_columns = min(N_COLUMNS, len(images))
    n_rows = -(-len(images) // N_COLUMNS)
    sheet = Image.new("RGBA", (n_columns * step - GAP_PIXELS, n_rows * step - GAP_PIXELS))
    for i, image in enumerate(images):
        corner = (i % N_COLUMNS * step, i // N_COLUMNS * step)
        sheet.paste(_thumbnail(image, side), corner)
    return sheet


def _thumbnail(image: Image | None, side: int) -> Image:
    """Return the image resized to a square; for a missing image, a box with a cross.

    Args:
        side: side of the square in pixels.
    """
    from PIL import Image, ImageDraw

    if image is not None:
        pillow_filter = (
            Image.Resampling.NEAREST if image.width <= side else Image.Resampling.LANCZOS
        )
        return image.resize((side, side), pillow_filter)
    crossed_box = Image.new("RGB", (side, side), MISSING_COLOUR)
    pen = ImageDraw.Draw(crossed_box)
    pen.line((0, 0, side, side), fill=(0, 0, 0))
    pen.line((0, side, side, 0), fill=(0, 0, 0))
    return crossed_box


def _caption(run: ReportedRun) -> str:
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


def _alt_text(run: ReportedRun, records: Sequence[SampleRecord], n_missing: int) -> str:
    """Return the alternative text of a sheet: the samples with their prompts or classes."""
    missing_text = f"; {n_missing} missing, shown as crossed boxes" if n_missing else ""
    if all(record.prompt for record in records):
        prompts = "; ".join(
            f"{record.index}:"
            f" {shorten(record.prompt or '', MAX_CAPTION_CHARACTERS, placeholder=' ...')}"
            for record in records
        )
        return f"{run.title}, samples from left to right: {prompts}{missing_text}"

    ranges = ", ".join(
        f"{start} to {end}" if end > start else str(start)
        for start, end in consecutive_ranges(record.index for record in records)
    )
    classes = _classes_text([record.label for record in records])
    return f"{run.title}: samples {ranges} in rows of {N_COLUMNS}{classes}{missing_text}"


def _classes_text(labels: Sequence[int | None]) -> str:
    """Return the classes of the columns or of the samples as a text, empty without labels."""
    if column_classes := _column_classes(labels):
        return f", columns by class {', '.join(map(str, column_classes))}"
    return "" if None in labels else f", of classes {', '.join(map(str, labels))}"


@dataclass(frozen=True)
class GalleryOptions:
    """How the gallery is built."""

    has_images: bool = True
    assets: Path | None = None


@dataclass(frozen=True)
class Gallery:
    """The panels of a page, and how many runs are not shown."""

    groups: tuple[SamplePanel, ...]
    n_excluded_runs: int

    @property
    def anchors_by_run(self) -> dict[str, str]:
        """Return the anchor of the first group of each run, by the run's id."""
        return {}


def build_gallery(runs: Sequence[ReportedRun], options: GalleryOptions | None = None) -> Gallery:
    """Return the gallery of the runs, an empty one without images."""
    has_images = options is None or options.has_images
    panels = build_panels(runs) if has_images else []
    return Gallery(tuple(panels), count_excluded_runs(runs))
