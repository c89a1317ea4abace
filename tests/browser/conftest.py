"""A browser, and the pages that are opened in it; both are made once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import browser_runs
import pytest
from chromium import launch_chromium

from harope_bench.reports.leaderboard_pages import write_leaderboard
from harope_bench.reports.report_page import write_report

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """The system's Chromium."""
    with launch_chromium() as started_browser:
        yield started_browser


@pytest.fixture(scope="package")
def pages(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A report and a leaderboard of every kind of run, and the same of runs whose texts attack the
    page, by name.
    """
    folder = tmp_path_factory.mktemp("browser")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HAROPE_BENCH_HOME", str(folder / "home"))
        browser_runs.write_every_run(folder / "runs", folder / "home")
        browser_runs.write_hostile_runs(folder / "hostile")
        paths = {
            "report": write_report(folder / "runs", folder / "report.html", tables=["2"]),
            "report again": write_report(folder / "runs", folder / "again.html", tables=["2"]),
            "hostile report": write_report(folder / "hostile", folder / "hostile.html"),
        }
        for name, runs in (("leaderboard", "runs"), ("hostile leaderboard", "hostile")):
            index, *run_pages = write_leaderboard(folder / runs, folder / name)
            paths |= {name: index, f"{name}, a run": run_pages[-1]}
    return paths


@pytest.fixture
def report(pages: dict[str, Path]) -> Path:
    """The report of every kind of run."""
    return pages["report"]
