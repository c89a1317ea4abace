"""Readers of files of one form: text, JSON, TOML, lines, hashes, arrays, rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hostile import documents as d
from hostile.parsers.table import Table

from harope_bench.assets import local_files  # fmt: skip
from harope_bench.core import (
    array_archive,
    checksums,
    json_file,
    json_lines,
    storage,
    text_file,
    toml_file,
)
from harope_bench.data import feature_rows

TABLE = Table()
parser = TABLE.add

ROWS = d.as_lines({"a": 1, "b": "x"}, {"a": [1, 2], "b": {"c": None}})
parser("text", {"x.txt": "one\ntwö\r\n".encode()}, lambda f: text_file.read_text(f / "x.txt"))
parser(
    "json",
    {"x.json": b'{"a": [1, "b", null], "c": {"d": 1.5}}'},
    lambda f: json_file.read_json(f / "x.json"),
)
parser(
    "toml",
    {"x.toml": d.toml({"a": 1, "b": {"c": ["x", "y"]}})},
    lambda f: toml_file.read_toml(f / "x.toml"),
)
parser("lines", {"x.jsonl": ROWS}, lambda f: json_lines.read_lines(f / "x.jsonl"))
parser(
    "mended lines",
    {"x.jsonl": ROWS},
    lambda f: (json_lines.drop_partial_line(f / "x.jsonl"), json_lines.read_lines(f / "x.jsonl")),
)


def read_vouched(folder: Path) -> object:
    sums = (
        checksums.read_checksums(folder),
        checksums.file_state(folder, "a.txt"),
        checksums.is_intact(folder, "a.txt"),
    )
    checksums.record_file_hashes(folder, ["a.txt"])
    return sums, checksums.read_checksums(folder)


parser(
    "hashes",
    {"SHA256SUMS": f"{d.HASH}  a.txt\n{d.HASH}  b.txt\n".encode(), "a.txt": b"a"},
    read_vouched,
    "SHA256SUMS",
)
parser(
    "arrays", lambda: {"x.npz": d.kept_moments()}, lambda f: array_archive.load_arrays(f / "x.npz")
)


def read_rows_file(folder: Path) -> object:
    path = folder / "x.npy"
    rows_headers = (
        feature_rows.read_rows_header(path),
        feature_rows.rows_sha256(path, 0, 4),
        feature_rows.is_complete(path),
    )
    feature_rows.write_rows(path, 0, np.zeros((1, 3)))
    return rows_headers, np.asarray(feature_rows.map_rows(path, 4)).sum()


parser("rows", lambda: {"x.npy": d.npy()}, read_rows_file)
parser(
    "file hashes",
    {"x.bin": b"abc"},
    lambda f: (
        storage.sha256_file(f / "x.bin"),
        storage.git_blob_id(f / "x.bin"),
        local_files.md5_file(f / "x.bin"),
    ),
)
