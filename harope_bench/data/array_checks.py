"""Checks of arrays from files before they are used: dtype, number of axes and length."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from harope_bench.core.errors import StorageError

Arrays = Mapping[str, np.ndarray]
# Characters of `numpy.dtype.kind`.
NUMBER_KINDS = "biuf"
INTEGER_KINDS = "iu"
TEXT_KINDS = "U"
KIND_TEXTS = {NUMBER_KINDS: "numbers", INTEGER_KINDS: "whole numbers", TEXT_KINDS: "texts"}
MAX_COLUMN_VALUE = 1e18  # of a count, of seconds or of bytes
PAIRING_KEYS = ("indices", "prompts", "labels")  # arrays by which samples of two runs are paired
IMAGE_HASHES = "image_hashes"  # sha256 of each classified image, one byte per column, (N, 32) uint8

# Variances square contributions; NaN stands for a sample that does not count.
MAX_CONTRIBUTION = 1e100


def check_sample_arrays(path: Path, arrays: Arrays, metrics: Iterable[str]) -> None:
    """Raise StorageError unless the per-sample arrays of a result can be paired with another run's.

    For a metric M, `M` holds the contribution of each sample. `M_total` and `M_weight` hold its
    numerator and weight if M is a ratio of sums, and `M_tasks` the task of each sample. `M_halves`
    holds M on random halves of the samples, and `recall` one row per reference image. So lengths
    are compared only if samples are paired by prompt or by image hash, where all arrays must have
    one row per sample. Arrays with other names, from third-party evaluators, are not checked.

    Args:
        path: The file, for the message.
        metrics: Names of the metrics of the result.

    Raises:
        StorageError: An array has a wrong dtype, number of axes or length.
    """
    expected_kinds = dict.fromkeys(PAIRING_KEYS, INTEGER_KINDS)
    expected_kinds[IMAGE_HASHES] = NUMBER_KINDS
    for metric in metrics:
        expected_kinds[f"{metric}_tasks"] = NUMBER_KINDS + TEXT_KINDS
        for suffix in ("", "_total", "_weight", "_halves"):
            expected_kinds[f"{metric}{suffix}"] = NUMBER_KINDS

    checked_arrays = {name: arrays[name] for name in expected_kinds if name in arrays}
    for name, array in checked_arrays.items():
        n_axes = 2 if name == IMAGE_HASHES else 1
        _check_array(path, name, array, expected_kinds[name], n_axes)
    if "prompts" in checked_arrays or IMAGE_HASHES in checked_arrays:
        _common_length(path, checked_arrays)


def check_columns(
    path: Path, arrays: Arrays, number_columns: Iterable[str], text_columns: Iterable[str]
) -> int:
    """Check columns, and return their common length N.

    Args:
        path: The file, for the message.
        number_columns: Names of arrays (N,) of numbers from 0 to MAX_COLUMN_VALUE, or NaN for an
            unknown value.
        text_columns: Names of arrays (N,) of texts.

    Raises:
        StorageError: A column is missing, has a wrong dtype, number of axes or length, or contains
            a number out of range.
    """
    expected_kinds = {
        **dict.fromkeys(number_columns, NUMBER_KINDS),
        **dict.fromkeys(text_columns, TEXT_KINDS),
    }
    if missing_names := sorted(expected_kinds.keys() - arrays.keys()):
        raise StorageError(f"{path} lacks {missing_names[0]}; delete it and run eval again")

    for name, kinds in expected_kinds.items():
        column = arrays[name]
        _check_array(path, name, column, kinds, 1)
        if kinds != TEXT_KINDS and ((column < 0) | (column > MAX_COLUMN_VALUE)).any():
            raise StorageError(
                f"{path}: {name} holds a number below 0 or above {MAX_COLUMN_VALUE:g}; delete it"
                " and run eval again"
            )
    return _common_length(path, {name: arrays[name] for name in expected_kinds})


def _check_array(path: Path, name: str, array: np.ndarray, kinds: str, n_axes: int) -> None:
    """Raise StorageError unless an array has a dtype kind in `kinds` and `n_axes` axes."""
    if array.dtype.kind not in kinds or array.ndim != n_axes:
        raise StorageError(
            f"{path}: {name} is {array.dtype} {array.shape}, wanted"
            f" {KIND_TEXTS.get(kinds, 'numbers')} of {n_axes} axes; evaluate the run again"
        )
    if array.dtype.kind == "f" and (np.abs(array) > MAX_CONTRIBUTION).any():
        raise StorageError(
            f"{path}: {name} has values beyond {MAX_CONTRIBUTION:g}; evaluate the run again"
        )


def _common_length(path: Path, arrays: Arrays) -> int:
    """Return the common length of arrays; raise StorageError if their lengths differ.

    The length is 0 without arrays. `path` is the file, for the message.
    """
    name_by_length = {len(array): name for name, array in arrays.items()}
    if len(name_by_length) > 1:
        lengths = sorted(name_by_length.items())
        lengths_text = ", ".join(f"{name} {length:,}" for length, name in lengths)
        raise StorageError(
            f"{path} has arrays of different lengths ({lengths_text}); evaluate the run again"
        )
    return next(iter(name_by_length), 0)
