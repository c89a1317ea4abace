"""DPG-Bench on a table of three items, and grids of their images."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from dpg_script import table_rows
from PIL import Image

from harope_bench.core.formats import versioned_json_text
from harope_bench.core.storage import sha256_file
from harope_bench.suites.dpg_bench import DpgBenchSuite

ITEMS = ["partiprompts97", "7", "whoops3"]


class ThreeItems(DpgBenchSuite):
    """The suite on a table of three items."""

    count = 12


@pytest.fixture
def dpg_suite(bench_home: Path, monkeypatch: pytest.MonkeyPatch) -> ThreeItems:
    """DPG-Bench on the table of three items, which is in the home of this test."""
    path = bench_home / "assets" / "dpg-bench" / "dpg_bench.csv"
    path.parent.mkdir(parents=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(table_rows()[0]))
        writer.writeheader()
        writer.writerows(table_rows())
    (path.parent / "receipt.json").write_text(
        versioned_json_text("receipt", {"files": {path.name: sha256_file(path)}})
    )
    monkeypatch.setattr("harope_bench.suites.dpg_bench.PLUGIN", three_items := ThreeItems())
    return three_items


def write_grid(path: Path, first_count: int, side: int = 6, across: int = 2, down: int = 2) -> None:
    """Write one picture of tiles of one value each, counting from `first` row by row."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.arange(first_count, first_count + across * down, dtype=np.uint8).reshape(
        down, across
    )
    Image.fromarray(np.repeat(values.repeat(side, 0).repeat(side, 1)[..., None], 3, axis=2)).save(
        path
    )
