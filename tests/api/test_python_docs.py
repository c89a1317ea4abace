"""Every block of docs/guides/python.md and of the README, and every cell of the notebook, runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from doc_blocks import read_blocks

ROOT = Path(__file__).parents[2]
GUIDES = ROOT / "docs/guides"
pytestmark = pytest.mark.skipif(
    not (GUIDES / "python.md").exists(), reason="the documents are not beside the tests"
)

# The runner executes blocks in one namespace and prints a notebook's display of each last value.
RUNNER = """
import ast, json, sys
namespace = {"__name__": "__main__"}
for number, block in enumerate(json.load(sys.stdin)):
    tree = ast.parse(block)
    value = None
    last = tree.body[-1] if isinstance(tree.body[-1], ast.Expr) else None
    if last is not None:
        tree.body.pop()
    exec(compile(tree, f"block {number}", "exec"), namespace)
    if last is not None:
        value = eval(compile(ast.Expression(last.value), f"block {number}", "eval"), namespace)
    print("block", number, "html", hasattr(value, "_repr_html_") and len(value._repr_html_()))
"""


def python_blocks(page: Path) -> list[str]:
    blocks = [block for block in read_blocks(page) if block.language == "python"]
    return [block.text for block in blocks if not block.reason]


def run_blocks(blocks: list[str], folder: Path) -> str:
    """Run blocks in order in a process of their own; return what they print."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", RUNNER],
        input=json.dumps(blocks),
        capture_output=True,
        text=True,
        cwd=folder,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_block_of_the_page_runs(tmp_path: Path) -> None:
    pytest.importorskip("pandas", reason="needs pip install 'harope-bench[frames]'")
    blocks = python_blocks(GUIDES / "python.md")
    assert len(blocks) == 6
    output = run_blocks(blocks, tmp_path)
    assert "'precision': '" in output
    assert "My model" in output


def test_the_block_of_the_readme_runs(tmp_path: Path) -> None:
    (block,) = python_blocks(ROOT / "README.md")
    assert len([line for line in block.splitlines() if line]) <= 10
    run_blocks([block], tmp_path)


def test_the_notebook_is_valid_and_runs_in_order(tmp_path: Path) -> None:
    pytest.importorskip("pandas", reason="needs pip install 'harope-bench[frames]'")
    notebook = json.loads((GUIDES / "example.ipynb").read_text())
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids)
    for cell in notebook["cells"]:
        is_code = cell["cell_type"] == "code"
        assert set(cell) == {"cell_type", "id", "metadata", "source"} | (
            {"execution_count", "outputs"} if is_code else set()
        )
        assert not cell.get("outputs"), "clear the outputs before committing"

    blocks = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]
    output = run_blocks(blocks, tmp_path)
    assert output.count("html False") == 0, "each code cell ends with something to show"
