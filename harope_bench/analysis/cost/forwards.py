"""Reader of `forwards.npz`: timed forward passes of a network, one row for each.

It needs no network.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from harope_bench.core.array_archive import load_arrays
from harope_bench.core.array_file import check_arrays_format
from harope_bench.core.formats import FORMAT_KEY
from harope_bench.data.array_checks import check_columns
from harope_bench.evaluators.base import FeatureEvaluator, Features

FORWARDS_FILE = "forwards.npz"


def read_forwards(path: Path, evaluator: FeatureEvaluator) -> Features:
    """Return the forward passes in a file, with the arrays that an evaluator reads.

    Raises:
        FormatError: Another version of this package wrote the file.
        StorageError: An array is missing or invalid.
    """
    file_arrays = load_arrays(path)
    check_arrays_format("forwards", file_arrays, path)
    arrays = {name: array for name, array in file_arrays.items() if name != FORMAT_KEY}
    count = check_columns(path, arrays, evaluator.arrays, evaluator.text_arrays)
    return Features(np.arange(count), labels=None, arrays=arrays)
