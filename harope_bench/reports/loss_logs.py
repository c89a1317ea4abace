"""Training logs as loss curves.

Formats: our CSV (step,loss), the log lines of the DiT release, CSV of several runs (step,loss,run).
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from harope_bench.core.chart_schema import LossChart, LossCurve
from harope_bench.core.errors import StorageError
from harope_bench.core.text_file import read_text

RELEASE_LOG_LINE = re.compile(
    r"^(?:\x1b\[\d*m)*\[[^\]]+\](?:\x1b\[\d*m)*\s*\(step=(\d+)\) Train Loss: (\S+?),"
)  # facebookresearch/DiT:train.py
MAX_POINTS = 400  # of one curve


def read_losses(paths: Iterable[Path], ema: float) -> LossChart:
    """Return the loss curves of the logs.

    Args:
        ema: weight of the past in the running average; 0 for no average.

    Raises:
        StorageError: a file is not a log, has no finite losses, or two runs have one name.
    """
    curves = [(label, points) for path in paths for label, points in _read_curves(path)]
    labels = [label for label, _ in curves]
    if duplicates := sorted({label for label in labels if labels.count(label) > 1}):
        raise StorageError(
            f"two runs have the name {duplicates[0]}; rename a file, or add a column `run` with"
            " other names"
        )
    return LossChart(
        smoothing=ema, curves=tuple(_make_curve(label, points, ema) for label, points in curves)
    )


def _read_curves(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the name and the points (N, 2) of each run of a file: step and loss, float64."""
    text = read_text(path)
    runs = (
        _parse_csv(path, text)
        if {"step", "loss"} <= set(_column_names(text))
        else _parse_release_log(path, text)
    )
    for label, rows in runs.items():
        points = np.array(rows, dtype=np.float64).reshape(-1, 2)  # (N, 2)
        if not len(points) or not np.isfinite(points).all():
            raise StorageError(
                f"{path} has no finite losses of {label}; expected CSV step,loss or lines"
                " (step=...) Train Loss: ..."
            )
        if (np.diff(points[:, 0]) <= 0).any():
            raise StorageError(
                f"{path}: the steps of {label} do not increase, as after a resumed run; keep one"
                " line per step"
            )
        yield label, points


def _column_names(text: str) -> list[str]:
    """Return the column names in the first line of a text."""
    return [name.strip() for name in (text.splitlines() or [""])[0].split(",")]


def _parse_release_log(path: Path, text: str) -> dict[str, list[tuple[float, float]]]:
    """Return the (step, loss) rows of a log of the DiT release; other lines are ignored."""
    rows = [
        (float(match[1]), _parse_number(path, match[2]))
        for line in text.splitlines()
        if (match := RELEASE_LOG_LINE.match(line))
    ]
    return {_run_name(path): rows}


def _parse_csv(path: Path, text: str) -> dict[str, list[tuple[float, float]]]:
    """Return the (step, loss) rows of a CSV text by run."""
    runs: dict[str, list[tuple[float, float]]] = {}
    for row in _csv_rows(path, text):
        if None in row or row.get("loss") is None:
            raise StorageError(
                f"{path} has a line that is not step,loss or step,loss,run; correct it"
            )
        runs.setdefault(row.get("run") or _run_name(path), []).append(
            (_parse_number(path, row["step"]), _parse_number(path, row["loss"]))
        )
    return runs or {_run_name(path): []}


def _csv_rows(path: Path, text: str) -> Iterator[dict[str, str]]:
    """Yield the rows below the first line.

    Raises:
        StorageError: a line is not valid CSV, for example because a cell is too long.
    """
    rows = csv.DictReader(text.splitlines()[1:], _column_names(text))
    try:
        yield from rows
    except csv.Error as error:
        raise StorageError(
            f"{path} line {rows.line_num + 2} is not readable ({error}); correct it"
        ) from error


def _parse_number(path: Path, text: str) -> float:
    """Return a number.

    Raises:
        StorageError: the text is not a number.
    """
    try:
        return float(text)
    except ValueError as error:
        raise StorageError(
            f"{path} has {text[:40]!r} where a number should be; correct the line"
        ) from error


def _run_name(path: Path) -> str:
    """Return a run's name from its file; log.csv and log.txt are named by their folder."""
    stem = path.name.split(".")[0]
    return path.resolve().parent.name if stem in ("log", "") else stem


def _make_curve(label: str, points: np.ndarray, ema: float) -> LossCurve:
    """Return a curve of at most MAX_POINTS points, each the mean of a part of the log.

    Args:
        points: step and loss, (N, 2) float64.
    """
    smoothed_loss = running_average(points[:, 1], ema) if ema else None
    columns = [points, smoothed_loss[:, None]] if smoothed_loss is not None else [points]
    pieces = np.array_split(np.hstack(columns), min(MAX_POINTS, len(points)))
    mean_points = np.stack([piece.mean(axis=0) for piece in pieces])
    return LossCurve(
        label=label,
        steps=tuple(mean_points[:, 0].tolist()),
        loss=tuple(mean_points[:, 1].tolist()),
        smoothed_loss=tuple(mean_points[:, 2].tolist()) if smoothed_loss is not None else None,
    )


def running_average(values: np.ndarray, ema: float) -> np.ndarray:
    """Return the bias-corrected exponential running average (N,).

    With weight e of the past: sum_j e^j x_(i-j) / sum_j e^j.
    """
    out = np.empty_like(values)
    total = 0.0
    for i, value in enumerate(values):
        total = ema * total + (1 - ema) * value
        out[i] = total / (1 - math.pow(ema, i + 1))
    return out
