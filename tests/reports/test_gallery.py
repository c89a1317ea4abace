"""Samples in the report: the same ones in every run of a suite, with what was asked for beside
them.
"""

from __future__ import annotations

import base64
import io
from itertools import pairwise
from pathlib import Path

import fake_runs as fake
import numpy as np
import pytest
from document import HOSTILE, Document
from PIL import Image

from harope_bench.core.json_lines import append_line
from harope_bench.core.schema import SampleRecord
from harope_bench.core.storage import write_text
from harope_bench.reports.gallery import (
    MAX_CAPTIONED_SAMPLES,
    MAX_SAMPLES,
    N_COLUMNS,
    SamplePanel,
    build_panels,
    evenly_spaced_indices,
)
from harope_bench.reports.report_page import write_report
from harope_bench.reports.runs import read_runs

COLOURS = ("red", "lime", "blue", "white")


def write_run(
    folder: Path,
    indices: range,
    suite: str = "shapes",
    side: int = 8,
    prompt: str = "{index} things in {colour}",
) -> Path:
    """A run whose image of an index has the colour that its prompt names, or its label where there
    is no prompt.
    """
    (folder / "images").mkdir(parents=True)
    name = fake.checkpoint(folder.name, "harope", suite=suite)
    write_text(folder / "plan.json", fake.plan(name, suite, resolution=side).to_json())
    for index in indices:
        file, colour = f"images/{index:06d}.png", COLOURS[index % len(COLOURS)]
        Image.new("RGB", (side, side), colour).save(folder / file)
        fields = (
            {"prompt": prompt.format(index=index, colour=colour)}
            if prompt
            else {"label": index % 10}
        )
        append_line(
            folder / "samples.jsonl",
            SampleRecord(index=index, file=file, sha256=fake.HASH, **fields).to_json(),
        )  # type: ignore[arg-type]
    return folder


def read_panels(runs: Path) -> list[SamplePanel]:
    return build_panels(read_runs(runs))


def middle_colours(panel: SamplePanel, number: int) -> list[tuple[int, ...]]:
    """The colour in the middle of each column of one picture."""
    uri = panel.sheets[number].uri
    with Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) as file:
        picture = file.convert("RGB")
    middles = range(panel.column_step // 2 - 1, picture.width, panel.column_step)
    return [tuple(np.asarray(picture)[picture.height // 2, x]) for x in middles]


def test_captioned_samples_are_even_steps_through_what_all_runs_have(tmp_path: Path) -> None:
    """A suite's first captions are of one task; 19 even steps from the first to the last shared
    sample reach them all.
    """
    write_run(tmp_path / "a", range(436))
    write_run(tmp_path / "b", range(20, 211), side=16)
    panels = read_panels(tmp_path)
    columns = [index for panel in panels for index, _ in panel.captions]
    assert columns == list(range(20, 211, 10))
    assert [len(panel.captions) for panel in panels] == [
        N_COLUMNS,
        MAX_CAPTIONED_SAMPLES - N_COLUMNS,
    ]
    for panel in panels:
        assert [text for _, text in panel.captions] == [
            f"{i} things in {COLOURS[i % 4]}" for i, _ in panel.captions
        ]
        expected = [
            tuple(Image.new("RGB", (1, 1), COLOURS[i % 4]).getpixel((0, 0)))
            for i, _ in panel.captions
        ]  # type: ignore[arg-type]
        assert middle_colours(panel, 0) == middle_colours(panel, 1) == expected
        assert {sheet.width for sheet in panel.sheets} == {N_COLUMNS * panel.column_step - 2}, (
            "rows of one table have columns of one width"
        )


def test_captions_stand_in_the_page_and_in_the_images_description(tmp_path: Path) -> None:
    long_text = "{index} " + "very " * 60 + "{colour} things"
    write_run(tmp_path / "runs/a", range(4), prompt=long_text)
    text = Document(write_report(tmp_path / "runs", tmp_path / "r.html").read_text())
    assert all(long_text.format(index=i, colour=COLOURS[i]) in text.text for i in range(4))
    (alt,) = [value for tag, name, value in text.attributes if (tag, name) == ("img", "alt")]
    assert str(alt).startswith("a, samples from left to right: 0: 0 very very")
    assert "; 3: 3 very" in str(alt) and len(str(alt)) < 4 * 100
    assert [value for tag, name, value in text.attributes if (tag, name) == ("li", "value")][
        -4:
    ] == ["0", "1", "2", "3"]


def test_a_hostile_caption_comes_out_as_text(tmp_path: Path) -> None:
    write_run(tmp_path / "runs/a", range(2), prompt=HOSTILE.replace("{", "").replace("}", ""))
    document = Document(write_report(tmp_path / "runs", tmp_path / "r.html").read_text())
    assert document.tags["script"] == document.tags["style"] == 1
    assert "onerror" not in {name for _, name, _ in document.attributes}


def test_runs_whose_prompts_differ_show_both(tmp_path: Path) -> None:
    write_run(tmp_path / "a", range(2), prompt="a ring")
    write_run(tmp_path / "b", range(2), prompt="a cross")
    assert [text for _, text in read_panels(tmp_path)[0].captions] == ["a ring / a cross"] * 2


def test_runs_that_share_no_sample_and_other_suites_stand_apart(tmp_path: Path) -> None:
    write_run(tmp_path / "a", range(3))
    write_run(tmp_path / "b", range(3, 6))
    write_run(tmp_path / "c", range(3), suite="geneval")
    assert [
        ([sheet.title for sheet in panel.sheets], [i for i, _ in panel.captions])
        for panel in read_panels(tmp_path)
    ] == [
        (["a"], [0, 1, 2]),
        (["b"], [3, 4, 5]),
        (["c"], [0, 1, 2]),
    ]


def test_classes_stay_in_their_columns_wherever_a_run_starts(tmp_path: Path) -> None:
    write_run(tmp_path / "a", range(500), suite="digits", prompt="")
    write_run(tmp_path / "b", range(3, 100), suite="digits", prompt="")
    (panel,) = read_panels(tmp_path)
    assert panel.captions == ()
    for sheet in panel.sheets:
        assert sheet.alt_text.endswith(
            "samples 3 to 42 in rows of 10, columns by class 3, 4, 5, 6, 7, 8, 9, 0, 1, 2"
        )


def test_classes_without_columns_are_not_said_to_have_any(tmp_path: Path) -> None:
    """Labels that follow no rows of ten: even steps, each sample's class named."""
    run = write_run(tmp_path / "a", range(0), suite="digits", prompt="")
    for index in range(79):
        append_line(
            run / "samples.jsonl",
            SampleRecord(index=index, status="failed", reason="x", label=index // 3).to_json(),
        )
    (panel,) = read_panels(tmp_path)
    assert "columns" not in panel.sheets[0].alt_text
    assert (
        f"of classes {', '.join(str(i // 3) for i in range(0, 79, 2))}; {MAX_SAMPLES} missing"
        in panel.sheets[0].alt_text
    )


@pytest.mark.parametrize("count", [2, 7, 20])
def test_even_steps_reach_both_ends_and_repeat_nothing(count: int) -> None:
    for length in range(1, 60):
        evenly_spaced_indices_result = evenly_spaced_indices(range(length), count)
        assert (
            evenly_spaced_indices_result[0],
            evenly_spaced_indices_result[-1],
            len(set(evenly_spaced_indices_result)),
        ) == (0, length - 1, min(count, length))
        assert len({b - a for a, b in pairwise(evenly_spaced_indices_result)}) <= 2
