"""A failed test cannot fail its neighbours: what its frames hold is let go before the next test
begins.
"""

from __future__ import annotations

import gc
import traceback
import warnings
from collections.abc import Generator

import pytest


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Clear the frames of a failure once its report is made.

    A traceback keeps the local variables of every frame, and with them open files; collected during
    a later test, they would warn
    there, and a warning is an error here. Under --pdb the frames stay, since somebody wants to look
    at them.
    """
    report = yield
    if call.excinfo is not None and report.failed and not item.config.getoption("usepdb"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            _clear_frames(call.excinfo.value)
            gc.collect()
    return report


def _clear_frames(error: BaseException | None) -> None:
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        for frame, _ in traceback.walk_tb(error.__traceback__):
            _ = (
                frame.f_locals
            )  # the report's copy of the variables, which this brings up to date: they are gone
        error = error.__cause__ or error.__context__
