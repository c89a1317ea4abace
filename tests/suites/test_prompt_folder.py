"""Images of prompts count for the prompts they were made for: by a record, a layout, or what a user
states; never by a guess.
"""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from toy_prompts import PROMPTS, ToyEye, ToySuite, toy

from harope_bench.cli import main
from harope_bench.core import registry
from harope_bench.core.errors import OptionError, SampleError
from harope_bench.core.schema import Result
from harope_bench.data.image_io import encode_png
from harope_bench.data.run_folder import RunFolder, encode_sample
from harope_bench.data.sample_set import SampleSet, write_adm_npz
from harope_bench.data.shapes_scenes.layout import compose_scene, scene_rng
from harope_bench.data.shapes_scenes.scene_images import render_scene
from harope_bench.pipeline.evaluate_prompts import PromptScoring, evaluate_prompts
from harope_bench.pipeline.generate import make_plan
from harope_bench.suites.official_layouts.conversion import convert
from harope_bench.suites.official_layouts.file_pattern import compile_pattern
from harope_bench.suites.official_layouts.prompt_folder import (
    PromptFolderOptions,
    open_prompt_images,
    running_numbers,
)
from harope_bench.suites.shapes import caption_cases

__all__ = ["toy"]

SUITE: Any = ToySuite()  # 4 prompts, 2 copies: index = 4 x copy + prompt


def picture(index: int) -> np.ndarray:
    """An image that tells its index by its one grey value."""
    return np.full((4, 4, 3), 20 + index, dtype=np.uint8)


def write_indexed_images(folder: Path, names: dict[str, int]) -> Path:
    """Files by name, each showing the index that it is the image of."""
    for name, index in names.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_png(picture(index)))
    return folder


def prompt_files(form: Callable[[int, int], str], copies: int = 2) -> dict[str, int]:
    return {form(prompt, copy): 4 * copy + prompt for prompt in range(4) for copy in range(copies)}


def open_folder(folder: Path, **form: Any) -> SampleSet:
    return open_prompt_images(folder, "toy", SUITE, None, PromptFolderOptions(**form))


def shown_indices(samples: SampleSet) -> dict[int, int]:
    """The index that each image shows, by the index at which it is read."""
    return {index: int(samples.image(index)[0, 0, 0]) - 20 for index in samples.indices}


RIGHT = {index: index for index in range(8)}


# ---------------------------------------------------------------------------------------------
# order


def test_files_written_prompt_by_prompt_are_read_so_when_it_is_stated(tmp_path: Path) -> None:
    folder = write_indexed_images(
        tmp_path, prompt_files(lambda prompt, copy: f"{2 * prompt + copy:06d}.png")
    )
    right, wrong_folder = (
        open_folder(folder, order="prompt-major"),
        open_folder(folder, order="copy-major"),
    )
    assert shown_indices(right) == RIGHT != shown_indices(wrong_folder)
    assert "images: prompt-major as stated, 8 of the suite's 8, 2 of each prompt" in right.warnings
    assert "images: copy-major as stated, 8 of the suite's 8" in wrong_folder.warnings


