"""Readers of names and words: the command line, patterns, names of files."""

from __future__ import annotations

import os
from pathlib import Path
from unittest import mock

import click
from hostile import documents as d
from hostile.parsers.homes import at_home, suite
from hostile.parsers.table import Table

from harope_bench.commands import figure, option_types
from harope_bench.core import json_file, registry, text_file, threaded_work
from harope_bench.data.sample_set import open_samples
from harope_bench.leaderboards.entries import parse_entries
from harope_bench.pipeline import generate
from harope_bench.suites.official_layouts import base, dpg, geneval, prompt_folder
from harope_bench.suites.official_layouts.file_pattern import NamePattern, compile_pattern
from harope_bench.suites.official_layouts.image_keys import ImageKeys

TABLE = Table()
parser = TABLE.add


def read_arguments(folder: Path) -> object:
    lines = text_file.read_text(folder / "words.txt").split("\n")
    types = (
        option_types.IndicesType(),
        option_types.ResolutionList(),
        option_types.KeyValueType(),
        figure.NumberList(),
        option_types.FiniteFloat(0, 10),
    )
    return [
        kind.convert(line, None, None) for kind, line in zip(types, lines, strict=False)
    ], parse_entries(lines[5:7], lines[7:])


ARGUMENTS = b"0-4,7\n28,56\nsize=28\n100,500.5\n1.5\nmine=Ours\nother\nrow=mine"
parser(
    "words of the command line",
    {"words.txt": ARGUMENTS},
    read_arguments,
    errors=(click.UsageError,),
)


def read_pattern(folder: Path) -> object:
    patterns = text_file.read_text(folder / "patterns.txt").split("\n")
    return [
        compile_pattern(pattern).fullmatch(name)
        for pattern in patterns
        for name in ("0_1.png", "a cat/000001.png", "1" * 300)
    ]


PATTERNS = (
    b"{prompt_index}_{copy}.png\n{prompt}/{copy}.png\n{id}-{copy}.png\n{index}.png\n{{x}}{index}"
)
parser("patterns of names", {"patterns.txt": PATTERNS}, read_pattern)


def match_pattern(folder: Path) -> object:
    for name in text_file.read_text(folder / "names.txt").split("\n")[:4]:
        is_name = name not in ("", ".", "..") and "/" not in name and "\0" not in name
        if is_name and len(name.encode()) < 200:
            (folder / name).write_bytes(b"x")
    return prompt_folder.assign_by_pattern(
        folder, "{prompt_index}_{copy}.png", ImageKeys(suite("geneval"), "geneval")
    )


parser("names by a pattern", {"names.txt": b"0_0.png\n1_0.png\n2_1.png\nx.png"}, match_pattern)


def list_numbers(folder: Path) -> object:
    for name in text_file.read_text(folder / "names.txt").split("\n")[:4]:
        is_name = name not in ("", ".", "..") and "/" not in name and "\0" not in name
        if is_name and len(name.encode()) < 200:
            (folder / name).mkdir(exist_ok=True)
            (folder / f"{name}.png").write_bytes(d.png())
            at_home(folder / "home")
            (folder / "home/checkpoints").mkdir(parents=True, exist_ok=True)
            (folder / "home/checkpoints" / f"{name}.toml").write_bytes(b"")
    listed_warnings = (
        open_samples(folder).warnings,
        base.find_layout(folder),
        registry.list_names("checkpoints"),
    )
    return listed_warnings, dpg.is_layout(folder), geneval.is_layout(folder)


parser("names of files", {"names.txt": b"00001\n2\nimg_10\n0_1"}, list_numbers)


def name_by_pattern(folder: Path) -> object:
    keys = {"index": 7, "prompt_index": 3, "copy": 1, "prompt": "a cat", "id": "00003"}
    patterns = text_file.read_text(folder / "patterns.txt").split("\n")
    return [NamePattern(pattern).name(keys) for pattern in patterns]


NAME_PATTERNS = (
    b"{prompt_index:05d}/{copy}.png\n{id}_{copy:02d}.png\n{prompt}.PNG\n{{x}}{index}.png"
)
parser("patterns to name by", {"patterns.txt": NAME_PATTERNS}, name_by_pattern)


def read_thread_count(folder: Path) -> object:
    words = text_file.read_text(folder / "words.txt").split("\n")
    counts = []
    for word in words:
        # No variable of the environment holds a NUL.
        variables = {threaded_work.THREADS_VARIABLE: word.replace("\0", "")}
        with mock.patch.dict(os.environ, variables):
            counts.append(threaded_work.thread_count())
    return counts


parser("number of threads", {"words.txt": b"4\n0\n256\n"}, read_thread_count)
SETTINGS = {
    "resolution": 64, "tile": 2, "sampler": "flow", "steps": 4, "guidance": 1.5, "seed": 3, "device": "cuda:1",
    "dtype": "bfloat16", "labels": "uniform", "guidance_interval": "0.1..0.9", "shift": 3.0, "pipeline_options": {"x": 1},
}  # fmt: skip


def read_settings(folder: Path) -> object:
    values = json_file.read_json(folder / "settings.json")
    return generate.validate_settings(values).sampling_text


parser("settings of a run", {"settings.json": d.json_bytes(SETTINGS)}, read_settings)
