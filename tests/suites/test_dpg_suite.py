"""DPG-Bench's suite: the table as it is, the official prompts by their hashes, and what is
refused.
"""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path

import pytest
from dpg_script import FIELDS

from harope_bench.assets import local_files
from harope_bench.assets.download import fetch_asset
from harope_bench.core import registry
from harope_bench.core.errors import FetchError, MissingAssetError, OptionError, StorageError
from harope_bench.core.formats import versioned_json_text
from harope_bench.evaluators.rules.dpg import DpgItem
from harope_bench.suites.dpg_bench import DpgBenchSuite, official_hashes, read_prompts

OFFICIAL = Path("/work/shared/data/dpg_bench")
WHOLE_TEXT, COLOUR = "entity - whole (owl)", "attribute - color (owl, red)"


@pytest.fixture
def table(bench_home: Path) -> Path:
    """A table in place of the official one, with commas, quotes and an accent in it."""
    path = bench_home / "assets" / "dpg-bench" / "dpg_bench.csv"
    path.parent.mkdir(parents=True)
    (path.parent / "receipt.json").write_text(
        versioned_json_text("receipt", {"files": {path.name: "cd" * 32}})
    )
    rows = [
        ("partiprompts97", "Some text, with commas.\n", 1, "0", WHOLE_TEXT, "Is there an owl?"),
        (
            "partiprompts97",
            "Some text, with commas.\n",
            2,
            "1, 0",
            COLOUR,
            'Is the owl "red", or pink?',
        ),
        ("7", "Ein schöner Satz", 1, "0", "global - (photo)", "Is it a photo?"),
        ("partiprompts97", "Some text, with commas.\n", 3, "1,2", COLOUR, "Is it late?"),
    ]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(FIELDS)
        for item, text, number, parents, phrase, request in rows:
            writer.writerow([item, text, "", number, parents, "b", "d", phrase, request])
    return path


def test_the_table_is_read_by_item_in_its_order(table: Path) -> None:
    prompts = read_prompts(table)
    assert [p.metadata["item"] for p in prompts] == ["partiprompts97", "7"]
    assert [p.prompt for p in prompts] == ["Some text, with commas.", "Ein schöner Satz"]
    assert [(q["row"], q["id"], q["parents"]) for q in prompts[0].metadata["questions"]] == [
        (0, 1, [0]),
        (1, 2, [1, 0]),
        (3, 3, [1, 2]),
    ]
    assert prompts[0].metadata["questions"][1]["question"] == 'Is the owl "red", or pink?'
    assert prompts[0].metadata["official_text"] is False and all(
        DpgItem.model_validate(p.metadata) for p in prompts
    )


def test_columns_that_another_program_adds_change_nothing(table: Path) -> None:
    before = read_prompts(table)
    with table.open(newline="", encoding="utf-8") as file:
        rows = [{**row, "my_note": "x"} for row in csv.DictReader(file)]
    other_with_name = table.with_name("other.csv")
    with other_with_name.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["my_note", *FIELDS])
        writer.writeheader()
        writer.writerows(rows)
    assert read_prompts(other_with_name) == before


def test_cases_go_copy_by_copy_and_end(table: Path) -> None:
    suite = type("Two", (DpgBenchSuite,), {"count": 8})()
    assert [
        (c.prompt_index, c.copy, c.metadata["dpg"]["item"]) for c in map(suite.case, (0, 1, 2, 7))
    ] == [(0, 0, "partiprompts97"), (1, 0, "7"), (0, 1, "partiprompts97"), (1, 3, "7")]
    with pytest.raises(OptionError, match="has 8 images"):
        suite.case(8)
    whole_plugin = registry.load_by_name("suites", "dpg-bench")
    assert (whole_plugin.task, whole_plugin.count, whole_plugin.copies) == (
        "prompts",
        8,
        4,
    )  # two items in this file
    assert whole_plugin.case(0).metadata["dpg"]["item"] == "partiprompts97"


def test_integer_dependencies_are_no_trouble(table: Path) -> None:
    text = table.read_text().replace('"1, 0"', "1").replace('"1,2"', "2")
    table.write_text(text)
    assert [q["parents"] for q in read_prompts(table)[0].metadata["questions"]] == [[0], [1], [2]]


@pytest.mark.parametrize(
    ("old_text", "new_text", "message"),
    [
        (",2,", ",two,", "row 1 is none of DPG-Bench's"),
        ('"1,2"', '"1;2"', "row 3 is none"),
        ("proposition_id", "number", "row 0 is none of DPG-Bench's"),
        ("\n7,", "\n../7,", "row 2 is none of DPG-Bench's .*not a plain name"),
    ],
)
def test_a_row_that_is_none_is_named(
    table: Path, old_text: str, new_text: str, message: str
) -> None:
    table.write_text(table.read_text().replace(old_text, new_text))
    with pytest.raises(StorageError, match=message):
        read_prompts(table)


def test_without_the_table_the_command_is_named_and_another_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingAssetError, match="harope-bench fetch dpg-bench"):
        registry.load_by_name("suites", "dpg-bench").requests([0])
    (tmp_path / "dpg_bench.csv").write_text(",".join(FIELDS) + "\n")
    with pytest.raises(FetchError, match="has git blob id .*, wanted 98457fc99019"):
        fetch_asset("dpg-bench", tmp_path)
    assert local_files.find_local_file("dpg-bench") is None


def test_hashes_of_the_official_prompts_ship() -> None:
    known_official_hashes = official_hashes()
    assert len(known_official_hashes) == 1065 == len(set(known_official_hashes.values())) and all(
        len(h) == 16 for h in known_official_hashes.values()
    )
    assert registry.load_by_name("suites", "dpg-bench").count == 4 * len(known_official_hashes)


@pytest.mark.skipif(not OFFICIAL.exists(), reason="the official prompt files are not here")
def test_the_shipped_hashes_are_those_of_the_official_files(tmp_path: Path) -> None:
    import tarfile

    with tarfile.open(OFFICIAL / "prompts.tar") as archive:
        files = {
            Path(m.name).stem: archive.extractfile(m).read()
            for m in archive.getmembers()
            if m.isfile()
        }  # type: ignore[union-attr]
    assert {
        item: hashlib.sha256(text.strip()).hexdigest()[:16] for item, text in files.items()
    } == official_hashes()
    expected = {
        line.split()[1].rpartition("/")[2]: line.split()[0]
        for line in (OFFICIAL / "prompts.sha256").read_text().splitlines()
    }
    assert {
        f"{item}.txt": hashlib.sha256(text).hexdigest() for item, text in files.items()
    } == expected
