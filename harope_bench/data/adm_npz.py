"""ADM's .npz of images, read and written one batch at a time.

Format: openai/guided-diffusion:evaluations/evaluator.py. `arr_0` are images (N, H, W, 3) uint8,
`arr_1` are optional labels. A reference also contains mu, sigma, mu_s and sigma_s. Grey images
(N, H, W) are read as three equal channels.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

import numpy as np

from harope_bench.core.array_archive import repeated_member
from harope_bench.core.array_file import ARCHIVE_ERRORS, open_npz, read_header, read_member_header
from harope_bench.core.errors import SampleError
from harope_bench.core.escaping import shorten_list
from harope_bench.core.storage import first_line, write_atomically
from harope_bench.data.image_io import MAX_PIXELS

IMAGES_MEMBER = "arr_0.npy"
LABELS_MEMBER = "arr_1.npy"
# An array in Fortran order cannot be read in batches, so all of it is in memory at once.
MAX_FORTRAN_BYTES = 1 << 30
MAX_LABEL = 2**31 - 1  # far below the uint64 values that become negative as int64
BATCH_BYTES = 1 << 30  # maximum bytes of images that are in memory at once


def _member_names(archive: zipfile.ZipFile) -> list[str]:
    """Return the names of the archive's members; raise ValueError if an array occurs twice."""
    names = archive.namelist()
    if duplicate := repeated_member(names):
        raise ValueError(f"it holds {duplicate} twice, and readers differ in which they take")
    return names


def array_names(path: Path) -> set[str]:
    """Return the names of the arrays in a file, without ".npy".

    Raises:
        SampleError: The file is not an .npz.
    """
    try:
        with open_npz(path) as (archive, _):
            return {name.removesuffix(".npy") for name in _member_names(archive)}
    except ARCHIVE_ERRORS as error:
        raise SampleError(
            f"{path} is not a readable npz ({first_line(error)}); make the file again"
        ) from error


def images_shape(path: Path, is_reference: bool = False) -> tuple[int, int, int, int]:
    """Return the shape (N, H, W, 3) of the images in a file, each number at least 1.

    Raises:
        SampleError: See `_stored_shape`.
    """
    n_images, height, width, *_ = _stored_shape(path, is_reference)
    return n_images, height, width, 3


def has_grey_images(path: Path, is_reference: bool = False) -> bool:
    """Return whether the images in a file are grey, (N, H, W); errors of `images_shape`."""
    return len(_stored_shape(path, is_reference)) == 3


def _stored_shape(path: Path, is_reference: bool) -> tuple[int, ...]:
    """Return the shape of the images as stored, (N, H, W, 3) or (N, H, W), each at least 1.

    A sample file that contains `mu` is rejected, because ADM would score those statistics instead
    of the images (evaluator.py:164-172).

    Args:
        is_reference: Whether the file is a reference, which may contain `mu`.

    Raises:
        SampleError: The file is not an ADM file, its header does not fit its size, or it is a
            sample file that contains `mu`.
    """
    try:
        with open_npz(path) as (archive, file_bytes):
            names = _member_names(archive)
            if "mu.npy" in names and not is_reference:
                raise SampleError(
                    f"{path} contains mu: it is a reference, or samples with foreign statistics;"
                    " give a file with arr_0 only"
                )
            if IMAGES_MEMBER not in names:
                raise SampleError(
                    f"{path} has no arr_0 (found {shorten_list(names)}); give an ADM sample file"
                )
            shape, dtype, is_fortran = read_member_header(archive, IMAGES_MEMBER, file_bytes)
    except ARCHIVE_ERRORS as error:
        raise SampleError(
            f"{path} is not a readable npz ({first_line(error)}); make the file again"
        ) from error

    # One image (H, W, 3) is not taken for H grey images.
    is_grey = len(shape) == 3 and shape[2] != 3
    is_colour = len(shape) == 4 and shape[3] == 3
    if dtype != np.uint8 or not (is_grey or is_colour):
        raise SampleError(
            f"{path} arr_0 is {dtype} {shape}, wanted uint8 (N, H, W, 3), or (N, H, W) of grey"
            " images; convert the images first"
        )
    if is_fortran and math.prod(shape) > MAX_FORTRAN_BYTES:
        raise SampleError(
            f"{path} arr_0 is in Fortran order, of which {math.prod(shape):,} bytes would have to"
            " be read at once; save np.ascontiguousarray(arr_0) again"
        )
    if shape[1] * shape[2] > MAX_PIXELS:
        raise SampleError(
            f"{path} holds images of {shape[2]}x{shape[1]}, at most {MAX_PIXELS:,} pixels are read;"
            " make them smaller"
        )
    if min(shape) < 1:
        raise SampleError(
            f"{path} holds no images, arr_0 is {shape}; give a file with at least one"
        )
    return shape