@pytest.mark.parametrize("name", ["sample_{}.png", "{}-final.png", "img ({}).png", "v2_{}.png"])
def test_numbers_in_names_count_as_numbers_under_both_orders(tmp_path: Path, name: str) -> None:
    """Twelve files: as text, 10 comes before 2."""

    class WideSuite(ToySuite):
        count, copies = 12, 3

    for order, index in (
        ("copy-major", lambda k: k),
        ("prompt-major", lambda k: k % 3 * 4 + k // 3),
    ):
        folder = write_indexed_images(
            tmp_path / order, {name.format(k): index(k) for k in range(12)}
        )
        samples = open_prompt_images(
            folder, "toy", WideSuite(), None, PromptFolderOptions(order=order)
        )  # type: ignore[arg-type]
        assert shown_indices(samples) == {k: k for k in range(12)}
        (folder / name.format(5)).unlink()  # a lost one shifts no other
        samples = open_prompt_images(
            folder, "toy", WideSuite(), None, PromptFolderOptions(order=order)
        )  # type: ignore[arg-type]
        assert shown_indices(samples) == {
            k: k for k in range(12) if k != index(5)
        } and samples.failed == {index(5): "no image of number 5"}


def test_names_without_a_running_number_are_taken_only_when_none_can_be_missing(
    tmp_path: Path,
) -> None:
    folder = write_indexed_images(
        tmp_path, prompt_files(lambda prompt, copy: f"{prompt:03d}_{copy}.png")
    )
    samples = open_folder(folder, order="prompt-major")
    assert shown_indices(samples) == RIGHT and any(
        "natural order" in line for line in samples.warnings
    )
    (folder / "001_1.png").unlink()
    with pytest.raises(
        OptionError, match="no whole number of copies of the 4 prompts .* give --pattern"
    ):
        open_folder(folder, order="prompt-major")


def test_a_last_image_that_is_lost_is_not_taken_for_another_number_of_copies(
    tmp_path: Path,
) -> None:
    folder = write_indexed_images(tmp_path, {f"{k}.png": 0 for k in range(7)})
    with pytest.raises(OptionError, match="7 images, no whole number of copies"):
        open_folder(folder, order="prompt-major")
    assert open_folder(folder, order="copy-major").indices == list(
        range(7)
    )  # as a run of --count 7


def test_numbers_that_begin_at_1_are_rejected_under_every_form(tmp_path: Path) -> None:
    write_indexed_images(tmp_path / "flat", {f"{k}.png": k for k in range(1, 8)})
    write_indexed_images(tmp_path / "parts", {f"{k}_0.png": k for k in range(1, 4)})
    write_indexed_images(tmp_path / "copies", {f"{k}_1.png": k for k in range(4)})
    write_indexed_images(tmp_path / "texts", {f"{text}_1.png": k for k, text in TEXT.items()})
    cases = (
        ("flat", {"order": "copy-major"}),
        ("flat", {"order": "prompt-major"}),
        ("flat", {"pattern": "{index}.png"}),
        ("parts", {"pattern": "{prompt_index}_{copy}.png"}),
        ("copies", {"pattern": "{prompt_index}_{copy}.png"}),
        ("texts", {"pattern": "{prompt}_{copy}.png"}),
    )
    for name, form in cases:
        with pytest.raises(OptionError, match="count from 0.*--file-list"):
            open_folder(tmp_path / name, **form)
    write_indexed_images(tmp_path / "parts", {"4_0.png": 0, "0_0.png": 0})
    with pytest.raises(
        OptionError, match=r"4_0.png: prompt_index is 4, toy has 0 to 3 \(numbers count from 0\)"
    ):
        open_folder(tmp_path / "parts", pattern="{prompt_index}_{copy}.png")


def test_two_files_of_one_number_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(SampleError, match=r"of one number; keep one of each"):
        open_folder(write_indexed_images(tmp_path, {"3.png": 0, "03.png": 0}), order="copy-major")


def test_running_numbers_need_one_number_that_varies() -> None:
    paths = [Path("a2_0.png"), Path("a2_11.png")]
    assert running_numbers(paths) == [0, 11]
    assert (
        running_numbers([*paths, Path("b2_1.png")]) is None
        and running_numbers([*paths, Path("a3_1.png")]) is None
    )
    assert running_numbers([Path("cat.png"), Path("dog.png")]) is None


# -------------------------------------------------------------------------------------------
# pattern

TEXT = {prompt: text for prompt, (_, text) in enumerate(PROMPTS)}


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("{prompt_index}_{copy}.png", lambda prompt, copy: f"{prompt:03d}_{copy}.png"),
        ("{prompt_index}/{copy}.png", lambda prompt, copy: f"{prompt}/{copy:05d}.png"),
        ("{copy}/{prompt}.png", lambda prompt, copy: f"{copy}/{TEXT[prompt]}.png"),
        ("{prompt}_{copy}.png", lambda prompt, copy: f"{TEXT[prompt]}_{copy:06d}.png"),
        (
            "seed{copy} (x+y) {prompt}.png",
            lambda prompt, copy: f"seed{copy} (x+y) {TEXT[prompt]}.png",
        ),
        ("{index}.png", lambda prompt, copy: f"{4 * copy + prompt}.png"),
        ("{index}-{prompt}.png", lambda prompt, copy: f"{4 * copy + prompt}-{TEXT[prompt]}.png"),
    ],
)
def test_a_pattern_places_every_image_whatever_the_order_of_the_files(
    tmp_path: Path, pattern: str, name: Any
) -> None:
    samples = open_folder(write_indexed_images(tmp_path, prompt_files(name)), pattern=pattern)
    assert shown_indices(samples) == RIGHT and samples.failed == {}
    assert (
        f"images: placed by --pattern {pattern!r}, 2 of 2 images of each prompt" in samples.warnings
    )


