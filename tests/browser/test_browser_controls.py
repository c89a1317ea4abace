"""Controls of the report in a browser: sort, filter, keys, folds, copies and links to one pair."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from chromium import PHONE, SCREEN, open_folds, open_page

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

GROUP = "gallery-shapes-32-px-geneval"
WRONG_ENTRIES = {"": 8, "A": 1, "B": 1, "AB": 1}


def column_texts(table: Locator, column: int) -> list[str]:
    """The texts of a column in the order shown."""
    cells = table.locator(f"tbody tr > :nth-child({column})")
    return [text.strip() for text in cells.all_inner_texts()]


def visible_entries(page: Page) -> list[str]:
    """The ids of the entries that a filter leaves."""
    entries = page.locator(f"#{GROUP} .entry").all()
    return [entry.get_attribute("id") or "" for entry in entries if entry.is_visible()]


def focus_id(page: Page) -> str:
    return str(page.evaluate("document.activeElement.id"))


# ------------------------------------------------------------------------------ sort


def test_a_header_sorts_its_column_and_says_so(browser: Browser, report: Path) -> None:
    with open_page(browser, report) as page:
        table = page.locator(".first-table table.board")
        header = table.locator("th.measured", has_text="FID")
        column = 7  # run, paper's row, four published numbers, FID
        header.get_by_role("button").click()
        assert header.get_attribute("aria-sort") == "ascending"
        values = [float(text.split()[0]) for text in column_texts(table, column) if "±" in text]
        assert len(values) == 3 and values == sorted(values)
        header.get_by_role("button").press("Enter")
        assert header.get_attribute("aria-sort") == "descending"
        texts = column_texts(table, column)
        assert [float(text.split()[0]) for text in texts[:3]] == values[::-1]
        assert not any("±" in text for text in texts[3:]), "rows without a number stay last"
        table.locator("th.measured", has_text="Recall").get_by_role("button").click()
        assert table.locator("th[aria-sort]").count() == 1


def test_thousands_and_minus_signs_are_numbers(browser: Browser, report: Path) -> None:
    with open_page(browser, report) as page:
        open_folds(page)
        table = page.locator("#chart-training table")
        table.get_by_role("button", name="Step").click()
        assert column_texts(table, 2) == ["990", "4,500", "12,330"]
        table = page.locator("#comparison table")
        table.get_by_role("button", name="Difference").click()
        values = [float(text.replace("−", "-")) for text in column_texts(table, 4) if text != "–"]
        assert values == sorted(values) and values[0] < 0 < values[-1]


def test_the_leaderboard_sorts(browser: Browser, pages: dict[str, Path]) -> None:
    with open_page(browser, pages["leaderboard"]) as page:
        table = page.locator("table.board").first
        assert column_texts(table, 1)[0].startswith("digits-harope")
        button = table.get_by_role("button", name="FID")
        button.click()
        button.click()
        assert column_texts(table, 1)[0].startswith("digits-ape")
        box = table.bounding_box()
        assert box is not None and box["width"] > 700, "a table takes the room that it needs"


# ------------------------------------------------------------------------------ gallery


@pytest.mark.parametrize("letters", list(WRONG_ENTRIES))
def test_a_filter_leaves_what_it_names(browser: Browser, report: Path, letters: str) -> None:
    with open_page(browser, report, f"#{GROUP}") as page:
        page.locator(f"#{GROUP} [data-filter=marked]").select_option(letters)
        ids = visible_entries(page)
        assert len(ids) == WRONG_ENTRIES[letters]
        for entry_id in ids if letters else []:
            verdicts = page.locator(f"#{entry_id} .shot").evaluate_all(
                "shots => shots.map(shot => shot.classList.contains('wrong'))"
            )
            assert verdicts == [letter in letters for letter in "AB"]
        status = page.locator(f"#{GROUP} .gallery-count").inner_text()
        assert status == f"{len(ids)} of 8 shown"


def test_filters_of_verdict_and_task_hold_together(browser: Browser, report: Path) -> None:
    with open_page(browser, report, f"#{GROUP}") as page:
        task = page.locator(f"#{GROUP} [data-filter=task]")
        task.select_option("colors")
        ids = visible_entries(page)
        assert {int(entry_id.rpartition("-")[2]) % 2 for entry_id in ids} == {1} and len(ids) == 4
        page.locator(f"#{GROUP} [data-filter=marked]").select_option("A")
        assert visible_entries(page) == [f"{GROUP}-1"]
        task.select_option("counting")
        assert visible_entries(page) == []
        assert page.locator(f"#{GROUP} .gallery-count").inner_text() == "0 of 8 shown"


def test_boxes_can_be_hidden(browser: Browser, report: Path) -> None:
    with open_page(browser, report, f"#{GROUP}") as page:
        boxes = page.locator(f"#{GROUP} svg.boxes").first
        assert boxes.is_visible()
        page.locator(f"#{GROUP} .toggle-boxes").uncheck()
        assert not boxes.is_visible()


def test_keys_walk_through_the_entries_that_are_shown(browser: Browser, report: Path) -> None:
    """The first three entries of the group, in the order of disagreement, are 1, 6 and 3."""
    with open_page(browser, report, f"#{GROUP}-1") as page:
        page.keyboard.press("j")
        assert focus_id(page) == f"{GROUP}-6"
        page.keyboard.press("j")
        assert focus_id(page) == f"{GROUP}-3"
        page.keyboard.press("k")
        assert focus_id(page) == f"{GROUP}-6" and page.url.endswith(f"#{GROUP}-6")
        entry = page.locator(f"#{GROUP}-6")
        assert entry.evaluate("e => getComputedStyle(e).outlineStyle") == "solid"
        box = entry.bounding_box()
        assert box is not None and 0 <= box["y"] < SCREEN["height"] / 2

        # what a filter hides is left out, and a key in a control is the control's
        select = page.locator(f"#{GROUP} [data-filter=marked]")
        select.select_option("AB")
        select.focus()
        page.keyboard.press("j")
        assert focus_id(page) != f"{GROUP}-3"
        select.evaluate("select => select.blur()")
        ids = [f"{GROUP}-3"]
        assert visible_entries(page) == ids
        page.locator(f"#{GROUP}-3 h4 a").focus()
        page.keyboard.press("k")
        assert focus_id(page) not in {f"{GROUP}-{index}" for index in (0, 1, 2, 4, 5, 6, 7)}


def test_keys_open_the_fold_of_the_first_entry(browser: Browser, report: Path) -> None:
    with open_page(browser, report) as page:
        page.keyboard.press("j")
        assert page.locator(".entry:focus").is_visible()


def test_an_image_is_enlarged_and_closed_again(browser: Browser, report: Path) -> None:
    with open_page(browser, report, f"#{GROUP}-1") as page:
        stage = page.locator(f"#{GROUP}-1 [data-enlarge]").first
        width = stage.evaluate("e => e.getBoundingClientRect().width")
        stage.focus()
        page.keyboard.press("Enter")
        dialog = page.locator("dialog.enlarged")
        assert dialog.is_visible() and dialog.locator("svg.boxes").is_visible()
        assert dialog.locator("img").evaluate("e => e.getBoundingClientRect().width") > width
        page.keyboard.press("Escape")
        assert not dialog.is_visible()
        assert stage.evaluate("e => e === document.activeElement"), "the focus comes back"


# ------------------------------------------------------------------------------ links and folds


def test_a_link_to_one_pair_opens_what_is_folded_around_it(browser: Browser, report: Path) -> None:
    with open_page(browser, report, f"#{GROUP}-3") as page:
        entry = page.locator(f"#{GROUP}-3")
        box = entry.bounding_box()
        assert entry.is_visible() and box is not None
        assert 0 <= box["y"] < SCREEN["height"] / 2, "it is scrolled to"
        assert focus_id(page) == f"{GROUP}-3"


def test_a_link_shows_an_entry_that_a_filter_hides(browser: Browser, report: Path) -> None:
    with open_page(browser, report, f"#{GROUP}") as page:
        page.locator(f"#{GROUP} [data-filter=marked]").select_option("A")
        page.evaluate(f"location.hash = '{GROUP}-6'")
        page.wait_for_function(f"document.activeElement.id === '{GROUP}-6'")
        assert len(visible_entries(page)) == 8


def test_the_contents_lead_into_every_part(browser: Browser, report: Path) -> None:
    with open_page(browser, report) as page:
        assert page.locator(".part > details[open]").count() == 0
        links = page.locator(".contents a").all()
        targets = [link.get_attribute("href") or "" for link in links]
        assert len(links) >= 10
        for link, target in zip(links, targets, strict=True):
            link.click()
            page.wait_for_function(
                "id => { const box = document.querySelector(id).getBoundingClientRect();"
                " return box.height > 0 && box.top > -1 && box.top < innerHeight }",
                arg=target,
            )
            assert link.is_visible(), "the contents stay in sight"


def test_a_fold_opens_and_closes_by_key(browser: Browser, report: Path) -> None:
    with open_page(browser, report) as page:
        summary = page.locator("summary", has_text="Differences").first
        summary.focus()
        body = page.locator("#comparison")
        for is_open in (True, False):
            page.keyboard.press("Enter")
            assert body.is_visible() == is_open


def test_a_measured_cell_leads_to_its_run(browser: Browser, report: Path) -> None:
    with open_page(browser, report) as page:
        link = page.locator(".first-table td a").first
        target = link.get_attribute("href") or ""
        link.click()
        row = page.locator(target)
        assert row.is_visible() and target.startswith("#run-")


# ------------------------------------------------------------------------------ copies


def test_buttons_copy_the_table(browser: Browser, report: Path) -> None:
    permissions = ["clipboard-read", "clipboard-write"]
    with open_page(browser, report, permissions=permissions) as page:
        buttons = page.locator(".first-table .copy button").all()
        texts = {}
        for button in buttons:
            button.click()
            page.locator(".first-table .copy-status", has_text="Copied").wait_for()
            texts[button.inner_text()] = page.evaluate("navigator.clipboard.readText()")
        assert list(texts) == ["Copy LaTeX", "Copy Markdown", "Copy CSV", "Copy JSON"]
        assert r"\begin{table*}" in texts["Copy LaTeX"]
        assert texts["Copy Markdown"].startswith("**Table 2.") and "|" in texts["Copy Markdown"]
        assert "HARoPE" in texts["Copy CSV"] and json.loads(texts["Copy JSON"])

        page.goto(f"{page.url.partition('#')[0]}#runs")
        page.evaluate("document.querySelector('#runs .run').open = true")
        page.locator("#runs .copy button").first.click()
        command = page.evaluate("navigator.clipboard.readText()")
        assert command == "harope-bench reproduce table2"


def test_a_copy_that_is_not_allowed_selects_the_text(browser: Browser, report: Path) -> None:
    with open_page(browser, report) as page:
        page.evaluate("navigator.clipboard.writeText = async () => { throw Error() }; 0")
        page.locator(".first-table .copy button").first.click()
        page.locator(".copy-status", has_text="Selected").wait_for()
        assert r"\begin{table*}" in page.evaluate("getSelection().toString()")


# ------------------------------------------------------------------------------ focus

FOCUS = """() => {
  const element = document.activeElement;
  const style = getComputedStyle(element);
  const box = element.getBoundingClientRect();
  const [x, y] = [Math.min(box.left + box.width / 2, innerWidth - 2), box.top + box.height / 2];
  const top = document.elementFromPoint(x, Math.min(Math.max(y, 1), innerHeight - 2));
  const all = [...document.querySelectorAll("*")];
  return {
    order: all.indexOf(element),
    text: element.outerHTML.slice(0, 80),
    hasOutline: style.outlineStyle === "solid" && parseFloat(style.outlineWidth) >= 2,
    isSeen: top !== null && (element.contains(top) || top.contains(element)),
  };
}"""


@pytest.mark.parametrize("viewport", [SCREEN, PHONE], ids=["screen", "phone"])
def test_the_focus_goes_through_the_page_in_order_and_is_seen(
    browser: Browser, report: Path, viewport: dict[str, int]
) -> None:
    with open_page(browser, report, viewport=viewport) as page:
        stops = []
        for _ in range(70):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement === document.body"):
                break
            stops.append(page.evaluate(FOCUS))
        assert len(stops) > 40
        assert all(stop["hasOutline"] for stop in stops), stops
        assert [stop["text"] for stop in stops if not stop["isSeen"]] == []
        assert all(first["order"] < second["order"] for first, second in pairwise(stops))


def test_the_skip_link_leads_past_the_contents(browser: Browser, report: Path) -> None:
    with open_page(browser, report) as page:
        page.keyboard.press("Tab")
        assert page.locator(".skip:focus").bounding_box()["x"] >= 0  # type: ignore[index]
        page.keyboard.press("Enter")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.closest('main') !== null")
