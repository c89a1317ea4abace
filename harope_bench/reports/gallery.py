"""Samples as pictures: the same indices of every run of a suite, so that eyes compare like with
like.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import shorten
from typing import TYPE_CHECKING, NamedTuple

from harope_bench.core.errors import SampleError
from harope_bench.core.index_ranges import consecutive_ranges
from harope_bench.core.schema import SampleRecord
from harope_bench.data.image_io import open_image, read_image_bytes
from harope_bench.reports.runs import ReportedRun

if TYPE_CHECKING:
    from PIL.Image import Image

N_COLUMNS = 10  # the labels of the digits suite run through a row
# samples of a run: four rows of ten without captions, two with
MAX_SAMPLES = 40
MAX_CAPTIONED_SAMPLES = 20
MAX_THUMBNAIL_SIDE = 96  # pixels a side of one thumbnail
MAX_SHEETS = 24  # keeps the file under 5 MB: a full grid of noise has 0.2 MB or less
# characters of a caption in an image's description; the list under the pictures has it whole
MAX_CAPTION_CHARACTERS = 80
GAP_PIXELS = 2
MISSING_COLOUR = (128, 128, 128)


@dataclass(frozen=True)
class SampleSheet:
    """One run's samples as one picture."""

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
    """Pictures with the same samples in the same places, one a run.

    captions: index and prompt of each column, pictures being rows of one table; empty where samples
    have no prompts, and
    pictures have rows of ten. step: pixels from one column to the next.
    """

    title: str
    captions: tuple[tuple[int, str], ...]
    column_step: int
    sheets: tuple[SampleSheet, ...]


class _LoadedSamples(NamedTuple):
    """A run with its samples by index: records, images, and why an image is missing."""

    run: ReportedRun
    records: Mapping[int, SampleRecord]
    images: Mapping[int, Image | None]
    missing_reasons: Mapping[int, str]


def build_panels(runs: Sequence[ReportedRun]) -> list[SamplePanel]:
    """The panels of every suite, of the first MOST_GRIDS runs that have samples."""
    drawn = [run for run in runs if run.samples][:MAX_SHEETS]
    return [panel for group in _group_runs(drawn) for panel in _build_panels(group)]


def count_excluded_runs(runs: Sequence[ReportedRun]) -> int:
    """How many runs with samples have no picture for want of room."""
    return max(0, sum(bool(run.samples) for run in runs) - MAX_SHEETS)


def _group_runs(runs: Sequence[ReportedRun]) -> list[list[ReportedRun]]:
    """Runs of one suite that share samples, together; a run without a plan, or that shares none,
    alone.
    """
    suites: dict[object, list[ReportedRun]] = {}
    for run in runs:
        suites.setdefault(
            (run.plan.suite, run.plan.suite_version) if run.plan else run.id, []
        ).append(run)
    return [
        part
        for group in suites.values()
        for part in ([group] if _shared_indices(group) else [[run] for run in group])
    ]


def _shared_indices(group: Sequence[ReportedRun]) -> list[int]:
    """The samples that every run of a group has, drawn or failed."""
    return sorted(set.intersection(*({record.index for record in run.samples} for run in group)))