def test_what_does_not_match_is_told_and_what_is_missing_is_failed(tmp_path: Path) -> None:
    names = prompt_files(lambda prompt, copy: f"{TEXT[prompt]}_{copy}.png")
    del names["a red square_1.png"]
    samples = open_folder(
        write_indexed_images(tmp_path, {**names, "grid.png": 0, "a green square_0.png": 0}),
        pattern="{prompt}_{copy}.png",
    )
    assert samples.failed == {6: "no image of prompt 2, copy 1"} and shown_indices(samples) == {
        k: k for k in range(8) if k != 6
    }
    assert "images: not read: a green square_0.png, grid.png" in samples.warnings
    with pytest.raises(
        SampleError, match="finds no image of toy in .*: grid.png: 'grid' is no prompt of toy"
    ):
        open_folder(
            write_indexed_images(tmp_path / "other", {"grid.png": 0}), pattern="{prompt}.png"
        )
    with pytest.raises(SampleError, match=r"finds no image of toy in .*: grid.png does not match"):
        open_folder(tmp_path / "other", pattern="{index}.png")


def test_one_image_a_prompt_is_one_copy_and_not_a_failed_second(tmp_path: Path) -> None:
    samples = open_folder(
        write_indexed_images(
            tmp_path, prompt_files(lambda prompt, copy: f"{TEXT[prompt]}.png", copies=1)
        ),
        pattern="{prompt}.png",
    )
    assert (samples.n_asked, samples.failed, shown_indices(samples)) == (
        4,
        {},
        {k: k for k in range(4)},
    )
    assert any("1 of 2 images of each prompt" in line for line in samples.warnings)


def test_two_files_for_one_image_are_an_error(tmp_path: Path) -> None:
    folder = write_indexed_images(tmp_path, {"0_1.png": 0, "00_1.png": 0})
    with pytest.raises(SampleError, match="for one image; keep one of them"):
        open_folder(folder, pattern="{prompt_index}_{copy}.png")
    with pytest.raises(SampleError, match=r"add \{copy\} to the pattern"):
        open_folder(
            write_indexed_images(tmp_path / "b", {"3.png": 0, "03.png": 0}),
            pattern="{prompt_index}.png",
        )


