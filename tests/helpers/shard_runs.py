"""Runs of shards from the command line, and the files that they leave."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner, Result

from harope_bench.cli import main


def call(*words: object, exit_code: int = 0) -> Result:
    command_result = CliRunner().invoke(main, [str(word) for word in words])
    assert command_result.exit_code == exit_code, command_result.output
    return command_result


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a run; results without their provenance, and so without hashes of them."""
    files = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_file() and name != "results/SHA256SUMS":
            files[name] = path.read_bytes()
            if path.parent.name == "results" and path.suffix == ".json":
                files[name] = json.dumps({**json.loads(files[name]), "provenance": 0}).encode()
    return files
