"""Sample sets: the images of a run folder, of an image folder or of an ADM .npz."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from harope_bench.core.errors import SampleError, StorageError, TooFewImagesError
from harope_bench.core.index_ranges import IndexRanges
from harope_bench.core.limits import MAX_RESOLUTION, check_maximum
from harope_bench.core.regular_file import MAX_IMAGE_BYTES, read_regular
from harope_bench.core.schema import Plan, SampleRecord
from harope_bench.core.storage import check_output_path, sha256_bytes
from harope_bench.core.threaded_work import map_in_threads, waiting_limit
from harope_bench.data import adm_npz
from harope_bench.data.folder_writer import ImageReader, write_folder
from harope_bench.data.image_folder import (
    IMAGE_SUFFIXES,
    check_finished,
    list_images,
    nested_folders_text,
)
from harope_bench.data.image_io import (
    DecodedImage,
    centre_crop,
    crop_to_box,
    decode_image,
    image_size,
)
from harope_bench.data.run_folder import PLAN_FILE, RECORDS_FILE, REQUESTS_FILE, RunFolder

HASHED_FILES_AHEAD = 32  # files that threads may have hashed before the current one


class Batch(NamedTuple):
    """Some samples of a set.

    Attributes:
        indices: Index of each sample.
        hashes: Hex sha256 of each image.
        images: Images (B, H, W, 3) uint8.
        modes: Mode of each image file, such as RGB.
    """

    indices: list[int]
    hashes: list[str]
    images: np.ndarray
    modes: tuple[str, ...]


class HashedImage(NamedTuple):
    """A decoded image file and the hex sha256 of its bytes."""

    sha256: str
    decoded_image: DecodedImage


NOT_REPEATABLE_WARNING = (
    "images: not repeatable, one request gave different images when the checkpoint was registered"
)


@dataclass(frozen=True)
class SampleSet:
    """Images that are evaluated, by index.

    Attributes:
        name: Name of the set in results.
        path: The folder or file.
        plan: The plan of a run folder; None for other images.
        n_asked: Number of requested samples, failed ones included.
        failed: Reason of each sample that has no image, by index.
        indices: Ascending indices of the samples with an image.
        files: Image file of each index; None for an .npz, whose rows are the indices.
        recorded_hashes: Hex sha256 of the images, by index; only the recorded ones.
        labels: Class labels, by index.
        warnings: Warnings about the images for the results.
        is_reference: Whether the .npz may contain statistics beside the images.
        crop_side: Side to which the files are centre-cropped as they are read; None does not crop.
        boxes: Box (x0, y0, x1, y1) of each image that is a part of its file, by index. The hash of
            such an image is that of the file's hash and the box.
    """

    name: str
    path: Path
    plan: Plan | None
    n_asked: int
    failed: dict[int, str]
    indices: list[int]
    files: dict[int, Path] | None
    recorded_hashes: dict[int, str]
    labels: dict[int, int]
    warnings: tuple[str, ...] = ()
    is_reference: bool = False
    crop_side: int | None = None
    boxes: Mapping[int, tuple[int, int, int, int]] | None = None

    def take_first(self, count: int) -> SampleSet:
        """Return the set of the first `count` samples, failed ones included."""
        first_indices = sorted({*self.indices, *self.failed})[:count]
        failed = {i: self.failed[i] for i in first_indices if i in self.failed}
        subset = self._select([i for i in first_indices if i not in self.failed])
        return replace(subset, n_asked=len(first_indices), failed=failed)

    def random_subset(self, count: int, seed: int) -> SampleSet:
        """Return a random subset of `count` images; equal count and seed give equal indices.

        The subset has a warning that names count and seed.
        """
        positions = np.random.default_rng(seed).choice(len(self.indices), count, replace=False)
        subset = self._select([self.indices[k] for k in np.sort(positions)])
        warning = f"images: a random choice of {count:,} out of {len(self.indices):,}, seed {seed}"
        return replace(subset, warnings=(*self.warnings, warning))

    def select_indices(self, indices: Collection[int]) -> SampleSet:
        """Return the samples with these indices that have an image or have failed."""
        subset = self._select([i for i in self.indices if i in indices])
        failed = {i: reason for i, reason in self.failed.items() if i in indices}
        return replace(subset, n_asked=len(subset.indices) + len(failed), failed=failed)

    def _select(self, indices: list[int]) -> SampleSet:
        """Return the set of these indices, without failed samples."""
        index_set = set(indices)
        return replace(
            self,
            n_asked=len(index_set),
            failed={},
            indices=sorted(index_set),
            recorded_hashes={i: h for i, h in self.recorded_hashes.items() if i in index_set},
        )

    @property
    def n_excluded(self) -> int:
        """Return the number of requested samples without an image."""
        return len(self.failed)

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Return the shape (H, W, 3) of the first image. All others must have the same."""
        if self.files is None:
            return adm_npz.images_shape(self.path, self.is_reference)[1:]
        first_index = self.indices[0]
        return self._read_image(first_index, self.files[first_index]).decoded_image.image.shape

    def has_file_size(self, width: int, height: int) -> bool:
        """Return whether every image file has this size; False at the first that differs.

        Raises:
            SampleError: A file cannot be read or is no image.
        """
        return all(
            image_size(self._read_bytes(i, path), f"image {i} ({path})") == (width, height)
            for i, path in (self.files or {}).items()
        )

    def check_image(self, index: int) -> None:
        """Raise SampleError if an image file cannot be read or does not have its recorded hash.

        The images of an .npz are checked when they are read.
        """
        if self.files is not None:
            self._read_image(index, self.files[index])  # its checks alone are wanted

    def image(self, index: int) -> np.ndarray:
        """Return the image (H, W, 3) uint8 of an index. Its size may differ from the others'.

        Raises:
            SampleError: The image cannot be read or does not have its recorded hash.
        """
        if self.files is not None:
            image = self._read_image(index, self.files[index]).decoded_image.image
            return np.array(image)  # a copy, because torch needs a writable array
        (batch,) = self.batches([index], 1)
        npz_image: np.ndarray = batch.images[0]  # (H, W, 3)
        return npz_image

    def batches(self, indices: Sequence[int], size: int) -> Iterator[Batch]:
        """Yield the samples of ascending indices in batches of at most `size`.

        Raises:
            SampleError: An image cannot be read, does not have its recorded hash, or has another
                size than the first image. The message names its index.
        """
        if self.files is None:
            yield from self._npz_batches(set(indices), size)
            return
        hashed_images = self._read_images(indices, self.files)
        for start in range(0, len(indices), size):
            yield self._read_batch(indices[start : start + size], hashed_images)

    def _read_images(
        self, indices: Sequence[int], files: Mapping[int, Path]
    ) -> Iterator[HashedImage]:
        """Yield the images of these indices; threads read and decode the next ones meanwhile."""
        n_waiting = waiting_limit(math.prod(self.shape)) if len(indices) > 1 else 0
        return map_in_threads(lambda i: self._read_image(i, files[i]), indices, n_waiting)

    def _read_batch(self, indices: Sequence[int], hashed_images: Iterator[HashedImage]) -> Batch:
        """Return the batch of the next images."""
        # Each image is copied as it comes, so that few exist twice: fifty of 2,048 pixels are
        # 600 MB.
        images = np.empty((len(indices), *self.shape), dtype=np.uint8)  # (B, H, W, 3)
        hashes = []
        modes = []
        for row, index in enumerate(indices):
            sha256, decoded_image = next(hashed_images)
            self._check_shape(index, decoded_image.image)
            images[row] = decoded_image.image
            hashes.append(sha256)
            modes.append(decoded_image.mode)
        return Batch(list(indices), hashes, images, tuple(modes))

    @cached_property
    def hashes(self) -> list[str]:
        """Return the hex sha256 of every image in index order, recorded or computed now."""
        if len(self.recorded_hashes) == len(self.indices):
            return [self.recorded_hashes[i] for i in self.indices]
        if self.files is None:
            return [digest for batch in self.batches(self.indices, 256) for digest in batch.hashes]
        files = self.files
        return list(
            map_in_threads(
                lambda i: self._image_sha256(i, self._read_bytes(i, files[i])),
                self.indices,
                HASHED_FILES_AHEAD,
            )
        )

    @property
    def hashes_by_index(self) -> dict[int, str]:
        """Return the hex sha256 of every image by index, recorded or computed now."""
        return dict(zip(self.indices, self.hashes, strict=True))

    def _image_sha256(self, index: int, data: bytes) -> str:
        """Return the hex sha256 of an image, from the bytes of its file."""
        box = (self.boxes or {}).get(index)
        return sha256_bytes(data if box is None else f"{sha256_bytes(data)} {box}".encode())

    def _read_bytes(self, index: int, path: Path) -> bytes:
        try:
            return read_regular(path, MAX_IMAGE_BYTES)
        except OSError as error:
            raise SampleError(
                f"image {index} ({path}) cannot be read: {error.strerror}; generate or copy it"
                " again"
            ) from error
        except StorageError as error:
            raise SampleError(f"image {index}: {error}") from error

    def _read_image(self, index: int, path: Path) -> HashedImage:
        """Return the image of an index, cut to its box and centre-cropped.

        Raises:
            SampleError: The image cannot be read or does not have its recorded hash.
        """
        image_name = f"image {index} ({path})"
        data = self._read_bytes(index, path)
        sha256 = self._image_sha256(index, data)
        if self.recorded_hashes.get(index, sha256) != sha256:
            raise SampleError(
                f"{image_name} is not the one that was generated; delete it and run generate again"
            )

        decoded_image = decode_image(data, image_name)
        decoded_image = crop_to_box(decoded_image, (self.boxes or {}).get(index), image_name)
        if self.crop_side is not None:
            cropped_pixels = centre_crop(decoded_image.image, self.crop_side)
            decoded_image = decoded_image._replace(image=cropped_pixels)
        return HashedImage(sha256, decoded_image)

    def _check_shape(self, index: int, image: np.ndarray) -> None:
        """Raise SampleError if an image has another size than the first one."""
        if image.shape != self.shape:
            raise SampleError(
                f"image {index} of {self.path} is {image.shape[1]}x{image.shape[0]}, "
                f"image {self.indices[0]} is {self.shape[1]}x{self.shape[0]}; give images of"
                " one size"
            )

    def _npz_batches(self, requested_indices: set[int], size: int) -> Iterator[Batch]:
        mode = "L" if adm_npz.has_grey_images(self.path, self.is_reference) else "RGB"
        start = 0
        for npz_images in adm_npz.read_batches(self.path, size, self.is_reference):
            rows = [k for k in range(len(npz_images)) if start + k in requested_indices]
            if rows:
                images = npz_images[rows]  # (B, H, W, 3)
                hashes = [hashlib.sha256(image.tobytes()).hexdigest() for image in images]
                indices = [start + k for k in rows]
                yield Batch(indices, hashes, images, (mode,) * len(images))
            start += len(npz_images)