def test_numbers_and_texts_that_disagree_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(
        OptionError,
        match="the keys contradict each other: prompt_index is prompt 1, prompt is prompt 2",
    ):
        open_folder(
            write_indexed_images(tmp_path, {"1-a red square.png": 0}),
            pattern="{prompt_index}-{prompt}.png",
        )


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("{prompt_index}{copy}.png", "can be read in two ways"),
        ("{prompt_index}0{copy}.png", "can be read in two ways"),
        ("{prompt}{copy}.png", "can be read in two ways"),
        ("{prompt}_{id}.png", "has two texts"),
        ("{copy}_{copy}.png", "more than once"),
        ("{prompts}.png", "is no placeholder"),
        ("{}.png", "is no placeholder"),
        ("{copy}.png", "does not determine the prompt"),
        ("fixed.png", "does not determine the prompt"),
        ("{index:06d}.png", "write {index} alone"),
        ("{index.png", "open brace"),
        ("../{index}.png", "leaves the folder"),
        ("/{index}.png", "leaves the folder"),
    ],
)
def test_a_pattern_that_is_none_or_has_two_readings_is_rejected(pattern: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        compile_pattern(pattern)


def test_item_ids_place_images_where_a_suite_has_them(tmp_path: Path) -> None:
    shapes: Any = registry.load_by_name("suites", "shapes")
    folder = write_indexed_images(
        tmp_path, {f"shapes{prompt:03d}-{copy}.png": 0 for prompt in (0, 66) for copy in (0, 1)}
    )
    samples = open_prompt_images(
        folder, "shapes", shapes, None, PromptFolderOptions(pattern="{id}-{copy}.png")
    )
    assert samples.indices == [0, 66, 67, 133] and samples.n_asked == 134
    with pytest.raises(OptionError, match="toy has no item ids; give prompt_index or prompt"):
        open_folder(folder, pattern="{id}-{copy}.png")


# ----------------------------------------------------------------------------------------------
# list


def write_file_list(
    path: Path, rows: list[dict[str, Any]], encoding: str = "utf-8", newline: str = "\n"
) -> Path:
    """A list in the form that its name tells."""
    if path.suffix == ".jsonl":
        text = "".join(json.dumps(row) + "\n" for row in rows)
    else:
        lines = [list(rows[0]), *([row[name] for name in rows[0]] for row in rows)]
        text = "".join(
            ("," if path.suffix == ".csv" else "\t").join(map(str, line)) + "\n" for line in lines
        )
    path.write_bytes(text.replace("\n", newline).encode(encoding))
    return path


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl"])
@pytest.mark.parametrize(
    "keys",
    [
        lambda prompt, copy: {"index": 4 * copy + prompt},
        lambda prompt, copy: {"prompt_index": prompt, "copy": copy},
        lambda prompt, copy: {"prompt": TEXT[prompt], "copy": copy},
    ],
)
def test_a_list_places_every_image(tmp_path: Path, suffix: str, keys: Any) -> None:
    names = prompt_files(lambda prompt, copy: f"{copy}/{'dbca'[prompt]}.png")
    folder = write_indexed_images(tmp_path / "images", names)
    rows = [
        {"file": name, **keys(index % 4, index // 4)} for name, index in reversed(names.items())
    ]
    samples = open_folder(folder, file_list=write_file_list(tmp_path / f"list{suffix}", rows))
    assert shown_indices(samples) == RIGHT and samples.failed == {}
    assert (
        f"images: placed by --file-list list{suffix}, 2 of 2 images of each prompt"
        in samples.warnings
    )


@pytest.mark.parametrize(
    ("encoding", "newline"), [("utf-8-sig", "\r\n"), ("utf-16", "\r\n"), ("utf-8", "  \r\n")]
)
def test_a_list_saved_on_windows_is_the_same_list(
    tmp_path: Path, encoding: str, newline: str
) -> None:
    folder = write_indexed_images(
        tmp_path / "images", prompt_files(lambda prompt, copy: f"sub/{prompt}{copy}.png")
    )
    rows = [
        {"file": f"sub\\{prompt}{copy}.png", "index": 4 * copy + prompt}
        for prompt in range(4)
        for copy in range(2)
    ]
    assert (
        shown_indices(
            open_folder(
                folder, file_list=write_file_list(tmp_path / "list.tsv", rows, encoding, newline)
            )
        )
        == RIGHT
    )


def test_what_a_list_lacks_is_failed_and_what_it_does_not_name_is_told(tmp_path: Path) -> None:
    folder = write_indexed_images(
        tmp_path / "images", prompt_files(lambda prompt, copy: f"{prompt}{copy}.png")
    )
    (folder / "10.png").unlink()
    rows = [
        {"file": f"{prompt}{copy}.png", "prompt_index": prompt, "copy": copy}
        for prompt in range(3)
        for copy in range(2)
    ]
    samples = open_folder(folder, file_list=write_file_list(tmp_path / "list.csv", rows))
    assert samples.failed == {
        1: "10.png is listed and missing",
        3: "no image of prompt 3, copy 0",
        7: "no image of prompt 3, copy 1",
    }
    assert (
        shown_indices(samples) == {k: k for k in (0, 2, 4, 5, 6)}
        and "images: not read: 30.png, 31.png" in samples.warnings
    )


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"file": "../out.png", "index": 1}, "is not in"),
        ({"file": "/etc/passwd", "index": 1}, "is not in"),
        ({"file": "link.png", "index": 1}, "is not in"),
        ({"file": "0.png", "index": 1}, "again; keep one line for each image"),
        ({"file": "1.png", "index": 0}, "again; keep one line for each image"),
        ({"file": "1.png", "index": 8}, r"line 2: index is 8, toy has 0 to 7"),
        ({"file": "1.png", "index": -1}, "wanted a whole number from 0"),
        ({"file": "1.png", "index": 1.5}, "wanted a whole number from 0"),
        ({"file": "1.png", "index": True}, "wanted a whole number from 0"),
        ({"file": "1.png", "prompt": "a green room"}, "'a green room' is no prompt of toy"),
        ({"file": "1.png", "copy": 1}, "wanted file and index"),
        ({"index": 1}, "wanted file and index"),
        ({"file": None, "index": 1}, "wanted file and index"),
    ],
)
def test_a_line_that_does_not_fit_is_named(
    tmp_path: Path, row: dict[str, Any], message: str
) -> None:
    folder = write_indexed_images(tmp_path / "images", {"0.png": 0, "1.png": 1})
    write_indexed_images(tmp_path, {"out.png": 0})
    (folder / "link.png").symlink_to(tmp_path / "out.png")
    path = write_file_list(tmp_path / "list.jsonl", [{"file": "0.png", "index": 0}, row])
    with pytest.raises(OptionError, match=message) as error:
        open_folder(folder, file_list=path)
    assert "list.jsonl line 2" in str(error.value)


