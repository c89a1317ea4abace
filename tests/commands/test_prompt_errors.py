"""Wrong inputs to the benchmarks of prompts: exit code 1, one line, and what to do; nothing is
written before.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tiny_prompts
from click.testing import CliRunner
from PIL import Image

from harope_bench.cli import main
from harope_bench.core.errors import OptionError
from harope_bench.pipeline.evaluate_prompts import judges_by_suite


@pytest.fixture
def images(tmp_path: Path, bench_home: Path) -> Path:
    """Twelve plain images and prompts for them."""
    tiny_prompts.prompts(bench_home)
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(12):
        Image.fromarray(np.full((8, 8, 3), i, dtype=np.uint8)).save(folder / f"{i:06d}.png")
    return folder


def error_line(*words: str | Path) -> str:
    """The one line that a command ends with."""
    command_result = CliRunner().invoke(main, [str(word) for word in words])
    assert command_result.exit_code == 1, (command_result.output, command_result.exception)
    (line,) = command_result.output.strip().splitlines()
    return line


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--suite", "geneval", "--judge", "detector=mask2fromer"), "mask2former"),
        (("--suite", "geneval", "--judge", "detektor=mask2former"), "names no role"),
        (("--suite", "geneval", "--judge", "mask2former"), "names no role"),
        (
            ("--suite", "geneval", "--judge", "detector=vlm:here"),
            "judge vlm does not have role detector; its roles: vqa",
        ),
        (("--suite", "geneval", "--judge", "detector=detector"), "detector:FOLDER"),
        (
            ("--suite", "dpg-bench", "--judge", "vqa=vlm:no/such/folder"),
            "is no folder and no hub id",
        ),
        (("--suite", "dpg-bench", "--judge", "vqa=mplug:model"), "takes no model"),
        (
            ("--suite", "dpg-bench", "--judge-python", "/no/such/python"),
            "--judge-python /no/such/python is no program",
        ),
        (
            ("--suite", "dpg-bench", "--judge-python", "/etc/hostname"),
            "give an environment's bin/python",
        ),
        (("--suite", "geneval"), "harope-bench fetch"),
        (
            ("--suite", "dpg-bench", "--with", "geneval"),
            "evaluator geneval reads metadata 'geneval' of prompts",
        ),
        (
            ("--suite", "geneval", "--resolution", "64"),
            "is generated already, --resolution would have no effect",
        ),
        (
            (
                "--suite",
                "genevall",
            ),
            "geneval",
        ),
    ],
)
def test_what_is_wrong_is_said_in_a_line(
    images: Path, tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    assert message in error_line(
        "eval", images, *words, "--order", "copy-major", "--out", tmp_path / "out"
    )
    assert not (tmp_path / "out" / "results").exists()


def test_prompts_that_never_came_are_named_with_their_command(
    tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HAROPE_BENCH_HOME", str(tmp_path / "empty"))
    for suite in ("geneval", "dpg-bench", "t2i-compbench"):
        assert f"harope-bench fetch {suite}" in error_line(
            "eval", images, "--suite", suite, "--out", tmp_path / "out"
        )


def test_altered_prompts_are_refused(images: Path, bench_home: Path, tmp_path: Path) -> None:
    path = bench_home / "assets/geneval/evaluation_metadata.jsonl"
    path.write_text(path.read_text().replace("cat", "dog", 1))
    assert "harope-bench fetch geneval" in error_line(
        "eval", images, "--suite", "geneval", "--out", tmp_path / "out"
    )


def test_a_run_of_another_suite_is_refused(images: Path, tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    rows = [
        {
            "filename": "x/00000/samples/00000.png",
            "tag": "colors",
            "prompt": "a",
            "correct": True,
            "reason": "",
            "metadata": "{}",
            "details": "{}",
        }
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert (
        "is a finished run of geneval, not of suite dpg-bench; give --suite geneval"
        in error_line("eval", path, "--suite", "dpg-bench")
    )


def test_a_suite_of_labels_takes_no_annotators() -> None:
    line = error_line("eval", "digits-ape", "--suite", "digits", "--judge", "vqa=vlm:/none")
    assert "suite digits has labels and takes no annotators; give a feature extractor" in line


def test_roles_go_to_the_suites_that_have_them() -> None:
    suites = ["geneval", "dpg-bench", "t2i-compbench"]
    assert judges_by_suite("vqa=vlm:a,detector=detector:b", suites) == {
        "geneval": "detector=detector:b",
        "dpg-bench": "vqa=vlm:a",
        "t2i-compbench": "vqa=vlm:a,detector=detector:b",
    }
    assert judges_by_suite("depth=depth:a", suites)["geneval"] is None
    with pytest.raises(
        OptionError, match="names no role of these suites; they have colours, depth, detector"
    ):
        judges_by_suite("eyes=vlm:a", suites)


@pytest.mark.parametrize("number", ["table4", "table5"])
def test_without_checkpoints_nothing_is_reproduced(number: str, tmp_path: Path) -> None:
    error_line_result = error_line(
        "reproduce", number, "--scale", "paper", "--count", "2", "--out", tmp_path / "out"
    )
    assert (
        "needs checkpoints of rope-axial, harope" in error_line_result
        and "harope-bench register" in error_line_result
    )
    assert not (tmp_path / "out").exists()
