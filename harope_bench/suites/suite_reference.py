"""The reference file of a suite for a judge, and the command that makes one that is missing."""

from __future__ import annotations

from pathlib import Path

from harope_bench.core.errors import MissingAssetError, OptionError, StorageError
from harope_bench.suites.base import ReferenceFile, Suite


def reference_command(judge: str, side: int, path: Path | str) -> str:
    """Return the command that makes a reference from images cropped to a side of `side` pixels."""
    return f"harope-bench reference IMAGES {path} --judge {judge} --crop {side}"


def making_advice(judge: str, side: int) -> str:
    """Return the command that makes a reference of this side, and the option that uses it."""
    path = f"{judge}.npz"
    return (
        f"make one from real images, `{reference_command(judge, side, path)}`, and give --reference"
        f" {path}"
    )


def find_suite_reference(suite: Suite, judge: str) -> ReferenceFile | None:
    """Return the reference that a suite names for a judge; None where it names none.

    Raises:
        MissingAssetError: The file that the suite names is missing; the message has the command
            that writes it where the suite finds it.
        WeightsError: The sha256 of the file differs.
    """
    try:
        reference = suite.reference(judge)
    except (OSError, StorageError) as error:
        # A plug-in may hash its file without looking for it; its path is in the system's error.
        system_error = error if isinstance(error, OSError) else error.__cause__
        if not isinstance(system_error, FileNotFoundError):
            raise
        path = Path(system_error.filename or "FILE.npz")
        raise _missing_file_error(suite, judge, path) from error
    if reference is not None and not reference.path.is_file():
        raise _missing_file_error(suite, judge, reference.path)
    return reference


def require_suite_reference(suite: Suite, judge: str, side: int | None = None) -> ReferenceFile:
    """Return the reference that a suite names for a judge.

    Args:
        side: Side of the samples in pixels, for the command in the message; None: the suite's.

    Raises:
        OptionError: It names none; the message has the command that makes one.
        MissingAssetError, WeightsError: See `find_suite_reference`.
    """
    reference = find_suite_reference(suite, judge)
    if reference is None:
        raise OptionError(
            f"the suite has no reference for {judge} ({suite.title})",
            advice=making_advice(judge, side or suite.resolution),
        )
    return reference


def _missing_file_error(suite: Suite, judge: str, path: Path) -> MissingAssetError:
    return MissingAssetError(
        f"reference {path} of the suite for {judge} is missing ({suite.title})",
        advice=(
            f"{reference_command(judge, suite.resolution, path)} (the suite finds it there), or"
            " give --reference FILE"
        ),
    )
