"""Checks of the fidelity evaluator's inputs: shapes, finite rows, moments of the reference."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from harope_bench.core.errors import InvalidMomentsError, SampleError, ShapeError
from harope_bench.evaluators.base import Features
from harope_bench.evaluators.fidelity_profiles import FRECHET_KEYS
from harope_bench.metrics.moment_checks import moments_complaint
from harope_bench.metrics.row_checks import first_bad_row, rows_complaint


def check_arrays(features: Features, reference: Mapping[str, np.ndarray]) -> None:
    """Raise an error unless shapes fit and values are finite, before anything is computed.

    Raises:
        ShapeError: The shapes of two arrays do not fit.
        SampleError: A value is not finite. The message names the index of its image.
        InvalidMomentsError: The reference's arrays are no mean and covariance.
    """
    for name in ("features", "spatial", "logits"):
        if name in features.arrays:
            _check_rows(f"{name} of the samples", features.arrays[name], features.indices)

    for array, mean, covariance in FRECHET_KEYS.values():
        if array in features.arrays and mean in reference and covariance in reference:
            width = features.arrays[array].shape[1]
            _check_gaussian(array, width, reference[mean], reference[covariance])

    if "features" in reference:
        real = reference["features"]
        _check_rows("features of the reference", real, np.arange(len(real)))
        if (
            "features" in features.arrays
            and real.shape[1:] != features.arrays["features"].shape[1:]
        ):
            width = features.arrays["features"].shape[1]
            raise ShapeError(
                f"features have width {width}, the reference's {real.shape[1]}; extract both with"
                " the same judge"
            )


def _check_rows(title: str, rows: np.ndarray, indices: np.ndarray) -> None:
    """Raise an error unless rows are finite and of shape (N, D), N being the number of indices."""
    if rows.ndim != 2 or len(rows) != len(indices):
        raise ShapeError(
            f"{title} have shape {rows.shape}, expected ({len(indices)}, width); extract the"
            " features again"
        )
    complaint = rows_complaint(rows)
    if complaint:
        raise SampleError(f"{title} {complaint}; extract the features again")
    bad_row = first_bad_row(rows)
    if bad_row is not None:
        index = int(indices[bad_row])
        raise SampleError(
            f"{title} are not finite, first at index {index}; delete the features of that judge and"
            " run eval again"
        )


def _check_gaussian(array: str, width: int, mean: np.ndarray, covariance: np.ndarray) -> None:
    """Raise an error unless the moments are a mean (width,) and a covariance (width, width)."""
    if mean.shape != (width,) or covariance.shape != (width, width):
        raise ShapeError(
            f"{array} have width {width}, the reference's moments {mean.shape} and"
            f" {covariance.shape}; use the reference of the same judge"
        )
    complaint = moments_complaint(mean, covariance)
    if complaint:
        raise InvalidMomentsError(
            f"the reference's moments of {array} {complaint}; build the reference again"
        )
