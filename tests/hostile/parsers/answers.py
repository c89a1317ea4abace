"""Readers of what judges wrote: answers, questions, observations."""

from __future__ import annotations

from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path

from hostile import documents as d
from hostile.parsers.table import Table

from harope_bench.core.annotations import DetectionQuery, VqaQuery
from harope_bench.core.formats import add_format_version
from harope_bench.judges.blip import blip_network
from harope_bench.judges.runners import common
from harope_bench.pipeline import (
    annotation_folder,
    external_annotator,
    extract_features,
    rescore_prompts,
    verify_features,
    verify_files,
    verify_results,
)
from harope_bench.pipeline.verify_findings import Findings

TABLE = Table()
parser = TABLE.add

KEY = "k" * 8
RECORD = d.file_of(
    "annotations", {"name": "toy", "version": 1, "judge_class": "micro", "weights_sha256": d.HASH, "preprocessing": "none"}
)  # fmt: skip
BOX = [0.0, 0.0, 5.0, 5.0]
ANSWERS = d.as_lines(
    {
        "key": KEY,
        "index": 0,
        "annotation": {"size": [8, 8], "detections": [{"label": "cat", "score": 0.9, "box": BOX}]},
    },
    {"key": "other", "index": 1, "error": "no image"},
)


def read_answers(folder: Path) -> object:
    image_queries = [
        annotation_folder.ImageQuery(0, 0, d.HASH, DetectionQuery(), KEY),
        annotation_folder.ImageQuery(1, 1, d.HASH, VqaQuery(questions=("a?",)), "other"),
    ]
    return (
        annotation_folder.read_judge_record(folder),
        annotation_folder.read_annotations(folder, "detector", image_queries),
        annotation_folder.read_annotations(folder, "vqa", image_queries),
        sorted(annotation_folder.read_keys(folder)),
    )


parser("answers", {"judge.json": RECORD, "annotations.jsonl": ANSWERS}, read_answers)


def append_answer(folder: Path) -> object:
    annotation_folder.append_annotation(folder, {"key": "new", "index": 2, "annotation": "yes"})
    return annotation_folder.read_annotations(
        folder, "detector", [annotation_folder.ImageQuery(0, 0, d.HASH, DetectionQuery(), KEY)]
    )


VOUCHED_ANSWERS = {
    "annotations.jsonl": ANSWERS,
    "SHA256SUMS": f"{d.HASH}  annotations.jsonl\n{d.HASH}  judge.json\n".encode(),
}
parser("answers to add to", VOUCHED_ANSWERS, append_answer)
ASKS = d.as_lines(
    {"key": KEY, "index": 0, "role": "vqa", "image": "x.png", "sha256": d.HASH, "query": {}},
    {"key": "other", "index": 1},
)
parser(
    "answers of another Python", {"queries.jsonl": ASKS, "annotations.jsonl": ANSWERS, "judge.json": RECORD},
    lambda f: external_annotator.count_annotations(f, Path("runner.py")), "queries.jsonl", "annotations.jsonl",
)  # fmt: skip
parser(
    "kept answers",
    {"a/vlm/annotations.jsonl": ANSWERS, "b/vlm/annotations.jsonl": ANSWERS},
    lambda f: rescore_prompts._annotation_differences(f / "a", f / "b"),
)


def read_questions(folder: Path) -> object:
    with redirect_stderr(StringIO()):
        return list(common.read_lines(folder / "queries.jsonl")), common._annotated_keys(
            folder / "annotations.jsonl"
        )


parser(
    "questions",
    {"queries.jsonl": ASKS, "annotations.jsonl": ANSWERS},
    read_questions,
    errors=(SystemExit,),
)
SHARD = {"key": KEY, "rows": [0, 4], "sha256": {"x": d.HASH}, "warnings": ["grey"]}
RECORDED_JUDGE = {name: value for name, value in d.json.loads(RECORD).items() if name != "format"}
LOOKED_FORMAT_VERSION = add_format_version(
    "features", {"judge": RECORDED_JUDGE, "warnings": ["substitute"]}
)


def read_observed(folder: Path) -> object:
    findings = Findings()
    verify_files.check_folder(folder / "features/toy", findings)
    verify_files.check_rows(folder, findings)
    verify_files.check_archives(folder, findings)
    verify_files.check_unlisted_files(folder / "features/toy", findings)
    verify_features.check_moments(folder / "features/toy", folder / "features/toy", 4, findings)
    judge = folder / "features/toy"
    return (
        findings,
        extract_features.read_record(judge / "shard-00000.json"),
        extract_features._read_extractor_record(judge),
    )


parser(
    "features",
    lambda: {
        "features/toy/judge.json": d.json_bytes(LOOKED_FORMAT_VERSION), "features/toy/shard-00000.json": d.json_bytes(SHARD),
        "features/toy/x.npy": d.npy(), "features/toy/x.moments.npz": d.kept_moments(),
    },
    read_observed,
)  # fmt: skip
parser(
    "words of BLIP",
    {"vocab.txt": b"yes\nno\ncat\n"},
    lambda f: blip_network.BlipTokenizer(f / "vocab.txt"),
)
parser(
    "forwards", lambda: {"forwards/forwards.npz": d.forwards()},
    lambda f: verify_results._cost_differences(f, d.fake_runs.result(None, [], evaluator="cost"), None),
)  # fmt: skip
