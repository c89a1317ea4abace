"""axe-core finds nothing, with everything unfolded, in light, in dark and on a telephone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from chromium import PHONE, SCREEN, open_folds, open_page, skip_or_fail

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

# Contrast where the colour behind a text is not known to axe: texts of an SVG, and texts that a
# part which scrolls cuts off. tests/reports/test_reports.py computes it from the palettes.
UNDECIDED_RULES = {"color-contrast"}
PAGES = ("report", "leaderboard", "leaderboard, a run")


def axe_script() -> str:
    """Return the text of axe-core, or skip or fail."""
    try:
        from axe_playwright_python.base import AXE_SCRIPT
    except ImportError:
        skip_or_fail("axe-core is not installed; pip install 'harope-bench[browser]'")
    return str(AXE_SCRIPT)


def find_problems(page: Page, **options: Any) -> list[str]:
    """Return what axe-core finds, and what it cannot decide, as lines of rule and element."""
    page.evaluate(axe_script())
    options["resultTypes"] = ["violations", "incomplete"]
    answer = page.evaluate("options => axe.run(document, options)", options)
    assert answer["passes"], "something was checked"
    problems = [
        *answer["violations"],
        *(problem for problem in answer["incomplete"] if problem["id"] not in UNDECIDED_RULES),
    ]
    return [
        f"{problem['id']}: {node['html'][:150]}"
        for problem in problems
        for node in problem["nodes"]
    ]


def test_axe_finds_what_is_wrong(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text('<!doctype html><p style="color: #bbb; background: #fff">faint</p>')
    with open_page(browser, path) as page:
        rules = {problem.partition(":")[0] for problem in find_problems(page)}
    assert {"color-contrast", "document-title", "html-has-lang"} <= rules


@pytest.mark.parametrize("name", PAGES)
def test_axe_finds_nothing(browser: Browser, pages: dict[str, Path], name: str) -> None:
    with open_page(browser, pages[name], viewport=SCREEN) as page:
        open_folds(page)
        assert find_problems(page) == []


@pytest.mark.parametrize("name", PAGES)
def test_axe_finds_contrast_in_the_dark(
    browser: Browser, pages: dict[str, Path], name: str
) -> None:
    """Colours are all that differs there."""
    with open_page(browser, pages[name], color_scheme="dark") as page:
        open_folds(page)
        assert find_problems(page, runOnly=["color-contrast"]) == []


@pytest.mark.parametrize("name", [*PAGES, "hostile report"])
def test_axe_finds_nothing_on_a_telephone(
    browser: Browser, pages: dict[str, Path], name: str
) -> None:
    """Colours do not depend on the width."""
    with open_page(browser, pages[name], viewport=PHONE) as page:
        open_folds(page)
        assert find_problems(page, rules={"color-contrast": {"enabled": False}}) == []
