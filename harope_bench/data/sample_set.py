"""Sample sets: the images of a run, of a foreign folder, or of an ADM npz, behind one door."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from harope_bench.core.errors import SampleError, StorageError, TooFewImagesError
from harope_bench.core.index_ranges import IndexRanges
from harope_bench.core.limits import MAX_RESOLUTION, check_maximum
from harope_bench.core.regular_file import IMAGE_BYTES, read_regular
from harope_bench.core.schema import Plan
from harope_bench.core.storage import check_output_path, sha256_bytes
from harope_bench.data import adm_npz
from harope_bench.data.folder_writer import ImageReader, write_folder
from harope_bench.data.image_folder import (
    IMAGE_SUFFIXES,
    check_finished,
    list_images,
    nested_folders_text,
)
from harope_bench.data.image_io import DecodedImage, centre_crop, crop_to_box, decode_image
from harope_bench.data.run_folder import PLAN_FILE, RECORDS_FILE, REQUESTS_FILE, RunFolder


class Batch(NamedTuple):
    """Some samples of a set: indices, sha256 of each image's bytes, images (B, H, W, 3) uint8, and
    the mode each file had.
    """

    indices: list[int]
    hashes: list[str]
    images: np.ndarray
    modes: tuple[str, ...]


class HashedImage(NamedTuple):
    """One file: sha256 of its bytes and what they are an image of."""

    sha256: str
    decoded_image: DecodedImage


@dataclass(frozen=True)
class SampleSet:
    """Images to be judged. `files` maps index to image file; None for an npz, whose rows are the
    indices.

    reference: an npz of real images may carry statistics beside them. crop: files are
    centre-cropped to this side as they are read.
    boxes: (x0, y0, x1, y1) of each index whose image is a part of its file; such an image is known
    by the file's bytes and its box.
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
        """The same set, cut after its first `count` samples; one of these that has no image stays
        failed.
        """
        cut = sorted({*self.indices, *self.failed})[:count]
        held = self._select([i for i in cut if i not in self.failed])
        return replace(
            held, n_asked=len(cut), failed={i: self.failed[i] for i in cut if i in self.failed}
        )

    def random_subset(self, count: int, seed: int) -> SampleSet:
        """`count` images of the set, chosen by the seed alone, in their order; its warnings say
        so.
        """
        places = np.random.default_rng(seed).choice(len(self.indices), count, replace=False)
        told = f"images: a random choice of {count:,} out of {len(self.indices):,}, seed {seed}"
        return replace(
            self._select([self.indices[k] for k in np.sort(places)]),
            warnings=(*self.warnings, told),
        )

    def _select(self, indices: list[int]) -> SampleSet:
        kept = set(indices)
        recorded = {i: h for i, h in self.recorded_hashes.items() if i in kept}
        return replace(
            self, n_asked=len(kept), failed={}, indices=sorted(kept), recorded_hashes=recorded
        )

    @property
    def n_excluded(self) -> int:
        """How many samples were asked for and have no image, so that no copy can hold them."""
        return len(self.failed)

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """(H, W, 3) of the set's first image, which every other must have too."""
        if self.files is None:
            return adm_npz.images_shape(self.path, self.is_reference)[1:]
        return self._read_image(
            self.indices[0], self.files[self.indices[0]]
        ).decoded_image.image.shape

    def check_image(self, index: int) -> None:
        """SampleError unless the image of a file can be read and is the recorded one; an npz is
        checked by reading it.
        """
        if self.files is not None:
            self._read_image(index, self.files[index])

    def image(self, index: int) -> np.ndarray:
        """The image (H, W, 3) uint8 of an index, whatever size the others have; SampleError where
        it cannot be read.
        """
        if self.files is not None:
            return np.array(
                self._read_image(index, self.files[index]).decoded_image.image
            )  # torch wants an array that it may write
        (batch,) = self.batches([index], 1)
        alone: np.ndarray = batch.images[0]
        return alone

    def batches(self, indices: Sequence[int], size: int) -> Iterator[Batch]:
        """The images of these (ascending) indices; SampleError names the index of a bad one, or of
        one with a size of its own.
        """
        if self.files is None:
            yield from self._npz_batches(set(indices), size)
            return
        for start in range(0, len(indices), size):
            chosen = list(indices[start : start + size])
            read = [self._read_image(i, self.files[i]) for i in chosen]
            images = self._stack(chosen, [one.decoded_image.image for one in read])
            hashes = [one.sha256 for one in read]
            modes = tuple(one.decoded_image.mode for one in read)
            # else a second copy of the images stands beside the judge's network, 600 MB for 50 at
            # 2,048 pixels
            del read
            yield Batch(chosen, hashes, images, modes)

    @cached_property
    def hashes(self) -> list[str]:
        """sha256 of every image in index order, recorded where that is so, else read."""
        if len(self.recorded_hashes) == len(self.indices):
            return [self.recorded_hashes[i] for i in self.indices]
        if self.files is None:
            return [digest for batch in self.batches(self.indices, 256) for digest in batch.hashes]
        return [self._image_sha256(i, self._read_bytes(i, self.files[i])) for i in self.indices]

    def _image_sha256(self, index: int, data: bytes) -> str:
        box = (self.boxes or {}).get(index)
        return sha256_bytes(data if box is None else f"{sha256_bytes(data)} {box}".encode())

    def _read_bytes(self, index: int, path: Path) -> bytes:
        try:
            return read_regular(path, IMAGE_BYTES)
        except OSError as error:
            raise SampleError(
                f"image {index} ({path}) cannot be read: {error.strerror}; draw or copy it again"
            ) from error
        except StorageError as error:
            raise SampleError(f"image {index}: {error}") from error

    def _read_image(self, index: int, path: Path) -> HashedImage:
        data = self._read_bytes(index, path)
        digest = self._image_sha256(index, data)
        if self.recorded_hashes.get(index, digest) != digest:
            raise SampleError(
                f"image {index} ({path}) is not the one that was drawn; delete it and run generate"
                " again"
            )
        found = crop_to_box(
            decode_image(data, f"image {index} ({path})"),
            (self.boxes or {}).get(index),
            f"image {index} ({path})",
        )
        return HashedImage(
            digest,
            (
                found
                if self.crop_side is None
                else found._replace(image=centre_crop(found.image, self.crop_side))
            ),
        )

    def _stack(self, indices: list[int], images: list[np.ndarray]) -> np.ndarray:
        for index, image in zip(indices, images, strict=True):
            if image.shape != self.shape:
                raise SampleError(
                    f"image {index} of {self.path} is {image.shape[1]}x{image.shape[0]}, "
                    f"image {self.indices[0]} is {self.shape[1]}x{self.shape[0]}; one size a set"
                )
        return np.stack(images)

    def _npz_batches(self, wanted: set[int], size: int) -> Iterator[Batch]:
        first = 0
        for images in adm_npz.read_batches(self.path, size, self.is_reference):
            keep = [k for k in range(len(images)) if first + k in wanted]
            if keep:
                chosen = images[keep]
                hashes = [hashlib.sha256(i.tobytes()).hexdigest() for i in chosen]
                yield Batch([first + k for k in keep], hashes, chosen, ("RGB",) * len(chosen))
            first += len(images)


