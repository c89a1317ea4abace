"""`eval FOLDER` and `eval results.jsonl` take the suite from the layout that they recognise."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from geneval_files import write_finished_run
from PIL import Image

from harope_bench.pipeline.eval_options import EvalOptions
from harope_bench.pipeline.evaluate_target import resolve_run
from harope_bench.suites.base import load_prompt_suite
from harope_bench.suites.official_layouts.base import recognise_suite


def write_image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((8, 8, 3), dtype=np.uint8)).save(path)


def test_a_folder_of_the_geneval_layout_has_the_suite_whose_prompts_it_has(tmp_path: Path) -> None:
    suite = load_prompt_suite("shapes")
    for prompt_index in range(3):
        folder = tmp_path / f"{prompt_index:05d}"
        write_image(folder / "samples" / "00000.png")
        case = suite.case(prompt_index)
        metadata = {**case.metadata["geneval"], "prompt": case.prompt}
        (folder / "metadata.jsonl").write_text(json.dumps(metadata) + "\n")
    assert recognise_suite(tmp_path) == "shapes"

    # the options of the run name the suite as if the user had
    target, options = resolve_run(str(tmp_path), EvalOptions())
    assert (target.suite, options.suite) == ("shapes", "shapes")


def test_a_folder_of_another_benchmark_is_recognised_without_its_prompts(tmp_path: Path) -> None:
    write_image(tmp_path / "00000" / "samples" / "00000.png")
    metadata = {"tag": "single_object", "include": [{"class": "cat", "count": 1}]}
    (tmp_path / "00000" / "metadata.jsonl").write_text(
        json.dumps({**metadata, "prompt": "a photo of a cat"}) + "\n"
    )
    assert recognise_suite(tmp_path) == "geneval"


def test_a_finished_run_of_the_official_script_has_its_suite(tmp_path: Path) -> None:
    write_finished_run(tmp_path / "results.jsonl")
    assert recognise_suite(tmp_path / "results.jsonl") == "geneval"


def test_a_category_of_t2i_compbench_is_recognised_by_its_folder(tmp_path: Path) -> None:
    write_image(tmp_path / "color_val" / "samples" / "a green bench and a red car_000000.png")
    assert recognise_suite(tmp_path) == "t2i-compbench"


@pytest.mark.parametrize("name", ["my holiday_1.png", "000000.png", "a cat.png", "img (3).png"])
def test_other_images_are_of_no_suite(name: str, tmp_path: Path) -> None:
    write_image(tmp_path / name)
    write_image(tmp_path / "samples" / name)
    assert recognise_suite(tmp_path) is None
    assert recognise_suite(tmp_path / name) is None
