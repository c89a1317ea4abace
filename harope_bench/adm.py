"""ADM's .npz of images, read and written in the memory of one batch.

Format: openai/guided-diffusion:evaluations/evaluator.py; arr_0 uint8 (N, H, W, 3), optional arr_1 labels.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from harope_bench.errors import SampleError
from harope_bench.store import writing

IMAGES = "arr_0.npy"
LABELS = "arr_1.npy"
DAMAGE = (ValueError, EOFError, zipfile.BadZipFile, zlib.error, OSError)


def _header(member: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = np.lib.format.read_magic(member)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(member)
    if fortran or dtype.hasobject:
        raise ValueError("not a plain row-major array")
    return shape, dtype


def shape_of(path: Path) -> tuple[int, int, int, int]:
    """(N, H, W, 3) of the images in the file.

    Raises:
        SampleError: not such a file, or one that carries `mu`: ADM would then score the stored
            statistics in place of the images (evaluator.py:164-172).
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if "mu.npy" in names:
                raise SampleError(f"{path} carries mu: it is a reference, or samples with foreign statistics; give a file with arr_0 only")
            if IMAGES not in names:
                raise SampleError(f"{path} has no arr_0 (found {', '.join(names) or 'nothing'}); give an ADM sample file")
            with archive.open(IMAGES) as member:
                shape, dtype = _header(member)
    except DAMAGE as error:
        raise SampleError(f"{path} is not a readable npz ({error}); make the file again") from error
    if dtype != np.uint8 or len(shape) != 4 or shape[3] != 3:
        raise SampleError(f"{path} arr_0 is {dtype} {shape}, wanted uint8 (N, H, W, 3); convert the images first")
    return shape


def rows(path: Path, size: int) -> Iterator[np.ndarray]:
    """The images in order, `size` at a time, (B, H, W, 3) uint8; SampleError names the row where the file breaks."""
    n, *rest = shape_of(path)
    each, done = int(np.prod(rest)), 0
    try:
        with zipfile.ZipFile(path) as archive, archive.open(IMAGES) as member:
            _header(member)
            while done < n:
                wanted = min(size, n - done)
                data = member.read(wanted * each)
                if len(data) < wanted * each:
                    raise EOFError("cut short")
                yield np.frombuffer(data, np.uint8).reshape(wanted, *rest)
                done += wanted
    except DAMAGE as error:
        raise SampleError(f"{path} cannot be read from image {done} on ({error}); make the file again") from error


def labels(path: Path) -> np.ndarray | None:
    """Labels (N,) int64 if the file carries them."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            return archive["arr_1"].astype(np.int64) if "arr_1" in archive.files else None
    except DAMAGE as error:
        raise SampleError(f"{path}: labels cannot be read ({error}); make the file again") from error


def write(path: Path, batches: Iterator[np.ndarray], shape: tuple[int, int, int, int], label: np.ndarray | None = None) -> None:
    """Writes images (B, H, W, 3) uint8 as they come; whole file or none. Equal images give equal bytes."""
    with writing(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        with archive.open(_member(IMAGES), "w", force_zip64=True) as member:
            np.lib.format.write_array_header_1_0(member, {"descr": "|u1", "fortran_order": False, "shape": shape})
            for batch in batches:
                member.write(np.ascontiguousarray(batch).tobytes())
        if label is not None:
            with archive.open(_member(LABELS), "w") as member:
                np.lib.format.write_array(member, label.astype(np.int64), allow_pickle=False)


def _member(name: str) -> zipfile.ZipInfo:
    return zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