# ------------------------------------------------------------------------ what means nothing, and
# npz


def test_options_that_mean_nothing_to_a_target_are_rejected(tmp_path: Path, toy: ToyEye) -> None:
    folder = write_indexed_images(tmp_path / "images", {f"{k}.png": k for k in range(8)})
    with pytest.raises(
        OptionError, match="--order and --pattern both assign images to prompts; give one"
    ):
        open_folder(folder, order="copy-major", pattern="{index}.png")
    with pytest.raises(
        OptionError, match="--pattern reads files of one image each; leave --tiles out"
    ):
        open_folder(folder, pattern="{index}.png", tiles=1)
    for arguments, message in (
        (
            ["digits-harope", "--suite", "digits", "--order", "copy-major"],
            "has no prompts, --order does not apply",
        ),
        (["shapes-harope", "--tiles", "4"], "is no folder of images, --tiles does not apply"),
    ):
        command_result = CliRunner().invoke(
            main, ["eval", *arguments, "--out", str(tmp_path / "o")]
        )
        assert (
            command_result.exit_code == 1
            and message in command_result.output
            and not (tmp_path / "o").exists()
        )


def test_rows_of_an_npz_need_their_order_too(tmp_path: Path) -> None:
    write_indexed_images(tmp_path / "images", {f"{k}.png": k for k in range(8)})
    write_adm_npz(open_folder(tmp_path / "images", order="copy-major"), tmp_path / "rows.npz")
    with pytest.raises(
        OptionError, match="does not say which row is of which prompt .* --order copy-major"
    ):
        open_folder(tmp_path / "rows.npz")
    with pytest.raises(OptionError, match="convert it --to png"):
        open_folder(tmp_path / "rows.npz", order="prompt-major")
    assert shown_indices(open_folder(tmp_path / "rows.npz", order="copy-major")) == RIGHT


# --------------------------------------------------------------- one set of images, every way it
# comes

COPIES = 2  # of the suite shapes' six


