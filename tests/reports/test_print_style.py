"""The rules for paper: A4, cells that wrap, turned pages for the widest tables.

A browser's PDF is tested with the other tests in a browser.
"""

from __future__ import annotations

import re

import fake_runs as fake
import pytest

from harope_bench.reports.leaderboard_pages import write_leaderboard
from harope_bench.reports.report_page import write_report


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A report and a leaderboard of one run."""
    folder = tmp_path_factory.mktemp("pages")
    fake.micro_run(folder / "runs/harope", "harope")
    paths = [write_report(folder / "runs", folder / "report.html")]
    paths += write_leaderboard(folder / "runs", folder / "site")
    return {path.name: path.read_text() for path in paths}


def print_rules(page: str) -> dict[str, str]:
    """The last declarations of each selector for paper."""
    start = page.index("@media print {", page.index("@page {"))
    body = page[start : page.index("</style>", start)].removeprefix("@media print {")
    return {
        selector.strip(): declarations
        for selectors, declarations in re.findall(r"([^{}]+)\{([^{}]*)\}", body)
        for selector in re.split(r", (?![^(]*\))", selectors)
    }


def test_every_page_prints_on_a4_and_turns_wide_tables(pages: dict[str, str]) -> None:
    for page in pages.values():
        assert "@page { size: A4;" in page and "@page turned { size: A4 landscape;" in page
        assert print_rules(page)[":has(> .wide tr > :nth-child(14))"] == " page: turned; "


def test_nothing_keeps_a_column_wider_than_the_paper(pages: dict[str, str]) -> None:
    for page in pages.values():
        rules = print_rules(page)
        assert "overflow: visible" in rules[".wide"]
        assert "min-width: 0" in rules[".wide > table:not(.facts, .board)"]
        for selector in ("table td", ".board td", ".board th", ".wide > table:not(.facts) td"):
            assert "white-space: normal" in rules[selector] and "max-width: none" in rules[selector]


def test_type_shrinks_with_the_number_of_columns(pages: dict[str, str]) -> None:
    rules = print_rules(next(iter(pages.values())))
    sizes = {
        int(match[1]): float(size[1])
        for selector, declarations in rules.items()
        if (match := re.fullmatch(r"table:has\(tr > :nth-child\((\d+)\)\)", selector))
        and (size := re.search(r"font-size: ([\d.]+)pt", declarations))
    }
    upright_sizes = [size for n, size in sizes.items() if n < 14]
    turned_sizes = [size for n, size in sizes.items() if n >= 14]
    for sizes_of_pages in (upright_sizes, turned_sizes):
        assert len(sizes_of_pages) >= 3
        assert sizes_of_pages == sorted(sizes_of_pages, reverse=True)


def test_hidden_columns_do_not_count(pages: dict[str, str]) -> None:
    for page in pages.values():
        turned_boxes = [s for s, rule in print_rules(page).items() if rule == " page: turned; "]
        upright_boxes = [s for s, rule in print_rules(page).items() if rule == " page: auto; "]
        assert len(turned_boxes) == 3 and len(upright_boxes) == 2
        assert [box.rpartition(" of ")[2] for box in turned_boxes[1:]] == [
            ":not(.delta)))",
            ":not(.delta, .published)))",
        ]
        assert all(any(t.startswith(box) for t in turned_boxes) for box in upright_boxes)
