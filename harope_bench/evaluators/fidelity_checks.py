"""What image quality must be able to read: arrays that fit together, finite rows, and moments of a
reference.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from harope_bench.core.errors import InvalidMomentsError, SampleError, ShapeError
from harope_bench.evaluators.base import Features
from harope_bench.evaluators.fidelity_profiles import FRECHET_KEYS
from harope_bench.metrics.moment_checks import moments_complaint
from harope_bench.metrics.row_checks import first_bad_row, rows_complaint


def check_arrays(seen: Features, reference: Mapping[str, np.ndarray]) -> None:
    """Raise an error unless shapes fit and values are finite; called before anything is computed.

    Raises:
        ShapeError: Arrays do not fit together.
        SampleError: A value is not finite; names the index of its image.
        InvalidMomentsError: The reference holds no mean and covariance.
    """
    for name in ("features", "spatial", "logits"):
        if name in seen.arrays:
            _check_rows(f"{name} of the samples", seen.arrays[name], seen.indices)
    for array, mean, covariance in FRECHET_KEYS.values():
        if array in seen.arrays and mean in reference and covariance in reference:
            _check_gaussian(
                array, seen.arrays[array].shape[1], reference[mean], reference[covariance]
            )
    if "features" in reference:
        real = reference["features"]
        _check_rows("features of the reference", real, np.arange(len(real)))
        if "features" in seen.arrays and real.shape[1:] != seen.arrays["features"].shape[1:]:
            width = seen.arrays["features"].shape[1]
            raise ShapeError(
                f"features have width {width}, the reference's {real.shape[1]}; judge both with the"
                " same network"
            )


def _check_rows(what: str, rows: np.ndarray, indices: np.ndarray) -> None:
    if rows.ndim != 2 or len(rows) != len(indices):
        raise ShapeError(
            f"{what} have shape {rows.shape}, wanted ({len(indices)}, width); judge the images"
            " again"
        )
    if complaint := rows_complaint(rows):
        raise SampleError(f"{what} {complaint}; judge the images again")
    if (bad := first_bad_row(rows)) is not None:
        index = int(indices[bad])
        raise SampleError(
            f"{what} are not finite, first at index {index}; delete the observations of that judge"
            " and run eval again"
        )


def _check_gaussian(array: str, width: int, mean: np.ndarray, covariance: np.ndarray) -> None:
    if mean.shape != (width,) or covariance.shape != (width, width):
        found = f"the reference's moments {mean.shape} and {covariance.shape}"
        raise ShapeError(
            f"{array} have width {width}, {found}; use the reference of the same judge"
        )
    if complaint := moments_complaint(mean, covariance):
        raise InvalidMomentsError(
            f"the reference's moments of {array} {complaint}; build the reference again"
        )
