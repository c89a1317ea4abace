"""Training captions against benchmark prompts: what counts as a match, what does not, and how files
are read.
"""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from harope_bench.analysis.contamination import (
    BenchmarkPrompt,
    CaptionMatch,
    Matcher,
    audit_captions,
    normalized_words,
    plurals,
    read_captions,
    read_prompts,
)
from harope_bench.cli import main
from harope_bench.core.errors import BenchError, OptionError, StorageError

PROMPTS = [  # written for this test, in GenEval's forms
    BenchmarkPrompt("a photo of a lamp", "single_object"),
    BenchmarkPrompt("a photo of an owl", "single_object"),
    BenchmarkPrompt("a photo of a garden chair", "single_object"),
    BenchmarkPrompt("a photo of a lamp and an owl", "two_object"),
    BenchmarkPrompt("a photo of three owls", "counting"),
    BenchmarkPrompt("a photo of a red lamp", "colors"),
    BenchmarkPrompt("a photo of an owl left of a lamp", "position"),
    BenchmarkPrompt("a photo of a red lamp and a green owl", "color_attr"),
]


@pytest.fixture
def matcher() -> Matcher:
    return Matcher(PROMPTS, has_templates=True)


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "metadata.jsonl"
    path.write_text("".join(json.dumps({"tag": p.task, "prompt": p.text}) + "\n" for p in PROMPTS))
    return path


@pytest.mark.parametrize(
    ("caption", "kind", "task"),
    [
        ("a photo of a lamp", "exact", "single_object"),
        ("A  photo of an OWL.", "exact", "single_object"),
        ("\uff41 photo of a lamp", "exact", "single_object"),  # a full-width letter
        ("a photo of a lamp and an owl", "exact", "two_object"),
        ("a photo of an owl and a lamp", "template", "two_object"),
        ("a photo of two lamps", "template", "counting"),
        ("a photo of four garden chairs", "template", "counting"),
        ("an image of a blue owl", "template", "colors"),
        ("a photo of a lamp to the right of an owl", "template", "position"),
        ("a photo of a garden chair above a lamp", "template", "position"),
        ("a photo of a white garden chair and a pink owl", "template", "color_attr"),
        ("a photo of the owl", "template", "single_object"),
        ("in the hall, a photo of a lamp and a mirror", "contained", "single_object"),
        (
            "a photo of a lamp and an owl on a shelf",
            "contained",
            "two_object",
        ),  # the longest prompt is named
    ],
)
def test_captions_that_match(caption: str, kind: str, task: str, matcher: Matcher) -> None:
    match = matcher.match(caption)
    assert match is not None
    assert (match.kind, match.task) == (kind, task)
    assert (match.prompt is None) == (kind == "template")


@pytest.mark.parametrize(
    "caption",
    [
        "",
        "...",
        "a lamp",
        "a photo of a dragon",  # the form, but no object of the benchmark
        "a photo of a dragon and a lamp",
        "a photo of two dragons",
        "a photo of a lampshade",
        "the photo of lamps in the hall",
        "owls left of lamps",
    ],
)
def test_captions_that_do_not_match(caption: str, matcher: Matcher) -> None:
    assert matcher.match(caption) in (
        None,
        CaptionMatch("contained", "single_object", "a photo of a lamp"),
    )
    if "dragon and" not in caption:
        assert matcher.match(caption) is None


def test_other_suites_have_no_templates() -> None:
    plain_matcher = Matcher(PROMPTS, has_templates=False)
    assert plain_matcher.match("a photo of an owl and a lamp") == CaptionMatch(
        "contained", "single_object", "a photo of an owl"
    )
    assert plain_matcher.match("a photo of two lamps") is None


def test_a_one_word_prompt_is_found_inside() -> None:
    assert Matcher([BenchmarkPrompt("owl", "words")], has_templates=False).match(
        "my owl sleeps"
    ) == CaptionMatch("contained", "words", "owl")


def test_containment_agrees_with_a_plain_search() -> None:
    import random

    rng = random.Random(0)
    benchmark_prompts = [
        BenchmarkPrompt(" ".join(rng.choices("abc", k=rng.randint(1, 4))), "t") for _ in range(12)
    ]
    matcher = Matcher(benchmark_prompts, has_templates=False)
    for _ in range(400):
        caption = " ".join(rng.choices("abcd", k=rng.randint(0, 8)))
        inside = [p.text for p in benchmark_prompts if f" {p.text} " in f" {caption} "]
        match = matcher.match(caption)
        assert (match is not None) == bool(inside)
        if match is not None:
            assert len(match.prompt or "") == max(map(len, inside))


