"""Pages in a browser: nothing from outside is loaded or run, and everything can be read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from browser_runs import A_SCORES, LONG_WORD
from chromium import PHONE, SCREEN, open_folds, open_page

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

PAGES = (
    "report",
    "hostile report",
    "leaderboard",
    "leaderboard, a run",
    "hostile leaderboard",
    "hostile leaderboard, a run",
)
TURNING_CHARACTERS = set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f")
# Texts that leave the window and that no part of the page scrolls to.
OUTSIDE = """() => {
  const scrolls = node => {
    for (let parent = node.parentElement; parent !== document.body; parent = parent.parentElement) {
      if (getComputedStyle(parent).overflowX !== "visible") return true;
    }
    return false;
  };
  const texts = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const range = document.createRange();
    range.selectNodeContents(node);
    if (range.getBoundingClientRect().right > innerWidth + 1 && !scrolls(node)) {
      texts.push(node.textContent.slice(0, 60));
    }
  }
  return texts;
}"""
# Controls and headings of controls that are shown but do nothing without scripts.
SHOWN_CONTROLS = """() => [...document.querySelectorAll(
  "button, select, .copy, .gallery-tools, .gallery-keys, dialog, [role=button]")]
  .filter(element => element.checkVisibility()).map(element => element.outerHTML.slice(0, 80))"""


def page_width(page: Page) -> int:
    return int(page.evaluate("document.documentElement.scrollWidth"))


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("viewport", [SCREEN, PHONE], ids=["screen", "phone"])
def test_a_page_asks_for_nothing_and_is_no_wider_than_its_window(
    browser: Browser, pages: dict[str, Path], name: str, viewport: dict[str, int]
) -> None:
    """open_page asserts that nothing is requested, reported or run."""
    with open_page(browser, pages[name], viewport=viewport) as page:
        assert page_width(page) == viewport["width"]
        open_folds(page)
        assert page_width(page) == viewport["width"]
        assert page.evaluate(OUTSIDE) == []
        page.mouse.wheel(0, 10_000)


def test_a_page_that_asks_for_something_is_noticed(browser: Browser, tmp_path: Path) -> None:
    """The check of open_page can fail."""
    path = tmp_path / "page.html"
    for text in (
        "<img src=http://127.0.0.1:9/x.png>",
        "<script>window.wasRun = 1</script>",
        "<script>fail()</script>",
        "<meta http-equiv=Content-Security-Policy content=\"img-src 'none'\"><img src=x>",
    ):
        path.write_text(f"<!doctype html>{text}")
        with pytest.raises(AssertionError), open_page(browser, path) as page:
            page.wait_for_load_state()


def test_texts_from_outside_are_shown_as_they_are(browser: Browser, pages: dict[str, Path]) -> None:
    with open_page(browser, pages["hostile report"]) as page:
        open_folds(page)
        prompt = page.locator(".entry .prompt").first.inner_text()
        assert "<script>window.wasRun = 'script'</script>" in prompt and LONG_WORD in prompt
        task = page.locator(".outcomes tbody th").first.inner_text()
        assert task.startswith("colours\"><script>window.wasRun = 'task'</script>")
        assert page.locator("script").count() == 1 and page.locator("iframe, base").count() == 0
        for element in page.locator("main summary, main article").all()[:12]:
            element.hover()


def test_characters_that_turn_text_around_are_left_out(
    browser: Browser, pages: dict[str, Path]
) -> None:
    with open_page(browser, pages["hostile report"]) as page:
        text = page.evaluate("document.documentElement.textContent")
        assert "reversed" in text and "\u05e9" in text
        assert not TURNING_CHARACTERS & set(text)


def test_without_scripts_everything_is_a_plain_list(browser: Browser, report: Path) -> None:
    with open_page(browser, report, java_script_enabled=False) as page:
        # evaluate works, since it is the debugger that runs it
        assert page.evaluate(SHOWN_CONTROLS) == []
        open_folds(page)
        assert page.evaluate(SHOWN_CONTROLS) == []
        entries = page.locator("#gallery-shapes-32-px-geneval .entry")
        assert entries.count() == len(A_SCORES)
        assert all(entry.is_visible() for entry in entries.all())
        text = page.locator("main").inner_text()
        for words in ("expected 3 benches, found 2", "red bench 0.90", "HARoPE", "Run card"):
            assert words in text
        # what needs no script works: columns are hidden by a rule of the style
        published = page.locator("td.published").first
        assert published.is_visible()
        page.locator(".toggle-published").first.uncheck()
        assert not published.is_visible()


def test_equal_runs_give_equal_bytes(pages: dict[str, Path]) -> None:
    assert pages["report"].read_bytes() == pages["report again"].read_bytes()


def test_the_dark_page_is_dark(browser: Browser, pages: dict[str, Path]) -> None:
    for name in ("report", "leaderboard"):
        with open_page(browser, pages[name], color_scheme="dark") as page:
            background = page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert background == "rgb(21, 23, 26)"
