"""What arrays out of a file must be before anything is computed of them: their kind, their axes and
their lengths.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from harope_bench.core.errors import StorageError

Arrays = Mapping[str, np.ndarray]
# numpy's kinds
NUMBER_KINDS = "biuf"
INTEGER_KINDS = "iu"
TEXT_KINDS = "U"
MAX_COLUMN_VALUE = 1e18  # of a count, of seconds or of bytes
PAIRING_KEYS = ("indices", "prompts", "labels")
IMAGE_HASHES = "image_hashes"  # array of the sha256 of the classified images, (N, 32) uint8


def check_sample_arrays(path: Path, arrays: Arrays, metrics: Iterable[str]) -> None:
    """Refuse per-sample arrays of a result that are not what an evaluator writes.

    Of prompts and of pictures all arrays have a row a sample; others may be of halves or of
    reference images. Arrays that pairing does
    not read, as other people's evaluators keep them, may be anything.

    Raises:
        StorageError: An array has another kind, other axes or another length.
    """
    kinds = {**dict.fromkeys(PAIRING_KEYS, INTEGER_KINDS), IMAGE_HASHES: NUMBER_KINDS}
    for metric in metrics:
        kinds |= {
            f"{metric}_tasks": NUMBER_KINDS + TEXT_KINDS,
            **{f"{metric}{end}": NUMBER_KINDS for end in ("", "_total", "_weight", "_halves")},
        }
    read = {name: arrays[name] for name in kinds if name in arrays}
    for name, array in read.items():
        _check_array(path, name, array, kinds[name], 2 if name == IMAGE_HASHES else 1)
    if "prompts" in read or IMAGE_HASHES in read:
        _check_lengths(path, read)


def check_columns(path: Path, arrays: Arrays, numbers: Iterable[str], texts: Iterable[str]) -> int:
    """Return how many rows the named arrays have, each (N,) of numbers from 0 to MOST (NaN: not
    known) or of texts.

    Raises:
        StorageError: One is missing or has another kind, other axes, another length or a number out
            of range.
    """
    kinds = {**dict.fromkeys(numbers, NUMBER_KINDS), **dict.fromkeys(texts, TEXT_KINDS)}
    if missing := sorted(kinds.keys() - arrays.keys()):
        raise StorageError(f"{path} lacks {missing[0]}; delete it and run eval again")
    for name, kind in kinds.items():
        _check_array(path, name, arrays[name], kind, 1)
        if kind != TEXT_KINDS and ((arrays[name] < 0) | (arrays[name] > MAX_COLUMN_VALUE)).any():
            raise StorageError(
                f"{path}: {name} holds a number below 0 or above {MAX_COLUMN_VALUE:g}; delete it"
                " and run eval again"
            )
    return _check_lengths(path, {name: arrays[name] for name in kinds})


def _check_array(path: Path, name: str, array: np.ndarray, kinds: str, axes: int) -> None:
    if array.dtype.kind not in kinds or array.ndim != axes:
        wanted = (
            "texts"
            if kinds == TEXT_KINDS
            else "whole numbers"
            if kinds == INTEGER_KINDS
            else "numbers"
        )
        raise StorageError(
            f"{path}: {name} is {array.dtype} {array.shape}, wanted {wanted} of {axes} axes;"
            " evaluate the run again"
        )


def _check_lengths(path: Path, arrays: Arrays) -> int:
    lengths = {len(array): name for name, array in arrays.items()}
    if len(lengths) > 1:
        shown = ", ".join(f"{name} {length:,}" for length, name in sorted(lengths.items()))
        raise StorageError(
            f"{path} has arrays of different lengths ({shown}); evaluate the run again"
        )
    return next(iter(lengths), 0)