def evenly_spaced_indices(indices: Sequence[int], count: int) -> list[int]:
    """At most `count` of the indices, in even steps from the first to the last.

    >>> evenly(range(10), 4), evenly([5, 7], 4)
    ([0, 3, 6, 9], [5, 7])
    """
    last = len(indices) - 1
    return (
        list(indices) if last < count else [indices[k * last // (count - 1)] for k in range(count)]
    )


def _build_panels(group: Sequence[ReportedRun]) -> list[SamplePanel]:
    prompts = _prompts_by_index(group)
    shared = _shared_indices(group)
    title = f"suite {group[0].plan.suite}" if group[0].plan else group[0].title
    if not all(prompts[index] for index in shared):
        opened = [_load_samples(run, _shown_indices(run, shared)) for run in group]
        sheets = tuple(_make_sheet(one, list(one.images), _thumbnail_side([one])) for one in opened)
        return [SamplePanel(title, (), 0, sheets)]
    shown = evenly_spaced_indices(shared, MAX_CAPTIONED_SAMPLES)
    opened = [_load_samples(run, shown) for run in group]
    side = _thumbnail_side(opened)
    bands = [shown[k : k + N_COLUMNS] for k in range(0, len(shown), N_COLUMNS)]
    return [
        SamplePanel(
            title,
            tuple((i, prompts[i]) for i in band),
            side + GAP_PIXELS,
            tuple(_make_sheet(one, band, side) for one in opened),
        )
        for band in bands
    ]


def _prompts_by_index(group: Sequence[ReportedRun]) -> dict[int, str]:
    """The prompt of each index, empty where there is none; all of them should runs not agree."""
    told: dict[int, dict[str, None]] = {}
    for record in (record for run in group for record in run.samples):
        told.setdefault(record.index, {})[record.prompt or ""] = None
    return {index: " / ".join(filter(None, prompts)) for index, prompts in told.items()}


def _shown_indices(run: ReportedRun, shared: Sequence[int]) -> list[int]:
    """What a picture without captions shows: the first samples if that puts one class in each
    column, else even steps.
    """
    first = list(shared[:MAX_SAMPLES])
    return (
        first
        if _column_classes([record.label for record in run.samples if record.index in set(first)])
        else evenly_spaced_indices(shared, MAX_SAMPLES)
    )


def _column_classes(labels: Sequence[int | None]) -> list[int]:
    """The class of each column of rows of ten; empty where a column has several or none."""
    found = [set(labels[column::N_COLUMNS]) for column in range(min(N_COLUMNS, len(labels)))]
    return (
        [label for one in found for label in one if label is not None]
        if all(len(one) == 1 for one in found)
        else []
    )


def _load_samples(run: ReportedRun, indices: Sequence[int]) -> _LoadedSamples:
    known = {record.index: record for record in run.samples}
    records = {index: known[index] for index in indices}
    missing = dict[int, str]()
    pictures = {index: _load_image(run, record, missing) for index, record in records.items()}
    return _LoadedSamples(run, records, pictures, missing)


def _make_sheet(loaded: _LoadedSamples, indices: Sequence[int], side: int) -> SampleSheet:
    missing = tuple(
        f"sample {index}: {loaded.missing_reasons[index]}"
        for index in indices
        if index in loaded.missing_reasons
    )
    page = _paste_images([loaded.images[index] for index in indices], side)
    buffer = io.BytesIO()
    page.save(buffer, "PNG", optimize=True)
    uri = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    alt = _alt_text(loaded.run, [loaded.records[index] for index in indices], len(missing))
    return SampleSheet(
        loaded.run.id,
        loaded.run.title,
        _caption(loaded.run),
        alt,
        uri,
        page.width,
        page.height,
        missing,
    )


def _load_image(run: ReportedRun, record: SampleRecord, missing: dict[int, str]) -> Image | None:
    """The image, or None with the reason added to `missing`."""

    path = run.image_path(record)
    if path is None:
        missing[record.index] = (
            record.reason or "failed" if record.status != "ok" else "no file inside the run"
        )
        return None
    try:
        with open_image(read_image_bytes(path), path.name) as picture:
            return picture.convert("RGB")
    except SampleError as error:
        missing[record.index] = (
            "not there"
            if isinstance(error.__cause__, FileNotFoundError)
            else "not a readable image"
        )
        return None


def _thumbnail_side(loaded_runs: Sequence[_LoadedSamples]) -> int:
    """Pixels of a thumbnail for these runs, of the first picture of each: small ones are doubled,
    large ones reduced.
    """
    firsts = [
        next((picture.width for picture in one.images.values() if picture is not None), 28)
        for one in loaded_runs
    ]
    return max(
        2 * width if 2 * width <= MAX_THUMBNAIL_SIDE else min(width, MAX_THUMBNAIL_SIDE)
        for width in firsts
    )


def _paste_images(images: Sequence[Image | None], side: int) -> Image:
    from PIL import Image

    step = side + GAP_PIXELS
    columns = min(N_COLUMNS, len(images))
    rows = -(-len(images) // N_COLUMNS)
    page = Image.new(
        "RGBA", (columns * step - GAP_PIXELS, rows * step - GAP_PIXELS)
    )  # gaps show the page, light or dark
    for place, picture in enumerate(images):
        page.paste(_thumbnail(picture, side), (place % N_COLUMNS * step, place // N_COLUMNS * step))
    return page


def _thumbnail(picture: Image | None, side: int) -> Image:
    from PIL import Image, ImageDraw

    if picture is not None:
        kind = Image.Resampling.NEAREST if picture.width <= side else Image.Resampling.LANCZOS
        return picture.resize((side, side), kind)
    blank = Image.new("RGB", (side, side), MISSING_COLOUR)
    pen = ImageDraw.Draw(blank)
    pen.line((0, 0, side, side), fill=(0, 0, 0))
    pen.line((0, side, side, 0), fill=(0, 0, 0))
    return blank


def _caption(run: ReportedRun) -> str:
    if run.plan is None:
        return "images without a plan: how they were drawn is not known"
    settings = run.plan.settings
    scaled = (
        f", scaling {settings.pos_scaling}" if settings.pos_scaling not in (None, "none") else ""
    )
    return (
        f"{run.plan.checkpoint.encoding}, {settings.resolution} px{scaled}; seed {settings.seed},"
        f" {settings.sampling_text}"
    )


def _alt_text(run: ReportedRun, records: Sequence[SampleRecord], missing: int) -> str:
    """The picture in words: which samples, and the prompt of each, or the classes."""
    lost = f"; {missing} missing, shown as crossed boxes" if missing else ""
    if all(record.prompt for record in records):
        told = "; ".join(
            f"{record.index}:"
            f" {shorten(record.prompt or '', MAX_CAPTION_CHARACTERS, placeholder=' ...')}"
            for record in records
        )
        return f"{run.title}, samples from left to right: {told}{lost}"
    which = ", ".join(
        f"{first} to {last}" if last > first else str(first)
        for first, last in consecutive_ranges(record.index for record in records)
    )
    return (
        f"{run.title}: samples {which} in rows of"
        f" {N_COLUMNS}{_classes_text([record.label for record in records])}{lost}"
    )


def _classes_text(labels: Sequence[int | None]) -> str:
    if columns := _column_classes(labels):
        return f", columns by class {', '.join(map(str, columns))}"
    return "" if None in labels else f", of classes {', '.join(map(str, labels))}"
