"""Collecting what does not hold."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class Complaints:
    """Collects what does not hold, so that an author sees all of it at once."""

    def __init__(self, what: str):
        self.what = what
        self.lines: list[str] = []

    def expect(self, holds: object, line: str) -> None:
        """Notes `line` unless it holds."""
        if not holds:
            self.lines.append(line)

    def run(self, promises: Iterable[Callable[[], None]]) -> None:
        """Runs every promise; one that crashes is a complaint, not the end.

        Raises:
            AssertionError: listing every complaint.
        """
        for promise in promises:
            try:
                promise()
            except Exception as error:  # noqa: BLE001 - whatever a plug-in raises belongs in the list
                self.lines.append(f"{promise.__name__.strip('_')}: {type(error).__name__}: {error}")
        if self.lines:
            raise AssertionError(f"{self.what} breaks its contract:\n" + "\n".join(f"- {line}" for line in self.lines))


def gap(found: Tensor, wanted: Tensor) -> float:
    """Largest difference as a share of the largest wanted magnitude; infinite where shapes differ or something is not finite."""
    if found.shape != wanted.shape or not (found.isfinite().all() and wanted.isfinite().all()):
        return math.inf
    found, wanted = found.detach().double(), wanted.detach().double()
    return float((found - wanted).abs().max() / wanted.abs().max().clamp(min=1e-12))
