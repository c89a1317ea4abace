"""The report: what stands in it, and that nothing from outside gets out of its text."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from pathlib import Path

import fake_runs as fake
import pytest
from document import HOSTILE, Document
from PIL import Image

from harope_bench.core.errors import StorageError
from harope_bench.core.json_lines import append_line
from harope_bench.core.schema import Checkpoint, make_warnings
from harope_bench.core.storage import write_text
from harope_bench.data.result_store import read_results
from harope_bench.leaderboards.board import build_board, load_table
from harope_bench.reports.report_page import build_report_page, write_report
from harope_bench.reports.runs import read_runs
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
    from harope_bench.reports.report_page import _row_label

    records = {}
    for number in ("1", "2", "8", "9"):
        board = build_board(load_table(number), [], "both", "paper")
        records[number] = [_row_label(board, row.id) for row in board.table.rows]
        assert len(set(records[number])) == len(records[number])
    assert records["8"][:3] == ["128 Absolution Embedding", "128 RoPE", "128 HARoPE"]
    assert "FLUX (512) RoPE" in records["9"]
    assert all(name.split()[0] in ("DeiT-Base", "DeiT-Large") for name in records["1"])
    assert "HARoPE" in records["2"]


def test_the_summary_of_table_8_names_the_resolution(page: str) -> None:
    start = page.index('aria-label="Answer in short, Table 8')
    answer = page[start : page.index("</section>", start)]
    assert "against 256 RoPE, 8 of 8 differences" in answer
    assert re.findall(r"<span>([^<]*HARoPE) \(", answer) == ["256 HARoPE"] * 2
    assert "256 Absolution Embedding (" in answer


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
    shown_text = write_report(tmp_path, tmp_path / "r.html").read_text()
    start = shown_text.index('aria-label="Answer in short, Table 8')
    assert (
        "against 128 RoPE, 256 RoPE, 8 of 8 differences"
        in shown_text[start : shown_text.index("</section>", start)]
    )
    assert "Each row minus its baseline, 128 RoPE, 256 RoPE." in shown_text


def test_report_is_small(page: str) -> None:
    assert len(page.encode()) < 5_000_000
    tables = 4  # six runs of Table 2 fill rows of Tables 6, 8 and 9 too
    assert len(re.sub(r"data:image/webp;base64,[^\"]*", "", page).encode()) < tables * 150_000


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


def test_header_answers_in_words_with_its_evidence(page: str) -> None:
    text = Document(page).text
    assert "Does the positional encoding change how good class-conditional images are" in text
    assert "▲ better 2 of 20 HARoPE (FID-500, IS)" in text
    assert "○ not resolved" in text
    assert "L1: this checkpoint against that checkpoint" in text
    assert "significant" not in text


def test_sources_to_copy_are_the_rendered_tables(micro: Path) -> None:
    section = build_report_page(micro).sections[0]
    board = build_board(load_table("2"), read_results(micro))
    assert dict(section.copy_texts) == {
        name: render_table(board, kind)
        for name, kind in (("LaTeX", "tex"), ("Markdown", "md"), ("CSV", "csv"), ("JSON", "json"))
    }


def test_images_without_a_plan_appear_with_what_is_not_known(page: str) -> None:
    text = Document(page).text
    assert "Results that belong to no table" in text
    assert "my pictures images without a plan: how they were generated is not known" in text
    assert "theirs: without a plan" in text
    assert "theirs, fidelity: labels are sorted" in text


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
    page = build_report_page(tmp_path / "runs")
    assert page.final_losses == (("my-harope", "4,990", "0.0002"),)
    assert page.loss_svg is not None
    assert "my-harope" in page.loss_svg
    register(bench_home, name.model_copy(update={"sha256": "cd" * 32}), "step,loss\n10,1.0\n")
    assert build_report_page(tmp_path / "runs").loss_svg is None  # weights of another training


def test_a_broken_training_log_is_named(tmp_path: Path, bench_home: Path) -> None:
    name = fake.checkpoint("my-harope", "harope")
    write_text(tmp_path / "runs/a/plan.json", fake.plan(name).to_json())
    register(bench_home, name, "step,loss\n10,nan\n")
    with pytest.raises(StorageError, match=r"my-harope\.log\.csv"):
        build_report_page(tmp_path / "runs")