def open_samples(
    path: Path, count: int | None = None, needs_matching_hashes: bool = True
) -> SampleSet:
    """Return the samples of a run folder, a folder of images, or an ADM .npz.

    The images of a folder are numbered in natural order of their names: 9.png precedes 10.png.

    Args:
        count: Number of samples to take from the start; None takes all.
        needs_matching_hashes: Whether plan and records must have their recorded hashes. Only
            `verify` reads altered files.

    Raises:
        SampleError: The path is none of these, contains no images, or the run is unfinished.
        TooFewImagesError: The path contains fewer than `count` images.
        AlteredFileError: Plan or records do not have their recorded hash.
    """
    if path.is_dir():
        if not (path / PLAN_FILE).exists():
            return limit_samples(_folder_set(path), count)
        run = RunFolder(path, needs_matching_hashes)
        return _run_set(run, run.plan, count)
    if path.is_file() and path.suffix == ".npz":
        n_images = adm_npz.images_shape(path)[0]
        label_array = adm_npz.read_labels(path)
        labels = {} if label_array is None else {i: int(v) for i, v in enumerate(label_array)}
        return limit_samples(_npz_set(path, n_images, labels), count)
    if not path.exists():
        raise SampleError(f"{path} does not exist; give a run folder, an image folder or an .npz")
    raise SampleError(
        f"{path} is no run folder, image folder or .npz; give one of these, or a checkpoint's name"
    )


