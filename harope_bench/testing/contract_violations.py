"""Collecting what does not hold."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


PLAIN_NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class ContractViolations:
    """Collects what does not hold, so that an author sees all of it at once."""

    def __init__(self, what: str):
        self.subject = what
        self.messages: list[str] = []

    def expect(self, holds: object, line: str) -> None:
        """Notes `line` unless it holds."""
        if not holds:
            self.messages.append(line)

    def run_checks(self, promises: Iterable[Callable[[], None]]) -> None:
        """Runs every promise; one that crashes is a complaint, not the end.

        Raises:
            AssertionError: listing every complaint.
        """
        for promise in promises:
            try:
                promise()
            except Exception as error:  # noqa: BLE001 - whatever a plug-in raises belongs in the list
                self.messages.append(
                    f"{promise.__name__.strip('_')}: {type(error).__name__}: {error}"
                )
        if self.messages:
            raise AssertionError(
                f"{self.subject} breaks its contract:\n"
                + "\n".join(f"- {line}" for line in self.messages)
            )


def relative_difference(actual: Tensor, expected: Tensor) -> float:
    """Largest difference as a share of the largest wanted magnitude; infinite where shapes differ
    or something is not finite.
    """
    if actual.shape != expected.shape or not (
        actual.isfinite().all() and expected.isfinite().all()
    ):
        return math.inf
    actual = actual.detach().double()
    expected = expected.detach().double()
    return float((actual - expected).abs().max() / expected.abs().max().clamp(min=1e-12))
