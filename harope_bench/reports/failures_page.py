"""Images that a prompt benchmark scores as wrong, as one offline page: image, boxes, reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harope_bench import __version__
from harope_bench.reports.failure_details import (
    DetectedBox,
    Row,
    answer_texts,
    detected_boxes,
    main_score,
    worst_first,
)
from harope_bench.reports.failures import is_failure
from harope_bench.reports.gallery_images import RunImages, make_thumbnail, open_run_images
from harope_bench.reports.runs import ReportedRun, read_runs
from harope_bench.reports.tables import template_environment

MAX_IMAGE_BYTES = 5_000_000  # of all images of a page
MAX_SIDE = 384  # pixels of an embedded image; larger ones are reduced
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
        items = [
            _make_item(row, images.read(run, _index(row)))
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
        self.run_images: dict[Path, RunImages] = {}

    def read(self, run: ReportedRun | None, index: int) -> PageImage | None:
        """Return the image of a sample, None without a readable image or without room for it.

        Several results of a run share an image; it counts once for each, as each embeds it.
        """
        if run is None:
            return None
        run_images = self.run_images.get(run.folder) or open_run_images(run)
        self.run_images[run.folder] = run_images
        image = run_images.open_reader([index])(index)
        if isinstance(image, str):  # why there is none
            return None
        page_image = PageImage(make_thumbnail(image, MAX_SIDE).uri, *image.size)
        if len(page_image.uri) > self.n_bytes_left:
            self.n_without_room += 1
            return None
        self.n_bytes_left -= len(page_image.uri)
        return page_image
