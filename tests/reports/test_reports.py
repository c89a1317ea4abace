"""The report: what stands in it, and that nothing from outside gets out of its text."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import fake_runs as fake
import pytest
from document import HOSTILE, Document
from PIL import Image

from harope_bench.core.errors import StorageError, UnknownNameError
from harope_bench.core.json_lines import append_line
from harope_bench.core.schema import Checkpoint, make_warnings
from harope_bench.core.storage import write_text
from harope_bench.data.result_store import read_results
from harope_bench.leaderboards.board import build_board, load_table
from harope_bench.reports.page_comparisons import row_label
from harope_bench.reports.report_page import ReportPage, build_report_page, write_report
from harope_bench.reports.runs import read_runs
from harope_bench.reports.table_layout import TableStyle
from harope_bench.reports.tables import render_table


@pytest.fixture(scope="module")
def micro(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six micro runs with samples, and a folder of images that came without a plan."""
    runs = fake.micro_table(tmp_path_factory.mktemp("runs"), samples=40)
    fake.write_samples(runs / "theirs", 12)
    warnings = make_warnings("images", ["labels are sorted"])
    fake.write_result(
        runs / "theirs",
        fake.result(None, [fake.measurement("fid", 33.3, 1.1, n=12)], warnings=warnings),
    )
    return runs


