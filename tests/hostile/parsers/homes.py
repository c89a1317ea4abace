"""Homes of the user that parsers read: one for each example, and one with the prompts of the
benchmarks.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harope_bench.core import registry

PROMPT_HOME = Path()  # the test writes the prompts once and says where


def at_home(folder: Path) -> None:
    """Make a folder the user's home; the fixture `bench_home` restores the one before."""
    os.environ["HAROPE_BENCH_HOME"] = str(folder)


def with_home(read: Callable[[Path], object]) -> Callable[[Path], object]:
    """Return a reader whose folder is the home, too."""

    def reading(folder: Path) -> object:
        at_home(folder)
        return read(folder)

    return reading


def suite(name: str) -> Any:
    """Load a suite of prompts from the home that has them."""
    at_home(PROMPT_HOME)
    return registry.load_by_name("suites", name)