def open_reference_images(path: Path) -> SampleSet:
    """Return the images of a reference .npz, which may also contain statistics."""
    n_images = adm_npz.images_shape(path, is_reference=True)[0]
    return _npz_set(path, n_images, labels={}, is_reference=True)


def _npz_set(
    path: Path, n_images: int, labels: dict[int, int], is_reference: bool = False
) -> SampleSet:
    return SampleSet(
        name=path.stem,
        path=path,
        plan=None,
        n_asked=n_images,
        failed={},
        indices=list(range(n_images)),
        files=None,
        recorded_hashes={},
        labels=labels,
        is_reference=is_reference,
    )


def crop_samples(samples: SampleSet, side: int) -> SampleSet:
    """Return the same files, centre-cropped as they are read. Their sizes may differ.

    Images that all have this size are not changed, and the set gets no warning. Such an .npz is
    accepted too.

    Raises:
        OptionError: The side has more than MAX_RESOLUTION pixels.
        SampleError: The set is an .npz of images of another size, or an image cannot be read.
    """
    check_maximum("--crop", side, MAX_RESOLUTION)
    if samples.files is None:
        height, width, _ = samples.shape
        if height != side or width != side:
            raise SampleError(
                f"{samples.path} is an npz of images of {width}x{height}, --crop {side} would"
                " change them; --crop is for folders"
            )
        return samples
    warnings = samples.warnings
    if not samples.has_file_size(side, side):
        warnings = (*warnings, f"images: centre-cropped to {side}x{side}")
    return replace(samples, crop_side=side, warnings=warnings)