def test_plurals_follow_english_spelling() -> None:
    assert {"knives"} <= plurals("knife")
    assert {"buses"} <= plurals("bus")
    assert {"sheep"} <= plurals("sheep")
    assert {"stories"} <= plurals("story")
    assert {"people"} <= plurals("person")
    assert {"computer mice"} <= plurals("computer mouse")


def test_every_format_reads_the_same_captions(tmp_path: Path) -> None:
    captions = ["a photo of a lamp", 'an owl, "quoted"']
    jsonl = "".join(
        json.dumps({"id": i, "caption": text}) + "\n" for i, text in enumerate(captions)
    )
    (tmp_path / "a.jsonl").write_text(jsonl + "\n")
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(jsonl.encode(), mtime=0))
    (tmp_path / "a.csv").write_bytes(
        b'\xef\xbb\xbfid,text\r\n0,a photo of a lamp\r\n1,"an owl, ""quoted"""\r\n'
    )
    (tmp_path / "a.tsv").write_text('id\ttext\n0\ta photo of a lamp\n1\t"an owl, ""quoted"""\n')
    (tmp_path / "a.txt").write_text("\n\n".join(captions))
    for name in ("a.jsonl", "a.jsonl.gz", "a.csv", "a.tsv", "a.txt"):
        read = list(read_captions(tmp_path / name))
        assert [text.strip() for _, text in read] == captions, name
        assert read[0][0] == {"a.csv": 2, "a.tsv": 2}.get(name, 1)


def test_counts_and_examples(tmp_path: Path, prompts: Path) -> None:
    lines = ["a photo of a lamp"] * 5 + [
        "a photo of two lamps",
        "a photo of a red lamp at night",
        "something else",
        "x" * 500,
    ]
    (tmp_path / "c.txt").write_text("\n".join(lines))
    captions = audit_captions([tmp_path / "c.txt"], "geneval", prompts)
    assert (captions.captions, captions.n_matched, captions.prompts) == (9, 7, 8)
    assert dict(captions.counts) == {
        ("exact", "single_object"): 5,
        ("template", "counting"): 1,
        ("contained", "colors"): 1,
    }
    assert captions.matched_prompts["exact"] == {"a photo of a lamp"}
    assert [example.line for example in captions.examples] == [1, 2, 3, 6, 7]


def test_the_verb_answers_in_words_and_in_json(tmp_path: Path, prompts: Path) -> None:
    (tmp_path / "c.jsonl").write_text(
        '{"text": "a photo of a lamp"}\n{"text": "a photo of <b>a lamp</b>\\n in rain"}\n'
    )
    words = [
        "audit",
        "--captions",
        str(tmp_path / "c.jsonl"),
        "--suite",
        "geneval",
        "--prompts",
        str(prompts),
    ]
    command_result = CliRunner().invoke(main, words)
    assert command_result.exit_code == 0
    assert "2 captions against 8 prompts of geneval: 1 match" in command_result.output
    assert "exact, single_object, c.jsonl:1  a photo of a lamp" in command_result.output
    document = json.loads(CliRunner().invoke(main, [*words, "--json"]).output)
    assert document["kinds"]["exact"] == {
        "n_captions": 1,
        "n_distinct_prompts": 1,
        "tasks": {"single_object": 1},
    }
    assert document["n_matched"] == 1


