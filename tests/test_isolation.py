"""One test does not depend on another, neither on what it leaves behind nor on its module; what
computes is in every pass of .ci/run.
"""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

TESTS = Path(__file__).parent
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


@pytest.mark.parametrize("is_isolated", [True, False])
def test_a_failed_test_does_not_fail_its_neighbour(tmp_path: Path, is_isolated: bool) -> None:
    """Without the hook the neighbour meets the open file; that is what the hook is for."""
    (tmp_path / "test_two.py").write_text(TWO)
    (tmp_path / "conftest.py").write_text(
        "from isolation import pytest_runtest_makereport\n" if is_isolated else ""
    )
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-W",
        "error",
        "--rootdir",
        str(tmp_path),
        str(tmp_path),
    ]
    process = subprocess.run(
        command,
        cwd=tmp_path,
        env={"PYTHONPATH": str(TESTS / "helpers")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ("1 failed, 1 passed" if is_isolated else "2 failed") in process.stdout, process.stdout


def test_a_module_that_computes_is_numeric(request: pytest.FixtureRequest) -> None:
    assert np.float32 and request.node.get_closest_marker("numeric")


def imported_names(path: Path) -> set[str]:
    """Return every part of the names that a module imports, also inside functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {part for alias in node.names for part in alias.name.split(".")}
        elif isinstance(node, ast.ImportFrom):
            names |= {*(node.module or "").split("."), *(alias.name for alias in node.names)}
    return names


def test_no_module_imports_a_module_of_tests() -> None:
    """What two of them need is in tests/helpers: each can be run, moved and read alone."""
    modules = sorted(TESTS.rglob("*.py"))
    of_tests = {
        path.stem for path in modules if path.stem.startswith("test_") or path.stem == "conftest"
    }
    wrong_entries = {
        str(path.relative_to(TESTS)): imported_names_result
        for path in modules
        if (imported_names_result := imported_names(path) & of_tests)
    }
    wrong_entries.pop(
        "hostile/test_guards.py"
    )  # it runs the rows of the other tables, each without the guard that it needs
    assert len(of_tests) > 90 and wrong_entries == {}


def test_the_search_for_imports_sees_every_form(tmp_path: Path) -> None:
    (tmp_path / "x.py").write_text(
        "import a.b as c\nfrom d.e import f as g\ndef h():\n    from . import i\n    import j, k\n"
    )
    assert imported_names(tmp_path / "x.py") == {"a", "b", "d", "e", "f", "", "i", "j", "k"}


def test_helpers_are_the_only_folder_that_tests_are_given() -> None:
    """A second one would let a module of tests be imported again."""
    document = tomllib.loads((TESTS.parent / "pyproject.toml").read_text())
    assert document["tool"]["pytest"]["ini_options"]["pythonpath"] == ["tests/helpers"]