def limit_samples(samples: SampleSet, count: int | None) -> SampleSet:
    """Return the set of the first `count` samples; None takes all.

    Raises:
        TooFewImagesError: The set has fewer samples.
    """
    if count is not None and count > len(samples.indices) + len(samples.failed):
        raise TooFewImagesError(
            f"{samples.path} holds {len(samples.indices):,} images, --count asks for {count:,};"
            " lower it"
        )
    return samples if count is None else samples.take_first(count)


def _run_set(run: RunFolder, plan: Plan | None, count: int | None) -> SampleSet:
    """Return the samples of a run folder that is finished.

    Args:
        count: Number of samples to take from the start; None takes all that were requested.
    """
    all_records = run.read_records()
    request_ranges = run.requested_indices()
    warnings: tuple[str, ...] = ()
    if not request_ranges:
        warnings = (
            f"{REQUESTS_FILE} is missing or empty: the requested indices are those of the records",
        )
    elif run.needs_matching_hashes:
        _check_requests_complete(run, all_records, request_ranges)
    if plan is not None and not plan.checkpoint.is_repeatable:
        warnings = (*warnings, NOT_REPEATABLE_WARNING)
    warnings = (*warnings, *run.read_warnings())

    # All samples that belong to the set must exist.
    if count is not None:
        set_indices = IndexRanges.from_count(count)
    else:
        set_indices = request_ranges or IndexRanges.from_indices(all_records)
    if missing_indices := run.missing_indices(set_indices, all_records):
        raise SampleError(
            f"{run.folder} is unfinished: {len(set_indices):,} requested,"
            f" {len(missing_indices):,} missing; run generate again with the same --out"
        )

    records = {i: all_records[i] for i in set_indices}
    if records and not any(record.status == "ok" for record in records.values()):
        reason = next(iter(records.values())).reason
        raise SampleError(
            f"all {len(records):,} samples of {run.folder} failed ({reason}); check the"
            " checkpoint's weights"
        )
    if not records:
        raise SampleError(f"{run.folder} holds no image; run generate with this --out first")
    return replace(_set_of_records(run, plan, records), warnings=warnings)


