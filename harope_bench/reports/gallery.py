"""Samples as pictures: the same indices of every run of a suite, so that eyes compare like with like."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import shorten
from typing import TYPE_CHECKING, NamedTuple

from harope_bench.core.errors import SampleError
from harope_bench.core.index_ranges import spans
from harope_bench.core.schema import SampleRecord
from harope_bench.data.image_io import open_image, read_image
from harope_bench.reports.runs import Run

if TYPE_CHECKING:
    from PIL.Image import Image

COLUMNS = 10  # the labels of the digits suite run through a row
SHOWN, CAPTIONED = 40, 20  # samples of a run: four rows of ten without captions, two with
LARGEST = 96  # pixels a side of one thumbnail
MOST_GRIDS = 24  # keeps the file under 5 MB: a full grid of noise has 0.2 MB or less
WORDS = 80  # characters of a caption in an image's description; the list under the pictures has it whole
GAP = 2
MISSING = (128, 128, 128)


@dataclass(frozen=True)
class Sheet:
    """One run's samples as one picture."""

    run: str
    title: str
    caption: str
    alt: str
    uri: str
    width: int
    height: int
    missing: tuple[str, ...]


@dataclass(frozen=True)
class Panel:
    """Pictures with the same samples in the same places, one a run.

    captions: index and prompt of each column, pictures being rows of one table; empty where samples have no prompts, and
    pictures have rows of ten. step: pixels from one column to the next.
    """

    title: str
    captions: tuple[tuple[int, str], ...]
    step: int
    sheets: tuple[Sheet, ...]


class _Opened(NamedTuple):
    """A run with its samples by index: records, images, and why an image is missing."""

    run: Run
    records: Mapping[int, SampleRecord]
    pictures: Mapping[int, Image | None]
    missing: Mapping[int, str]


def panels(runs: Sequence[Run]) -> list[Panel]:
    """The panels of every suite, of the first MOST_GRIDS runs that have samples."""
    drawn = [run for run in runs if run.samples][:MOST_GRIDS]
    return [panel for group in _groups(drawn) for panel in _panels(group)]


def left_out(runs: Sequence[Run]) -> int:
    """How many runs with samples have no picture for want of room."""
    return max(0, sum(bool(run.samples) for run in runs) - MOST_GRIDS)


def _groups(runs: Sequence[Run]) -> list[list[Run]]:
    """Runs of one suite that share samples, together; a run without a plan, or that shares none, alone."""
    suites: dict[object, list[Run]] = {}
    for run in runs:
        suites.setdefault((run.plan.suite, run.plan.suite_version) if run.plan else run.id, []).append(run)
    return [part for group in suites.values() for part in ([group] if _shared(group) else [[run] for run in group])]


def _shared(group: Sequence[Run]) -> list[int]:
    """The samples that every run of a group has, drawn or failed."""
    return sorted(set.intersection(*({record.index for record in run.samples} for run in group)))


