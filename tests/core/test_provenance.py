"""Who made a record, with what."""

import subprocess
from pathlib import Path

import pytest

from harope_bench.core.provenance import make_provenance, utc_now

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="this copy of the source has no history")
def test_a_record_made_in_a_checkout_names_its_commit() -> None:
    command = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    commit = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    record = make_provenance(utc_now(), "cpu")
    assert record.commit == commit
    assert record.dirty in (True, False)
