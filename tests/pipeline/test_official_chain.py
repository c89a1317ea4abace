"""Folders of GenEval and DPG-Bench through `eval`: layout, judges, stored answers and rule say what
a finished official run says.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from dpg_files import ITEMS, ThreeItems, dpg_suite, write_grid
from dpg_script import run_script
from geneval_files import TwelvePrompts, geneval_suite, prompt_metadata, write_finished_run
from PIL import Image

from harope_bench.cli import main
from harope_bench.core import registry
from harope_bench.core.annotations import (
    Annotation,
    ColourAnnotation,
    ColourQuery,
    Query,
    VqaAnnotation,
    VqaAnswer,
    VqaQuery,
)
from harope_bench.core.json_lines import read_lines
from harope_bench.judges.base import Annotator, LoadedAnnotator
from harope_bench.suites.official_layouts import dpg_results, geneval_results
from harope_bench.suites.official_layouts.geneval_prompts import PromptIndex

__all__ = ["dpg_suite", "geneval_suite"]


class RecordedAnnotator(Annotator):
    """A judge that says of the image whose first pixel is k what stands in its k-th entry."""

    version, judge_class, preprocessing = 1, "equivalent", "the first pixel"
    roles = ("detector", "colours", "vqa")
    weights = "5" * 64

    def __init__(self, fields: Mapping[int, Any]):
        self.told, self.asked = fields, 0

    def weights_sha256(self) -> str:
        return self.weights

    def open(self, device: str) -> Any:
        return type(
            "LoadedRecorded",
            (LoadedAnnotator,),
            {"weights_sha256": self.weights, "annotate": lambda _, *inputs: self.annotate(*inputs)},
        )()

    def annotate(self, role: str, image: np.ndarray, query: Query) -> Annotation:
        self.asked += 1
        told_result = self.told[int(image[0, 0, 0])]
        if isinstance(query, VqaQuery):
            return VqaAnnotation(
                answers=tuple(VqaAnswer(text=told_result[question]) for question in query.questions)
            )
        if not isinstance(query, ColourQuery):
            return told_result["detector"]
        boxes = {
            tuple(o.box): share
            for o, share in zip(
                told_result["objects"], told_result["colours"].probabilities, strict=True
            )
        }
        return ColourAnnotation(probabilities=tuple(boxes[o.box] for o in query.objects))


def standing_in(monkeypatch: pytest.MonkeyPatch, fields: Mapping[tuple[str, str], Any]) -> None:
    known_list_entries, loaded_plugin = registry.list_entries, registry.load_by_name
    monkeypatch.setattr(
        registry,
        "list_entries",
        lambda kind: {
            **known_list_entries(kind),
            **{n: registry.RegistryEntry(kind, n, "a test") for k, n in fields if k == kind},
        },
    )
    monkeypatch.setattr(
        registry,
        "load_by_name",
        lambda kind, name: fields.get((kind, name)) or loaded_plugin(kind, name),
    )


def evaluate_command(*words: str) -> dict[str, Any]:
    command_result = CliRunner().invoke(main, ["eval", *words, "--json"])
    assert command_result.exit_code == 0, (command_result.output, command_result.exception)
    (result,) = json.loads(command_result.stdout)["results"]
    return dict(result["result"])


def numbers(result: Mapping[str, Any]) -> dict[str, Any]:
    return {m["metric"]: (m["value"], m["se"], m["n_scored"]) for m in result["measurements"]}


# ---------------------------------------------------------------------------
# GenEval


@pytest.fixture
def geneval(
    tmp_path: Path, geneval_suite: TwelvePrompts, monkeypatch: pytest.MonkeyPatch
) -> RecordedAnnotator:
    """A folder of images, a finished run of them, and a judge that saw what the official ones
    saw.
    """
    rows_by_index, _ = geneval_results.rows_by_index(
        [
            geneval_results.ResultRow(*row)
            for row in geneval_results.read_rows(_finished_results(tmp_path))
        ],
        PromptIndex(geneval_suite),
        geneval_suite,
        tmp_path,
    )
    fields: dict[int, Any] = {}
    for index, row in rows_by_index.items():
        prompt, copy = index % 12, index // 12
        folder = tmp_path / "images" / f"{prompt:05d}"
        (folder / "samples").mkdir(parents=True, exist_ok=True)
        (folder / "metadata.jsonl").write_text(json.dumps(prompt_metadata()[prompt]))
        Image.fromarray(np.full((7, 7, 3), index, dtype=np.uint8)).save(
            folder / "samples" / f"{copy:05d}.png"
        )
        annotations_of_row = geneval_results._annotations_of_row(row)
        fields[index] = {
            **annotations_of_row,
            "objects": _objects(geneval_suite, index, annotations_of_row),
        }
    judge = RecordedAnnotator(fields)
    standing_in(
        monkeypatch,
        {
            ("judges", "mask2former"): judge,
            ("judges", "clip-vit-l-14"): judge,
            ("suites", "geneval"): geneval_suite,
        },
    )
    return judge


def _finished_results(folder: Path) -> Path:
    write_finished_run(folder / "results.jsonl", seed=3)
    return folder / "results.jsonl"


def _objects(suite: TwelvePrompts, index: int, fields: Mapping[str, Annotation]) -> Sequence[Any]:
    ask = (
        registry.load_by_name("evaluators", "geneval")
        .annotator_roles[1]
        .make_query(suite.case(index).metadata["geneval"], {"detector": fields["detector"]})
    )
    return ask.objects if ask else ()


def test_a_folder_of_geneval_scores_as_the_finished_run_of_it(
    tmp_path: Path, geneval: RecordedAnnotator
) -> None:
    package_command = evaluate_command(
        str(tmp_path / "images"), "--suite", "geneval", "--out", str(tmp_path / "ours")
    )
    library_command = evaluate_command(
        str(tmp_path / "results.jsonl"), "--suite", "geneval", "--out", str(tmp_path / "theirs")
    )
    assert (
        numbers(package_command) == numbers(library_command)
        and package_command["rules"] == "official"
        and library_command["judge"]["judge_class"] == "official"
    )
    assert 0 < numbers(package_command)["overall"][0] < 1
    verdicts = []
    for location in ("ours", "theirs"):
        rows = read_lines(tmp_path / location / "results" / "geneval.sample_scores.jsonl")
        verdicts.append({row["index"]: row["scores"]["images_correct"] for row in rows})
    assert verdicts[0] == verdicts[1] and len(verdicts[0]) == 48


def test_rescoring_asks_no_judge(tmp_path: Path, geneval: RecordedAnnotator) -> None:
    words = (str(tmp_path / "images"), "--suite", "geneval", "--out", str(tmp_path / "ours"))
    first_command = evaluate_command(*words)
    asked_result = geneval.asked
    assert asked_result > 48  # a detector's answer of each image, colours of some
    assert (
        numbers(evaluate_command(*words, "--rescore", "--rules", "corrected"))["position"]
        == numbers(first_command)["position"]
    )
    assert geneval.asked == asked_result


def test_a_missing_image_gives_no_score_but_on_demand(
    tmp_path: Path, geneval: RecordedAnnotator
) -> None:
    (tmp_path / "images" / "00000" / "samples" / "00001.png").unlink()
    words = (str(tmp_path / "images"), "--suite", "geneval", "--out", str(tmp_path / "ours"))
    strict = numbers(evaluate_command(*words))
    assert (
        strict["single_object"][0] is None
        and strict["overall"][0] is None
        and strict["colors"][0] is not None
    )
    lenient = numbers(evaluate_command(*words, "--allow-missing"))
    assert lenient["single_object"][0] is not None and lenient["single_object"][2] == 7


# ---------------------------------------------------------------------------
# DPG-Bench


@pytest.fixture
def dpg(tmp_path: Path, dpg_suite: ThreeItems, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Grids, a finished run of them, and a judge that answers as the official one did; what was
    lost there it denies.
    """
    path = run_script(tmp_path / "grids", seed=2)
    answers = dpg_results._read_answers(path.with_name(path.stem + "_detail.txt"))
    records = {}
    for prompt, item in enumerate(ITEMS):
        write_grid(tmp_path / "grids" / f"{item}.png", 10 * prompt)
        questions = [q["question"] for q in dpg_suite.case(prompt).metadata["dpg"]["questions"]]
        for copy in range(4):
            answers_result = dpg_results._match_answers(questions, answers.get((item, copy), ()))
            records[10 * prompt + copy] = dict(
                zip(questions, (text or "no" for text in answers_result), strict=True)
            )
    standing_in(
        monkeypatch,
        {("judges", "mplug"): RecordedAnnotator(records), ("suites", "dpg-bench"): dpg_suite},
    )
    return path


