"""What one test leaves behind is no other test's failure, and every test that computes is in the passes of .ci/run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

TESTS = Path(__file__).parent / "helpers"
TWO = """
import gc


def test_fails_with_an_open_file(tmp_path):
    file = (tmp_path / "open").open("w")
    circle = [file]
    circle.append(circle)  # only the collector finds it
    assert not file


def test_neighbour():
    gc.collect()
"""


@pytest.mark.parametrize("isolated", [True, False])
def test_a_failed_test_does_not_fail_its_neighbour(tmp_path: Path, isolated: bool) -> None:
    """Without the hook the neighbour meets the open file; that is what the hook is for."""
    (tmp_path / "test_two.py").write_text(TWO)
    (tmp_path / "conftest.py").write_text("from isolation import pytest_runtest_makereport\n" if isolated else "")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", "--rootdir", str(tmp_path), str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": str(TESTS)}, capture_output=True, text=True, check=False)
    assert ("1 failed, 1 passed" if isolated else "2 failed") in done.stdout, done.stdout


def test_a_module_that_computes_is_numeric(request: pytest.FixtureRequest) -> None:
    assert np.float32 and request.node.get_closest_marker("numeric")
