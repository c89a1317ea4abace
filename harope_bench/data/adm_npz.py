"""ADM's .npz of images, read and written in the memory of one batch.

Format: openai/guided-diffusion:evaluations/evaluator.py; arr_0 uint8 (N, H, W, 3), optional arr_1
labels; a reference also carries
mu, sigma, mu_s, sigma_s.
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
MAX_FORTRAN_BYTES = (
    1 << 30
)  # bytes of an array in Fortran order, which cannot be read piece by piece
MAX_LABEL = 2**31 - 1  # of a class; a larger number of 64 bits without sign would come out negative
BATCH_BYTES = 1 << 30  # of the images that are read at once


def _member_names(archive: zipfile.ZipFile) -> list[str]:
    """Return the members' names; ValueError where one stands twice."""
    names = archive.namelist()
    if twice := repeated_member(names):
        raise ValueError(f"it holds {twice} twice, and readers differ in which they take")
    return names


def array_names(path: Path) -> set[str]:
    """Names of the arrays in the file, as they are called without .npy; SampleError if it is no
    npz.
    """
    try:
        with open_npz(path) as (archive, _):
            return {name.removesuffix(".npy") for name in _member_names(archive)}
    except ARCHIVE_ERRORS as error:
        raise SampleError(
            f"{path} is not a readable npz ({first_line(error)}); make the file again"
        ) from error


def images_shape(path: Path, is_reference: bool = False) -> tuple[int, int, int, int]:
    """(N, H, W, 3) of the images in the file, each at least 1.

    Raises:
        SampleError: not such a file, one whose header claims more than it holds, or one that
            carries `mu` and is no `reference`:
            ADM would then score the stored statistics in place of the images
            (evaluator.py:164-172).
    """
    try:
        with open_npz(path) as (archive, size):
            names = _member_names(archive)
            if "mu.npy" in names and not is_reference:
                raise SampleError(
                    f"{path} carries mu: it is a reference, or samples with foreign statistics;"
                    " give a file with arr_0 only"
                )
            if IMAGES_MEMBER not in names:
                raise SampleError(
                    f"{path} has no arr_0 (found {shorten_list(names)}); give an ADM sample file"
                )
            shape, dtype, is_fortran = read_member_header(archive, IMAGES_MEMBER, size)
    except ARCHIVE_ERRORS as error:
        raise SampleError(
            f"{path} is not a readable npz ({first_line(error)}); make the file again"
        ) from error
    if dtype != np.uint8 or len(shape) != 4 or shape[3] != 3:
        raise SampleError(
            f"{path} arr_0 is {dtype} {shape}, wanted uint8 (N, H, W, 3); convert the images first"
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


def read_batches(path: Path, size: int, reference: bool = False) -> Iterator[np.ndarray]:
    """The images in order, `size` at a time, (B, H, W, 3) uint8; SampleError names the row where
    the file breaks.
    """
    n, *rest = images_shape(path, reference)
    size = max(1, min(size, BATCH_BYTES // math.prod(rest)))
    each = math.prod(rest)
    done = 0
    try:
        with open_npz(path) as (archive, _), archive.open(IMAGES_MEMBER) as member:
            if read_header(member).is_fortran:
                yield from _fortran_batches(member, (n, *rest), size)
                return
            while done < n:
                wanted = min(size, n - done)
                data = member.read(wanted * each)
                if len(data) < wanted * each:
                    raise EOFError("cut short")
                yield np.frombuffer(data, np.uint8).reshape(wanted, *rest)
                done += wanted
    except ARCHIVE_ERRORS as error:
        raise SampleError(
            f"{path} cannot be read from image {done} on ({first_line(error)}); make the file again"
        ) from error


def _fortran_batches(member: IO[bytes], shape: tuple[int, ...], size: int) -> Iterator[np.ndarray]:
    """Yield the rows of an array whose first axis runs fastest; all of it is in memory, at most
    WHOLE bytes.
    """
    data = member.read(math.prod(shape))
    if len(data) < math.prod(shape):
        raise EOFError("cut short")
    images = np.frombuffer(data, np.uint8).reshape(shape, order="F")
    for start in range(0, shape[0], size):
        yield np.ascontiguousarray(images[start : start + size])


def read_labels(path: Path) -> np.ndarray | None:
    """Labels (N,) int64, one an image, if the file carries them; SampleError if they are anything
    else.
    """
    n = images_shape(path)[0]
    try:
        with open_npz(path) as (archive, size):
            if LABELS_MEMBER not in archive.namelist():
                return None
            shape, dtype, _ = read_member_header(archive, LABELS_MEMBER, size)
            if shape != (n,) or dtype.kind not in "iu":
                raise SampleError(
                    f"{path} arr_1 is {dtype} {shape}, wanted integer labels ({n},); leave arr_1"
                    " out or correct it"
                )
            with archive.open(LABELS_MEMBER) as member:
                found = np.lib.format.read_array(member, allow_pickle=False)
        if found.min() < 0 or found.max() > MAX_LABEL:
            raise SampleError(
                f"{path} arr_1 holds label {found.min() if found.min() < 0 else found.max()},"
                f" wanted 0 to {MAX_LABEL:,}"
            )
        return found.astype(np.int64)
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
    """Writes images (B, H, W, 3) uint8 as they come, then `more` arrays by name; whole file or
    none. Equal images give equal bytes.

    Raises:
        StorageError: without `replace`: a file with other bytes stands there.
    """
    with (
        write_atomically(path, replace=replace) as file,
        zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive,
    ):
        with archive.open(_zip_info(IMAGES_MEMBER), "w", force_zip64=True) as member:
            np.lib.format.write_array_header_1_0(
                member, {"descr": "|u1", "fortran_order": False, "shape": shape}
            )
            for batch in batches:
                member.write(np.ascontiguousarray(batch).tobytes())
        small = {
            **({LABELS_MEMBER: labels.astype(np.int64)} if labels is not None else {}),
            **{f"{k}.npy": v for k, v in (extra_arrays or {}).items()},
        }
        for name, array in small.items():
            with archive.open(_zip_info(name), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def _zip_info(name: str) -> zipfile.ZipInfo:
    return zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
