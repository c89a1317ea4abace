"""The script for a GPU runs: on the CPU with small networks, which says nothing about a GPU."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import tiny_pipelines

from harope_bench.pipeline.gpu_rates import load_rates

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu_check.py"


def test_small_checks_run_and_write_rates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_pipelines.needs_t2i()
    spec = importlib.util.spec_from_file_location("gpu_check", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    gpu_check = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "gpu_check", gpu_check)
    monkeypatch.setattr(sys, "path", [*sys.path])
    spec.loader.exec_module(gpu_check)

    path = tmp_path / "gpu.json"
    arguments = ["--small", "--device", "cpu", "--checks", "equal,dit,harope,flux"]
    monkeypatch.setattr(sys, "argv", ["gpu_check.py", *arguments, "--out", str(path)])
    gpu_check.main()

    contents = json.loads(path.read_text())
    rows = {name: value for name, value, _ in contents["rows"]}
    assert rows["equal images, batch"] == rows["equal images, parts"] == "24 of 24"
    assert not [value for value in rows.values() if value.startswith(("failed", "left out"))]
    assert sum(name.startswith("DiT-B/2") for name in rows) == 6
    assert sum(name.startswith("FLUX step") for name in rows) == 3
    rates = load_rates(path)
    assert rates.generation_seconds("dit", 256, 250, "bfloat16") != 0.066
    assert "| FLUX step, 2048 px |" in capsys.readouterr().out


def test_a_check_without_time_left_is_left_out() -> None:
    spec = importlib.util.spec_from_file_location("gpu_check", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    gpu_check = importlib.util.module_from_spec(spec)
    sys.modules["gpu_check"] = gpu_check
    try:
        spec.loader.exec_module(gpu_check)
    finally:
        del sys.modules["gpu_check"]
    check = gpu_check.Check("cpu", is_small=False, seconds=1.0)
    gpu_check.run_checks(check, ["flux"])
    assert check.rows == [("flux", "left out, 1 s are left", "")]