def open_samples(path: Path, count: int | None = None, is_checked: bool = True) -> SampleSet:
    """A run folder, a folder of images, or an ADM .npz; with `count`, its first so many samples.

    A folder's images count by name, by number where every name is one (9.png before 10.png).

    Raises:
        SampleError: nothing there, no images, or a run that is not finished.
        AlteredFileError: plan or records are not the recorded ones, unless `is_checked` is False.
    """
    if path.is_dir():
        run = RunFolder(path, is_checked)
        return (
            _run_set(run, run.plan, count)
            if (path / PLAN_FILE).exists()
            else limit_samples(_folder_set(path), count)
        )
    if path.is_file() and path.suffix == ".npz":
        n = adm_npz.images_shape(path)[0]
        found = adm_npz.read_labels(path)
        labels = {} if found is None else {i: int(v) for i, v in enumerate(found)}
        return limit_samples(
            SampleSet(path.stem, path, None, n, {}, list(range(n)), None, {}, labels), count
        )
    raise SampleError(
        f"{path} is no run folder, image folder or .npz; give one of these, or a checkpoint's name"
    )


def open_reference_images(path: Path) -> SampleSet:
    """The images of a reference npz, which may carry statistics beside them."""
    n = adm_npz.images_shape(path, is_reference=True)[0]
    return SampleSet(path.stem, path, None, n, {}, list(range(n)), None, {}, {}, is_reference=True)


def crop_samples(samples: SampleSet, side: int) -> SampleSet:
    """The same files, each centre-cropped as it is read, so that sizes may differ; SampleError for
    an npz, whose images have one size.

    Raises:
        OptionError: The side is more than RESOLUTION pixels.
    """
    check_maximum("--crop", side, MAX_RESOLUTION)
    if samples.files is None:
        raise SampleError(
            f"{samples.path} is an npz, whose images have one size; --crop is for folders"
        )
    return replace(
        samples,
        crop_side=side,
        warnings=(*samples.warnings, f"images: centre-cropped to {side}x{side}"),
    )


def limit_samples(samples: SampleSet, count: int | None) -> SampleSet:
    """The set's first `count` images, all where None; TooFewImages where it has fewer."""
    if count is not None and count > len(samples.indices) + len(samples.failed):
        raise TooFewImagesError(
            f"{samples.path} holds {len(samples.indices):,} images, --count asks for {count:,};"
            " lower it"
        )
    return samples if count is None else samples.take_first(count)


