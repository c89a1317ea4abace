"""Check that the samples of a run are those that its suite requests now."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from harope_bench.core.errors import MissingAssetError, OptionError, PlanMismatchError
from harope_bench.core.schema import Plan, Request, SampleRecord
from harope_bench.suites.base import load_suite


def check_stored_requests(plan: Plan, folder: Path, records: Mapping[int, SampleRecord]) -> None:
    """Raise PlanMismatchError if the suite requests other labels or prompts than were generated.

    Requests of another version of the suite, or whose prompts are not fetched, are not compared.

    Args:
        plan: Plan of the run.
        folder: The run folder, for the message.
        records: Records of the stored samples, by index.
    """
    suite = load_suite(plan.suite)
    if suite.version != plan.suite_version or not records:
        return
    try:
        requests = suite.requests(sorted(records), plan.settings)
    except MissingAssetError:
        return
    except OptionError as error:
        raise _changed_suite_error(plan, folder, str(error)) from error

    for request in requests:
        record = records[request.index]
        if (record.label, record.prompt) != (request.label, request.prompt):
            raise _changed_suite_error(
                plan,
                folder,
                f"sample {request.index} has {_request_text(record)}, the suite requests"
                f" {_request_text(request)}",
            )


def _changed_suite_error(plan: Plan, folder: Path, difference: str) -> PlanMismatchError:
    return PlanMismatchError(
        f"{folder} holds other requests than those of suite {plan.suite}, version"
        f" {plan.suite_version} ({difference}); raise the version of the suite and choose another"
        " --out"
    )


def _request_text(request: Request | SampleRecord) -> str:
    """Return the label or the prompt of a request as text."""
    if request.prompt is not None:
        return f"prompt {request.prompt!r}"
    return "no label" if request.label is None else f"label {request.label}"