def read_batches(path: Path, batch_size: int, is_reference: bool = False) -> Iterator[np.ndarray]:
    """Yield the images in order, in batches (B, H, W, 3) uint8 of at most `batch_size` images.

    Grey images get three equal channels.

    Raises:
        SampleError: As `images_shape`, or the file is damaged. The message names the first image
            that cannot be read.
    """
    stored_shape = _stored_shape(path, is_reference)
    _, height, width, *_ = stored_shape
    batch_size = max(1, min(batch_size, BATCH_BYTES // (3 * height * width)))
    for batch in _stored_batches(path, stored_shape, batch_size):
        yield batch if batch.ndim == 4 else np.repeat(batch[..., None], 3, axis=-1)  # (B, H, W, 3)


def _stored_batches(
    path: Path, stored_shape: tuple[int, ...], batch_size: int
) -> Iterator[np.ndarray]:
    """Yield the images in batches (B, ...) as they are stored; errors of `read_batches`."""
    n_images, *image_shape = stored_shape
    image_bytes = math.prod(image_shape)
    n_read = 0
    try:
        with open_npz(path) as (archive, _), archive.open(IMAGES_MEMBER) as member:
            if read_header(member).is_fortran:
                yield from _fortran_batches(member, (n_images, *image_shape), batch_size)
                return
            while n_read < n_images:
                n_batch = min(batch_size, n_images - n_read)
                data = member.read(n_batch * image_bytes)
                if len(data) < n_batch * image_bytes:
                    raise EOFError("cut short")
                yield np.frombuffer(data, np.uint8).reshape(n_batch, *image_shape)
                n_read += n_batch
    except ARCHIVE_ERRORS as error:
        raise SampleError(
            f"{path} cannot be read from image {n_read} on ({first_line(error)}); make the file"
            " again"
        ) from error


def _fortran_batches(
    member: IO[bytes], shape: tuple[int, ...], batch_size: int
) -> Iterator[np.ndarray]:
    """Yield the batches of an array in Fortran order, at most MAX_FORTRAN_BYTES in memory."""
    data = member.read(math.prod(shape))
    if len(data) < math.prod(shape):
        raise EOFError("cut short")
    images = np.frombuffer(data, np.uint8).reshape(shape, order="F")  # (N, ...)
    for start in range(0, shape[0], batch_size):
        yield np.ascontiguousarray(images[start : start + batch_size])  # (B, ...)


def read_labels(path: Path) -> np.ndarray | None:
    """Return the labels (N,) int64, one per image; None if the file contains no labels.

    Raises:
        SampleError: The labels are not integers from 0 to MAX_LABEL, or not one per image.
    """
    n_images = images_shape(path)[0]
    try:
        with open_npz(path) as (archive, file_bytes):
            if LABELS_MEMBER not in archive.namelist():
                return None
            shape, dtype, _ = read_member_header(archive, LABELS_MEMBER, file_bytes)
            if shape != (n_images,) or dtype.kind not in "iu":
                raise SampleError(
                    f"{path} arr_1 is {dtype} {shape}, wanted integer labels ({n_images},); leave"
                    " arr_1 out or correct it"
                )
            with archive.open(LABELS_MEMBER) as member:
                labels = np.lib.format.read_array(member, allow_pickle=False)
        if labels.min() < 0 or labels.max() > MAX_LABEL:
            invalid_label = labels.min() if labels.min() < 0 else labels.max()
            raise SampleError(
                f"{path} arr_1 holds label {invalid_label}, wanted 0 to {MAX_LABEL:,}"
            )
        return labels.astype(np.int64)
    except ARCHIVE_ERRORS as error:
        raise SampleError(
            f"{path}: labels cannot be read ({first_line(error)}); make the file again"
        ) from error


def write_npz(
    path: Path,
    batches: Iterator[np.ndarray],
    shape: tuple[int, int, int, int],
    labels: np.ndarray | None = None,
    extra_arrays: Mapping[str, np.ndarray] | None = None,
    replace: bool = True,
) -> None:
    """Write an ADM file atomically. Equal arrays give equal bytes.

    Args:
        batches: The images, in batches (B, H, W, 3) uint8, which are written as they arrive.
        shape: The shape (N, H, W, 3) of all images.
        labels: The labels (N,).
        extra_arrays: Further arrays by name, such as mu and sigma.
        replace: Replace an existing file.

    Raises:
        StorageError: Without `replace`, a file with other bytes exists.
    """
    small_arrays = {f"{name}.npy": array for name, array in (extra_arrays or {}).items()}
    if labels is not None:
        small_arrays = {LABELS_MEMBER: labels.astype(np.int64), **small_arrays}

    with (
        write_atomically(path, replace=replace) as file,
        zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive,
    ):
        with archive.open(_zip_info(IMAGES_MEMBER), "w", force_zip64=True) as member:
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(member, header)
            for batch in batches:
                member.write(np.ascontiguousarray(batch).tobytes())
        for name, array in small_arrays.items():
            with archive.open(_zip_info(name), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def _zip_info(name: str) -> zipfile.ZipInfo:
    """Return a member's zip entry with a fixed time, so that equal arrays give equal bytes."""
    return zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
