"""Training logs as curves: ours (step,loss), the release's text lines, or csv of several runs
(step,loss,run).
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
MAX_POINTS = 400  # points kept of a curve


def read_losses(paths: Iterable[Path], ema: float) -> LossChart:
    """The curves of the logs; ema: weight of the past in a running average, 0 for none.

    Raises:
        StorageError: a file is no log, or has no finite losses; it is named.
    """
    found = [(label, points) for path in paths for label, points in _read_curves(path)]
    labels = [label for label, _ in found]
    if twice := sorted({label for label in labels if labels.count(label) > 1}):
        raise StorageError(
            f"two runs are called {twice[0]}; rename a file, or give them names in a run column"
        )
    return LossChart(
        smoothing=ema, curves=tuple(_make_curve(label, points, ema) for label, points in found)
    )


def _read_curves(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """(run, points (lines, step and loss)) of a file, by the form of its text."""
    text = read_text(path)
    runs = (
        _parse_csv(path, text)
        if {"step", "loss"} <= set(_column_names(text))
        else _parse_release_log(path, text)
    )
    for label, rows in runs.items():
        points = np.array(rows, dtype=np.float64).reshape(-1, 2)
        if not len(points) or not np.isfinite(points).all():
            raise StorageError(
                f"{path} has no finite losses of {label}; wanted step,loss or lines of (step=...)"
                " Train Loss: ..."
            )
        if (np.diff(points[:, 0]) <= 0).any():
            raise StorageError(
                f"{path}: the steps of {label} do not grow; a resumed run was appended, keep one"
                " line a step"
            )
        yield label, points


def _column_names(text: str) -> list[str]:
    """Names of the columns in the first line, in any order."""
    return [name.strip() for name in (text.splitlines() or [""])[0].split(",")]


def _parse_release_log(path: Path, text: str) -> dict[str, list[tuple[float, float]]]:
    """DiT's own log: one line every so many steps, a bracketed date before it; other lines are
    passed over.
    """
    rows = [
        (float(match[1]), _parse_number(path, match[2]))
        for line in text.splitlines()
        if (match := RELEASE_LOG_LINE.match(line))
    ]
    return {_run_name(path): rows}


def _parse_csv(path: Path, text: str) -> dict[str, list[tuple[float, float]]]:
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
    """Yield the rows under the first line; StorageError where a line is no csv, a cell longer than
    the library takes for example.
    """
    rows = csv.DictReader(text.splitlines()[1:], _column_names(text))
    try:
        yield from rows
    except csv.Error as error:
        raise StorageError(
            f"{path} line {rows.line_num + 2} is not readable ({error}); correct it"
        ) from error


def _parse_number(path: Path, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise StorageError(
            f"{path} has {text[:40]!r} where a number should be; correct the line"
        ) from error


def _run_name(path: Path) -> str:
    """A run's name from its file: log.csv and log.txt are named by their folder."""
    stem = path.name.split(".")[0]
    return path.resolve().parent.name if stem in ("log", "") else stem


def _make_curve(label: str, points: np.ndarray, ema: float) -> LossCurve:
    smooth = running_average(points[:, 1], ema) if ema else None
    columns = [points, smooth[:, None]] if smooth is not None else [points]
    pieces = np.array_split(np.hstack(columns), min(MAX_POINTS, len(points)))
    thin = np.stack([piece.mean(axis=0) for piece in pieces])
    return LossCurve(
        label=label,
        steps=tuple(thin[:, 0].tolist()),
        loss=tuple(thin[:, 1].tolist()),
        smoothed_loss=tuple(thin[:, 2].tolist()) if smooth is not None else None,
    )


def running_average(values: np.ndarray, ema: float) -> np.ndarray:
    """Exponential running average (N,) without the pull of its start: sum of ema^j x_(i-j) over sum
    of ema^j.
    """
    out = np.empty_like(values)
    total = 0.0
    for i, value in enumerate(values):
        total = ema * total + (1 - ema) * value
        out[i] = total / (1 - math.pow(ema, i + 1))
    return out
