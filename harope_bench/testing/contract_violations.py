"""Collection of the violations of a contract."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from harope_bench.core.errors import BenchError, MissingAssetError, MissingExtraError

if TYPE_CHECKING:
    from torch import Tensor


PLAIN_NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class UncheckedContractError(MissingAssetError):
    """A contract of which some checks could not run, because something is missing."""


class ContractViolations:
    """Violations of one contract, so that an author sees all of them at once."""

    def __init__(self, subject: str):
        self.subject = subject
        self.messages: list[str] = []

    def expect(self, condition: object, message: str) -> None:
        """Add `message` unless the condition holds."""
        if not condition:
            self.messages.append(message)

    def add_violation(self, message: str) -> None:
        """Add the message of a violation that is already known."""
        self.messages.append(message)

    def run_checks(self, checks: Sequence[Callable[[], None]]) -> int:
        """Run every check and return their number.

        An exception in one is a violation, and the others still run; an equal one is not listed
        again. A check that lacks weights, prompts or an optional package is reported only where
        nothing is violated.

        Raises:
            AssertionError: It lists every violation.
            UncheckedContractError: Nothing is violated, and a check could not run.
        """
        missing: dict[str, BenchError] = {}
        listed_errors: set[str] = set()
        for check in checks:
            check_name = check.__name__.strip("_")
            try:
                check()
            except (MissingAssetError, MissingExtraError) as error:
                missing[check_name] = error
            except Exception as error:  # noqa: BLE001 - whatever a plug-in raises belongs in the list
                error_text = f"{type(error).__name__}: {error}"
                if error_text not in listed_errors:
                    self.messages.append(f"{check_name}: {error_text}")
                listed_errors.add(error_text)
        if self.messages:
            raise AssertionError(
                f"{self.subject} breaks its contract:\n"
                + "\n".join(f"- {message}" for message in self.messages)
            )
        if missing:
            first_error = next(iter(missing.values()))
            raise UncheckedContractError(
                f"{self.subject}: {len(checks) - len(missing)} of {len(checks)} checks hold,"
                f" {', '.join(missing)} could not run: {first_error.detail}",
                advice=first_error.advice,
            )
        return len(checks)


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
