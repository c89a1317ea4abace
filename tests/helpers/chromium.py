"""The system's Chromium, driven by Playwright: pages that reach no network and hide no error."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Dialog, Page, Request

VARIABLE = "HAROPE_BENCH_CHROMIUM"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
LOCAL_SCHEMES = ("file:", "data:", "about:")
SCREEN = {"width": 1400, "height": 900}
PHONE = {"width": 400, "height": 800}


def skip_or_fail(reason: str) -> None:
    """Skip the test; fail where a browser is promised: in CI, or by the variable."""
    if os.environ.get("CI") or os.environ.get(VARIABLE):
        pytest.fail(reason)
    pytest.skip(reason)


def find_program(names: tuple[str, ...], advice: str) -> str:
    """Return the path of the first program that is installed, or skip or fail."""
    path = next((path for name in names if (path := shutil.which(name))), None)
    if path is None:
        skip_or_fail(f"{names[0]} is not installed; {advice}")
    assert path is not None
    return path


def find_chromium() -> str:
    """Return the path of Chromium, or skip or fail."""
    named_path = os.environ.get(VARIABLE)
    names = (named_path,) if named_path else NAMES
    return find_program(names, f"install chromium or set {VARIABLE} to its path")


@contextmanager
def launch_chromium() -> Iterator[Browser]:
    """Start the browser without a window. Playwright's own flags turn the sandbox off, so that it
    starts as root too.
    """
    path = find_chromium()
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        skip_or_fail("playwright is not installed; pip install 'harope-bench[browser]'")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path)
        yield browser
        browser.close()


@contextmanager
def open_page(browser: Browser, path: Path, fragment: str = "", **options: Any) -> Iterator[Page]:
    """Open a file in a fresh profile; at the end, assert that it asked for nothing from outside,
    that no text of it ran, and that the browser reported no error.
    """
    problems: list[str] = []

    def check_request(request: Request) -> None:
        if not request.url.startswith(LOCAL_SCHEMES):
            problems.append(f"request of {request.url}")

    def dismiss_dialog(dialog: Dialog) -> None:
        problems.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    context = browser.new_context(
        **{"viewport": SCREEN, "reduced_motion": "reduce", "offline": True, **options}
    )
    context.set_default_timeout(10_000)
    page = context.new_page()
    page.on("request", check_request)
    page.on("console", lambda message: problems.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: problems.append(f"error: {error}"))
    page.on("dialog", dismiss_dialog)
    page.goto(path.absolute().as_uri() + fragment)
    try:
        yield page
        assert page.evaluate("window.wasRun ?? ''") == "", "a text from outside ran"
        assert problems == []
    finally:
        context.close()


def open_folds(page: Page) -> None:
    """Open everything that is folded."""
    page.evaluate("for (const fold of document.querySelectorAll('details')) fold.open = true")