@pytest.fixture(scope="module")
def page(micro: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The report of those runs."""
    return write_report(micro, tmp_path_factory.mktemp("out") / "report.html").read_text()


def test_report_is_one_offline_page(page: str) -> None:
    document = Document(page)
    assert (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
        in page
    )
    assert all(link.startswith(("#", "data:image/webp;base64,")) for link in document.links)
    assert not re.search(r"@import|url\((?!#)|fetch\(|XMLHttpRequest|eval\(", page)
    assert document.tags["script"] == document.tags["style"] == 1
    assert {tag for tag, name, _ in document.attributes if name.startswith("on")} == set()


def test_rows_printed_alike_are_told_apart() -> None:
    """Table 8 prints each encoding at three resolutions, Table 1 for two models, Table 9 for both
    at once, Table 2 once.
    """
    records = {}
    for number in ("1", "2", "8", "9"):
        board = build_board(load_table(number), [], "both", "paper")
        records[number] = [row_label(board, row.id) for row in board.table.rows]
        assert len(set(records[number])) == len(records[number])
    assert records["8"][:3] == ["128 Absolution Embedding", "128 RoPE", "128 HARoPE"]
    assert "FLUX (512) RoPE" in records["9"]
    assert all(name.split()[0] in ("DeiT-Base", "DeiT-Large") for name in records["1"])
    assert "HARoPE" in records["2"]


def answer_of(text: str, name: str) -> str:
    """The words of a page's answer."""
    start = text.index(f'aria-label="Answer in short, {name}')
    return Document(f"<p {text[start : text.index('</section>', start)]}</p>").text


def test_the_answer_of_table_8_names_the_resolution(micro: Path, tmp_path: Path) -> None:
    text = write_report(micro, tmp_path / "r.html", tables=["8"]).read_text()
    answer = answer_of(text, "Table 8")
    assert "Against 256 RoPE, " in answer
    assert "256 HARoPE is better in FID-500 and IS" in answer
    assert "256 Absolution Embedding is worse in" in answer
    assert "Holm-adjusted over 8 tests (5% level), all of them paired" in answer


def test_every_baseline_of_a_table_is_named(tmp_path: Path) -> None:
    """Table 8 at two resolutions: each difference is from the RoPE of its own."""
    for suite in ("digits", "digits-16"):
        for encoding in ("rope-axial", "harope"):
            folder = fake.micro_run(tmp_path / suite / encoding, encoding)
            for path in (folder / "plan.json", folder / "results/fidelity.json"):
                path.write_text(
                    path.read_text()
                    .replace('"digits"', f'"{suite}"')
                    .replace(f"digits-{encoding}", f"{suite}-{encoding}")
                )
    shown_text = write_report(tmp_path, tmp_path / "r.html", tables=["table8"]).read_text()
    assert "Against the baseline of each block (128 RoPE, 256 RoPE), " in answer_of(
        shown_text, "Table 8"
    )
    assert "Each row minus its baseline, 128 RoPE, 256 RoPE." in shown_text


def test_report_is_small(page: str) -> None:
    assert len(page.encode()) < 5_000_000
    assert len(re.sub(r"data:image/webp;base64,[^\"]*", "", page).encode()) < 300_000


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
    assert (
        sum((tag, name) == ("img", "alt") for tag, name, _ in document.attributes)
        == document.tags["img"]
    )
    assert document.tags["img"] > 6 * 24  # 24 samples of six runs, and nearest references
    for rule in (
        "prefers-color-scheme: dark",
        "prefers-reduced-motion",
        "@media print",
        ":focus-visible",
    ):
        assert rule in page


def contrast(first_text: str, second_text: str) -> float:
    """WCAG contrast of two #rrggbb colours."""

    def light(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    bright_light, dark_light = sorted((light(first_text), light(second_text)), reverse=True)
    return (bright_light + 0.05) / (dark_light + 0.05)


def test_text_colours_have_contrast_in_light_and_dark(page: str) -> None:
    palettes = [
        dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", block))
        for block in re.findall(r":root \{([^}]*)\}", page)[:2]
    ]
    assert len(palettes) == 2
    for palette in palettes:
        for ink in ("ink", "quiet", "link", "better", "worse"):
            for ground in ("paper", "band", "measured"):
                assert contrast(palette[ink], palette[ground]) >= 4.5, (ink, ground)


def test_the_first_screen_answers_in_two_sentences_with_its_evidence(page: str) -> None:
    text = Document(page).text
    assert "Does the positional encoding change how good class-conditional images are" in text
    assert "HARoPE is better in FID-500 and IS" in text
    assert "differences are not resolved." in text
    assert "How sure: one run each, with 500 images scored, so this compares checkpoints" in text
    assert "These numbers cannot be compared with those of the paper." in text
    assert "L1: this checkpoint against that checkpoint" in text
    main = page[page.index("<main") :]
    first_fold = main.index("<details")
    for words in ("How sure:", "<svg", "Table 2. Class-conditional", "Copy LaTeX"):
        assert main.index(words) < first_fold, words
    assert main.count("<svg", 0, first_fold) == 1


def test_everything_else_is_folded_and_in_the_contents(page: str) -> None:
    contents = page[page.index('<nav class="contents"') : page.index("</nav>")]
    for anchor in ("comparison", "runs", "other-tables", "card", "checks", "notes"):
        assert f'href="#{anchor}"' in contents
        # a link opens the fold that it leads into, so the id is inside the fold
        assert re.search(rf'</summary>\s*<div id="{anchor}"', page), anchor

    # groups of images and numbers of charts may be open, but the fold around them is not
    depth = 0
    for tag in re.findall(r"<details\b[^>]*>|</details>", page):
        assert depth or "open" not in tag, tag
        depth += -1 if tag == "</details>" else 1


def test_micro_rows_are_named_by_what_was_run(micro: Path) -> None:
    (section,) = build_report_page(micro).sections
    heads = [[cell.text for cell in row[:2]] for row in section.table.blocks[0]]
    assert ["dit-micro, HARoPE, 28 px", "HARoPE"] in heads
    assert ["dit-micro, axial RoPE, 28 px", "2D-RoPE (Axial)"] in heads
    assert section.table.hidden_kinds == ("delta",)  # of unlike scales


def test_a_page_shows_the_tables_that_were_asked_for(micro: Path, tmp_path: Path) -> None:
    def names(page: ReportPage) -> list[str]:
        return [section.name for section in page.sections]

    page = build_report_page(micro, tables=["table8", "2"])
    assert names(page) == ["Table 8", "Table 2"]
    assert page.question == "What does the positional encoding change in Tables 8 and 2?"
    assert [table.name for table in page.other_tables] == ["Table 6", "Table 9"]
    assert names(build_report_page(micro)) == ["Table 2"]

    # a table without a run says so, and stands after the others
    page = build_report_page(micro, tables=["1", "2"])
    assert names(page) == ["Table 2", "Table 1"]
    assert "no result belongs to this table" in page.sections[1].verdict.answer.text

    write_report(micro, tmp_path / "r.html", tables=["2"])
    other_tables = Document((tmp_path / "r.html").read_text()).text
    assert "Table 8 (micro scale): 3 of 9 rows." in other_tables


def test_an_unknown_table_is_an_error(micro: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="no table named 'tabel2'"):
        write_report(micro, tmp_path / "r.html", tables=["tabel2"])


def test_a_measured_cell_leads_to_the_measurement_of_its_run(micro: Path, page: str) -> None:
    (section,) = build_report_page(micro).sections
    links = [cell.link for row in section.table.blocks[0] for cell in row if cell.link]
    assert len(links) == len(set(links)) == 6 * 4
    anchor = "run-digits-harope-fidelity-fid-500"
    assert anchor in links
    start = page.index('<div id="run-digits-harope"')
    details = page[start : page.index("</details>", start)]
    assert f'<tr id="{anchor}">' in details
    text = Document(details).text
    for words in (
        "digits-harope (abababababab)",
        "flow, 32 steps, guidance 1.5",
        "40 in the run folder digits-harope",
        "harope-bench reproduce table2",
        "500 of 500",
    ):
        assert words in text, words
    assert "data-copy" in details


def test_runs_of_no_table_are_shown_side_by_side(tmp_path: Path) -> None:
    for name, value, started in (("b", 30.0, "2026-01-01"), ("a", 25.0, "2026-01-02")):
        provenance = fake.provenance().model_copy(update={"started": started})
        result = fake.result(
            None,
            [fake.measurement("fid", value, 0.5), fake.measurement("is", 5.0, 0.1)],
            target=f"images/{name}",
            suite="digits",
            provenance=provenance,
            samples_sha256=name * 64,
        )
        fake.write_result(tmp_path / name, result)
    page = build_report_page(tmp_path)
    assert page.sections == () and page.run_section is not None
    assert page.question == "Is images/a better than images/b on digits?"  # b was evaluated first
    answer = page.run_section.verdict.answer.text
    assert answer.startswith("Against images/b, images/a is better in FID-500; 1 of 2 differences")
    rows = [[cell.text for cell in row] for row in page.run_section.table.blocks[0]]
    assert rows[0][:3] == ["FID-500 (lower is better)", "30.00 ± 0.50", "25.00 ± 0.50"]
    assert rows[0][4] == "▲ better" and rows[1][4] == "○ not resolved"
    text = Document(write_report(tmp_path, tmp_path / "r.html").read_text()).text
    assert text.count("Not recorded: Checkpoint, Training, Resolution, Sampler, Seed.") == 1
    assert text.count("All runs. Imported: without a plan") == 1


def write_fid(folder: Path, name: str, value: float, **fields: Any) -> None:
    result = fake.result(
        None,
        [fake.measurement("fid", value, 1.0)],
        target=f"images/{name}",
        samples_sha256=name[0] * 64,
        **{"suite": "digits", **fields},
    )
    fake.write_result(folder / name, result)


def test_p_values_of_several_runs_are_adjusted_together(tmp_path: Path) -> None:
    """A difference that two runs alone resolve is not resolved among four."""
    write_fid(tmp_path, "a", 30.0)
    write_fid(tmp_path, "b", 33.1)  # p = 0.028
    page = build_report_page(tmp_path)
    assert page.run_section is not None
    assert [line.verdict for line in page.run_section.comparisons] == ["worse"]
    write_fid(tmp_path, "c", 30.0)
    write_fid(tmp_path, "d", 30.0)
    page = build_report_page(tmp_path)
    assert page.run_section is not None
    assert [line.verdict for line in page.run_section.comparisons] == ["not resolved"] * 3
    assert "Holm-adjusted over 3 tests" in page.run_section.verdict.certainty.text


def test_runs_that_are_not_compared_are_named(tmp_path: Path) -> None:
    for name in "abc":
        write_fid(tmp_path, name, 30.0)
    write_fid(tmp_path, "other", 30.0, suite="shapes")
    text = Document(write_report(tmp_path, tmp_path / "r.html").read_text()).text
    assert "Not compared here: images/other" in text


def test_metrics_of_another_profile_are_compared_by_its_direction(tmp_path: Path) -> None:
    for name, value in (("a", 0.30), ("b", 0.90)):
        result = fake.result(
            None,
            [fake.measurement("kid", value, 0.01)],
            target=f"images/{name}",
            suite="digits",
            samples_sha256=name * 64,
            profile="torch-fidelity",
        )
        fake.write_result(tmp_path / name, result)
    section = build_report_page(tmp_path).run_section
    assert section is not None
    assert section.table.blocks[0][0][0].text.endswith("(lower is better)")
    assert [line.verdict for line in section.comparisons] == ["worse"]


def test_notes_stand_once_at_the_end(micro: Path) -> None:
    page = build_report_page(micro, tables=["2", "8"])
    texts = [note.text for note in page.notes]
    assert len(texts) == len(set(texts))
    assert [note.number for note in page.notes] == list(range(1, len(texts) + 1))
    micro_note = next(note for note in page.notes if note.text.startswith("Micro scale:"))
    assert micro_note.tables == ("Table 2", "Table 8")
    for section in page.sections:
        for note in section.board.notes:
            assert texts[section.note_numbers[note.number] - 1] == note.full_text


def test_sources_to_copy_are_the_rendered_tables_without_differences_of_unlike_scales(
    micro: Path,
) -> None:
    section = build_report_page(micro).sections[0]
    board = build_board(load_table("2"), read_results(micro))
    style = TableStyle(has_differences=False)
    assert "delta" not in dict(section.copy_texts)["Markdown"]
    assert dict(section.copy_texts) == {
        name: render_table(board, kind, style)
        for name, kind in (("LaTeX", "tex"), ("Markdown", "md"), ("CSV", "csv"), ("JSON", "json"))
    }


def test_images_without_a_plan_appear_with_what_is_not_known(page: str) -> None:
    text = Document(page).text
    assert "These results belong to no table of this page." in text
    assert "Imported: without a plan, how these images were generated is not known." in text
    assert "my pictures" in text
    assert "theirs: without a plan" in text
    assert "theirs, fidelity: labels are sorted" in text


def test_the_run_card_has_groups_and_says_once_what_is_missing(micro: Path, page: str) -> None:
    card = build_report_page(micro).cards[0]
    assert [group.heading for group in card.groups] == [
        "Checkpoint",
        "Generation",
        "Evaluation by fidelity",
        "Machine and versions of fidelity",
    ]
    shown_names = [
        name for group in card.groups for name, _ in (*group.shared_fields, *group.differing_fields)
    ]
    all_names = [name for name, _ in (*card.shared_fields, *card.differing_fields)]
    assert sorted([*shown_names, *card.missing_fields]) == sorted(all_names)
    assert "checkpoint training seed" in card.missing_fields
    assert card.text.count("Not recorded:") == 1 and "not recorded" not in card.text
    assert 'data-copy="card-1"' in page and '<pre id="card-1"' in page


def test_run_card_states_every_fact_of_the_plan(micro: Path, page: str) -> None:
    text = Document(page).text
    plan = next(run.plan for run in read_runs(micro) if run.plan)
    for name, value in plan.settings.model_dump(exclude_none=True).items():
        assert f"settings {name.replace('_', ' ')} {value}" in text
    assert "mu policy" not in text  # it has no meaning for this backbone
    for digest in (
        plan.digest,
        "harope-bench reproduce table2",
        "500 asked, 500 scored, 0 failed",
        "formulas of ADM to 1e-6",
        fake.HASH,
    ):
        assert digest in text


def test_samples_of_all_rows_are_side_by_side_in_the_order_of_the_table(micro: Path) -> None:
    group = build_report_page(micro).gallery.groups[0]
    assert [run.title for run in group.runs] == [f"digits-{e}" for e in fake.ENCODINGS]
    assert all(image.thumbnail for entry in group.entries for image in entry.images)


def test_missing_and_broken_images_are_said_not_hidden(tmp_path: Path) -> None:
    run = fake.micro_run(tmp_path / "run", "harope", samples=4)
    (run / "images/000001.png").unlink()
    (run / "images/000002.png").write_bytes(b"\x89PNG and no more")
    Image.new("RGB", (28, 28)).save(tmp_path / "secret.png")
    append_line(run / "samples.jsonl", json.dumps({"index": 3, "file": "../secret.png"}))
    append_line(
        run / "samples.jsonl",
        json.dumps({"index": 4, "status": "failed", "reason": "out of memory"}),
    )
    (group,) = build_report_page(tmp_path).gallery.groups
    assert [entry.images[0].missing_reason for entry in group.entries] == [
        "",
        "file missing",
        "not a readable image",
        "no file inside the run",
        "out of memory",
    ]


def test_hostile_records_come_out_as_text(tmp_path: Path) -> None:
    owner = fake.plan(fake.checkpoint("digits-harope", "harope", source=HOSTILE, weights=HOSTILE))
    run = tmp_path / "run"
    write_text(run / "plan.json", owner.to_json())
    append_line(
        run / "samples.jsonl",
        json.dumps({"index": 0, "status": "failed", "reason": HOSTILE, "prompt": HOSTILE}),
    )
    none_measurement = fake.measurement("fid", None, reason=HOSTILE)
    warnings = make_warnings("images", [HOSTILE])
    result = fake.result(
        owner,
        [none_measurement],
        warnings=warnings,
        target=HOSTILE,
        parity=HOSTILE,
        reference=HOSTILE,
        profile=HOSTILE,
    )
    fake.write_result(run, result)
    fake.write_result(tmp_path / "theirs", fake.result(None, [none_measurement], target=HOSTILE))
    text = write_report(tmp_path, tmp_path / "r.html").read_text()
    document = Document(text)
    assert document.tags["script"] == document.tags["style"] == 1
    assert "onerror" not in {name for _, name, _ in document.attributes}
    assert all(link.startswith(("#", "data:")) for link in document.links)
    assert document.text.count("alert(2)") >= 8


def test_a_single_row_says_that_nothing_can_be_compared(tmp_path: Path) -> None:
    fake.micro_run(tmp_path / "run", "harope")
    text = Document(write_report(tmp_path, tmp_path / "r.html").read_text()).text
    assert "What was measured in dit-micro, HARoPE, 28 px?" in text
    assert "Nothing can be compared yet: there is one run." in text
    text = Document(write_report(tmp_path, tmp_path / "r.html", tables=["2"]).read_text()).text
    assert (
        "Nothing can be compared yet: the baseline or every other row of the table was not run."
        in text
    )
    assert text.count("not run") >= 5 * 4


def test_a_run_drawn_but_not_scored_is_in_the_report(tmp_path: Path) -> None:
    run = fake.micro_run(tmp_path / "run", "harope", samples=3)
    shutil.rmtree(run / "results")
    text = Document(write_report(tmp_path, tmp_path / "r.html").read_text()).text
    assert "run: generated, not evaluated yet" in text
    assert "Nothing has been scored yet." in text


def test_a_folder_without_runs_and_a_broken_plan_are_errors(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="has no run"):
        write_report(tmp_path, tmp_path / "r.html")
    write_text(tmp_path / "run/plan.json", '{"format": 1}')
    with pytest.raises(StorageError, match=r"plan\.json is not a plan \(checkpoint: "):
        write_report(tmp_path, tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()


def register(home: Path, name: Checkpoint, log: str) -> None:
    """A checkpoint of the user with its training log."""
    write_text(
        home / f"checkpoints/{name.name}.toml", f'name = "{name.name}"\nsha256 = "{name.sha256}"\n'
    )
    write_text(home / f"checkpoints/{name.name}.log.csv", log)


def test_training_log_of_a_registered_checkpoint_is_drawn(tmp_path: Path, bench_home: Path) -> None:
    name = fake.checkpoint("my-harope", "harope")
    write_text(tmp_path / "runs/a/plan.json", fake.plan(name).to_json())
    register(
        bench_home,
        name,
        "step,loss\n" + "".join(f"{step},{1 / step}\n" for step in range(10, 5000, 10)),
    )
    (chart,) = build_report_page(tmp_path / "runs").charts
    assert chart.table.rows == (("my-harope", "4,990", "0.0002"),)
    assert chart.anchor == "chart-training"
    assert "my-harope" in chart.svg
    register(bench_home, name.model_copy(update={"sha256": "cd" * 32}), "step,loss\n10,1.0\n")
    assert build_report_page(tmp_path / "runs").charts == ()  # weights of another training


def test_a_broken_training_log_is_named(tmp_path: Path, bench_home: Path) -> None:
    name = fake.checkpoint("my-harope", "harope")
    write_text(tmp_path / "runs/a/plan.json", fake.plan(name).to_json())
    register(bench_home, name, "step,loss\n10,nan\n")
    with pytest.raises(StorageError, match=r"my-harope\.log\.csv"):
        build_report_page(tmp_path / "runs")
