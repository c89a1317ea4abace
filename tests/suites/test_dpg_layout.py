"""DPG-Bench's grids and finished runs of its script: tiles in order, nothing judged as black,
scores to the digit.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from dpg_files import ITEMS, ThreeItems, dpg_suite, write_grid
from dpg_script import run_script
from PIL import Image

from harope_bench.cli import main
from harope_bench.core.errors import OptionError, SampleError, StorageError
from harope_bench.data.image_io import encode_png
from harope_bench.evaluators.rules.dpg import DpgItem, score_answers
from harope_bench.suites.official_layouts import dpg as layout
from harope_bench.suites.official_layouts import dpg_results as results
from harope_bench.suites.official_layouts.base import find_layout, find_results_reader, module_names

__all__ = ["dpg_suite"]  # the fixture


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for k, item in enumerate(ITEMS):
        write_grid(tmp_path / "grids" / f"{item}.png", 10 * k)
    return tmp_path / "grids"


def values(result: Any) -> list[int]:
    return [int(batch.images[0, 0, 0, 0]) for batch in result.batches(result.indices, 1)]


def test_tiles_are_the_copies_row_by_row(folder: Path, dpg_suite: ThreeItems) -> None:
    assert layout.is_layout(folder) and "dpg" in module_names()
    layout_result = layout.open_layout(folder, dpg_suite, tiles=4)
    assert (layout_result.n_asked, layout_result.failed, layout_result.shape) == (12, {}, (6, 6, 3))
    assert layout_result.warnings == ("grids: each file is 2x2 images of 6x6 pixels",)
    assert layout.open_layout(folder, dpg_suite, side=6) == layout_result
    assert values(layout_result) == [10 * (i % 3) + i // 3 for i in range(12)]
    assert all(
        len(np.unique(batch.images)) == 1
        for batch in layout_result.batches(layout_result.indices, 1)
    )


def test_an_image_is_known_by_its_file_and_its_box(folder: Path, dpg_suite: ThreeItems) -> None:
    first_layout = layout.open_layout(folder, dpg_suite, tiles=4)
    assert len(set(first_layout.hashes)) == 12
    assert [
        h for batch in first_layout.batches(first_layout.indices, 5) for h in batch.hashes
    ] == first_layout.hashes
    write_grid(folder / "7.png", 99)
    again = layout.open_layout(folder, dpg_suite, tiles=4)
    assert [a == b for a, b in zip(first_layout.hashes, again.hashes, strict=True)] == [
        i % 3 != 1 for i in range(12)
    ]
    part = layout.open_layout(folder, dpg_suite, tiles=4).take_first(4)
    assert values(part) == [0, 99, 20, 1]


def test_black_tiles_are_refused(folder: Path, dpg_suite: ThreeItems) -> None:
    with pytest.raises(SampleError, match="12x12, wanted square tiles of 8 pixels.*judges black"):
        layout.open_layout(folder, dpg_suite, side=8)
    with Image.open(folder / "7.png") as picture:
        black = np.asarray(picture.crop((8, 0, 16, 8)))[:, 4:]
    assert not black.any(), "what the official script would have judged"
    for size in ((12, 11), (13, 13), (18, 12), (12, 6 * 4)):
        Image.new("RGB", size).save(folder / "7.png")
        with pytest.raises(SampleError, match=f"{size[0]}x{size[1]}, wanted square tiles"):
            layout.open_layout(folder, dpg_suite, tiles=4)


@pytest.mark.parametrize(("across", "down"), [(1, 1), (2, 1)])
def test_pictures_of_fewer_tiles_are_as_many_images_and_none_is_failed(
    tmp_path: Path, dpg_suite: ThreeItems, across: int, down: int
) -> None:
    for k, item in enumerate(ITEMS):
        write_grid(
            tmp_path / f"{item}.jpg" if k else tmp_path / f"{item}.png", 10 * k, 8, across, down
        )
    count = across * down
    layout_result = layout.open_layout(tmp_path, dpg_suite, side=8)
    assert (
        len(layout_result.indices),
        layout_result.n_asked,
        layout_result.failed,
        layout_result.shape,
    ) == (
        3 * count,
        3 * count,
        {},
        (8, 8, 3),
    )
    assert f"images: {count} of 4 of each item, as many as there are" in layout_result.warnings
    assert layout.open_layout(tmp_path, dpg_suite, tiles=count).boxes == layout_result.boxes


def test_a_square_picture_is_never_quartered_unasked(folder: Path, dpg_suite: ThreeItems) -> None:
    with pytest.raises(
        OptionError,
        match=(
            r"12x12: one image, or 2x2 .*--tiles 1 \(or --resolution 12\).*--tiles 4 \(or"
            r" --resolution 6\)"
        ),
    ):
        layout.open_layout(folder, dpg_suite)
    assert values(layout.open_layout(folder, dpg_suite, tiles=1)) == [0, 10, 20]
    command_result = CliRunner().invoke(
        main, ["convert", str(folder), str(folder / "flat"), "--to", "png"]
    )
    assert (
        command_result.exit_code == 1
        and "--tiles 4" in command_result.output
        and not (folder / "flat").exists()
    )


def test_forms_that_only_one_number_of_tiles_has_need_no_word(
    tmp_path: Path, dpg_suite: ThreeItems
) -> None:
    for name, size, indices in (("wide", (16, 8), 6), ("odd", (7, 7), 3)):
        for item in ITEMS:
            (tmp_path / name).mkdir(exist_ok=True)
            Image.new("RGB", size).save(tmp_path / name / f"{item}.png")
        assert layout.open_layout(tmp_path / name, dpg_suite).indices == list(range(indices))
    Image.new("RGB", (16, 8)).save(tmp_path / "odd" / "7.png")
    with pytest.raises(
        SampleError, match=r"different numbers of tiles \(whoops3.png has 1, 7.png has 2\)"
    ):
        layout.open_layout(tmp_path / "odd", dpg_suite)
    with pytest.raises(
        OptionError, match="is 9x4, no grid of square images; give --tiles 1 if it is one image"
    ):
        layout.tile_boxes(write_image(tmp_path / "a.png", (9, 4)))
    assert layout.tile_boxes(write_image(tmp_path / "a.png", (9, 4)), tiles=1) == [(0, 0, 9, 4)]


def write_image(path: Path, size: tuple[int, int]) -> Path:
    Image.new("RGB", size).save(path)
    return path


def test_what_is_missing_unreadable_or_left_over_is_told(
    folder: Path, dpg_suite: ThreeItems
) -> None:
    (folder / "7.png").unlink()
    (folder / "whoops3.png").write_bytes(b"no picture")
    write_grid(folder / "whoops4.png", 1)
    (folder / "dpg-bench_x_results.txt").write_text("")
    layout_result = layout.open_layout(folder, dpg_suite, tiles=4)
    assert layout_result.indices == [0, 3, 6, 9] and layout_result.n_asked == 12
    assert (
        layout_result.failed[1] == "no image file of 7"
        and layout_result.failed[2] == "whoops3.png is not a readable image"
    )
    assert layout_result.warnings[0] == "images: not read: dpg-bench_x_results.txt, whoops4.png"
    write_grid(folder / "partiprompts97.old.png", 1)  # up to the first dot it is the same item
    with pytest.raises(
        SampleError, match=r"partiprompts97.png and partiprompts97.old.png for one item"
    ):
        layout.open_layout(folder, dpg_suite, tiles=4)


def test_a_picture_that_changed_its_size_is_refused(folder: Path, dpg_suite: ThreeItems) -> None:
    layout_result = layout.open_layout(folder, dpg_suite, tiles=4)
    write_grid(folder / "partiprompts97.png", 0, side=5)
    with pytest.raises(SampleError, match="which is 10x10; it changed"):
        layout_result.check_image(9)


def test_plain_numbers_are_not_taken_for_grids(tmp_path: Path, dpg_suite: ThreeItems) -> None:
    for k in range(3):
        write_grid(tmp_path / f"{k}.png", k)
    assert not layout.is_layout(tmp_path) and find_layout(tmp_path) is None


def test_grids_are_written_and_read_back(
    folder: Path, dpg_suite: ThreeItems, tmp_path: Path
) -> None:
    first_layout = layout.open_layout(folder, dpg_suite, tiles=4)
    assert layout.write_images(first_layout, dpg_suite, tmp_path / "copy") == (
        12,
        ("read it back with --tiles 4",),
    )
    assert {p.name for p in (tmp_path / "copy").iterdir()} == {f"{item}.png" for item in ITEMS}
    for item in ITEMS:
        assert np.array_equal(
            np.asarray(Image.open(tmp_path / "copy" / f"{item}.png")),
            np.asarray(Image.open(folder / f"{item}.png")),
        )
    part = layout.write_images(first_layout.take_first(10), dpg_suite, tmp_path / "part")
    assert part == (
        4,
        (
            "2 items without all their 4 images were left out: 7, whoops3",
            "read it back with --tiles 4",
        ),
    )
    for copies in (1, 2):
        assert (
            layout.write_images(
                first_layout.take_first(3 * copies), dpg_suite, tmp_path / str(copies)
            ).image_count
            == 3 * copies
        )
        again = layout.open_layout(tmp_path / str(copies), dpg_suite, tiles=copies)
        assert values(again) == values(first_layout)[: 3 * copies]


def test_three_images_of_each_item_are_no_grid_and_nothing_is_written(
    folder: Path, dpg_suite: ThreeItems, tmp_path: Path
) -> None:
    three = layout.open_layout(folder, dpg_suite, tiles=4).take_first(3 * len(ITEMS))
    with pytest.raises(SampleError, match=r"no item has the 4 images .* give --count 6 or fewer"):
        layout.write_images(three, dpg_suite, tmp_path / "three")
    assert not (tmp_path / "three").exists()
    assert layout.write_images(three.take_first(6), dpg_suite, tmp_path / "two").image_count == 6


def test_convert_goes_from_images_to_grids_and_back(
    folder: Path, dpg_suite: ThreeItems, tmp_path: Path
) -> None:
    def run_convert(*arguments: str) -> str:
        command_result = CliRunner().invoke(main, ["convert", *arguments])
        assert command_result.exit_code == 0, command_result.output
        return command_result.output

    flat_text, grids, back = (
        str(tmp_path / "flat"),
        str(tmp_path / "grids2"),
        str(tmp_path / "flat2"),
    )
    assert "grids: each file is 2x2 images of 6x6 pixels" in run_convert(
        str(folder), flat_text, "--to", "png", "--tiles", "4"
    )
    assert f"{grids}: 12 images" in run_convert(flat_text, grids, "--to", "dpg")
    assert (tmp_path / "grids2" / "whoops3.png").read_bytes() == encode_png(
        np.asarray(Image.open(folder / "whoops3.png"))
    )
    run_convert(grids, back, "--to", "png", "--resolution", "6")
    content, two = (
        {p.name: p.read_bytes() for p in Path(record).iterdir()} for record in (flat_text, back)
    )
    assert content == two and len(content) == 13


# --------------------------------------------------------------------------- results of the
# official script


@pytest.fixture
def script_result(tmp_path: Path) -> Path:
    return run_script(tmp_path / "images", seed=0)


def measurement_values(score: Any) -> dict[str, float | None]:
    return {m.metric: m.value for m in score.measurements}


def printed_score(path: Path) -> float:
    return float(path.read_text().rpartition("DPG-Bench score: ")[2])


@pytest.mark.parametrize("seed", range(4))
def test_a_finished_run_has_the_scripts_digits_and_the_rule_says_the_same(
    tmp_path: Path, dpg_suite: ThreeItems, seed: int
) -> None:
    path = run_script(tmp_path / "images", seed=seed)
    detail = path.with_name(path.stem + "_detail.txt")
    assert results.is_results_file(path) and results.is_results_file(detail)
    score = results.import_scores(path, dpg_suite)
    assert f"{measurement_values(score)['dpg']:.10f}" == f"{printed_score(path):.10f}"
    assert (
        "scores: those of the official script; the rule on its answers agrees on 8 of 8"
        in score.warnings
    )
    assert "items: the official rules exclude 1 with 4 images: partiprompts97" in score.warnings
    categories = dict(
        line.strip().split(": ") for line in path.read_text().splitlines() if line.startswith("\t")
    )
    for name, value in categories.items():
        key = "-".join(part.strip() for part in name.split("-") if part.strip())
        assert measurement_values(score)[key] == pytest.approx(float(value), rel=1e-12)
    assert not any("summary" in w for w in score.warnings)
    assert results.import_scores(detail, dpg_suite).measurements == score.measurements
    results_reader = find_results_reader(path)
    assert (
        results_reader is not None
        and results_reader.RESULTS_OF == "dpg-bench"
        and find_results_reader(detail) is results_reader
    )


def test_corrected_rules_read_the_same_answers(script_result: Path, dpg_suite: ThreeItems) -> None:
    score = results.import_scores(script_result, dpg_suite, rules="corrected")
    assert (
        score.measurements[0].n_abstained == 4
    )  # the item that the script lost has no answers to correct with
    assert "items: the corrected rules exclude 1 with 4 images: partiprompts97" in score.warnings
    item = DpgItem.model_validate(dpg_suite.case(1).metadata["dpg"])
    row = next(r for r in score.sample_scores if r["index"] == 1)
    answers = results._read_answers(script_result.with_name(script_result.stem + "_detail.txt"))
    answers_result = results._match_answers([q.question for q in item.questions], answers["7", 0])
    assert row["scores"]["dpg"] == pytest.approx(
        100 * score_answers(item, answers_result, "corrected").score
    )


def test_without_the_answers_there_is_the_score_alone(
    script_result: Path, dpg_suite: ThreeItems
) -> None:
    script_result.with_name(script_result.stem + "_detail.txt").unlink()
    score = results.import_scores(script_result, dpg_suite)
    assert f"{measurement_values(score)['dpg']:.10f}" == f"{printed_score(script_result):.10f}"
    assert measurement_values(score)["entity"] is None
    assert (
        "scores: those of the official script; its answers are missing, so the rule could not be"
        " compared with them" in score.warnings
    )
    assert (
        measurement_values(results.import_scores(script_result, dpg_suite, rules="corrected"))[
            "dpg"
        ]
        is None
    )


def test_an_item_that_failed_in_silence_is_found(
    script_result: Path, dpg_suite: ThreeItems
) -> None:
    text = script_result.read_text()
    script_result.write_text(
        "".join(line for line in text.splitlines(keepends=True) if "whoops3.png" not in line)
    )
    score = results.import_scores(script_result, dpg_suite)
    assert measurement_values(score)["dpg"] is None and score.measurements[0].n_failed == 4
    lenient = results.import_scores(script_result, dpg_suite, is_lenient=True)
    assert measurement_values(lenient)["dpg"] is not None
    assert any(w.startswith("summary: it prints ") for w in lenient.warnings)


def test_scrambled_categories_do_not_touch_what_is_read(
    script_result: Path, dpg_suite: ThreeItems
) -> None:
    """Of a run in several processes the printed categories are pooled at random; ours come from the
    answers.
    """
    expected = results.import_scores(script_result, dpg_suite).measurements
    lines = script_result.read_text().splitlines(keepends=True)
    script_result.write_text(
        "".join(line if not line.startswith("\tentity") else "\tentity: 1.0\n" for line in lines)
    )
    assert results.import_scores(script_result, dpg_suite).measurements == expected


def test_lines_of_several_processes_come_in_any_order(
    script_result: Path, dpg_suite: ThreeItems
) -> None:
    expected = results.import_scores(script_result, dpg_suite).measurements
    detail = script_result.with_name(script_result.stem + "_detail.txt")
    lines = detail.read_text().splitlines(keepends=True)
    detail.write_text("".join(np.random.default_rng(1).permutation(lines)))
    assert results.import_scores(script_result, dpg_suite).measurements == expected


@pytest.mark.parametrize("pictures", [1, 2])
def test_a_run_of_fewer_pictures_has_the_scripts_digits_too(
    tmp_path: Path, dpg_suite: ThreeItems, pictures: int
) -> None:
    path = run_script(tmp_path / "images", seed=3, pictures=pictures)
    score = results.import_scores(path, dpg_suite)
    assert f"{measurement_values(score)['dpg']:.10f}" == f"{printed_score(path):.10f}"
    assert f"images: {pictures} of 4 of each item, as many as there are" in score.warnings
    lines = path.read_text().splitlines(keepends=True)
    path.write_text(
        "".join(line for line in lines if "whoops3.png" not in line)
    )  # an item that the script lost is still missed
    assert measurement_values(results.import_scores(path, dpg_suite))["dpg"] is None


def test_a_changed_score_is_kept_and_told(script_result: Path, dpg_suite: ThreeItems) -> None:
    lines = script_result.read_text().splitlines(keepends=True)
    k = next(k for k, line in enumerate(lines) if "7.png" in line)
    path = lines[k].split(", ")[0]
    lines[k] = f"{path}, 0.123, 0.5, 0.5, 0.5, 0.40575\n"
    script_result.write_text("".join(lines))
    warnings = results.import_scores(script_result, dpg_suite).warnings
    assert any("agrees on " in w and "not on 1" in w for w in warnings) and any(
        w.startswith("summary: it prints") for w in warnings
    )


def test_lines_before_the_scripts_own_are_passed_over(
    script_result: Path, dpg_suite: ThreeItems
) -> None:
    before = measurement_values(results.import_scores(script_result, dpg_suite))
    script_result.write_text("# run of Monday\nloading the model\n" + script_result.read_text())
    assert results.is_results_file(script_result)
    assert measurement_values(results.import_scores(script_result, dpg_suite)) == before


def test_any_other_file_is_refused(
    script_result: Path, dpg_suite: ThreeItems, tmp_path: Path
) -> None:
    other_path = tmp_path / "notes.txt"
    other_path.write_text("hello\n")
    assert not results.is_results_file(other_path) and not results.is_results_file(tmp_path)
    line = next(line for line in script_result.read_text().splitlines() if "7.png" in line)
    cases = {
        "hello\n": "has no score",
        f"{line}\n{line}\n": "scores 7 twice",
        line.replace("7.png", "nobody.png"): "nobody is no item",
        line.replace("0.", "0.e.", 1): "no numbers|no score",
    }
    for text, case in cases.items():
        other_path.write_text(text)
        with pytest.raises(StorageError, match=case):
            results.import_scores(other_path, dpg_suite)
    with pytest.raises(StorageError, match=r"x.txt does not exist"):
        results.import_scores(tmp_path / "x_detail.txt", dpg_suite)
