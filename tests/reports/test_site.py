"""The leaderboard: protocols apart, ties share a rank, pages that are safe, whole and the same
twice.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import fake_runs
import numpy as np
import pytest
from click.testing import CliRunner
from document import HOSTILE, Document
from fake_runs import checkpoint, measurement, micro_run, micro_table, plan, result, write_result

from harope_bench.cli import main
from harope_bench.core.errors import StorageError, UnknownNameError
from harope_bench.core.schema import make_warnings
from harope_bench.data.result_store import read_results
from harope_bench.leaderboards.entries import parse_entries
from harope_bench.leaderboards.rankings import (
    ProtocolSection,
    build_sections,
    rank_results,
    result_protocol,
)
from harope_bench.reports.leaderboard_metadata import (
    LeaderboardMetadata,
    RunMetadata,
    read_metadata,
)
from harope_bench.reports.leaderboard_pages import build_leaderboard, page_name, write_leaderboard


def build(runs: Path) -> list[ProtocolSection]:
    return build_sections(read_results(runs))


def write_fid_run(
    folder: Path, name: str, value: float | None, se: float = 0.1, n: int = 500, **fields: object
) -> Path:
    """A run whose only number is FID, without per-sample values."""
    measurement_result = measurement(
        "fid", value, se, n, **({} if value is not None else {"reason": "too few images"})
    )
    return write_result(
        folder / name, result(plan(checkpoint(name, "harope")), [measurement_result], **fields)
    )


def entry_ranks(section: ProtocolSection, metric: str = "fid") -> dict[str, tuple[int, bool]]:
    return {
        entry.stored_result.path.parent.parent.name: (
            entry.ranks[metric].rank,
            entry.ranks[metric].is_tied,
        )
        for entry in section.results
        if metric in entry.ranks
    }


def test_rows_of_one_protocol_stand_in_one_section_in_order(tmp_path: Path) -> None:
    (section,) = build(micro_table(tmp_path))
    values = [entry.find_measurement("fid").value for entry in section.results]  # type: ignore[union-attr]
    assert len(values) == 6
    assert values == sorted(values)  # type: ignore[type-var]
    assert section.protocol.image_counts == (500,)


@pytest.mark.parametrize(
    "fields",
    [
        {"version": 2},
        {"profile": "other"},
        {"rules": "corrected"},
        {"reference_sha256": "cd" * 32},
        {"evaluator": "other-evaluator"},
        {"scale": "paper"},
        {"plan": plan(checkpoint(), resolution=56)},
        {"plan": plan(checkpoint(), suite="shapes")},
        {"plan": None},
    ],
)
def test_another_protocol_is_another_section(fields: dict[str, object], tmp_path: Path) -> None:
    write_fid_run(tmp_path, "a", 10.0)
    write_fid_run(tmp_path, "b", 11.0, **fields)
    assert [len(section.results) for section in build(tmp_path)] == [1, 1]


def test_another_number_of_images_or_another_judge_is_another_section(tmp_path: Path) -> None:
    write_fid_run(tmp_path, "a", 10.0)
    write_fid_run(tmp_path, "b", 9.0, n=400)
    judge = read_results(tmp_path)[0].result.judge.model_copy(update={"weights_sha256": "ef" * 32})
    write_fid_run(tmp_path, "c", 8.0, judge=judge)
    assert [len(section.results) for section in build(tmp_path)] == [1, 1, 1]


def test_sampler_steps_and_guidance_are_the_entrants_choice(tmp_path: Path) -> None:
    write_fid_run(tmp_path, "a", 10.0)
    write_fid_run(
        tmp_path, "b", 12.0, plan=plan(checkpoint("b", "harope"), steps=250, guidance=4.0)
    )
    (section,) = build(tmp_path)
    assert entry_ranks(section) == {"a": (1, False), "b": (2, False)}
    assert "guidance" in " ".join(build_leaderboard(tmp_path).sections[0].notes)


def test_rows_that_are_not_resolved_share_a_rank(tmp_path: Path) -> None:
    for name, value in (("a", 10.0), ("b", 10.1), ("c", 12.0), ("d", 12.2), ("e", 20.0)):
        write_fid_run(tmp_path, name, value)
    (section,) = build(tmp_path)
    assert entry_ranks(section) == {
        "a": (1, True),
        "b": (1, True),
        "c": (3, True),
        "d": (3, True),
        "e": (5, False),
    }


def test_higher_is_better_where_the_evaluator_says_so(tmp_path: Path) -> None:
    for name, value in (("a", 5.0), ("b", 9.0)):
        write_result(
            tmp_path / name,
            result(plan(checkpoint(name, "harope")), [measurement("is", value, 0.1)]),
        )
    (section,) = build(tmp_path)
    assert entry_ranks(section, "is") == {"b": (1, False), "a": (2, False)}
    assert [entry.stored_result.path.parent.parent.name for entry in section.results] == ["b", "a"]


def test_pairing_resolves_what_separate_errors_do_not(tmp_path: Path) -> None:
    """The same five results rank apart with their per-sample values and tie without."""
    for encoding in ("harope", "rope-axial"):
        micro_run(tmp_path / encoding, encoding)
    (section,) = build(tmp_path)
    assert entry_ranks(section) == {"harope": (1, False), "rope-axial": (2, False)}
    step = section.results[1].ranks["fid"].difference
    assert step is not None
    assert step.is_paired
    for path in tmp_path.glob("**/results/*.npz"):
        path.unlink()
    (section,) = build(tmp_path)
    assert entry_ranks(section) == {"harope": (1, True), "rope-axial": (1, True)}


def test_holm_is_applied_within_the_column(tmp_path: Path) -> None:
    """One row 2.3 errors (p 0.02) from twenty equal ones: against one alone it would be resolved,
    among all it is not.
    """
    for i in range(21):
        write_fid_run(tmp_path, f"r{i:02d}", 10.1 if i == 20 else 10.0, se=0.1 / 2.3 / np.sqrt(2))
    (section,) = build(tmp_path)
    assert {folder for folder, _ in entry_ranks(section).values()} == {1}
    assert (
        list(
            rank_results(
                "fid",
                "lower",
                [section.results[0].stored_result, section.results[20].stored_result],
            ).values()
        )[1].rank
        == 2
    )


def test_a_chain_of_neighbours_does_not_tie_its_ends(tmp_path: Path) -> None:
    for name, value in (("a", 10.0), ("b", 10.5), ("c", 11.0)):
        write_fid_run(tmp_path, name, value, se=0.25)
    (section,) = build(tmp_path)
    assert entry_ranks(section) == {"a": (1, True), "b": (1, True), "c": (2, False)}


def test_a_missing_value_has_no_rank_and_says_why(tmp_path: Path) -> None:
    write_fid_run(tmp_path, "a", 10.0)
    measurements = [
        measurement("fid", None, None, reason="too few images"),
        measurement("is", 5.0, 0.1),
    ]
    write_result(tmp_path / "b", result(plan(checkpoint("b", "harope")), measurements))
    (section,) = build(tmp_path)
    assert entry_ranks(section) == {"a": (1, False)}
    assert [entry.stored_result.path.parent.parent.name for entry in section.results] == ["a", "b"]
    assert "no value: too few images" in [
        cell.text for line in build_leaderboard(tmp_path).sections[0].rows for cell in line.cells
    ]


def test_a_number_without_an_error_ties_and_says_so(tmp_path: Path) -> None:
    write_fid_run(tmp_path, "a", 10.0)
    write_fid_run(tmp_path, "b", 99.0, se=None)  # type: ignore[arg-type]
    (section,) = build(tmp_path)
    assert entry_ranks(section) == {"a": (1, True), "b": (1, True)}
    write_leaderboard(tmp_path, tmp_path / "site")
    text = (tmp_path / "site/index.html").read_text()
    assert "99.00, no standard error" in text
    assert "not comparable with a: a standard error is missing" in text


def test_numbers_of_an_unknown_evaluator_are_shown_and_not_ranked(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_fid_run(tmp_path, name, 10.0, evaluator="elsewhere")
    (section,) = build(tmp_path)
    assert section.ranked_metrics == ()
    assert not any(entry.ranks for entry in section.results)
    assert "not ranked" in " ".join(build_leaderboard(tmp_path).sections[0].notes)


def test_sections_of_one_title_say_what_sets_them_apart(tmp_path: Path) -> None:
    write_fid_run(tmp_path, "a", 10.0)
    write_fid_run(tmp_path, "b", 11.0, profile="other")
    blocks = build_leaderboard(tmp_path).sections
    assert len({block.title for block in blocks}) == 2
    assert "Profile: other" in " ".join(note for block in blocks for note in block.notes)


# ---------------------------------------------------------------------------
# pages


def test_there_is_an_index_and_a_page_a_run(tmp_path: Path) -> None:
    written_leaderboard = write_leaderboard(
        micro_table(tmp_path / "runs", samples=2), tmp_path / "site"
    )
    assert written_leaderboard[0] == tmp_path / "site/index.html"
    assert len(written_leaderboard) == 7
    index = Document((tmp_path / "site/index.html").read_text())
    for link in index.links:
        target, _, anchor = link.partition("#")
        page = Document((tmp_path / "site" / target).read_text()) if target else index
        assert not anchor or anchor in page.ids, link
    page = Document(written_leaderboard[1].read_text())
    for link in page.links:
        target, _, anchor = link.partition("#")
        assert not target or (written_leaderboard[1].parent / target).resolve().is_file()
        assert not anchor or anchor in (index.ids if target else page.ids)
    assert "Run card" in page.text


def test_pages_are_the_same_twice_and_wherever_the_runs_lie(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_leaderboard(micro_table(tmp_path / name / "runs"), tmp_path / name / "site")
    pages = [
        {
            p.relative_to(tmp_path / n): p.read_bytes()
            for p in sorted((tmp_path / n / "site").rglob("*.html"))
        }
        for n in ("one", "two")
    ]
    assert {k.as_posix(): v for k, v in pages[0].items()} == {
        k.as_posix(): v for k, v in pages[1].items()
    }


def test_pages_need_nothing_from_outside(tmp_path: Path) -> None:
    for path in write_leaderboard(micro_table(tmp_path / "runs"), tmp_path / "site"):
        text = path.read_text()
        page = Document(text)
        policy = [
            value
            for tag, name, value in page.attributes
            if tag == "meta" and name == "content" and "default-src" in value
        ]
        assert policy == [
            "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src"
            " 'unsafe-inline'"
        ]
        assert not [link for link in page.links if re.match(r"[a-z]+:|//", link)]
        assert "://" not in text
        assert len(page.ids) == len(set(page.ids))
        assert ("html", "lang", "en") in page.attributes
        assert page.tags["h1"] == page.tags["main"] == 1
        assert page.tags["caption"] == page.tags["table"]
        assert page.tags["th"] == sum(
            1 for tag, name, _ in page.attributes if tag == "th" and name == "scope"
        )
        assert page.tags["svg"] == sum(
            1
            for tag, name, value in page.attributes
            if tag == "svg" and (name, value) == ("aria-hidden", "true")
        )


def test_hostile_words_stay_words(tmp_path: Path) -> None:
    made_result = result(
        plan(checkpoint(source=HOSTILE)),
        [measurement("fid", 3.0)],
        target=HOSTILE,
        parity=HOSTILE,
        profile=HOSTILE,
    )
    made_result = made_result.model_copy(
        update={"warnings": make_warnings("images", [HOSTILE]), "reference": HOSTILE}
    )
    write_result(tmp_path / "runs" / 'x"><img src=x>', made_result)
    for path in write_leaderboard(tmp_path / "runs", tmp_path / "site"):
        page = Document(path.read_text())
        assert page.tags["img"] == 0
        assert page.tags["script"] <= 1
        assert path.resolve().is_relative_to(tmp_path / "site")
    assert re.fullmatch(r"[a-z0-9-]+\.html", path.name)


def test_page_names_are_plain_and_differ() -> None:
    names = [page_name(run) for run in ("a/b", "a-b", "A/B", "../../etc/passwd", "", "x" * 500)]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z0-9-]{1,69}\.html", name) for name in names)


def test_pages_of_runs_that_are_gone_are_removed_and_others_kept(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_fid_run(tmp_path / "runs", name, 10.0)
    write_leaderboard(tmp_path / "runs", tmp_path / "site")
    own_path = tmp_path / "site/runs/mine.html"
    own_path.write_text("<p>mine</p>")
    (tmp_path / "runs/b/results/fidelity.json").unlink()
    left = write_leaderboard(tmp_path / "runs", tmp_path / "site")
    assert set((tmp_path / "site/runs").iterdir()) == {own_path, left[1]}


def test_folders_without_results_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="has no result"):
        write_leaderboard(tmp_path, tmp_path / "site")
    assert not (tmp_path / "site").exists()
    write_fid_run(tmp_path, "a", 1.0).write_text('{"format": 1}')
    with pytest.raises(StorageError, match="is not a result"):
        write_leaderboard(tmp_path, tmp_path / "site")


def test_drawn_runs_without_a_score_are_named(tmp_path: Path) -> None:
    write_fid_run(tmp_path, "a", 1.0)
    fake_runs.write_text(tmp_path / "later/plan.json", plan(checkpoint()).to_json())
    write_leaderboard(tmp_path, tmp_path / "site")
    assert (
        "Generated, not evaluated later"
        in Document((tmp_path / "site/index.html").read_text()).text
    )


def test_the_protocol_is_read_from_the_result_alone(tmp_path: Path) -> None:
    write_fid_run(tmp_path, "a", 1.0)
    key = result_protocol(read_results(tmp_path)[0])
    assert (key.suite, key.resolution, key.image_counts, key.evaluator, key.scale) == (
        "digits@1",
        "28",
        (500,),
        "fidelity@1",
        "micro",
    )


def test_the_verb_builds_and_brings_no_torch(tmp_path: Path) -> None:
    micro_table(tmp_path / "runs")
    command_result = CliRunner().invoke(
        main, ["leaderboard", "build", str(tmp_path / "runs"), "--out", str(tmp_path / "site")]
    )
    assert command_result.exit_code == 0
    assert command_result.output.strip().endswith("index.html: 6 runs")
    code = (
        "import sys\nfrom harope_bench.cli import main\ntry: main(['leaderboard', 'build',"
        f" {str(tmp_path / 'runs')!r}, '--out', {str(tmp_path / 'again')!r}])\nexcept SystemExit as"
        " end: assert not end.code\nassert 'torch' not in sys.modules"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert (tmp_path / "again/index.html").read_bytes() == (
        tmp_path / "site/index.html"
    ).read_bytes()


# ---------------------------------------------------------------------------
# own rows, metadata, several protocols


def test_own_rows_have_their_label_and_are_ranked_with_the_others(tmp_path: Path) -> None:
    for name, value in (("a", 10.0), ("mine", 11.0), ("b", 15.0)):
        write_fid_run(tmp_path, name, value)
    board = build_leaderboard(tmp_path, parse_entries(["mine=My PE (ours)"], [], tmp_path))
    (section,) = board.sections
    labels = [row.description.label for row in section.rows]
    assert labels == ["a", "My PE (ours)", "b"]
    assert [row.description.is_own for row in section.rows] == [False, True, False]
    assert "from My PE (ours)" in section.rows[2].cells[0].difference_text
    write_leaderboard(tmp_path, tmp_path / "site", parse_entries(["mine=My PE"], [], tmp_path))
    text = Document((tmp_path / "site/index.html").read_text()).text
    assert "My PE added mine;" in text and "3 rows , with My PE" in text.replace("rows,", "rows ,")


def test_an_own_run_may_lie_outside_of_the_folder(tmp_path: Path) -> None:
    write_fid_run(tmp_path / "runs", "a", 10.0)
    write_fid_run(tmp_path / "elsewhere", "mine", 11.0)
    own_folder = tmp_path / "elsewhere/mine"
    entries = parse_entries([f"{own_folder}=Mine"], [], tmp_path / "runs")
    paths = write_leaderboard(tmp_path / "runs", tmp_path / "site", entries)
    assert len(paths) == 3
    board = build_leaderboard(tmp_path / "runs", entries)
    assert [row.description.label for row in board.sections[0].rows] == ["a", "Mine"]
    # a folder inside is not read twice
    inner_entries = parse_entries([f"{tmp_path}/runs/a=A"], [], tmp_path / "runs")
    inner_board = build_leaderboard(tmp_path / "runs", inner_entries)
    assert [row.description.label for row in inner_board.sections[0].rows] == ["A"]
    # two runs of one name would have one page
    write_fid_run(tmp_path / "third", "a", 12.0)
    entries = parse_entries([str(tmp_path / "third/a")], [], tmp_path / "runs")
    with pytest.raises(StorageError, match="two runs are called a"):
        build_leaderboard(tmp_path / "runs", entries)
    with pytest.raises(UnknownNameError, match="mien"):
        build_leaderboard(tmp_path / "runs", parse_entries(["mien"], [], tmp_path / "runs"))


def test_several_protocols_are_folded_but_that_of_the_own_run(tmp_path: Path) -> None:
    for name, n in (("a", 500), ("b", 500), ("c", 400)):
        write_fid_run(tmp_path, name, 10.0, n=n)
    sections = build_leaderboard(tmp_path).sections
    assert [(len(section.rows), section.is_open) for section in sections] == [
        (1, False),
        (2, True),
    ]
    sections = build_leaderboard(tmp_path, parse_entries(["c"], [], tmp_path)).sections
    assert [section.is_open for section in sections] == [True, False]
    write_leaderboard(tmp_path, tmp_path / "site")
    page = (tmp_path / "site/index.html").read_text()
    assert page.count('<details class="protocol">') == 1
    assert page.count('<details class="protocol" open>') == 1
    assert ".protocol::details-content { content-visibility: visible; }" in page, "on paper"


METADATA = """
title = "Encodings <b>"
description = "What & why"
url = "https://example.org/board"
[runs.a]
label = "Run A"
authors = "A. Author"
url = "https://example.org/a"
date = "2026-11-30"
note = "trained twice"
"""


def test_metadata_are_shown_on_the_index_and_on_the_page_of_the_run(tmp_path: Path) -> None:
    write_fid_run(tmp_path / "runs", "a", 10.0)
    (tmp_path / "board.toml").write_text(METADATA)
    arguments = ["leaderboard", "build", str(tmp_path / "runs"), "--out", str(tmp_path / "site")]
    arguments += ["--metadata", str(tmp_path / "board.toml")]
    assert CliRunner().invoke(main, arguments).exit_code == 0
    index = Document((tmp_path / "site/index.html").read_text())
    assert "Encodings <b>" in index.text and "What & why" in index.text
    assert "Run A a; harope on dit A. Author, 2026-11-30" in index.text.replace("a: ", "")
    assert ("meta", "content", "What & why") in index.attributes
    (page_path,) = (tmp_path / "site/runs").iterdir()
    page = Document(page_path.read_text())
    assert "https://example.org/a" in page.links and "trained twice" in page.text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('titel = "x"', "titel: Extra inputs"),
        ('url = "javascript:alert(1)"', "url: String should match"),
        ('[runs.a]\nurl = "ftp://x"', "runs.a.url"),
        ("[runs]\na = 3", "runs.a"),
    ],
)
def test_wrong_metadata_are_one_line(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "board.toml"
    path.write_text(text)
    with pytest.raises(StorageError, match=re.escape(message)) as error_info:
        read_metadata(path)
    assert "\n" not in str(error_info.value) and "title, description" in str(error_info.value)


def test_metadata_of_no_run_are_an_error(tmp_path: Path) -> None:
    write_fid_run(tmp_path, "a", 10.0)
    metadata = LeaderboardMetadata(runs={"b": RunMetadata(label="B")})
    with pytest.raises(UnknownNameError, match="'b'"):
        build_leaderboard(tmp_path, metadata=metadata)
