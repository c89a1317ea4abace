"""Collection of the violations of a contract."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


PLAIN_NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class ContractViolations:
    """Violations of one contract, so that an author sees all of them at once."""

    def __init__(self, subject: str):
        self.subject = subject
        self.messages: list[str] = []

    def expect(self, condition: object, message: str) -> None:
        """Add `message` unless the condition holds."""
        if not condition:
            self.messages.append(message)

    def run_checks(self, checks: Iterable[Callable[[], None]]) -> None:
        """Run every check; an exception in one is a violation, and the others still run.

        Raises:
            AssertionError: It lists every violation.
        """
        for check in checks:
            try:
                check()
            except Exception as error:  # noqa: BLE001 - whatever a plug-in raises belongs in the list
                check_name = check.__name__.strip("_")
                self.messages.append(f"{check_name}: {type(error).__name__}: {error}")
        if self.messages:
            raise AssertionError(
                f"{self.subject} breaks its contract:\n"
                + "\n".join(f"- {message}" for message in self.messages)
            )


def relative_difference(output: Tensor, expected: Tensor) -> float:
    """Return max |output - expected| / max |expected|.

    Infinite where shapes differ or a value is not finite.
    """
    if output.shape != expected.shape or not (
        output.isfinite().all() and expected.isfinite().all()
    ):
        return math.inf
    output = output.detach().double()
    expected = expected.detach().double()
    return float((output - expected).abs().max() / expected.abs().max().clamp(min=1e-12))