def _run_set(run: RunFolder, plan: Plan | None, count: int | None) -> SampleSet:
    held = run.read_records()
    requested = run.requested_indices()
    if (
        requested
        and run.is_checked
        and (extra := IndexRanges.from_indices(held).difference(requested))
    ):
        line = f'{{"indices": "{extra}"}}'
        raise SampleError(
            f"{run.folder / REQUESTS_FILE} asks for {requested}, but {RECORDS_FILE} also has"
            f" samples {extra}; a line is lost, add {line}"
        )
    asked = (
        (requested or IndexRanges.from_indices(held))
        if count is None
        else IndexRanges.from_count(count)
    )
    if missing := run.missing_indices(asked):
        raise SampleError(
            f"{run.folder} is unfinished: {len(asked):,} asked, {len(missing):,} missing; run"
            " generate again with the same --out"
        )
    records = {i: held[i] for i in asked}
    good = {i: r for i, r in records.items() if r.status == "ok"}
    if records and not good:
        reason = next(iter(records.values())).reason
        raise SampleError(
            f"all {len(records):,} samples of {run.folder} failed ({reason}); check the"
            " checkpoint's weights"
        )
    if not good:
        raise SampleError(f"{run.folder} holds no image; run generate with this --out first")
    return SampleSet(
        name=run.folder.name,
        path=run.folder,
        plan=plan,
        n_asked=len(asked),
        failed={i: r.reason or "failed" for i, r in records.items() if r.status == "failed"},
        indices=list(good),
        files={i: path_inside(run.folder, str(r.file), i) for i, r in good.items()},
        recorded_hashes={i: str(r.sha256) for i, r in good.items()},
        labels={i: r.label for i, r in good.items() if r.label is not None},
        warnings=(
            ()
            if requested
            else (f"{REQUESTS_FILE} is missing or empty: what was asked is taken from the records",)
        ),
    )


def path_inside(folder: Path, name: str, index: int) -> Path:
    """The file `name` of the folder; SampleError if a record points out of it."""
    path = (folder / name.replace("\0", "")).resolve()
    if "\0" in name or not path.is_relative_to(folder.resolve()):
        raise SampleError(
            f"record {index} of {folder} points outside the folder ({name}); the record was altered"
        )
    return path


def _folder_set(folder: Path) -> SampleSet:
    check_finished(folder)
    found, warnings = list_images(folder)
    if not found and (below := nested_folders_text(folder)):
        raise SampleError(
            f"{folder} holds no images itself, folders below it do: {below}; give one of these, or"
            " move the images to one folder"
        )
    if not found:
        raise SampleError(
            f"{folder} holds no images ({', '.join(IMAGE_SUFFIXES)}) and no {PLAN_FILE}; give a run"
            " or image folder"
        )
    return SampleSet(
        folder.name,
        folder,
        None,
        len(found),
        {},
        list(range(len(found))),
        dict(enumerate(found)),
        {},
        {},
        warnings,
    )


def write_adm_npz(samples: SampleSet, path: Path, replace: bool = False) -> None:
    """Writes a set as ADM npz, in index order, with labels where all are known; failed samples are
    left out.

    Raises:
        StorageError: something else stands at `path` and `replace` is not given, or it is a part of
            the set.
    """
    _check_adm_target(samples, path, replace)
    labels = (
        np.array([samples.labels[i] for i in samples.indices])
        if samples.labels.keys() >= set(samples.indices)
        else None
    )
    height, width, channels = samples.shape
    images = (batch.images for batch in samples.batches(samples.indices, 256))
    adm_npz.write_npz(
        path, images, (len(samples.indices), height, width, channels), labels, replace=replace
    )


def _check_adm_target(samples: SampleSet, path: Path, replace: bool) -> None:
    """Refuse at once a target that no earlier run of the same conversion can have written."""
    check_output_path(path, samples.path)
    if not path.exists():
        return
    if replace and path.resolve().is_relative_to(samples.path.resolve()):
        raise StorageError(f"{path} is in {samples.path}, which is read; choose another place")
    if not replace and (
        path.suffix != ".npz" or _shape_if_npz(path) != (len(samples.indices), *samples.shape)
    ):
        raise StorageError(
            f"{path} exists and holds something else; give --replace, or choose another place"
        )


def _shape_if_npz(path: Path) -> tuple[int, ...] | None:
    try:
        return adm_npz.images_shape(path)
    except SampleError:
        return None


def write_png_folder(samples: SampleSet, folder: Path) -> None:
    """Writes a set as a folder of 000000.png ... in index order, failed ones left out; what an
    interrupted run wrote there is kept.

    Raises:
        SampleError: the folder holds anything else, or is the one that is read.
    """
    check_not_source(samples, folder)
    names = {f"{place:06d}.png": index for place, index in enumerate(samples.indices)}
    write_folder(folder, list(names), image_reader(samples, names))


def check_not_source(samples: SampleSet, folder: Path) -> None:
    """Raise SampleError where a set would be written into the folder that holds it."""
    if folder.exists() and samples.path.exists() and folder.samefile(samples.path):
        raise SampleError(
            f"{folder} is not an empty folder but the one that is read; choose another place"
        )


def image_reader(samples: SampleSet, indices: Mapping[str, int]) -> ImageReader:
    """Return what reads the images of names, whose indices ascend."""

    def read(names: list[str]) -> Iterator[np.ndarray]:
        chosen = [indices[name] for name in names]
        return (
            (image for batch in samples.batches(chosen, 4) for image in batch.images)
            if chosen
            else iter(())
        )

    return read
