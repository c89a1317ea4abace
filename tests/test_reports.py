"""Tables as text and the report: what stands in them, and that nothing from outside gets out."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from collections import Counter
from functools import lru_cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import fake_runs as fake
import pytest
from PIL import Image

from harope_bench.errors import StorageError, UnknownName
from harope_bench.leaderboards.board import Board, build, collect, load_table
from harope_bench.leaderboards.layout import Table, check_table
from harope_bench.records import Checkpoint
from harope_bench.reports.grid import shown_error, signed
from harope_bench.reports.html import probability, read_page, write_report
from harope_bench.reports.latex import escape
from harope_bench.reports.runs import read_runs
from harope_bench.reports.tables import FORMATS, render
from harope_bench.store import append_line, write_text

GOLD = Path(__file__).parent / "gold"
NUMBERS = [str(n) for n in range(1, 11)]
VOID = {"meta", "img", "input", "col", "br", "hr", "link"}
HOSTILE = """<script>alert("1")</script></style><img src=x onerror='alert(2)'> & {{ 7*7 }} | _x_ $y$ \\z"""


@lru_cache(maxsize=16)
def published(number: str) -> Board:
    """The published view of a table."""
    return build(load_table(number), [], "published")


class Document(HTMLParser):
    """What stands in a page: nesting checked, tags counted, ids and links kept."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: Counter[str] = Counter()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            self.attributes.append((tag, name, value or ""))
            if name == "id":
                self.ids.append(value or "")
            if name in ("href", "xlink:href", "src"):
                self.links.append(value or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        """All words, one space between."""
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def micro(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six micro runs with samples, and a folder of images that came without a plan."""
    runs = fake.micro_table(tmp_path_factory.mktemp("runs"), samples=40)
    fake.write_samples(runs / "theirs", 12)
    fake.write_result(runs / "theirs", fake.result(None, [fake.measurement("fid", 33.3, 1.1, n=12)], warnings=("labels are sorted",)))
    return runs


@pytest.fixture(scope="module")
def page(micro: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The report of those runs."""
    return write_report(micro, tmp_path_factory.mktemp("out") / "report.html").read_text()


# ------------------------------------------------------------------------------------- tables as text


@pytest.mark.parametrize("number", ["2", "4"])
@pytest.mark.parametrize("kind", ["md", "tex"])
def test_published_table_is_its_gold_file(number: str, kind: str) -> None:
    assert render(published(number), kind) == (GOLD / f"table{number}.{kind}").read_text()


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("kind", FORMATS)
def test_every_published_string_stands_in_every_format(number: str, kind: str) -> None:
    text = render(published(number), kind)
    assert text.endswith("\n")
    escaped = {"tex": lambda s: s.replace("%", r"\%")}.get(kind, lambda s: s)
    for row in published(number).table.rows:
        for printed in row.published.values():
            assert escaped(printed) in text


def test_unknown_format_offers_the_nearest() -> None:
    with pytest.raises(UnknownName, match="json"):
        render(published("2"), "jsn")


@pytest.mark.parametrize("number", NUMBERS)
def test_markdown_is_aligned(number: str) -> None:
    lines = [line for line in render(published(number), "md").splitlines() if line.startswith("|")]
    assert len(lines) == len(published(number).table.rows) + 2
    assert len({len(line) for line in lines}) == 1


def test_a_dash_is_printed_where_the_paper_prints_one() -> None:
    row = next(line for line in render(published("9"), "md").splitlines() if line.startswith("| DiT-B/2 (256) | RoPE "))
    assert [cell.strip() for cell in row.strip("| ").split("|")][2:] == ["2.36", "0.71 [6]", "9.49", "–"]
    rows = list(csv.DictReader(io.StringIO(render(published("9"), "csv"))))
    assert rows[0]["geneval"] == ""


def test_csv_has_one_header_row_and_full_numbers(tmp_path: Path) -> None:
    fake.micro_table(tmp_path)
    board = build(load_table("2"), collect(tmp_path))
    rows = list(csv.DictReader(io.StringIO(render(board, "csv"))))
    assert [row["id"] for row in rows] == [row.id for row in board.table.rows]
    assert rows[5]["fid.published"] == "8.90"
    assert float(rows[5]["precision.measured"]) == board.cells["harope", "precision"].measured
    assert rows[5]["fid.verdict"] == "not comparable (micro)"
    assert rows[5]["fid.scale"] == "micro"


def test_json_keeps_strings_floats_and_sources_apart(tmp_path: Path) -> None:
    fake.micro_table(tmp_path)
    text = render(build(load_table("2"), collect(tmp_path)), "json")
    facts = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} in JSON"))
    cell = next(row for row in facts["rows"] if row["id"] == "harope")["cells"]["fid"]
    assert (cell["published"], cell["half_unit"], cell["measured"], cell["number"]) == ("8.90", "0.005", 13.2, "fid-500")
    assert cell["low"] < 13.2 < cell["high"]
    assert re.fullmatch(r"[0-9a-f]{64}", cell["source"]["result_sha256"])
    assert len(facts["comparisons"]) == 20
    assert list(facts) == sorted(facts)


def test_measured_numbers_use_the_columns_decimals_and_never_claim_no_error() -> None:
    assert shown_error(0.0512, 2) == "0.05"
    assert shown_error(0.002, 2) == "<0.01"
    assert shown_error(0.0, 2) == "0.00"
    assert signed(-0.004, 2) == "0.00"
    assert signed(-0.25, 2) == "−0.25"
    assert signed(0.25, 2) == "+0.25"
    assert probability(0.0) == "<0.001"


def test_side_by_side_says_what_is_what(tmp_path: Path) -> None:
    fake.micro_run(tmp_path / "a", "harope")
    board = build(load_table("2"), collect(tmp_path))
    text = render(board, "md")
    assert "measured (micro) FID-500" in text
    assert "13.20 ± 0.95" in text
    assert "not run" in text
    assert "measured (micro, digits, 500 images); measured − published (not comparable: micro)" in text
    assert r"\multicolumn{4}{c}{measured (micro, digits, 500 images)}" in render(board, "tex")


@pytest.mark.parametrize("number", NUMBERS)
def test_html_table_is_well_formed_and_labelled(number: str) -> None:
    document = Document(render(published(number), "html"))
    table = published(number).table
    assert document.tags["caption"] == document.tags["table"] == 1
    assert document.tags["td"] == len(table.rows) * len(table.columns)
    assert sum(name == "scope" for _, name, _ in document.attributes) == document.tags["th"]
    spans = sum(int(v) for tag, name, v in document.attributes if (tag, name) == ("colgroup", "span"))
    assert spans == len(table.heads) + len(table.columns)
    assert {link for link in document.links if link[0] == "#"} <= {f"#{name}" for name in document.ids}


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("show", ["published", "both"])
def test_latex_rows_have_as_many_cells_as_columns(number: str, show: Any) -> None:
    text = render(build(load_table(number), [], show), "tex")
    columns = len(re.search(r"\\begin{tabular}{([lr]+)}", text)[1])  # type: ignore[index]
    body = text.split(r"\toprule")[1].split(r"\bottomrule")[0]
    for line in body.splitlines():
        if line.endswith(r"\\"):
            spans = [int(n) for n in re.findall(r"\\multicolumn{(\d+)}", line)]
            assert len(re.findall(r"(?<!\\)&", line)) + 1 + sum(spans) - len(spans) == columns, line


def hostile_table() -> Table:
    """A table whose every free text is an attack."""
    return check_table(
        {
            "id": "bad",
            "title": HOSTILE,
            "note": HOSTILE,
            "question": HOSTILE,
            "micro": {"suite": "digits", "baseline": "b"},
            "columns": [{"key": "fid", "printed": HOSTILE, "group": HOSTILE, "direction": "lower", "decimals": 2}],
            "rows": [
                {"id": "a", "printed": HOSTILE, "micro": "digits-harope", "published": {"fid": "1.0 " + HOSTILE}},
                {"id": "b", "printed": "b", "micro": "digits-ape"},
            ],
            "flags": [{"id": "X1", "severity": "warn", "cells": ["bad/a/fid"], "text": HOSTILE}],
        },
        "a test",
    )


def test_hostile_table_comes_out_as_text(tmp_path: Path) -> None:
    fake.micro_run(tmp_path / "a", "harope")
    board = build(hostile_table(), collect(tmp_path))
    text = render(board, "html")
    document = Document(text)
    assert document.tags.keys() <= {"table", "caption", "colgroup", "thead", "tbody", "tr", "th", "td", "sup", "a", "p", "ol", "li"}
    assert "{{ 7*7 }}" in text  # as written, never computed
    assert "<script" not in render(board, "md").replace(r"\<script", "")
    assert len({line.replace(r"\|", "").count("|") for line in render(board, "md").splitlines() if line.startswith("|")}) == 1
    assert r"\_x\_ \$y\$ \textbackslash{}z" in render(board, "tex")


def test_latex_reads_no_command_in_a_text() -> None:
    assert escape(r"\input{x} 50% & #1 ~^ [a]*") == (
        r"\textbackslash{}input\{x\} 50\% \& \#1 \textasciitilde{}\textasciicircum{} {[}a{]}{*}"
    )


# ------------------------------------------------------------------------------------- the report


def test_report_is_one_offline_page(page: str) -> None:
    document = Document(page)
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'" in page
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in document.links)
    assert not re.search(r"@import|url\((?!#)|fetch\(|XMLHttpRequest|eval\(", page)
    assert document.tags["script"] == document.tags["style"] == 1
    assert {tag for tag, name, _ in document.attributes if name.startswith("on")} == set()