def evenly(indices: Sequence[int], count: int) -> list[int]:
    """At most `count` of the indices, in even steps from the first to the last.

    >>> evenly(range(10), 4), evenly([5, 7], 4)
    ([0, 3, 6, 9], [5, 7])
    """
    last = len(indices) - 1
    return list(indices) if last < count else [indices[k * last // (count - 1)] for k in range(count)]


def _panels(group: Sequence[Run]) -> list[Panel]:
    prompts, shared = _prompts(group), _shared(group)
    title = f"suite {group[0].plan.suite}" if group[0].plan else group[0].title
    if not all(prompts[index] for index in shared):
        opened = [_opened(run, _rows(run, shared)) for run in group]
        sheets = tuple(_sheet(one, list(one.pictures), _side([one])) for one in opened)
        return [Panel(title, (), 0, sheets)]
    shown = evenly(shared, CAPTIONED)
    opened = [_opened(run, shown) for run in group]
    side = _side(opened)
    bands = [shown[k : k + COLUMNS] for k in range(0, len(shown), COLUMNS)]
    return [
        Panel(title, tuple((i, prompts[i]) for i in band), side + GAP, tuple(_sheet(one, band, side) for one in opened)) for band in bands
    ]


def _prompts(group: Sequence[Run]) -> dict[int, str]:
    """The prompt of each index, empty where there is none; all of them should runs not agree."""
    told: dict[int, dict[str, None]] = {}
    for record in (record for run in group for record in run.samples):
        told.setdefault(record.index, {})[record.prompt or ""] = None
    return {index: " / ".join(filter(None, prompts)) for index, prompts in told.items()}


def _rows(run: Run, shared: Sequence[int]) -> list[int]:
    """What a picture without captions shows: the first samples if that puts one class in each column, else even steps."""
    first = list(shared[:SHOWN])
    return first if _columns([record.label for record in run.samples if record.index in set(first)]) else evenly(shared, SHOWN)


def _columns(labels: Sequence[int | None]) -> list[int]:
    """The class of each column of rows of ten; empty where a column has several or none."""
    found = [set(labels[column::COLUMNS]) for column in range(min(COLUMNS, len(labels)))]
    return [label for one in found for label in one if label is not None] if all(len(one) == 1 for one in found) else []


def _opened(run: Run, indices: Sequence[int]) -> _Opened:
    known = {record.index: record for record in run.samples}
    records, missing = {index: known[index] for index in indices}, dict[int, str]()
    pictures = {index: _open(run, record, missing) for index, record in records.items()}
    return _Opened(run, records, pictures, missing)


def _sheet(one: _Opened, indices: Sequence[int], side: int) -> Sheet:
    missing = tuple(f"sample {index}: {one.missing[index]}" for index in indices if index in one.missing)
    page = _paste([one.pictures[index] for index in indices], side)
    buffer = io.BytesIO()
    page.save(buffer, "PNG", optimize=True)
    uri = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    alt = _alt(one.run, [one.records[index] for index in indices], len(missing))
    return Sheet(one.run.id, one.run.title, _caption(one.run), alt, uri, page.width, page.height, missing)


def _open(run: Run, record: SampleRecord, missing: dict[int, str]) -> Image | None:
    """The image, or None with the reason added to `missing`."""

    path = run.picture(record)
    if path is None:
        missing[record.index] = record.reason or "failed" if record.status != "ok" else "no file inside the run"
        return None
    try:
        with open_image(read_image(path), path.name) as picture:
            return picture.convert("RGB")
    except SampleError as error:
        missing[record.index] = "not there" if isinstance(error.__cause__, FileNotFoundError) else "not a readable image"
        return None


def _side(opened: Sequence[_Opened]) -> int:
    """Pixels of a thumbnail for these runs, of the first picture of each: small ones are doubled, large ones reduced."""
    firsts = [next((picture.width for picture in one.pictures.values() if picture is not None), 28) for one in opened]
    return max(2 * width if 2 * width <= LARGEST else min(width, LARGEST) for width in firsts)


def _paste(pictures: Sequence[Image | None], side: int) -> Image:
    from PIL import Image

    step = side + GAP
    columns, rows = min(COLUMNS, len(pictures)), -(-len(pictures) // COLUMNS)
    page = Image.new("RGBA", (columns * step - GAP, rows * step - GAP))  # gaps show the page, light or dark
    for place, picture in enumerate(pictures):
        page.paste(_thumbnail(picture, side), (place % COLUMNS * step, place // COLUMNS * step))
    return page


def _thumbnail(picture: Image | None, side: int) -> Image:
    from PIL import Image, ImageDraw

    if picture is not None:
        kind = Image.Resampling.NEAREST if picture.width <= side else Image.Resampling.LANCZOS
        return picture.resize((side, side), kind)
    blank = Image.new("RGB", (side, side), MISSING)
    pen = ImageDraw.Draw(blank)
    pen.line((0, 0, side, side), fill=(0, 0, 0))
    pen.line((0, side, side, 0), fill=(0, 0, 0))
    return blank


def _caption(run: Run) -> str:
    if run.plan is None:
        return "images without a plan: how they were drawn is not known"
    settings = run.plan.settings
    scaled = f", scaling {settings.pos_scaling}" if settings.pos_scaling not in (None, "none") else ""
    return f"{run.plan.checkpoint.encoding}, {settings.resolution} px{scaled}; seed {settings.seed}, {settings.sampling}"


def _alt(run: Run, records: Sequence[SampleRecord], missing: int) -> str:
    """The picture in words: which samples, and the prompt of each, or the classes."""
    lost = f"; {missing} missing, shown as crossed boxes" if missing else ""
    if all(record.prompt for record in records):
        told = "; ".join(f"{record.index}: {shorten(record.prompt or '', WORDS, placeholder=' ...')}" for record in records)
        return f"{run.title}, samples from left to right: {told}{lost}"
    which = ", ".join(f"{first} to {last}" if last > first else str(first) for first, last in spans(record.index for record in records))
    return f"{run.title}: samples {which} in rows of {COLUMNS}{_classes([record.label for record in records])}{lost}"


def _classes(labels: Sequence[int | None]) -> str:
    if columns := _columns(labels):
        return f", columns by class {', '.join(map(str, columns))}"
    return "" if None in labels else f", of classes {', '.join(map(str, labels))}"