def test_missing_prompts_name_the_official_file(
    tmp_path: Path, bench_home: Path, prompts: Path
) -> None:
    (tmp_path / "c.txt").write_text("a photo of a lamp\n")
    words = ["audit", "--captions", str(tmp_path / "c.txt"), "--suite"]
    for suite, name in (
        ("geneval", "evaluation_metadata.jsonl"),
        ("dpg-bench", "dpg_bench/prompts"),
        ("t2i-compbench", "_val.txt"),
    ):
        command_result = CliRunner().invoke(main, [*words, suite])
        assert command_result.exit_code == 1
        assert name in command_result.output
        assert "--prompts" in command_result.output
    assert "did you mean geneval" in CliRunner().invoke(main, [*words, "genval"]).output
    assert CliRunner().invoke(main, [*words, "my-suite", "--prompts", str(prompts)]).exit_code == 0
    (bench_home / "prompts").mkdir()
    (bench_home / "prompts/geneval").write_bytes(prompts.read_bytes())
    (bench_home / "prompts/geneval").rename(bench_home / "prompts/x.jsonl")
    (bench_home / "prompts/geneval").mkdir()
    (bench_home / "prompts/x.jsonl").rename(
        bench_home / "prompts/geneval/evaluation_metadata.jsonl"
    )
    assert CliRunner().invoke(main, [*words, "geneval"]).exit_code == 0


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.jsonl", b'{"text": "x"}\n{"text":', "line 2 is not JSON"),
        ("a.jsonl", b"[1]\n", "line 1 is not a JSON object"),
        ("a.jsonl", b'{"url": "x"}\n', "--field, here: url"),
        ("a.jsonl", b'{"text": 3}\n', "has no text"),
        ("a.csv", b"id,url\n1,x\n", "--field, here: id, url"),
        ("a.csv", b"text\n" + b"x" * 200_000 + b"\n", "line"),
        ("a.txt", b"fine\n\xff\xfe\n", "is not readable"),
        ("a.txt.gz", gzip.compress(b"one\n" * 5000, mtime=0)[:40], "is not readable"),
        ("a.txt.gz", b"not packed", "is not readable"),
        ("a.parquet", b"", "is no .jsonl"),
    ],
)
def test_broken_files_are_named(name: str, data: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises((StorageError, OptionError), match=message) as excinfo:
        list(read_captions(tmp_path / name))
    assert str(tmp_path / name) in str(excinfo.value)


def test_files_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot use"):
        list(read_captions(tmp_path / "none.txt"))
    with pytest.raises(StorageError, match=r"none\.txt does not exist"):
        read_prompts(tmp_path / "none.txt", "geneval")
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(BenchError, match="holds no prompts"):
        read_prompts(tmp_path / "empty.txt", "geneval")


def test_a_folder_of_prompts_is_read_whole(tmp_path: Path) -> None:
    for i in range(3):
        (tmp_path / f"{i}.txt").write_text(f"a long prompt number {i}")
    assert {p.task for p in read_prompts(tmp_path, "dpg-bench")} == {"dpg-bench"}
    (tmp_path / "color_val.txt").write_bytes(b"a red lamp\r\na green owl\r\n")
    assert BenchmarkPrompt("a green owl", "color_val") in read_prompts(tmp_path, "t2i-compbench")


def test_captions_are_streamed(tmp_path: Path, prompts: Path) -> None:
    with (tmp_path / "big.txt").open("w") as file:
        for i in range(50_000):
            file.write(f"a caption of no account that goes on for a while, number {i}\n")
    tracemalloc.start()
    assert audit_captions([tmp_path / "big.txt"], "geneval", prompts).captions == 50_000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_500_000  # the file has 3 MB


def test_the_audit_brings_no_torch(tmp_path: Path, prompts: Path) -> None:
    (tmp_path / "c.txt").write_text("a photo of a lamp\n")
    words = [
        "audit",
        "--captions",
        str(tmp_path / "c.txt"),
        "--suite",
        "geneval",
        "--prompts",
        str(prompts),
    ]
    code = (
        f"import sys\nfrom harope_bench.cli import main\ntry: main({words!r})\nexcept SystemExit as"
        " end: assert not end.code\nassert 'torch' not in sys.modules and 'numpy' not in"
        " sys.modules"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr


# ------------------------------------------------------------------------------------- the official
# prompts, where they are


def test_geneval_prompts_are_all_read_by_the_templates(shared_path: Callable[[str], Path]) -> None:
    folder = shared_path("data/geneval")
    prompts = read_prompts(folder / "evaluation_metadata.jsonl", "geneval")
    plain_prompts = read_prompts(folder / "generation_prompts.txt", "geneval")
    assert len(prompts) == len(plain_prompts) == 553
    matcher = Matcher(prompts, has_templates=True)
    assert matcher.templates is not None
    assert [
        p.text for p in prompts if matcher.templates.task(normalized_words(p.text)) != p.task
    ] == []
    objects = {
        " ".join(normalized_words(line))
        for line in (folder / "object_names.txt").read_text().splitlines()
        if line
    }
    assert matcher.templates.objects == objects
    assert {matcher.match(p.text).kind for p in plain_prompts} == {"exact"}  # type: ignore[union-attr]


def test_compbench_prompts_are_read(shared_path: Callable[[str], Path]) -> None:
    assert (
        len(read_prompts(shared_path("data/t2i_compbench/color_val.txt"), "t2i-compbench")) == 300
    )
