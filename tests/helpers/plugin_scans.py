"""The search for the package's own plug-ins, done once: it takes a hundredth of a second, a hundred
times in a small run.
"""

from __future__ import annotations

from functools import cache

import pytest

from harope_bench.core import registry


def cache_scans(patch: pytest.MonkeyPatch) -> None:
    """List the package's own plug-ins of each kind once, until `patch` is undone; no test here adds
    one.
    """
    patch.setattr(registry, "_built_in_entries", cache(registry._built_in_entries))


@pytest.fixture(autouse=True)
def cached_scans(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plug-ins are listed once in each test of a module that imports this fixture."""
    cache_scans(monkeypatch)