def test_grids_score_as_the_finished_run_of_them(tmp_path: Path, dpg: Path) -> None:
    package_command = evaluate_command(
        str(tmp_path / "grids"),
        "--suite",
        "dpg-bench",
        "--tiles",
        "4",
        "--out",
        str(tmp_path / "ours"),
    )
    library_command = evaluate_command(
        str(dpg), "--suite", "dpg-bench", "--out", str(tmp_path / "theirs")
    )
    assert numbers(package_command) == numbers(library_command)
    assert (
        re.search(r"DPG-Bench score: (.*)", dpg.read_text()).group(1)[:10]
        == f"{numbers(package_command)['dpg'][0]:.12f}"[:10]
    )  # type: ignore[union-attr]
    assert any(
        "the official rules exclude 1 with 4 images: partiprompts97" in w["text"]
        for w in package_command["warnings"]
    )


def test_corrected_rules_take_the_lost_item_in(tmp_path: Path, dpg: Path) -> None:
    words = (str(tmp_path / "grids"), "--suite", "dpg-bench", "--out", str(tmp_path / "ours"))
    words = (*words, "--tiles", "4")
    official, corrected_command = (
        evaluate_command(*words),
        evaluate_command(*words, "--rules", "corrected"),
    )
    assert (numbers(official)["dpg"][2], numbers(corrected_command)["dpg"][2]) == (8, 12)
    assert numbers(official)["dpg"][0] != numbers(corrected_command)["dpg"][0]
    assert "dpg" in [difference["metric"] for difference in official["rule_differences"]]


