"""Readers of the official layouts and of lists of files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hostile import documents as d
from hostile.parsers import homes
from hostile.parsers.homes import suite
from hostile.parsers.table import Table
from toy_compbench import Toy

from harope_bench.core.formats import add_format_version
from harope_bench.suites import dpg_bench
from harope_bench.suites.official_layouts import (
    base,
    compbench_results,
    dpg_results,
    file_list,
    geneval,
    geneval_results,
)
from harope_bench.suites.official_layouts.image_keys import ImageKeys

TABLE = Table()
parser = TABLE.add

LISTED_CSV = b"file,prompt_index,copy\na.png,0,0\nb.png,1,0\n"
LISTED_LINES = d.as_lines(
    {"file": "a.png", "index": 0}, {"file": "b.png", "prompt_index": 1, "copy": 1}
)
parser(
    "file list as csv", lambda: {"list.csv": LISTED_CSV, "a.png": d.png(), "b.png": d.png()},
    lambda f: file_list.assign_by_list(f, f / "list.csv", ImageKeys(suite("geneval"), "geneval")), "list.csv",
)  # fmt: skip
parser(
    "file list as lines", lambda: {"list.jsonl": LISTED_LINES, "a.png": d.png(), "b.png": d.png()},
    lambda f: file_list.assign_by_list(f, f / "list.jsonl", ImageKeys(suite("geneval"), "geneval")), "list.jsonl",
)  # fmt: skip
RECORDED_AS_LINES = d.as_lines(
    add_format_version(
        "image-list", {"index": 0, "file": "a.png", "sha256": d.HASH, "prompt": "a photo of a cat"}
    ),
    add_format_version(
        "image-list",
        {"index": 1, "prompt": "a photo of a dog", "status": "failed", "reason": "no image"},
    ),
)
parser(
    "converted folder", lambda: {"file_list.jsonl": RECORDED_AS_LINES, "a.png": d.png()},
    lambda f: file_list.open_recorded_images(f, suite("geneval"), "geneval"), "file_list.jsonl",
)  # fmt: skip


def read_layout(folder: Path) -> object:
    return base.find_layout(folder), geneval.open_layout(folder, suite("geneval"))


parser(
    "GenEval's folders",
    d.geneval_folder,
    read_layout,
    "00000/metadata.jsonl",
    "00001/metadata.jsonl",
)
parser(
    "GenEval's results", lambda: {"results.jsonl": d.geneval_results()},
    lambda f: (base.find_results_reader(f / "results.jsonl"), geneval_results.import_scores(f / "results.jsonl", suite("geneval"))),
)  # fmt: skip


class Items(dpg_bench.DpgBenchSuite):
    """DPG-Bench with the items of `dpg_script`."""

    def __init__(self, path: Path) -> None:
        self.known = dpg_bench.read_prompts(path)

    @property
    def count(self) -> int:
        return 4 * len(self.known)

    def case(self, index: int) -> Any:
        copy, prompt = divmod(index, len(self.known))
        return dpg_bench.PromptCase(
            prompt, copy, self.known[prompt].prompt, {"dpg": self.known[prompt].metadata}
        )


def read_dpg(folder: Path) -> object:
    items = Items(homes.PROMPT_HOME / "dpg_script.csv")
    results_readers = [base.find_results_reader(path) for path in sorted(folder.glob("*.txt"))]
    return results_readers, [
        dpg_results.import_scores(folder / "results.txt", items, rules=rules)
        for rules in ("official", "corrected")
    ]


parser("DPG-Bench's results", d.dpg_results, read_dpg)


def read_compbench(folder: Path) -> object:
    path = folder / "numeracy/annotation_num/vqa_result.json"
    return base.find_results_reader(path), compbench_results._read_categories(
        folder, Toy("numeracy"), "official"
    )


parser(
    "T2I-CompBench's results",
    {
        "numeracy/annotation_num/vqa_result.json": d.compbench_answers(),
        "numeracy/annotation_num/score.txt": b"total:2.5 num:5 avg:0.5",
    },
    read_compbench,
)
