"""The figure of the metrics page: its numbers are those that its script computes."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks/fid_by_resize.py"
pytestmark = pytest.mark.skipif(not SCRIPT.exists(), reason="needs the repository")


def test_the_page_shows_the_values_of_the_script(monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("cleanfid", "cv2", "torch", "torch_fidelity"):
        pytest.importorskip(package)
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    spec = importlib.util.spec_from_file_location("resize_script", SCRIPT)
    assert spec is not None and spec.loader is not None
    fid_by_resize = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fid_by_resize)

    values = {value.tool.name: value.fid for value in fid_by_resize.measure_tools()}
    page = (ROOT / "docs/reference/metrics.md").read_text()
    rows = re.findall(r"^\| ([^|]+) \| ([\d.]+) \| ", page, re.M)
    assert {name: float(text) for name, text in rows} == pytest.approx(values, abs=0.02)
    figure = fid_by_resize.FIGURE.read_text()
    assert [name for name, text in rows if f">{text}" not in figure] == []
    assert max(values.values()) > 1.3 * min(values.values())