class World(NamedTuple):
    """A run of drawn scenes of which some are of other captions, and its result."""

    run: Path
    result: Result


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    root, suite = tmp_path_factory.mktemp("world"), registry.load_by_name("suites", "shapes")
    run = RunFolder(root / "run")
    run.tie_to_plan(make_plan("shapes-harope", "shapes", {}))
    indices = range(COPIES * 67)
    run.record_request(indices)
    for request in suite.requests(indices):
        other_index = (request.index + 1) % 67 if request.index % 7 == 0 else request.index % 67
        scene = compose_scene(caption_cases()[other_index], scene_rng("folders", request.index))
        run.add_sample(encode_sample(request, render_scene(scene, 32)))
    (scored,) = evaluate_prompts(run.folder, run.folder, PromptScoring("shapes"), ["geneval"])
    return World(run.folder, scored.result)


def flatten_run(world: World, folder: Path, name: Callable[[int, int], str]) -> Path:
    """The run's images under other names, by prompt and copy."""
    folder.mkdir()
    for copy in range(COPIES):
        for prompt in range(67):
            shutil.copy(
                world.run / "images" / f"{67 * copy + prompt:06d}.png", folder / name(prompt, copy)
            )
    return folder


def scores(world: World, target: Path, out: Path, **form: Any) -> Result:
    """The result of a target, whose images the judge has seen in the run already."""
    shutil.copytree(world.run / "annotations", out / "annotations")
    (scored,) = evaluate_prompts(
        target,
        out,
        PromptScoring("shapes", folder_options=PromptFolderOptions(**form)),
        ["geneval"],
    )
    return scored.result


def test_the_same_images_score_the_same_to_the_digit_whichever_way_they_come(
    world: World, tmp_path: Path
) -> None:
    values = {m.name: m.value for m in world.result.measurements}
    assert values["overall"] is not None and 0.5 < values["overall"] < 0.95, (
        "else a wrong order could score the same"
    )
    by_prompt = flatten_run(
        world, tmp_path / "by_prompt", lambda prompt, copy: f"{COPIES * prompt + copy:06d}.png"
    )
    by_name = flatten_run(
        world, tmp_path / "by_name", lambda prompt, copy: f"{prompt:03d}_{copy + 1}.png"
    )
    rows = [
        {"file": f"{prompt:03d}_{copy + 1}.png", "prompt_index": prompt, "copy": copy}
        for prompt in range(67)
        for copy in range(COPIES)
    ]
    convert(world.run, tmp_path / "png", "png")
    convert(world.run, tmp_path / "official", "geneval")
    convert(world.run, tmp_path / "rows.npz", "adm")
    again = flatten_run(
        world, tmp_path / "pattern", lambda prompt, copy: f"{prompt:03d}_{copy}.png"
    )
    ways_items: list[tuple[Path, dict[str, Any]]] = [
        (by_prompt, {"order": "prompt-major"}),
        (again, {"pattern": "{prompt_index}_{copy}.png"}),
        (by_name, {"file_list": write_file_list(tmp_path / "list.csv", rows)}),
        (tmp_path / "png", {}),
        (tmp_path / "official", {}),
        (tmp_path / "rows.npz", {"order": "copy-major"}),
    ]
    for number, (target, form) in enumerate(ways_items):
        result = scores(world, target, tmp_path / f"o{number}", **form)
        assert result.measurements == world.result.measurements, f"{target.name} {form}"
        if target.suffix != ".npz":  # whose images are known by their pixels
            assert result.samples_sha256 == world.result.samples_sha256
    assert (
        scores(world, by_prompt, tmp_path / "wrong", order="copy-major").measurements
        != world.result.measurements
    )
    for folder in (by_prompt, by_name):
        with pytest.raises(
            OptionError, match="does not say which image is of which prompt of shapes"
        ):
            evaluate_prompts(folder, tmp_path / "none", PromptScoring("shapes"))
        with pytest.raises(OptionError, match="--order copy-major or prompt-major"):
            convert(folder, tmp_path / "none", "geneval", "shapes")
    assert not (tmp_path / "none").exists()


