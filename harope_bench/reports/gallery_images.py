"""Images of runs for the gallery: where they are, their thumbnails and their full-size files.

An image is read from the run folder, or from where the images of a result were evaluated. Only
images with the recorded hash are read from there, so a name in a file cannot choose what is shown.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from harope_bench.core.errors import BenchError, SampleError
from harope_bench.core.schema import ImageSource, SampleRecord
from harope_bench.core.storage import sha256_bytes, sha256_file
from harope_bench.data.image_io import (
    SMALL_COMPRESSION,
    encode_png,
    open_image,
    read_image_bytes,
)
from harope_bench.data.result_paths import run_folder_of
from harope_bench.data.result_store import StoredResult, sample_set_digest
from harope_bench.data.sample_set import SampleSet, limit_samples, open_samples
from harope_bench.reports.runs import ReportedRun
from harope_bench.suites.base import PromptSuite, load_suite
from harope_bench.suites.official_layouts.base import (
    find_layout,
    find_results_reader,
    make_sample_set,
)
from harope_bench.suites.official_layouts.prompt_folder import (
    PromptFolderOptions,
    open_prompt_images,
)

MAX_THUMBNAIL_SIDE = 256  # pixels of the embedded image
MAX_DISPLAY_SIDE = 176  # pixels on the page; a click shows more
MAX_LOSSLESS_SIDE = 32  # pixels; such images are embedded without loss
MAX_PIXELATED_SIDE = 64  # pixels; such images are enlarged to visible squares
WEBP_QUALITY = 80
MAX_EXTERNAL_IMAGES = 10_000  # outside a run folder; all of them are hashed
MAX_SEARCHED_FOLDERS = 50  # beside an official results file
NO_SAMPLE = "no such sample in this run"
SAMPLES_FOLDER = "samples"  # in the folders of GenEval

ImageOrReason = Image.Image | str  # an image, or why there is none


class Thumbnail(NamedTuple):
    """An embedded image: data URI, its size on the page in pixels, whether pixels are squares."""

    uri: str
    width: int
    height: int
    is_pixelated: bool


@dataclass(frozen=True)
class RunImages:
    """The images of one run by sample index.

    Attributes:
        records: Records of the samples in the run folder.
        external_samples: Images outside the run folder; None if there are none.
        missing_reason: Why an imported run has no images; empty otherwise.
    """

    run: ReportedRun
    records: Mapping[int, SampleRecord]
    external_samples: SampleSet | None = None
    missing_reason: str = ""

    @property
    def indices(self) -> set[int]:
        """Return the indices of all samples, generated or failed."""
        if self.external_samples is not None:
            return {*self.external_samples.indices, *self.external_samples.failed}
        return set(self.records)

    @property
    def image_indices(self) -> list[int]:
        """Return the sorted indices of the samples that should have an image."""
        if self.external_samples is not None:
            return list(self.external_samples.indices)
        return sorted(index for index, record in self.records.items() if record.status == "ok")

    def load(self, indices: Sequence[int]) -> Iterator[tuple[int, ImageOrReason]]:
        """Yield each index, in ascending order, with its RGB image or why there is none."""
        if self.external_samples is not None:
            yield from _load_external(self.external_samples, sorted(indices))
            return
        for index in sorted(indices):
            record = self.records.get(index)
            yield index, self._load_record(record) if record else self._unknown_reason

    def open_reader(self, indices: Sequence[int]) -> Callable[[int], ImageOrReason]:
        """Return a function that reads the image of one of these indices, or why there is none.

        The rows of an npz are read at once, because they can only be read in order.
        """
        if self.external_samples is not None and self.external_samples.files is None:
            images = dict(self.load(indices))
            return lambda index: images.get(index, NO_SAMPLE)
        return lambda index: next(self.load([index]))[1]

    @property
    def _unknown_reason(self) -> str:
        return self.missing_reason or NO_SAMPLE

    def _load_record(self, record: SampleRecord) -> ImageOrReason:
        """Return the image of a sample in the run folder, or why there is none."""
        path = self.run.image_path(record)
        if path is None:
            if record.status != "ok":
                return record.reason or "failed"
            return "no file inside the run"
        try:
            content = read_image_bytes(path)
            with open_image(content, path.name) as image:
                plain_image = _plain_image(image)
            if record.sha256 and sha256_bytes(content) != record.sha256:
                return "not the image that was generated"
            return plain_image
        except SampleError as error:
            is_missing = isinstance(error.__cause__, FileNotFoundError)
            return "file missing" if is_missing else "not a readable image"


def open_run_images(run: ReportedRun) -> RunImages:
    """Return the images of a run folder, or those that one of its results was evaluated on."""
    if run.samples:
        return RunImages(run, {record.index: record for record in run.samples})
    missing_reason = "no images beside the result"
    for stored_result in run.results:
        if stored_result.result.source is None:
            continue
        samples_or_reason = _open_external_images(stored_result, stored_result.result.source)
        if isinstance(samples_or_reason, SampleSet):
            return RunImages(run, {}, samples_or_reason)
        missing_reason = samples_or_reason
    return RunImages(run, {}, None, missing_reason)


# ------------------------------------------------------------------------- images outside the run


def _open_external_images(stored_result: StoredResult, source: ImageSource) -> SampleSet | str:
    """Return the images of a result outside its run folder, or why they are not shown."""
    folder = run_folder_of(stored_result.path)
    try:
        path = (folder / source.path).resolve()
        if not path.exists():
            return "its images are no longer where they were evaluated"
        if find_results_reader(path) is not None:
            return _images_beside_results(path, stored_result.result.samples_sha256, source)
        return _evaluated_images(path, folder, stored_result.result.samples_sha256, source)
    except BenchError as error:
        return f"its images cannot be opened ({error.detail})"
    except (OSError, ValueError):  # a path that is too long, or has a zero byte
        return "its images cannot be opened"


def _evaluated_images(
    path: Path, folder: Path, samples_sha256: str, source: ImageSource
) -> SampleSet | str:
    """Return the images that were evaluated, if all of them still have the recorded hash."""
    suite = load_suite(source.suite)
    if isinstance(suite, PromptSuite):
        options = _folder_options(source, folder)
        samples = open_prompt_images(path, source.suite, suite, source.count, options)
    elif source.subset_seed is not None and source.count is not None:
        samples = open_samples(path).random_subset(source.count, source.subset_seed)
    else:
        samples = limit_samples(open_samples(path), source.count)
    if len(samples.indices) > MAX_EXTERNAL_IMAGES:
        return f"more than {MAX_EXTERNAL_IMAGES:,} images outside the run folder are not shown"
    if sample_set_digest(samples) != samples_sha256:
        return "the images there are not the ones that were evaluated"
    return samples


def _folder_options(source: ImageSource, folder: Path) -> PromptFolderOptions:
    """Return the options with which the images were read."""
    file_list = None if source.file_list is None else folder / source.file_list
    return PromptFolderOptions(source.order, source.pattern, file_list, source.side, source.tiles)


def _images_beside_results(path: Path, samples_sha256: str, source: ImageSource) -> SampleSet | str:
    """Return the images beside the results file of an official script, in its layout.

    The file must have the recorded hash. The names of images in it are not used.
    """
    suite = load_suite(source.suite)
    if not path.is_file() or sha256_file(path) != samples_sha256:
        return "the results file is not the one that was imported"
    if not isinstance(suite, PromptSuite):
        return "its suite has no prompts"
    subfolders = sorted(child for child in path.parent.iterdir() if child.is_dir())
    for folder in (path.parent, *subfolders[:MAX_SEARCHED_FOLDERS]):
        if find_layout(folder, source.suite) is not None:
            options = PromptFolderOptions(side=source.side, tiles=source.tiles)
            return open_prompt_images(folder, source.suite, suite, None, options)
        files = _numbered_files(folder, suite)
        if files:
            return make_sample_set(folder, suite, files, {}, ())
    return "no images in the official layout beside the results file"


def _numbered_files(folder: Path, suite: PromptSuite) -> dict[int, Path]:
    """Return the files PROMPT/samples/COPY.png by sample index; both names are numbers.

    The official scorer needs no other file in such a folder.
    """
    n_prompts = suite.count // suite.copies
    files: dict[int, Path] = {}
    for prompt_folder in sorted(folder.iterdir()):
        prompt_index = _parse_number(prompt_folder.name, n_prompts)
        if prompt_index is None or not (prompt_folder / SAMPLES_FOLDER).is_dir():
            continue
        for image_path in sorted((prompt_folder / SAMPLES_FOLDER).glob("*.png")):
            copy = _parse_number(image_path.stem, suite.copies)
            is_inside = image_path.resolve().is_relative_to(folder.resolve())
            if copy is not None and is_inside:
                files.setdefault(copy * n_prompts + prompt_index, image_path)
    return files


def _parse_number(name: str, end: int) -> int | None:
    """Return a name of up to six digits as a number below `end`, None for another name."""
    if not (name.isascii() and name.isdigit() and len(name) <= 6):
        return None
    number = int(name)
    return number if number < end else None


def _load_external(
    samples: SampleSet, indices: Sequence[int]
) -> Iterator[tuple[int, ImageOrReason]]:
    """Yield the images outside a run folder; the rows of an npz that exist in one pass."""
    present_indices = set(samples.indices)
    if samples.files is None:
        row_indices = [index for index in indices if index in present_indices]
        for batch in samples.batches(row_indices, 64):
            for index, pixels in zip(batch.indices, batch.images, strict=True):
                yield index, Image.fromarray(pixels)
        return
    for index in indices:
        if index not in present_indices:
            yield index, samples.failed.get(index, NO_SAMPLE)
            continue
        try:
            yield index, Image.fromarray(samples.image(index))
        except SampleError:
            yield index, "not a readable image"


# ------------------------------------------------------------------------------- images of the page


def _plain_image(image: Image.Image) -> Image.Image:
    """Return the RGB pixels of an image alone, without profiles and comments of its file."""
    return Image.fromarray(np.asarray(image.convert("RGB")))


def make_thumbnail(image: Image.Image, max_side: int = MAX_THUMBNAIL_SIDE) -> Thumbnail:
    """Return an image as a WebP data URI of at most `max_side` pixels.

    Small images are embedded as they are and displayed enlarged by a whole number.
    """
    side = max(image.size)
    if side > max_side:
        image = _fit(image, max_side)
    buffer = io.BytesIO()
    is_lossless = side <= MAX_LOSSLESS_SIDE
    image.save(buffer, "WEBP", lossless=is_lossless, quality=WEBP_QUALITY, method=4)
    uri = "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
    width, height = _display_size(image)
    return Thumbnail(uri, width, height, is_pixelated=side <= MAX_PIXELATED_SIDE)


def _fit(image: Image.Image, max_side: int) -> Image.Image:
    """Return an image reduced so that its longer side has `max_side` pixels."""
    factor = max_side / max(image.size)
    width, height = (max(1, round(length * factor)) for length in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS)


def _display_size(image: Image.Image) -> tuple[int, int]:
    """Return the size of an image on the page in pixels."""
    side = max(image.size)
    if side <= MAX_DISPLAY_SIDE:
        factor: float = max(1, MAX_DISPLAY_SIDE // side)
    else:
        factor = MAX_DISPLAY_SIDE / side
    width, height = (max(1, round(length * factor)) for length in image.size)
    return width, height


def full_size_png(image: Image.Image) -> bytes:
    """Return an RGB image as the bytes of a PNG."""
    return encode_png(np.asarray(image), SMALL_COMPRESSION)


def reduced_pixels(image: Image.Image, max_side: int) -> np.ndarray:
    """Return the pixels (H, W, 3) uint8 of an image, reduced to at most `max_side` pixels."""
    if max(image.size) > max_side:
        image = _fit(image, max_side)
    return np.asarray(image)
