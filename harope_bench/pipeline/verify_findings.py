"""Findings of `verify`: a status and a message for each check.

What could not be checked is never reported as altered.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from harope_bench.core.errors import (
    AlteredFileError,
    BenchError,
    DiskError,
    JudgeError,
    MissingExtraError,
    UnknownNameError,
    WeightsError,
)

# causes of a difference between stored features or images and new ones, for messages
LIKELY_CAUSES = "altered, or other hardware, threads or library versions"
Status = Literal["ok", "altered", "could-not-check"]


class NotCheckedError(BenchError):
    """Something that a check needs is missing: images, a reference, or a package version."""


# Errors about missing prerequisites of a check. They say nothing about the checked files.
ABSENCE_ERRORS = (
    NotCheckedError,
    DiskError,
    WeightsError,
    JudgeError,
    MissingExtraError,
    UnknownNameError,
)


class Check(NamedTuple):
    """One check: its status, the checked file or folder, and a complete sentence."""

    status: Status
    subject: str
    message: str


@dataclass
class Findings:
    """All checks of one verification, in order."""

    checks: list[Check] = field(default_factory=list)

    def add(self, status: Status, subject: object, *messages: str) -> None:
        """Add a check of one status for each message."""
        self.checks += [Check(status, str(subject), message) for message in messages]

    def messages(self, status: Status) -> list[str]:
        """Return the messages of one status."""
        return [check.message for check in self.checks if check.status == status]

    @property
    def passed_messages(self) -> list[str]:
        """Return what was checked and is as recorded."""
        return self.messages("ok")

    @property
    def altered_messages(self) -> list[str]:
        """Return what was altered."""
        return self.messages("altered")

    @property
    def unchecked_messages(self) -> list[str]:
        """Return what could not be checked, and why."""
        return self.messages("could-not-check")

    @property
    def status(self) -> Status:
        """Return the worst status of all checks: altered before could-not-check before ok."""
        if self.altered_messages:
            return "altered"
        return "could-not-check" if self.unchecked_messages else "ok"

    def merge(self, checks: Iterable[Check]) -> None:
        """Add the checks of another part."""
        self.checks += checks


def status_of(error: BenchError, is_intact: bool) -> Status:
    """Return the status that an error during a check gives to the checked files.

    Args:
        is_intact: The checked files have their recorded hashes, so the error is about something
            else that the check needs.
    """
    if isinstance(error, AlteredFileError):
        return "altered"
    return "could-not-check" if is_intact or isinstance(error, ABSENCE_ERRORS) else "altered"