def test_the_side_or_the_number_of_tiles_must_be_stated(tmp_path: Path, dpg: Path) -> None:
    words = (str(tmp_path / "grids"), "--suite", "dpg-bench", "--out", str(tmp_path / "ours"))
    for records, message in (
        ((), "--tiles 1 (or --resolution 12)"),
        (("--resolution", "8"), "12x12, wanted square tiles of 8 pixels"),
    ):
        command_result = CliRunner().invoke(main, ["eval", *words, *records])
        assert (
            command_result.exit_code == 1
            and message in command_result.output
            and not (tmp_path / "ours").exists()
        )
    assert numbers(evaluate_command(*words, "--resolution", "6")) == numbers(
        evaluate_command(*words, "--tiles", "4")
    )


def test_one_image_an_item_scores_under_the_official_rules(tmp_path: Path, dpg: Path) -> None:
    """The script's default is one picture: the score is over those images, none of which is a
    missing tile.
    """
    for prompt, item in enumerate(ITEMS):
        write_grid(tmp_path / "ones" / f"{item}.png", 10 * prompt, across=1, down=1)
    words = (str(tmp_path / "ones"), "--suite", "dpg-bench", "--tiles", "1")
    package_numbers = numbers(evaluate_command(*words, "--out", str(tmp_path / "ours")))
    assert (
        package_numbers["dpg"][0] is not None and package_numbers["dpg"][2] == 2
    )  # of three items the official rules lose the first
