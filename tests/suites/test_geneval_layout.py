"""GenEval's folders and finished runs of its script: read by what they say, written as its
generator writes, counted to the digit.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from geneval_files import CLAUSES, TwelvePrompts, geneval_suite, prompt_metadata, write_finished_run
from PIL import Image

from harope_bench.cli import main
from harope_bench.core import registry
from harope_bench.core.annotations import ColourAnnotation, DetectionAnnotation
from harope_bench.core.errors import SampleError, StorageError, UnknownNameError
from harope_bench.data.sample_set import open_samples
from harope_bench.evaluators.rules.geneval import COLOURS, TASKS
from harope_bench.suites.official_layouts import geneval as layout
from harope_bench.suites.official_layouts import geneval_results as results
from harope_bench.suites.official_layouts.base import find_layout, find_results_reader, module_names
from harope_bench.suites.official_layouts.base import load_layout as named_layout

__all__ = ["geneval_suite"]  # the fixture


def draw(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((6, 5, 3), value, dtype=np.uint8)).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """As the official generator leaves it: five digits, metadata on one line, a grid beside the
    samples.
    """
    for prompt, prompt_metadata_result in enumerate(prompt_metadata()):
        folder = tmp_path / "images" / f"{prompt:05d}"
        for copy in range(4):
            draw(folder / "samples" / f"{copy:05d}.png", 4 * prompt + copy)
        (folder / "metadata.jsonl").write_text(json.dumps(prompt_metadata_result))
        draw(folder / "grid.png", 255)
    return tmp_path / "images"


def test_a_whole_folder_is_read_copy_by_copy(folder: Path, geneval_suite: TwelvePrompts) -> None:
    assert layout.is_layout(folder)
    layout_result = layout.open_layout(folder, geneval_suite)
    assert (
        layout_result.n_asked,
        layout_result.failed,
        layout_result.warnings,
        layout_result.indices,
    ) == (
        48,
        {},
        (),
        list(range(48)),
    )
    values = [
        int(batch.images[0, 0, 0, 0]) for batch in layout_result.batches(layout_result.indices, 1)
    ]
    assert values == [4 * (i % 12) + i // 12 for i in range(48)]


def test_what_is_missing_has_a_reason_and_what_is_left_over_is_told(
    folder: Path, geneval_suite: TwelvePrompts
) -> None:
    (folder / "00003" / "samples" / "00002.png").unlink()
    shutil.rmtree(folder / "00007")
    for name in ("1.png.bak", "00004.png", "notes.txt"):
        (folder / "00000" / "samples" / name).write_bytes(
            (folder / "00000" / "samples" / "00000.png").read_bytes()
        )
    (folder / "readme.txt").write_text("x")
    layout_result = layout.open_layout(folder, geneval_suite)
    assert layout_result.n_asked == 48 and len(layout_result.indices) == 43
    assert (
        layout_result.failed[2 * 12 + 3] == "no image 2 in 00003"
        and layout_result.failed[7] == "no folder of this prompt"
    )
    assert set(layout_result.failed) == {27, 7, 19, 31, 43}
    assert layout_result.warnings == (
        "folders: not read: readme.txt",
        (
            "images: not read: 00000/samples/00004.png, 00000/samples/1.png.bak,"
            " 00000/samples/notes.txt"
        ),
    )


@pytest.mark.parametrize("copies", [1, 2, 3])
def test_folders_of_fewer_images_are_as_many_copies_and_none_is_failed(
    folder: Path, geneval_suite: TwelvePrompts, copies: int
) -> None:
    for path in folder.iterdir():
        for copy in range(copies, 4):
            (path / "samples" / f"{copy:05d}.png").unlink()
    layout_result = layout.open_layout(folder, geneval_suite)
    assert (layout_result.n_asked, layout_result.failed, layout_result.indices) == (
        12 * copies,
        {},
        list(range(12 * copies)),
    )
    assert layout_result.warnings == (
        f"images: {copies} of 4 of each prompt, as many as there are",
    )


def test_metadata_saved_with_a_byte_order_mark_is_the_prompts(
    folder: Path, geneval_suite: TwelvePrompts
) -> None:
    for path in folder.glob("*/metadata.jsonl"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes() + b"\r\n")
    assert layout.open_layout(folder, geneval_suite).indices == list(range(48))


def test_colours_are_no_matter_where_no_prompt_names_one() -> None:
    needs = {
        role.role: role.is_needed
        for role in registry.load_by_name("evaluators", "geneval").annotator_roles
    }
    entries = {row["tag"]: needs["colours"](row) for row in prompt_metadata()}
    assert entries == {tag: tag in ("colors", "color_attr") for tag in CLAUSES} and all(
        needs["detector"](row) for row in prompt_metadata()
    )


def test_the_metadata_decides_which_prompt_a_folder_holds(
    folder: Path, geneval_suite: TwelvePrompts
) -> None:
    (folder / "00000").rename(folder / "x")
    (folder / "00001").rename(folder / "0000")
    (folder / "x").rename(folder / "17")
    (folder / "00002" / "metadata.jsonl").write_text(
        json.dumps({"tag": "single_object", "include": [], "prompt": "another"})
    )
    (folder / "00004" / "metadata.jsonl").unlink()
    keys = prompt_metadata()[5]
    (folder / "00005" / "metadata.jsonl").write_text(
        json.dumps(dict(reversed(keys.items())), indent=1)
    )  # the same, written otherwise
    layout_result = layout.open_layout(folder, geneval_suite)
    assert {int(b.images[0, 0, 0, 0]) for b in layout_result.batches([0, 1], 1)} == {0, 4}
    assert 5 in layout_result.indices and {2, 4} <= set(layout_result.failed)
    assert "folders: no prompt of this suite in 00002, 00004; not read" in layout_result.warnings
    assert (
        "folders: the number is not the prompt's in 0000, 17; metadata.jsonl decides, as officially"
        in layout_result.warnings
    )


CHANGES: dict[str, Any] = {
    "an extra key": lambda fields: {**fields, "seed": 42, "scores": {"a": [1]}},
    "an extra key of a clause": lambda fields: {
        **fields,
        "include": [{**c, "box": None, "weight": 1} for c in fields["include"]],
    },
    "no include": lambda fields: {key: fields[key] for key in ("prompt", "tag")},
    "the prompt alone": lambda fields: {"prompt": fields["prompt"]},
    "blanks": lambda fields: {**fields, "prompt": f" {fields['prompt'].replace(' ', '  ')} "},
}


@pytest.mark.parametrize("change", CHANGES)
def test_foreign_metadata_are_read_by_the_fields_that_are_known(
    folder: Path, geneval_suite: TwelvePrompts, change: str
) -> None:
    for path in folder.glob("*/metadata.jsonl"):
        path.write_text(json.dumps(CHANGES[change](json.loads(path.read_text()))))
    layout_result = layout.open_layout(folder, geneval_suite)
    assert (layout_result.indices, layout_result.failed, layout_result.warnings) == (
        list(range(48)),
        {},
        (),
    )


def test_a_metadata_file_of_several_lines_counts_by_its_first(
    folder: Path, geneval_suite: TwelvePrompts
) -> None:
    path = folder / "00003" / "metadata.jsonl"
    path.write_text(path.read_text() + "\n" + json.dumps({"note": "mine"}) + "\n")
    assert layout.open_layout(folder, geneval_suite).indices == list(range(48))


def test_a_known_field_that_says_something_else_is_another_prompt_and_the_reason_is_told(
    folder: Path, geneval_suite: TwelvePrompts
) -> None:
    texts = [
        json.dumps({**prompt_metadata()[0], "include": [{"class": "owl", "count": 2}]}),
        json.dumps({**prompt_metadata()[1], "include": "lamp"}),
        json.dumps({**prompt_metadata()[2], "prompt": 5}),
        "[]",
    ]
    for number, text in enumerate(texts):
        (folder / f"{number:05d}" / "metadata.jsonl").write_text(text)
    layout_result = layout.open_layout(folder, geneval_suite)
    assert {i % 12 for i in layout_result.failed} == {0, 1, 2, 3} and len(
        layout_result.indices
    ) == 32
    (line_result,) = [line for line in layout_result.warnings if line.startswith("folders: why")]
    assert (
        "00000: `include` differs from that of the suite's prompt; 00001: its metadata are not"
        " GenEval's (include" in line_result
    )
    assert "00002: its metadata have no text in `prompt`; and 1 more" in line_result


def test_where_nothing_is_read_the_error_says_why(
    folder: Path, geneval_suite: TwelvePrompts
) -> None:
    for path in folder.glob("*/metadata.jsonl"):
        path.write_text(json.dumps({"prompt": "a prompt of mine", "include": []}))
    with pytest.raises(
        SampleError,
        match=r"has no image of GenEval.*'a prompt of mine' is no prompt of the suite",
    ):
        layout.open_layout(folder, geneval_suite)


def test_two_folders_of_one_prompt_are_refused(folder: Path, geneval_suite: TwelvePrompts) -> None:
    shutil.copytree(folder / "00003", folder / "99")
    with pytest.raises(SampleError, match="00003 and 99 for one prompt"):
        layout.open_layout(folder, geneval_suite)


def test_images_numbered_from_elsewhere_count_in_order(
    folder: Path, geneval_suite: TwelvePrompts
) -> None:
    samples = folder / "00000" / "samples"
    for copy in range(4):
        (samples / f"{copy:05d}.png").rename(samples / f"{copy + 9}.png")
    layout_result = layout.open_layout(folder, geneval_suite)
    assert layout_result.files is not None and [
        layout_result.files[12 * k].name for k in range(4)
    ] == [
        "9.png",
        "10.png",
        "11.png",
        "12.png",
    ]


def test_other_folders_are_not_taken_for_this_layout(
    tmp_path: Path, geneval_suite: TwelvePrompts
) -> None:
    draw(tmp_path / "00000" / "samples" / "00000.png", 1)
    draw(tmp_path / "flat" / "000000.png", 1)
    assert not layout.is_layout(tmp_path) and not layout.is_layout(tmp_path / "flat")
    with pytest.raises(SampleError, match="has no image of GenEval"):
        layout.open_layout(tmp_path, geneval_suite)


def test_written_folders_read_back_and_are_the_official_form(
    folder: Path, geneval_suite: TwelvePrompts, tmp_path: Path
) -> None:
    first_layout = layout.open_layout(folder, geneval_suite)
    written_images = layout.write_images(first_layout, geneval_suite, tmp_path / "copy")
    assert written_images == (48, ())
    assert sorted(p.name for p in (tmp_path / "copy").iterdir()) == [f"{k:05d}" for k in range(12)]
    assert (
        json.loads((tmp_path / "copy" / "00011" / "metadata.jsonl").read_text())
        == prompt_metadata()[11]
    )
    again = layout.open_layout(tmp_path / "copy", geneval_suite)
    assert [b.images.tobytes() for b in again.batches(again.indices, 1)] == [
        b.images.tobytes() for b in first_layout.batches(first_layout.indices, 1)
    ]
    assert layout.write_images(first_layout, geneval_suite, tmp_path / "copy") == (
        48,
        (),
    )  # up to date
    (tmp_path / "copy" / "00003" / "samples" / "00002.png").unlink()
    (tmp_path / "copy" / "00011" / "metadata.jsonl").unlink()
    layout.write_images(first_layout, geneval_suite, tmp_path / "copy")  # a killed one goes on
    assert layout.open_layout(tmp_path / "copy", geneval_suite).indices == list(range(48))
    (tmp_path / "copy" / "00011" / "metadata.jsonl").write_text("{}")
    with pytest.raises(SampleError, match=r"00011.metadata.jsonl holds something else"):
        layout.write_images(first_layout, geneval_suite, tmp_path / "copy")
    (tmp_path / "copy" / "notes.txt").touch()
    with pytest.raises(SampleError, match="not an empty folder: notes.txt"):
        layout.write_images(first_layout, geneval_suite, tmp_path / "copy")


def test_a_part_is_written_with_a_word_on_the_rest(
    folder: Path, geneval_suite: TwelvePrompts, tmp_path: Path
) -> None:
    part = layout.open_layout(folder, geneval_suite).take_first(13)
    written_images = layout.write_images(part, geneval_suite, tmp_path / "part")
    assert written_images.image_count == 13 and written_images.warnings == (
        "35 of 48 images are missing; the official scorer does not notice",
    )
    assert [p.name for p in sorted((tmp_path / "part" / "00000" / "samples").iterdir())] == [
        "00000.png",
        "00001.png",
    ]


def test_layouts_are_found_by_name_and_by_look(
    folder: Path, geneval_suite: TwelvePrompts, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (
        "geneval" in module_names()
        and "base" not in module_names()
        and "geneval_results" not in module_names()
    )
    with pytest.raises(UnknownNameError, match="did you mean geneval"):
        named_layout("genevals")
    monkeypatch.setattr("harope_bench.suites.geneval.PLUGIN", geneval_suite)
    assert find_layout(folder) is not None and find_layout(folder, "geneval") is not None
    assert (
        find_layout(folder, "another-suite") is None
        and find_layout(folder / "00000" / "samples") is None
    )
    assert find_layout(folder / "00000" / "metadata.jsonl") is None
    with pytest.raises(SampleError):
        open_samples(folder)  # a folder of folders is no flat image folder


def test_convert_writes_and_reads_the_layout(
    folder: Path, geneval_suite: TwelvePrompts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harope_bench.suites.geneval.PLUGIN", geneval_suite)
    flat_path, back = tmp_path / "flat", tmp_path / "back"
    command_result = CliRunner().invoke(
        main, ["convert", str(folder), str(flat_path), "--to", "png"]
    )
    assert command_result.exit_code == 0, command_result.output
    assert len(list(flat_path.glob("*.png"))) == 48
    command_result = CliRunner().invoke(
        main, ["convert", str(flat_path), str(back), "--to", "geneval", "--count", "47"]
    )
    assert command_result.exit_code == 0, command_result.output
    assert command_result.output.splitlines() == [
        f"{back}: 47 images",
        "  images: placed by the record in file_list.jsonl",
        "  1 of 48 images are missing; the official scorer does not notice",
    ]
    for copy in range(4):
        name = f"00002/samples/{copy:05d}.png"
        assert np.array_equal(
            np.asarray(Image.open(back / name)), np.asarray(Image.open(folder / name))
        )


def test_a_run_of_another_suite_is_not_written_as_geneval(
    tiny_checkpoint: Any, tmp_path: Path
) -> None:
    run = str(tmp_path / "run")
    generated_command_result = CliRunner().invoke(
        main,
        [
            "generate",
            "tiny",
            "--suite",
            "digits",
            "--count",
            "2",
            "--resolution",
            "8",
            "--out",
            run,
        ],
    )
    assert generated_command_result.exit_code == 0, generated_command_result.output
    command_result = CliRunner().invoke(
        main, ["convert", run, str(tmp_path / "out"), "--to", "geneval"]
    )
    assert (
        command_result.exit_code == 1
        and "was generated for suite digits, the layout geneval is of geneval"
        in command_result.output
    )


# --------------------------------------------------------------------------- results of the
# official script


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """What summary_scores.py prints: shares by tag, their plain mean, images, prompts."""
    by_tag: dict[str, list[bool]] = {}
    by_prompt: dict[str, list[bool]] = {}
    for row in rows:
        by_tag.setdefault(row["tag"], []).append(row["correct"])
        by_prompt.setdefault(row["metadata"], []).append(row["correct"])
    means = {tag: float(np.mean(v)) for tag, v in by_tag.items()}
    return means | {
        "overall": float(np.mean(list(means.values()))),
        "images_correct": float(np.mean([row["correct"] for row in rows])),
        "prompts_correct": float(np.mean([any(v) for v in by_prompt.values()])),
    }


def same_digits(fields: dict[str, float | None], expected: dict[str, float]) -> bool:
    return {k: f"{v:.5f}" for k, v in fields.items() if v is not None} == {
        k: f"{v:.5f}" for k, v in expected.items()
    }


@pytest.mark.parametrize("seed", range(5))
def test_a_finished_run_has_the_summarys_digits_and_the_rule_says_the_same(
    tmp_path: Path, geneval_suite: TwelvePrompts, seed: int
) -> None:
    path = tmp_path / "results.jsonl"
    rows = write_finished_run(path, seed)
    results_reader = find_results_reader(path)
    assert (
        results_reader is not None
        and results_reader.RESULTS_OF == "geneval"
        and find_results_reader(tmp_path) is None
    )
    score = results.import_scores(path, geneval_suite)
    values = {m.metric: m.value for m in score.measurements}
    assert same_digits(values, summary(rows)), (values, summary(rows))
    assert 0.1 < summary(rows)["images_correct"] < 0.9 and set(TASKS) <= set(summary(rows))
    assert any("agrees on 48 of 48" in w for w in score.warnings), score.warnings
    assert all(m.n_asked == m.n_scored for m in score.measurements)


def test_the_scripts_verdict_stands_where_the_rule_says_otherwise(
    tmp_path: Path, geneval_suite: TwelvePrompts
) -> None:
    rows = write_finished_run(tmp_path / "results.jsonl")
    k = next(k for k, row in enumerate(rows) if row["tag"] == "counting" and not row["correct"])
    rows[k] |= {"correct": True, "reason": ""}
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    score = results.import_scores(tmp_path / "results.jsonl", geneval_suite)
    assert same_digits({m.metric: m.value for m in score.measurements}, summary(rows))
    assert any("agrees on 47 of 48; not on " in w for w in score.warnings)
    assert any(
        difference.metric == "counting" for difference in score.rule_differences
    )  # the corrected rules judge by the boxes


def test_a_run_that_is_not_whole_is_none_and_its_summary_on_demand(
    tmp_path: Path, geneval_suite: TwelvePrompts
) -> None:
    rows = [
        row
        for row in write_finished_run(tmp_path / "results.jsonl")
        if "00003/samples/00001" not in row["filename"] and row["tag"] != "colors"
    ]
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    strict = {
        m.metric: m
        for m in results.import_scores(tmp_path / "results.jsonl", geneval_suite).measurements
    }
    assert (
        strict["colors"].value is None
        and strict["overall"].value is None
        and strict["two_object"].n_failed == 1
    )
    assert strict["counting"].value is not None
    lenient = {
        m.metric: m.value
        for m in results.import_scores(
            tmp_path / "results.jsonl", geneval_suite, is_lenient=True
        ).measurements
    }
    assert lenient["colors"] is None
    assert same_digits(
        lenient, summary(rows)
    )  # a task that is missing and images that are missing leave no trace, as officially


def test_any_other_file_is_refused(tmp_path: Path, geneval_suite: TwelvePrompts) -> None:
    path = tmp_path / "results.jsonl"
    rows = write_finished_run(path)
    (tmp_path / "other.jsonl").write_text('{"tag": "x"}\n')
    assert not results.is_results_file(tmp_path / "other.jsonl") and not results.is_results_file(
        tmp_path
    )
    for text, message in (
        ("", "has no results"),
        ('{"tag": "x"}\n', "line 1 is no GenEval result"),
        (json.dumps({**rows[0], "metadata": "no"}) + "\n", "line 1 has no metadata"),
        (json.dumps({**rows[0], "details": '{"owl": [1]}'}) + "\n", "line 1 is no GenEval result"),
        (
            json.dumps({**rows[0], "details": '{"owl": [[1, 2]]}'}) + "\n",
            "line 1 is no GenEval result",
        ),
        (
            json.dumps({**rows[0], "metadata": json.dumps({**prompt_metadata()[0], "prompt": "p"})})
            + "\n",
            "no prompt of GenEval's",
        ),
        ((json.dumps(rows[0]) + "\n") * 2, "has 2 images"),
    ):
        path.write_text(text)
        with pytest.raises(StorageError, match=message):
            results.import_scores(path, geneval_suite)


LINES: dict[str, Any] = {
    "an extra key": lambda row: {**row, "seed": 1, "clip": None},
    "an extra key of the metadata": lambda row: {
        **row,
        "metadata": json.dumps({**json.loads(row["metadata"]), "id": 3}),
    },
    "no metadata": lambda row: {
        key: value for key, value in row.items() if key not in ("metadata", "tag")
    },
    "metadata without include": lambda row: {
        **row,
        "metadata": json.dumps({"prompt": row["prompt"]}),
    },
    "objects in place of text": lambda row: {
        **row,
        "metadata": json.loads(row["metadata"]),
        "details": json.loads(row["details"]),
    },
}


@pytest.mark.parametrize("change", LINES)
def test_lines_that_another_program_changed_are_read_to_the_same_digits(
    tmp_path: Path, geneval_suite: TwelvePrompts, change: str
) -> None:
    path = tmp_path / "results.jsonl"
    rows = write_finished_run(path)
    path.write_text("".join(json.dumps(LINES[change](row)) + "\n" for row in rows))
    assert find_results_reader(path) is results
    score = results.import_scores(path, geneval_suite)
    assert same_digits({m.metric: m.value for m in score.measurements}, summary(rows))
    assert any("agrees on 48 of 48" in w for w in score.warnings), score.warnings


def test_five_images_of_a_prompt_are_read_as_the_first_four_and_told(
    tmp_path: Path, geneval_suite: TwelvePrompts
) -> None:
    rows = write_finished_run(tmp_path / "results.jsonl", images=5)
    four = [row for row in rows if not row["filename"].endswith("00004.png")]
    score = results.import_scores(tmp_path / "results.jsonl", geneval_suite)
    assert same_digits({m.metric: m.value for m in score.measurements}, summary(four))
    assert "lines: 12 beyond the first 4 of a prompt are not read" in score.warnings


def test_copies_are_told_by_file_name_whatever_the_order(
    tmp_path: Path, geneval_suite: TwelvePrompts
) -> None:
    rows = write_finished_run(tmp_path / "results.jsonl")
    score = results.import_scores(tmp_path / "results.jsonl", geneval_suite)
    by_name = {row["filename"]: row["correct"] for row in rows}
    for row in score.sample_scores:
        name = f"out/{row['prompt_index']:05d}/samples/{row['copy']:05d}.png"
        assert row["scores"]["images_correct"] == float(by_name[name])


def test_colours_are_read_from_the_reasons(tmp_path: Path, geneval_suite: TwelvePrompts) -> None:
    prompt_metadata_result = prompt_metadata()[10]
    reason = (
        "expected red owl>=1, found 0 red; and 1 green\nexpected blue urn>=1, found 0 blue; and 1"
        " white"
    )
    details = {"urn": [[0, 0, 9, 9, 0.9]], "owl": [[0, 0, 9, 9, 0.5], [1, 1, 2, 2, 0.5]]}
    row = {
        "filename": "a/0/samples/0.png",
        "tag": "color_attr",
        "prompt": prompt_metadata_result["prompt"],
        "correct": False,
        "reason": reason,
        "metadata": json.dumps(prompt_metadata_result),
        "details": json.dumps(details),
    }
    (tmp_path / "r.jsonl").write_text(json.dumps(row) + "\n")
    (row_result,) = results.read_rows(tmp_path / "r.jsonl")
    annotations_of_row = results._annotations_of_row(row_result)
    assert isinstance(annotations_of_row["colours"], ColourAnnotation) and isinstance(
        annotations_of_row["detector"], DetectionAnnotation
    )
    assert [COLOURS[int(np.argmax(s))] for s in annotations_of_row["colours"].probabilities] == [
        "green",
        "white",
    ]
    owls = [d for d in annotations_of_row["detector"].detections if d.label == "owl"]
    assert (
        owls[0].box == (0, 0, 9, 9) and owls[0].score == 0.5 > owls[1].score
    )  # of equals, the script's first stays first