def _set_of_records(
    run: RunFolder, plan: Plan | None, records: Mapping[int, SampleRecord]
) -> SampleSet:
    """Return the samples of these records."""
    ok_records = {i: record for i, record in records.items() if record.status == "ok"}
    return SampleSet(
        name=run.folder.name,
        path=run.folder,
        plan=plan,
        n_asked=len(records),
        failed={i: r.reason or "failed" for i, r in records.items() if r.status == "failed"},
        indices=list(ok_records),
        files=paths_inside(run.folder, {i: str(r.file) for i, r in ok_records.items()}),
        recorded_hashes={i: str(r.sha256) for i, r in ok_records.items()},
        labels={i: r.label for i, r in ok_records.items() if r.label is not None},
    )


def open_part_samples(run: RunFolder, requested_indices: Sequence[int]) -> SampleSet:
    """Return the requested samples of a run of which other processes generate some.

    A sample without a record is expected to have an image, which is not there yet.
    """
    all_records = run.read_records()
    records = {i: all_records[i] for i in requested_indices if i in all_records}
    samples = _set_of_records(run, run.plan, records)
    indices = [i for i in requested_indices if i not in samples.failed]
    return replace(samples, n_asked=len(requested_indices), indices=indices)


def _check_requests_complete(
    run: RunFolder, records: Mapping[int, SampleRecord], request_ranges: IndexRanges
) -> None:
    """Raise SampleError if a run folder has records of samples that were never requested."""
    extra_indices = IndexRanges.from_indices(records).difference(request_ranges)
    if extra_indices:
        line = f'{{"indices": "{extra_indices}"}}'
        raise SampleError(
            f"{run.folder / REQUESTS_FILE} asks for {request_ranges}, but {RECORDS_FILE} also has"
            f" samples {extra_indices}; a line is lost, add {line}"
        )


def paths_inside(folder: Path, names: Mapping[int, str]) -> dict[int, Path]:
    """Return the paths of records' files in a folder, by index.

    Links in the folder of a file are followed once for all its files, so one look at each file is
    enough. Equal to `path_inside` of each name, and raises the same error.
    """
    resolved_folder = folder.resolve()
    inner_folders: dict[str, Path | None] = {}  # of files, by name; None: not inside the folder
    paths = {}
    for index, name in names.items():
        parent, file_name = os.path.split(name.replace("\0", ""))
        if parent not in inner_folders:
            resolved_parent = (folder / parent).resolve()
            is_inside = resolved_parent.is_relative_to(resolved_folder)
            inner_folders[parent] = resolved_parent if is_inside else None
        inner_folder = inner_folders[parent]
        path = folder if inner_folder is None else inner_folder / file_name
        is_plain = "\0" not in name and file_name not in ("", ".", "..")
        if inner_folder is None or not is_plain or os.path.islink(path):
            path = path_inside(folder, name, index)
        paths[index] = path
    return paths


def path_inside(folder: Path, name: str, index: int) -> Path:
    """Return the path of a record's file in a folder.

    Raises:
        SampleError: The name leads out of the folder.
    """
    path = (folder / name.replace("\0", "")).resolve()
    if "\0" in name or not path.is_relative_to(folder.resolve()):
        raise SampleError(
            f"record {index} of {folder} points outside the folder ({name}); the record was altered"
        )
    return path


