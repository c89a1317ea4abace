"""Training logs of the runs' checkpoints: NAME.log.csv beside a registered checkpoint."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from harope_bench.core import registry
from harope_bench.core.errors import StorageError
from harope_bench.core.text_file import read_text
from harope_bench.reports.runs import ReportedRun


def read_loss_curves(runs: Sequence[ReportedRun]) -> dict[str, np.ndarray]:
    """Return the training logs of the runs' checkpoints by checkpoint name, (N, 2) each.

    A log is NAME.log.csv beside a registered checkpoint with the weights of the run.
    """
    checkpoints = registry.list_entries("checkpoints")
    curves: dict[str, np.ndarray] = {}
    for run in runs:
        entry = checkpoints.get(run.plan.checkpoint.name) if run.plan else None
        if run.plan is None or entry is None or entry.path is None or entry.name in curves:
            continue
        log_path = entry.path.with_name(f"{entry.name}.log.csv")
        if (
            log_path.is_file()
            and registry.read_toml(entry.path).get("sha256") == run.plan.checkpoint.sha256
        ):
            curves[entry.name] = read_training_log(log_path)
    return curves


def read_training_log(path: Path) -> np.ndarray:
    """Return the steps and losses of a training log, (N, 2) float64.

    Raises:
        StorageError: the file is not a training log.
    """
    try:
        table = csv.DictReader(read_text(path).splitlines())
        rows = [(float(row["step"]), float(row["loss"])) for row in table]
        curve = np.array(rows, dtype=np.float64).reshape(-1, 2)  # (N, 2): step and loss
    except (StorageError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise StorageError(
            f"{path} is not a training log (step,loss); delete or restore it"
        ) from error
    if not len(curve) or not np.isfinite(curve).all():
        raise StorageError(f"{path} has no finite losses; delete or restore it")
    return curve
