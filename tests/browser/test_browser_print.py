"""Pages on paper: the words of every cell of every table are on it, whole, and nothing is cut."""

from __future__ import annotations

import html
import re
import subprocess
import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
from chromium import find_program, open_folds, open_page

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

A4 = (595, 842)  # points
MARGIN = 20  # points that stay free on all sides
WORD = re.compile(
    r'<word xMin="([\d.-]+)" yMin="([\d.-]+)" xMax="([\d.-]+)" yMax="([\d.-]+)">(.*?)</word>'
)
# The texts that paper shows: what is folded in print has no box. Those of a cell are words, by
# table, split where a line may break; in tables of facts a line may break anywhere.
TEXTS = """() => {
  const visibleTexts = element => {
    const texts = [];
    const walker = document.createTreeWalker(element, NodeFilter.SHOW_TEXT);
    for (let node = walker.nextNode(); node; node = walker.nextNode()) {
      if (node.parentElement.checkVisibility()) texts.push(node.textContent);
    }
    return texts;
  };
  const tables = [...document.querySelectorAll("table:not(.facts)")].map(table => ({
    title: table.caption.textContent.trim(),
    texts: [...table.querySelectorAll("th, td")].flatMap(visibleTexts),
  }));
  return { all: visibleTexts(document.body), tables };
}"""


def split_words(texts: Iterable[str]) -> Counter[str]:
    """Count the words of texts, split where a line may break."""
    return Counter(word for text in texts for word in re.split(r"[\s/-]+", text) if word)


def count_characters(texts: Iterable[str]) -> Counter[str]:
    """Count the characters of texts but spaces; a ligature is its letters."""
    return Counter("".join(unicodedata.normalize("NFKC", "".join(texts)).split()))


class PrintedPage(NamedTuple):
    """Size of a page in points, and its words with their boxes."""

    width: float
    height: float
    words: list[tuple[float, float, float, float, str]]


def print_pages(page: Page, folder: Path) -> list[PrintedPage]:
    """Print to PDF and read the words of each page."""
    program = find_program(("pdftotext",), "it is in Debian's poppler-utils")
    path = folder / "page.pdf"
    page.pdf(path=path, prefer_css_page_size=True)
    command = [program, "-bbox", str(path), "-"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    printed_pages = []
    for part in text.split("<page ")[1:]:
        width, height = re.findall(r'(?:width|height)="([\d.]+)"', part)[:2]
        words = [
            (*(float(number) for number in numbers), html.unescape(word))
            for *numbers, word in WORD.findall(part)
        ]
        printed_pages.append(PrintedPage(float(width), float(height), words))  # type: ignore[arg-type]
    return printed_pages


def assert_nothing_is_cut(page: Page, printed_pages: list[PrintedPage]) -> None:
    """Assert that each character of the page is printed, and the words of tables as words."""
    printed_texts = [word for sheet in printed_pages for *_, word in sheet.words]
    page.emulate_media(media="print")
    page_texts = page.evaluate(TEXTS)
    printed_words = split_words(printed_texts)
    for table in page_texts["tables"]:
        missing_words = split_words(table["texts"]) - printed_words
        assert missing_words == Counter(), table["title"]
    table_words = split_words(text for table in page_texts["tables"] for text in table["texts"])
    assert table_words and table_words - printed_words == Counter()
    missing_characters = count_characters(page_texts["all"]) - count_characters(printed_texts)
    assert missing_characters == Counter()


def assert_words_are_on_the_paper(printed_pages: list[PrintedPage]) -> None:
    for sheet in printed_pages:
        assert sorted((round(sheet.width), round(sheet.height))) == list(A4)
        for x_min, y_min, x_max, y_max, word in sheet.words:
            assert x_min >= MARGIN and x_max <= sheet.width - MARGIN, word
            assert y_min >= MARGIN and y_max <= sheet.height - MARGIN, word


@pytest.mark.parametrize("is_open", [False, True], ids=["folded", "open"])
@pytest.mark.parametrize("name", ["report", "leaderboard", "leaderboard, a run"])
def test_no_column_is_cut_on_paper(
    browser: Browser, pages: dict[str, Path], tmp_path: Path, name: str, is_open: bool
) -> None:
    with open_page(browser, pages[name]) as page:
        if is_open:
            open_folds(page)
        printed_pages = print_pages(page, tmp_path)
        assert_words_are_on_the_paper(printed_pages)
        assert_nothing_is_cut(page, printed_pages)


def test_hostile_texts_are_not_cut_on_paper(
    browser: Browser, pages: dict[str, Path], tmp_path: Path
) -> None:
    """Long words are broken there, so that their parts are searched for nowhere."""
    with open_page(browser, pages["hostile report"]) as page:
        open_folds(page)
        assert_words_are_on_the_paper(print_pages(page, tmp_path))


def test_a_cut_column_is_noticed(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text(
        "<!doctype html><style>@page { size: A4; } div { overflow: hidden; }</style><div><table>"
        f"<caption>x</caption><tr>{'<td>abcdefghijkl</td>' * 20}<td>last</td></tr></table></div>"
    )
    with open_page(browser, path) as page:
        printed_pages = print_pages(page, tmp_path)
        with pytest.raises(AssertionError):
            assert_nothing_is_cut(page, printed_pages)
