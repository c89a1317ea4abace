"""Results and samples as data frames of pandas, which is imported when it is needed."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harope_bench.api.generation import Run
from harope_bench.core.errors import MissingExtraError
from harope_bench.core.extras import install_command
from harope_bench.reports.result_rows import (
    RESULT_COLUMNS,
    read_result_rows,
    read_sample_rows,
    sample_columns,
)

if TYPE_CHECKING:
    from pandas import DataFrame


def make_frame(rows: Sequence[Mapping[str, object]], columns: Sequence[str]) -> DataFrame:
    """Return rows as a data frame with these columns.

    Raises:
        MissingExtraError: pandas is not installed. The message names the command.
    """
    try:
        import pandas
    except ImportError as error:
        raise MissingExtraError(
            "a data frame needs pandas, which is not installed", advice=install_command("frames")
        ) from error
    return pandas.DataFrame([dict(row) for row in rows], columns=list(columns))


def read_results(folder: str | os.PathLike[str]) -> DataFrame:
    """Return all measurements of the run folders at and below a folder, one row each.

    The columns are run, checkpoint, encoding, suite, resolution, metric, value, se, low, high, n,
    judge, profile, and name, evaluator, rules, scale, label, reason. `run` is the path below the
    folder. A value that could not be computed is missing, with its reason.

    Raises:
        StorageError: The folder is missing, holds no result, or a file is not a result.
        MissingExtraError: pandas is not installed. `harope-bench results` needs no pandas.

    Examples:
        >>> import tempfile
        >>> import numpy as np
        >>> from harope_bench.api.evaluation import evaluate
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     images = np.zeros((4, 28, 28, 3), np.uint8)
        ...     results = evaluate(images, "digits", metrics="is", out=folder)
        ...     frame = read_results(folder)
        >>> frame[frame.metric == "is"].n.tolist()
        [4]
    """
    return make_frame(read_result_rows(Path(folder)), RESULT_COLUMNS)


def read_samples(run: Run | str | os.PathLike[str]) -> DataFrame:
    """Return the samples of a run, one row an image, by index.

    The columns are index, label, prompt, status, reason, file, and one for each metric that scores
    single images: its name, or `RESULT.METRIC` where several results score it.

    Raises:
        StorageError: The folder is no run.
        MissingExtraError: pandas is not installed.

    Examples:
        >>> import tempfile
        >>> from harope_bench.api.generation import generate
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     run = generate("digits-harope", count=2, steps=2, out=folder)
        ...     read_samples(run).label.tolist()
        [0, 1]
    """
    rows = read_sample_rows(run.path if isinstance(run, Run) else Path(run))
    return make_frame(rows, sample_columns(rows))