def test_all_evaluators_of_a_suite_see_one_set_of_images(world: World, tmp_path: Path) -> None:
    """FID needs no prompts, but its result lies beside theirs and must be of the same images at the
    same indices.
    """
    folder = flatten_run(
        world, tmp_path / "i", lambda prompt, copy: f"{COPIES * prompt + copy}.png"
    )
    arguments = [
        "eval",
        str(folder),
        "--suite",
        "shapes",
        "--with",
        "geneval,fidelity",
        "--order",
        "prompt-major",
        "--json",
    ]
    shutil.copytree(world.run / "annotations", tmp_path / "o" / "annotations")
    command_result = CliRunner().invoke(main, [*arguments, "--out", str(tmp_path / "o")])
    assert command_result.exit_code == 0, command_result.output
    results = [row["result"] for row in json.loads(command_result.stdout)["results"]]
    assert {result["samples_sha256"] for result in results} == {world.result.samples_sha256}
    assert all(
        "prompt-major as stated" in " ".join(warning["text"] for warning in result["warnings"])
        for result in results
    )
    command_result = CliRunner().invoke(main, ["failures", str(tmp_path / "o"), "--format", "csv"])
    assert "images: prompt-major as stated" in command_result.stderr and list(
        csv.reader(command_result.stdout.splitlines())
    )


def test_a_converted_run_keeps_its_failures_and_is_known_by_its_record(
    world: World, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(world.run, run, ignore=shutil.ignore_patterns("results", "annotations"))
    lines = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    lines[3] |= {"status": "failed", "reason": "not finite", "file": None, "sha256": None}
    (run / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    command_result = CliRunner().invoke(
        main, ["convert", str(run), str(tmp_path / "png"), "--to", "png"]
    )
    assert (
        command_result.exit_code == 0
        and "133 images, 1 failed samples excluded" in command_result.output
    ), command_result.output
    suite: Any = registry.load_by_name("suites", "shapes")
    prompt_images, two = (
        open_prompt_images(run, "shapes", suite),
        open_prompt_images(tmp_path / "png", "shapes", suite),
    )
    assert (
        prompt_images.indices,
        prompt_images.failed,
        prompt_images.hashes,
        prompt_images.n_asked,
    ) == (
        two.indices,
        two.failed,
        two.hashes,
        two.n_asked,
    )

    Image.new("RGB", (32, 32)).save(tmp_path / "png" / "000005.png")
    with pytest.raises(SampleError, match="image 5 .* is not the one that was generated"):
        open_prompt_images(tmp_path / "png", "shapes", suite).image(5)
    (tmp_path / "png" / "000005.png").unlink()
    assert open_prompt_images(tmp_path / "png", "shapes", suite).failed == {
        3: "not finite",
        5: "000005.png is missing",
    }
    with pytest.raises(SampleError, match="has another prompt at index"):
        open_prompt_images(tmp_path / "png", "toy", SUITE)
    (tmp_path / "png" / "file_list.jsonl").unlink()
    with pytest.raises(OptionError, match="does not say which image"):
        open_prompt_images(tmp_path / "png", "shapes", suite)


def test_convert_prints_what_it_must_say_of_the_source(tmp_path: Path, toy: ToyEye) -> None:
    folder = write_indexed_images(
        tmp_path / "i", {**prompt_files(lambda prompt, copy: f"{prompt}_{copy}.png"), "grid.png": 0}
    )
    arguments = [
        "convert",
        str(folder),
        str(tmp_path / "png"),
        "--to",
        "png",
        "--pattern",
        "{prompt_index}_{copy}.png",
    ]
    command_result = CliRunner().invoke(main, arguments)
    assert (
        command_result.exit_code == 1
        and "no suite is given; give --suite NAME" in command_result.output
        and not (tmp_path / "png").exists()
    )
    command_result = CliRunner().invoke(main, [*arguments, "--suite", "toy"])
    assert (
        command_result.exit_code == 0 and "images: not read: grid.png" in command_result.output
    ), command_result.output
    assert shown_indices(open_folder(tmp_path / "png")) == RIGHT
