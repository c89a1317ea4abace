"""Images that a prompt benchmark scores as wrong, as one offline page: image, boxes, reason."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harope_bench import __version__
from harope_bench.core.errors import SampleError
from harope_bench.core.schema import SampleRecord
from harope_bench.data.image_io import open_image, read_image_bytes
from harope_bench.reports.failure_details import (
    DetectedBox,
    Row,
    answer_texts,
    detected_boxes,
    main_score,
    worst_first,
)
from harope_bench.reports.failures import is_failure
from harope_bench.reports.runs import ReportedRun, read_runs
from harope_bench.reports.tables import template_environment

MAX_IMAGE_BYTES = 5_000_000  # of all images of a page
MAX_SIDE = 384  # pixels of an embedded image; larger ones are reduced
WEBP_QUALITY = 85
MIN_DISPLAYED_SIDE = 192  # small images are enlarged to it


@dataclass(frozen=True)
class PageImage:
    """An image as a data URI. width, height: of the original, whose pixels boxes refer to."""

    uri: str
    width: int
    height: int

    @property
    def displayed_width(self) -> int:
        """Return the width on the page in pixels."""
        return max(MIN_DISPLAYED_SIDE, min(self.width, MAX_SIDE))


@dataclass(frozen=True)
class FailureItem:
    """One image of the list. image: None where there is no file, or no room on the page."""

    index: int
    task: str
    prompt: str
    score: str
    reason: str
    boxes: tuple[DetectedBox, ...]
    answers: tuple[str, ...]
    image: PageImage | None


@dataclass(frozen=True)
class FailureSection:
    """The listed images of one result, and how many of all its images are wrong."""

    name: str
    n_wrong: int
    n_images: int
    items: tuple[FailureItem, ...]


def render_failures_page(runs: Path, rows: Sequence[Row], include_all: bool) -> str:
    """Return the page of the rows of all images, the worst first.

    Args:
        runs: the folder that the rows were read from; it has the images.
        rows: the rows of all images.
        include_all: list all images, also those with the full score.
    """
    folders = {run.folder: run for run in read_runs(runs)}
    images = _ImageReader(MAX_IMAGE_BYTES)
    sections = []
    for name in dict.fromkeys(str(row["result"]) for row in rows):
        result_rows = [row for row in rows if row["result"] == name]
        run = folders.get((runs / name).parent.parent)
        records = {record.index: record for record in run.samples} if run else {}
        items = [
            _make_item(row, images.read(run, records.get(_index(row))))
            for row in worst_first(result_rows)
            if include_all or is_failure(row)
        ]
        n_wrong = sum(map(is_failure, result_rows))
        sections.append(FailureSection(name, n_wrong, len(result_rows), tuple(items)))
    template = template_environment().get_template("failures.html")
    return template.render(
        sections=sections, n_without_room=images.n_without_room, version=__version__
    )


def _index(row: Row) -> int:
    """Return the sample index of a row, -1 where it has none."""
    index = row.get("index")
    return index if isinstance(index, int) else -1


def _make_item(row: Row, image: PageImage | None) -> FailureItem:
    """Return a row as an item of the list."""
    score = main_score(row)
    return FailureItem(
        _index(row),
        str(row.get("task") or "no task"),
        str(row.get("prompt", "")),
        str(row.get("verdict", "")) if score is None else f"{score:.3g}",
        str(row.get("reason") or ""),
        tuple(detected_boxes(row)),
        tuple(answer_texts(row)),
        image,
    )


class _ImageReader:
    """Reads images for a page until they have `max_bytes` together; the others are counted."""

    def __init__(self, max_bytes: int):
        """Start with no image."""
        self.n_bytes_left = max_bytes
        self.n_without_room = 0
        self.images: dict[Path, PageImage] = {}

    def read(self, run: ReportedRun | None, record: SampleRecord | None) -> PageImage | None:
        """Return the image of a sample, None without a readable file or without room for it.

        Several results of a run share an image; it counts once for each, as each embeds it.
        """
        path = run.image_path(record) if run and record else None
        if path is None:
            return None
        try:
            image = self.images.get(path) or _read_image(path)
        except SampleError:
            return None
        self.images[path] = image
        if len(image.uri) > self.n_bytes_left:
            self.n_without_room += 1
            return None
        self.n_bytes_left -= len(image.uri)
        return image


def _read_image(path: Path) -> PageImage:
    """Return an image file as WebP, reduced to MAX_SIDE.

    Raises:
        SampleError: the file is missing or no image.
    """
    with open_image(read_image_bytes(path), path.name) as opened_image:
        image = opened_image.convert("RGB")
    width, height = image.size
    image.thumbnail((MAX_SIDE, MAX_SIDE))
    buffer = io.BytesIO()
    # pixels of small images are seen one by one, so these are kept as they are
    image.save(buffer, "WEBP", lossless=max(width, height) <= 64, quality=WEBP_QUALITY)
    uri = "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
    return PageImage(uri, width, height)