def test_report_is_small(page: str) -> None:
    assert len(page.encode()) < 5_000_000
    assert len(re.sub(r"data:image/png;base64,[^\"]*", "", page).encode()) < 300_000


def test_equal_records_give_equal_bytes(micro: Path, page: str, tmp_path: Path) -> None:
    shutil.copytree(micro, tmp_path / "elsewhere")
    again = write_report(tmp_path / "elsewhere", tmp_path / "again.html")
    assert again.read_text() == page


def test_ids_are_unique_and_links_lead_somewhere(page: str) -> None:
    document = Document(page)
    assert [name for name, count in Counter(document.ids).items() if count > 1] == []
    assert {link[1:] for link in document.links if link.startswith("#")} <= set(document.ids)
    assert set(re.findall(r"url\(#([^)]*)\)", page)) <= set(document.ids)


def test_report_can_be_read_by_everybody(page: str) -> None:
    document = Document(page)
    assert ("html", "lang", "en") in document.attributes
    assert ("a", "class", "skip") in document.attributes
    assert document.tags["caption"] == document.tags["table"]
    assert all(value for tag, name, value in document.attributes if (tag, name) == ("img", "alt"))
    assert sum((tag, name) == ("img", "alt") for tag, name, _ in document.attributes) == document.tags["img"] == 7
    for rule in ("prefers-color-scheme: dark", "prefers-reduced-motion", "@media print", ":focus-visible"):
        assert rule in page


