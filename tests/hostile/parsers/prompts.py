"""Readers of captions, prompts and labels."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import redirect_stderr
from functools import cache
from io import StringIO
from pathlib import Path

from hostile import documents as d
from hostile.parsers.homes import at_home, with_home
from hostile.parsers.table import Files, Table

from harope_bench.analysis import contamination
from harope_bench.core import text_file
from harope_bench.suites import (
    coco_fid,
    compbench_suite,
    dpg_bench,
    label_policies,
    prompt_files,
    prompt_rows,
)
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


def read_own_prompts(options: str, name: str) -> Callable[[Path], object]:
    """Return a reader of a user's file of prompts, twice: it is stored, and found again."""

    def reading(folder: Path) -> object:
        at_home(folder / "home")
        with redirect_stderr(StringIO()):
            names = [
                prompt_files.resolve_suite_name(f"prompts:{folder / name}{options}")
                for _ in range(2)
            ]
        return use_prompts(folder / f"home/suites/{names[0]}.json")

    return reading


def use_prompts(path: Path) -> object:
    suite = prompt_files.load_prompt_file(path)
    indices = range(min(suite.count, 8))
    return suite.requests(indices), suite.prompts_source(), suite.case(suite.count)


OWN_PROMPTS = {
    "x.txt": b"a cat\n\na dog\n",
    "x.csv": b'id,prompt\n1,a cat\n2,"a dog, a cat"\n',
    "x.tsv": b"id\tprompt\na\ta cat\n",
    "x.jsonl": d.as_lines({"prompt": "a cat", "id": "a"}, {"prompt": "a dog", "id": 7}),
}
for own_name, own_data in OWN_PROMPTS.items():
    parser(
        f"own prompts, {own_name}",
        {own_name: own_data},
        read_own_prompts(",copies=2", own_name),
    )
parser(
    "own prompts of named columns",
    {"x.csv": b"text,n\na cat,1\na dog,2\n"},
    read_own_prompts(",prompt=text,id=n", "x.csv"),
)


@cache
def stored_prompts() -> Files:
    rows = (
        prompt_rows.PromptRow(id="a", prompt="a cat"),
        prompt_rows.PromptRow(id="b", prompt="a dog"),
    )
    stored = prompt_files.StoredPrompts(source="x.txt", sha256=d.HASH, copies=2, prompts=rows)
    return {f"suites/{stored.name}.json": d.file_of("prompts", stored)}


def read_stored_prompts(folder: Path) -> object:
    return use_prompts(folder / next(iter(stored_prompts())))


parser("own prompts of the home", stored_prompts, with_home(read_stored_prompts))


def read_options(folder: Path) -> object:
    at_home(folder / "home")
    words = text_file.read_text(folder / "words.txt").split("\n")
    (folder / "x.csv").write_bytes(OWN_PROMPTS["x.csv"])
    with redirect_stderr(StringIO()):
        return [
            prompt_files.resolve_suite_name(word.replace("FOLDER", str(folder))) for word in words
        ]


parser(
    "options of own prompts",
    {"words.txt": b"prompts:FOLDER/x.csv,copies=2,id=id,prompt=prompt\nprompts:FOLDER/x.csv"},
    read_options,
)
