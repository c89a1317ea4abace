"""What `verify` finds: a status for each check, told apart so that "altered" is never said of what
could not be checked.
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

CAUSES = "altered, or other hardware, threads or library versions"  # of a difference
Status = Literal["ok", "altered", "could-not-check"]


class NotCheckedError(BenchError):
    """What a check needs is not here: images, a reference, or the version that made a result."""


# Something that is needed for the check is not here; of the files in question this says nothing.
ABSENCE_ERRORS = (
    NotCheckedError,
    DiskError,
    WeightsError,
    JudgeError,
    MissingExtraError,
    UnknownNameError,
)


class Check(NamedTuple):
    """One check: its status, the file or thing it is of, and a sentence that stands alone."""

    status: Status
    subject: str
    message: str


@dataclass
class Findings:
    """Every check of one call, in order."""

    checks: list[Check] = field(default_factory=list)

    def add(self, status: Status, what: object, *messages: str) -> None:
        """Add a check of one status for each message."""
        self.checks += [Check(status, str(what), message) for message in messages]

    def messages(self, status: Status) -> list[str]:
        """Return the messages of one status."""
        return [check.message for check in self.checks if check.status == status]

    @property
    def passed_messages(self) -> list[str]:
        """What was checked and is as recorded, in words."""
        return self.messages("ok")

    @property
    def altered_messages(self) -> list[str]:
        """What was altered."""
        return self.messages("altered")

    @property
    def unchecked_messages(self) -> list[str]:
        """What could not be checked, and why."""
        return self.messages("could-not-check")

    @property
    def status(self) -> Status:
        """The worst of all: altered, then could-not-check."""
        return (
            "altered"
            if self.altered_messages
            else "could-not-check"
            if self.unchecked_messages
            else "ok"
        )

    def merge(self, others: Iterable[Check]) -> None:
        """Add the checks of another part."""
        self.checks += others


def status_of(error: BenchError, is_vouched: bool) -> Status:
    """Return what an error during a check means for what is checked.

    Args:
        is_vouched: The files in question are as they were recorded, so that an error is of what is
            needed to check them.
    """
    if isinstance(error, AlteredFileError):
        return "altered"
    return "could-not-check" if is_vouched or isinstance(error, ABSENCE_ERRORS) else "altered"
