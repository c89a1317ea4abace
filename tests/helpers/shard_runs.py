"""Runs of shards from the command line, and the files that they leave."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny
from click.testing import CliRunner, Result

from harope_bench.cli import main
from harope_bench.judges.base import load_feature_extractor

BATCH = 10  # images that the judge of `tiny_name` takes at once


@pytest.fixture
def tiny_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A tiny checkpoint; its judge takes small batches, so that shards hold whole ones."""
    monkeypatch.setattr(type(load_feature_extractor("digits-net")), "batch_size", BATCH)
    return tiny.register_tiny(tmp_path / "weights")


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
