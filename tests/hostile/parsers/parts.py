"""Readers of what other processes leave in a run: claims, parts, batches, words about them."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from unittest import mock

import click
import numpy as np
from hostile import documents as d
from hostile.parsers.answers import ANSWERS, KEY, RECORD
from hostile.parsers.table import Files, Table

from harope_bench.commands import option_types
from harope_bench.core import text_file
from harope_bench.core.annotations import DetectionQuery
from harope_bench.core.index_ranges import IndexRanges
from harope_bench.data import run_claim, run_folder
from harope_bench.judges.base import JudgeChoice
from harope_bench.pipeline import (
    annotation_folder,
    evaluate_shard,
    feature_parts,
    ray_connection,
)

TABLE = Table()
parser = TABLE.add
PART = run_claim.RunPart("shard-1-of-2", IndexRanges([(0, 4)]), IndexRanges([(0, 9)]))


def read_claims(folder: Path) -> object:
    writer = run_claim._live_writer(folder)
    overlap = writer is not None and writer.overlaps(PART)
    with run_claim.claim_run(folder, PART):
        return writer, overlap


WRITER = {"host": "node7", "process": 11, "start_time": "2026", "boot": "x", "indices": "0-4"}
parser(
    "claims of other machines",
    {
        ".writer.json": d.json_bytes(WRITER),
        "parts/shard-2-of-2/.writer.json": d.json_bytes(WRITER),
    },
    read_claims,
)


def read_parts(folder: Path) -> object:
    run = run_folder.RunFolder(folder)
    run.take_parts()
    return run.read_records(), run.requested_indices(), run.read_warnings()


def part_files() -> Files:
    files = d.run_files()
    return {
        "parts/shard-1-of-2/samples.jsonl": files["samples.jsonl"],
        "parts/shard-1-of-2/requests.jsonl": files["requests.jsonl"],
        "warnings.txt": b"workers: devices of 2 kinds\n",
    }


parser("parts of a run", part_files, read_parts)


def batch_files() -> Files:
    with tempfile.TemporaryDirectory() as folder:
        batch = feature_parts.ExtractedBatch(
            [0, 1], {"pool": np.ones((2, 3), np.float32)}, Counter(grey=1), ["a note"], {}
        )
        feature_parts.write_batch(Path(folder), "key", batch)
        return {"key.npz": (Path(folder) / "key.npz").read_bytes()}


def read_batches(folder: Path) -> object:
    path = folder / "key.npz"
    return feature_parts._batch_indices(path), feature_parts.read_batch(path, [0, 1], ["pool"])


parser("batch of features", batch_files, read_batches)


def read_answers_of_parts(folder: Path) -> object:
    """Read the answers for a query, count them, and take all of them into the run."""
    queries = [annotation_folder.ImageQuery(0, 0, d.HASH, DetectionQuery(), KEY)]
    lines = annotation_folder.lines_of_parts(folder / "annotations/toy", "detector", queries)
    counts = evaluate_shard._annotated_images((folder / PART_ANSWERS).parent)
    annotation_folder.take_annotations_of_parts(folder / "annotations", [JudgeChoice("toy")])
    return lines, counts


PART_ANSWERS = "parts/shard-1-of-2/annotations/toy"
parser(
    "answers of parts",
    {f"{PART_ANSWERS}/judge.json": RECORD, f"{PART_ANSWERS}/annotations.jsonl": ANSWERS},
    read_answers_of_parts,
)


def read_words(folder: Path) -> object:
    lines = text_file.read_text(folder / "words.txt").split("\n")
    shard, count, *addresses = [*lines, "", ""]
    with mock.patch.object(ray_connection.socket, "create_connection"):
        for address in filter(None, addresses):
            ray_connection._check_address(address)
    return (
        option_types.ShardType().convert(shard, None, None),
        option_types.WorkerCountType().convert(count, None, None),
    )


parser(
    "words about workers",
    {"words.txt": b"2/16\n8\nnode1:6379\nauto"},
    read_words,
    errors=(click.UsageError,),
)
