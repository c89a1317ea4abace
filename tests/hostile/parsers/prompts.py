"""Readers of captions, prompts and labels."""

from __future__ import annotations

from pathlib import Path

from hostile import documents as d
from hostile.parsers.homes import with_home
from hostile.parsers.table import Files, Table

from harope_bench.analysis import contamination
from harope_bench.suites import coco_fid, compbench_suite, dpg_bench, label_policies
from harope_bench.suites import geneval as geneval_suite

TABLE = Table()
parser = TABLE.add

CAPTIONS = "a photo of a cat,x\n"
parser(
    "captions as lines",
    {"x.jsonl": d.as_lines({"text": "a cat"}, {"caption": "a dog"})},
    lambda f: list(contamination.read_captions(f / "x.jsonl")),
)
parser(
    "captions as csv",
    {"x.csv": b"text,n\na cat,1\na dog,2\n"},
    lambda f: list(contamination.read_captions(f / "x.csv")),
)
parser(
    "captions as tsv",
    {"x.tsv": b"text\tn\na cat\t1\n"},
    lambda f: list(contamination.read_captions(f / "x.tsv", "text")),
)
parser(
    "captions as text",
    {"x.txt": b"a cat\na dog\n"},
    lambda f: list(contamination.read_captions(f / "x.txt")),
)
parser(
    "captions packed",
    {"x.txt.gz": d.gzip_bytes(b"a cat\na dog\n")},
    lambda f: list(contamination.read_captions(f / "x.txt.gz")),
)


def audit(folder: Path) -> object:
    return contamination.audit_captions(
        [folder / "captions.txt"], "geneval", folder / "prompts.jsonl"
    )


def prompt_lines() -> Files:
    return {
        "prompts.jsonl": d.asset("geneval/evaluation_metadata.jsonl"),
        "captions.txt": b"a photo of a cat\na photo of two dogs\n",
    }


parser("audit", prompt_lines, audit)
parser(
    "GenEval's prompts",
    lambda: {"x.jsonl": d.asset("geneval/evaluation_metadata.jsonl")},
    lambda f: geneval_suite.read_metadata(f / "x.jsonl"),
)
parser(
    "DPG-Bench's table",
    lambda: {"x.csv": d.dpg_table()},
    lambda f: dpg_bench.read_prompts(f / "x.csv"),
)
parser(
    "a category's prompts",
    {"color_val.txt": b"a red cat\r\na blue dog"},
    lambda f: compbench_suite._lines(f / "color_val.txt"),
)
parser(
    "COCO's captions", lambda: {"x.zip": d.coco()}, lambda f: coco_fid.read_captions(f / "x.zip")
)
parser(
    "labels",
    {"labels.txt": b"1\n2\n9\n"},
    with_home(lambda f: label_policies.resolve_label_policy(str(f / "labels.txt"), 10)),
)
