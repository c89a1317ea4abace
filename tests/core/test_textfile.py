"""Text files as Windows saves them are read as what they say, by every reader of files that users
bring.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from harope_bench.analysis import contamination
from harope_bench.core.errors import BenchError, StorageError
from harope_bench.core.json_lines import read_lines
from harope_bench.core.registry import read_toml
from harope_bench.core.text_file import read_text
from harope_bench.reports.loss_logs import read_losses
from harope_bench.statistics.gate import policy
from harope_bench.suites import compbench_suite, label_policies
from harope_bench.suites.imagenet_val import PLUGIN as IMAGENET
from harope_bench.suites.official_layouts import (
    compbench_results,
    dpg_results,
    geneval,
    geneval_results,
)

WINDOWS = [
    pytest.param("utf-8-sig", "\r\n", id="byte order mark and CRLF"),
    pytest.param("utf-16", "\r\n", id="UTF-16"),
    pytest.param("utf-8", " \r\n", id="blanks at the ends of lines"),
    pytest.param("utf-8-sig", "\n", id="byte order mark alone"),
]


def write_encoded(path: Path, text: str, encoding: str, newline: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.replace("\n", newline).encode(encoding))
    return path


def captions(path: Path) -> list[str]:
    return [text.strip() for _, text in contamination.read_captions(path)]


def val_list(path: Path) -> list[tuple[str, int]]:
    for name in ("a.JPEG", "b.JPEG", "c.JPEG"):
        Image.new("RGB", (8, 8)).save(path.parent / name)
    pictures = IMAGENET.real_images(path.parent, path)
    assert all(picture.is_file() for picture in pictures.paths)
    return list(zip(pictures.names, pictures.labels, strict=True))


def metadata(path: Path) -> dict[str, Any]:
    fields = dict(geneval._read_metadata(path.parent))
    return fields


LOG = "step,loss\n1,0.5\n2,0.25\n"
SCORES = "images/7.png, 0.5, 0.5\nimages/whoops3.png, 1.0, 1.0\n"
READERS: dict[
    str, tuple[str, str, Callable[[Path], Any]]
] = {  # name of the file, its text, what reads it
    "val list": ("val.txt", "a.JPEG 3\nb.JPEG 0\nc.JPEG 999\n", val_list),
    "labels": ("labels.txt", "3\n0\n7\n", lambda path: label_policies._read_labels(path, 10)),
    "prompts": (
        "prompts.txt",
        "a cat, blue\nein Häuschen\n",
        lambda path: [p.text for p in contamination.read_prompts(path, "geneval")],
    ),
    "captions in lines": ("captions.txt", "a cat\nein Häuschen\n", captions),
    "captions in a table": ("captions.csv", "caption,x\na cat,1\nein Häuschen,2\n", captions),
    "captions in jsonl": (
        "captions.jsonl",
        '{"text": "a cat"}\n{"text": "ein Häuschen"}\n',
        captions,
    ),
    "category of prompts": ("color_val.txt", "a cat\na dog\n", compbench_suite._lines),
    "names of objects": ("new_objects.txt", "cat - cats\ndog - dogs\n", compbench_suite._lines),
    "json lines": ("rows.jsonl", '{"index": 0}\n{"index": 1}\n', read_lines),
    "toml": ("facts.toml", 'name = "a"\n[config]\nheads = 4\n', read_toml),
    "gate policy": (
        "gate.toml",
        "[metric.fid]\nmargin = 1.0\n",
        lambda path: policy.read_policy(path).metric,
    ),
    "loss log": ("loss.csv", LOG, lambda path: read_losses([path], 0)),
    "metadata": ("metadata.jsonl", '{"prompt": "a cat", "tag": "single_object"}\n', metadata),
    "scores of the official script": (
        "x.txt",
        SCORES,
        lambda path: (dpg_results.is_results_file(path), dpg_results.read_scores(path)),
    ),
    "answers of the official script": (
        "color/vqa_result.json",
        '[{"question_id": 0, "answer": "0.5"}]\n',
        lambda path: (
            compbench_results.is_results_file(path),
            compbench_results._read_answers(path),
        ),
    ),
    "results of the official script": (
        "r.jsonl",
        (
            '{"filename": "0.png", "tag": "a", "prompt": "b", "correct": true, "reason": "",'
            ' "metadata": "{}"}\n'
        ),
        lambda path: (geneval_results.is_results_file(path), read_lines(path)),
    ),
}


@pytest.mark.parametrize(("encoding", "newline"), WINDOWS)
@pytest.mark.parametrize("name", READERS)
def test_a_file_saved_on_windows_says_the_same(
    name: str, encoding: str, newline: str, tmp_path: Path
) -> None:
    file, text, read = READERS[name]
    plain_value = read(write_encoded(tmp_path / "plain" / file, text, "utf-8", "\n"))
    assert plain_value, "the reader reads nothing, so the test would hold of any"
    assert read(write_encoded(tmp_path / "windows" / file, text, encoding, newline)) == plain_value


@pytest.mark.parametrize(
    "name", sorted(READERS.keys() - {"metadata", "results of the official script"})
)
def test_utf_16_without_a_mark_and_other_encodings_are_rejected_by_name(
    name: str, tmp_path: Path
) -> None:
    file, text, read = READERS[name]
    path = write_encoded(tmp_path / "marked" / file, text, "utf-16-le", "\n")
    with pytest.raises(BenchError, match="save it as UTF-8|is not JSON"):
        read(path)


def test_another_encoding_is_rejected_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"a cat\nein H\xe4uschen\n")
    with pytest.raises(
        StorageError, match=r"a.txt line 2 is not UTF-8 text; save the file as UTF-8"
    ):
        read_text(tmp_path / "a.txt")
    with pytest.raises(StorageError, match=r"cannot read .*b.txt: No such file"):
        read_text(tmp_path / "b.txt")


@pytest.mark.parametrize(
    "data",
    [
        # saved twice by a tool that always adds a mark
        b"\xef\xbb\xbf\xef\xbb\xbf0.png 1\n1.png 2\n",
        b"0.png 1\n\xef\xbb\xbf1.png 2\n",  # two files joined
        b"\xef\xbb\xbf0.png 1\r\n\xef\xbb\xbf1.png 2\r\n",
        "\ufeff\ufeff0.png 1\n\ufeff1.png 2\n".encode("utf-16"),
    ],
)
def test_further_marks_are_no_part_of_a_name(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "val.txt").write_bytes(data)
    assert read_text(tmp_path / "val.txt") == "0.png 1\n1.png 2\n"


def test_packed_captions_keep_their_encoding(tmp_path: Path) -> None:
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        (tmp_path / "captions.txt.gz").write_bytes(
            gzip.compress("ein Häuschen\r\na cat\r\n".encode(encoding))
        )
        assert captions(tmp_path / "captions.txt.gz") == ["ein Häuschen", "a cat"]
