"""The records of the gallery: what its template shows, and the options it is built with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harope_bench.reports.gallery_images import Thumbnail
from harope_bench.reports.gallery_scores import TaskOutcome

MAX_PAGE_BYTES = 5_000_000
RESERVED_BYTES = 1_000_000  # of the page, for everything but the gallery
ENTRY_BYTES = 400  # of the markup of one entry
IMAGE_BYTES = 700  # of the markup of one image of an entry
BOX_BYTES = 220  # of the markup of one detection


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
class ImageBox:
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
class NearestImage:
    """The reference image nearest to an odd sample."""

    thumbnail: Thumbnail
    text: str


@dataclass(frozen=True)
class GalleryImage:
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
    boxes: tuple[ImageBox, ...]
    answers: tuple[str, ...]
    nearest: NearestImage | None

    @property
    def n_bytes(self) -> int:
        """Return roughly how many bytes the image adds to the page."""
        texts = (self.reason, self.alt_text, self.missing_reason, *self.answers)
        n_bytes = IMAGE_BYTES + sum(len(text.encode()) for text in texts)
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
    images: tuple[GalleryImage, ...]

    @property
    def n_bytes(self) -> int:
        """Return roughly how many bytes the entry adds to the page."""
        n_text_bytes = len(self.prompt.encode()) + len(self.task.encode())
        return ENTRY_BYTES + n_text_bytes + sum(image.n_bytes for image in self.images)


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
            image.nearest
            for group in self.groups
            for entry in group.entries
            for image in entry.images
        )

    @property
    def anchors_by_run(self) -> dict[str, str]:
        """Return the anchor of the first group of each run, by the run's id."""
        anchors: dict[str, str] = {}
        for group in self.groups:
            for run in group.runs:
                anchors.setdefault(run.id, group.anchor)
        return anchors