def _folder_set(folder: Path) -> SampleSet:
    """Return the images of a folder without a plan."""
    check_finished(folder)
    image_files, warnings = list_images(folder)
    if not image_files and (subfolders_text := nested_folders_text(folder)):
        raise SampleError(
            f"{folder} holds no images itself, folders below it do: {subfolders_text}; give one of"
            " these, or move the images to one folder"
        )
    if not image_files:
        raise SampleError(
            f"{folder} holds no images ({', '.join(IMAGE_SUFFIXES)}) and no {PLAN_FILE}; give a run"
            " or image folder"
        )
    return SampleSet(
        name=folder.name,
        path=folder,
        plan=None,
        n_asked=len(image_files),
        failed={},
        indices=list(range(len(image_files))),
        files=dict(enumerate(image_files)),
        recorded_hashes={},
        labels={},
        warnings=warnings,
    )


def write_adm_npz(samples: SampleSet, path: Path, replace: bool = False) -> None:
    """Write a set as an ADM .npz in index order, without failed samples.

    Labels are written if every sample has one.

    Raises:
        StorageError: Another file exists and `replace` is not given, or the file is a part of the
            set.
    """
    _check_adm_target(samples, path, replace)
    labels = None
    if samples.labels.keys() >= set(samples.indices):
        labels = np.array([samples.labels[i] for i in samples.indices])  # (N,)
    height, width, channels = samples.shape
    shape = (len(samples.indices), height, width, channels)
    images = (batch.images for batch in samples.batches(samples.indices, 256))
    adm_npz.write_npz(path, images, shape, labels, replace=replace)


def _check_adm_target(samples: SampleSet, path: Path, replace: bool) -> None:
    """Raise StorageError if a file exists that may not be replaced.

    Without `replace`, a file of the same shape is allowed here, because an earlier run of the same
    conversion may have written it. Its bytes are compared after writing.
    """
    check_output_path(path, samples.path)
    if not path.exists():
        return
    if replace and path.resolve().is_relative_to(samples.path.resolve()):
        raise StorageError(f"{path} is in {samples.path}, which is read; choose another place")
    set_shape = (len(samples.indices), *samples.shape)
    if not replace and (path.suffix != ".npz" or _shape_if_npz(path) != set_shape):
        raise StorageError(
            f"{path} exists and holds something else; give --replace, or choose another place"
        )


def _shape_if_npz(path: Path) -> tuple[int, ...] | None:
    """Return the shape (N, H, W, 3) of an ADM .npz; None for another file."""
    try:
        return adm_npz.images_shape(path)
    except SampleError:
        return None


def write_png_folder(samples: SampleSet, folder: Path) -> None:
    """Write a set as PNG files 000000.png, ... in index order, without failed samples.

    Files that an interrupted conversion wrote stay.

    Raises:
        SampleError: The folder contains other files, or is the folder of the set.
    """
    check_not_source(samples, folder)
    index_by_name = {f"{k:06d}.png": index for k, index in enumerate(samples.indices)}
    write_folder(folder, list(index_by_name), image_reader(samples, index_by_name))


def check_not_source(samples: SampleSet, folder: Path) -> None:
    """Raise SampleError if a set would be written into its own folder."""
    if folder.exists() and samples.path.exists() and folder.samefile(samples.path):
        raise SampleError(
            f"{folder} is not an empty folder but the one that is read; choose another place"
        )


def image_reader(samples: SampleSet, index_by_name: Mapping[str, int]) -> ImageReader:
    """Return a function that yields the images of file names, for `write_folder`.

    Args:
        index_by_name: Index of the sample of each name. The indices ascend.
    """

    def read_images(names: list[str]) -> Iterator[np.ndarray]:
        indices = [index_by_name[name] for name in names]
        if not indices:
            return iter(())
        return (image for batch in samples.batches(indices, 4) for image in batch.images)

    return read_images