def contrast(one: str, other: str) -> float:
    """WCAG contrast of two #rrggbb colours."""

    def light(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    bright, dark = sorted((light(one), light(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def test_text_colours_have_contrast_in_light_and_dark(page: str) -> None:
    palettes = [dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", block)) for block in re.findall(r":root \{([^}]*)\}", page)[:2]]
    assert len(palettes) == 2
    for palette in palettes:
        for ink in ("ink", "quiet", "link", "better", "worse"):
            for ground in ("paper", "band", "measured"):
                assert contrast(palette[ink], palette[ground]) >= 4.5, (ink, ground)


def test_header_answers_in_words_with_its_evidence(page: str) -> None:
    text = Document(page).text
    assert "Does the positional encoding change how good class-conditional pictures are" in text
    assert "▲ better 2 of 20 HARoPE (FID-500, IS)" in text
    assert "○ not resolved" in text
    assert "L1: this checkpoint against that checkpoint" in text
    assert "significant" not in text


def test_sources_to_copy_are_the_rendered_tables(micro: Path) -> None:
    section = read_page(micro).sections[0]
    board = build(load_table("2"), collect(micro))
    assert dict(section.sources) == {
        name: render(board, kind) for name, kind in (("LaTeX", "tex"), ("Markdown", "md"), ("CSV", "csv"), ("JSON", "json"))
    }


def test_images_without_a_plan_appear_with_what_is_not_known(page: str) -> None:
    text = Document(page).text
    assert "Results that belong to no table" in text
    assert "my pictures images without a plan: how they were drawn is not known" in text
    assert "theirs: there is no plan" in text
    assert "theirs, fidelity: labels are sorted" in text


def test_run_card_states_every_fact_of_the_plan(micro: Path, page: str) -> None:
    text = Document(page).text
    plan = next(run.plan for run in read_runs(micro) if run.plan)
    for name, value in plan.settings.model_dump().items():
        assert f"settings {name} {value}" in text
    for fact in (plan.digest, "harope-bench reproduce table2", "500 asked, 500 scored, 0 failed", "formulas of ADM to 1e-6", fake.HASH):
        assert fact in text


def test_samples_stand_at_the_same_place_in_every_sheet(micro: Path) -> None:
    sheets = read_page(micro).sheets
    assert [sheet.title for sheet in sheets[:6]] == [f"digits-{e}" for e in fake.ENCODINGS]  # in the order of the table
    assert {(sheet.width, sheet.height) for sheet in sheets[:6]} == {(10 * 58 - 2, 4 * 58 - 2)}
    assert "columns by class 0, 1, 2, 3, 4, 5, 6, 7, 8, 9" in sheets[0].alt


def test_missing_and_broken_images_are_said_not_hidden(tmp_path: Path) -> None:
    run = fake.micro_run(tmp_path / "run", "harope", samples=4)
    (run / "images/000001.png").unlink()
    (run / "images/000002.png").write_bytes(b"\x89PNG and no more")
    Image.new("RGB", (28, 28)).save(tmp_path / "secret.png")
    append_line(run / "samples.jsonl", json.dumps({"index": 3, "file": "../secret.png"}))
    append_line(run / "samples.jsonl", json.dumps({"index": 4, "status": "failed", "reason": "out of memory"}))
    (sheet,) = read_page(tmp_path).sheets
    assert sheet.missing == (
        "sample 1: not there",
        "sample 2: not a readable PNG",
        "sample 3: no file inside the run",
        "sample 4: out of memory",
    )
    assert "4 missing" in sheet.alt


def test_hostile_records_come_out_as_text(tmp_path: Path) -> None:
    who = fake.plan(fake.checkpoint("digits-harope", "harope", source=HOSTILE, weights=HOSTILE))
    run = tmp_path / "run"
    write_text(run / "plan.json", who.to_json())
    append_line(run / "samples.jsonl", json.dumps({"index": 0, "status": "failed", "reason": HOSTILE, "prompt": HOSTILE}))
    none = fake.measurement("fid", None, reason=HOSTILE)
    made = fake.result(who, [none], warnings=(HOSTILE,), target=HOSTILE, parity=HOSTILE, reference=HOSTILE, profile=HOSTILE)
    fake.write_result(run, made)
    fake.write_result(tmp_path / "theirs", fake.result(None, [none], target=HOSTILE))
    text = write_report(tmp_path, tmp_path / "r.html").read_text()
    document = Document(text)
    assert document.tags["script"] == document.tags["style"] == 1
    assert "onerror" not in {name for _, name, _ in document.attributes}
    assert all(link.startswith(("#", "data:")) for link in document.links)
    assert document.text.count("alert(2)") >= 8


def test_a_single_row_says_that_nothing_can_be_compared(tmp_path: Path) -> None:
    fake.micro_run(tmp_path / "run", "harope")
    text = Document(write_report(tmp_path, tmp_path / "r.html").read_text()).text
    assert "Nothing can be compared yet: the baseline or every other row of the table was not run." in text
    assert text.count("not run") >= 5 * 4


def test_a_run_drawn_but_not_scored_is_in_the_report(tmp_path: Path) -> None:
    run = fake.micro_run(tmp_path / "run", "harope", samples=3)
    shutil.rmtree(run / "results")
    text = Document(write_report(tmp_path, tmp_path / "r.html").read_text()).text
    assert "run: drawn, not scored yet" in text
    assert "Nothing has been scored yet." in text


def test_a_folder_without_runs_and_a_broken_plan_are_errors(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="holds no run"):
        write_report(tmp_path, tmp_path / "r.html")
    write_text(tmp_path / "run/plan.json", "{}")
    with pytest.raises(StorageError, match=r"plan\.json is not a plan"):
        write_report(tmp_path, tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()


def register(home: Path, who: Checkpoint, log: str) -> None:
    """A checkpoint of the user with its training log."""
    write_text(home / f"checkpoints/{who.name}.toml", f'name = "{who.name}"\nsha256 = "{who.sha256}"\n')
    write_text(home / f"checkpoints/{who.name}.log.csv", log)


def test_training_log_of_a_registered_checkpoint_is_drawn(tmp_path: Path, bench_home: Path) -> None:
    who = fake.checkpoint("my-harope", "harope")
    write_text(tmp_path / "runs/a/plan.json", fake.plan(who).to_json())
    register(bench_home, who, "step,loss\n" + "".join(f"{step},{1 / step}\n" for step in range(10, 5000, 10)))
    page = read_page(tmp_path / "runs")
    assert page.last_losses == (("my-harope", "4,990", "0.0002"),)
    assert page.losses is not None
    assert "my-harope" in page.losses
    register(bench_home, who.model_copy(update={"sha256": "cd" * 32}), "step,loss\n10,1.0\n")
    assert read_page(tmp_path / "runs").losses is None  # weights of another training


def test_a_broken_training_log_is_named(tmp_path: Path, bench_home: Path) -> None:
    who = fake.checkpoint("my-harope", "harope")
    write_text(tmp_path / "runs/a/plan.json", fake.plan(who).to_json())
    register(bench_home, who, "step,loss\n10,nan\n")
    with pytest.raises(StorageError, match=r"my-harope\.log\.csv"):
        read_page(tmp_path / "runs")
