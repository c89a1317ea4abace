"""Format versions of the files that this package writes for itself and reads back: the one owner of
the numbers.

A number rises when files of the kind are written in a way that the reader before would misread. A
file of another number, or of none,
is an error that names both and says what to do. Some files need no number. Those of other people's
formats (images, ADM's npz,
SHA256SUMS) have none. The files that lie beside a numbered one belong to it: FORMATS names them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal, NamedTuple

from harope_bench.core.errors import FormatError, StorageError
from harope_bench.core.escaping import printable_line
from harope_bench.core.json_file import JsonObject, parse_json

FORMAT_KEY: Final = "format"  # the field, key or array that holds the number
SHOWN_VERSION_LENGTH = 40  # characters of another number, in a message
FileKind = Literal[
    "plan",
    "result",
    "features",
    "answers",
    "predictions",
    "forwards",
    "baseline",
    "snapshot",
    "reference",
    "judge",
    "checkpoint",
    "adapter",
    "receipt",
    "image-list",
]


class FileFormat(NamedTuple):
    """The format version of a kind of file, what the file is called in messages, and what to do
    about a file of another version.
    """

    version: int
    title: str
    advice: str


FILE_FORMATS: Final[dict[FileKind, FileFormat]] = {
    # plan.json, with samples.jsonl and requests.jsonl of its folder
    "plan": FileFormat(1, "a plan", "choose another --out, or use that version"),
    # results/*.json, with the .npz and .rows.jsonl beside each
    "result": FileFormat(1, "a result", "evaluate again into another folder, or use that version"),
    # judge.json of a feature extractor, with its records of shards, rows and moments
    "features": FileFormat(
        1, "the record of who looked", "delete its folder and run eval again, or use that version"
    ),
    # judge.json of an annotator, with queries.jsonl and annotations.jsonl; judges/runners/common.py writes
    # it too
    "answers": FileFormat(
        1, "the record of who answered", "delete its folder and run eval again, or use that version"
    ),
    "predictions": FileFormat(
        1, "predictions", "delete its folder and run eval again, or use that version"
    ),
    "forwards": FileFormat(1, "timed forwards", "choose another --out, or use that version"),
    "baseline": FileFormat(
        3, "a baseline", "write it again: harope-bench gate BASELINE RUN --update --reason ..."
    ),
    "snapshot": FileFormat(
        1,
        "a snapshot of a training",
        "choose another --out or pass --no-resume, or use that version",
    ),
    # SUITE.toml that `train` writes, and the .npz that `reference` writes
    "reference": FileFormat(
        1, "a reference", "make it again with `harope-bench train` or `harope-bench reference`"
    ),
    "judge": FileFormat(
        1, "the record of a micro judge", "train it again with `harope-bench train`"
    ),
    "checkpoint": FileFormat(
        1, "a checkpoint", "register it again with --replace, or use that version"
    ),
    # manifest.json, with the weights that it lists
    "adapter": FileFormat(1, "an adapter manifest", "write it again, or use that version"),
    "receipt": FileFormat(1, "the receipt of fetched files", "delete it and run fetch again"),
    # every line of the list that `convert` writes beside images
    "image-list": FileFormat(
        1, "a list of images", "convert the images again, or use that version"
    ),
}


def format_version(kind: FileKind) -> int:
    """Return the format version in which files of a kind are written."""
    return FILE_FORMATS[kind].version


def add_format_version(kind: FileKind, fields: Mapping[str, object]) -> dict[str, object]:
    """Return the facts of a file with the format version of its kind in front."""
    return {FORMAT_KEY: format_version(kind), **fields}


def versioned_json_text(kind: FileKind, facts: Mapping[str, object]) -> str:
    """Return the text of a JSON file of a kind: keys sorted, with its format version, no NaN."""
    return (
        json.dumps(add_format_version(kind, facts), sort_keys=True, allow_nan=False, indent=1)
        + "\n"
    )


def strip_format_version(kind: FileKind, facts: Mapping[str, object], path: Path) -> JsonObject:
    """Return the facts of a file without its format version; raise FormatError where that is
    another one, or missing.
    """
    check_format(kind, facts.get(FORMAT_KEY), path)
    return {name: value for name, value in facts.items() if name != FORMAT_KEY}


def check_format(kind: FileKind, version: object, path: Path) -> None:
    """Raise FormatError unless a file of a kind has the format version of this package; None stands
    for a file that has none.
    """
    expected = FILE_FORMATS[kind]
    if type(version) is int and version == expected.version:  # True equals 1 and is no version
        return
    shown = "none" if version is None else printable_line(str(version))[:SHOWN_VERSION_LENGTH]
    raise FormatError(
        f"{path} is not {expected.title} of this version: wanted format {expected.version}, found"
        f" {shown}; made by another version of harope-bench: {expected.advice}"
    )


def parse_versioned_json(kind: FileKind, data: bytes, path: Path) -> JsonObject:
    """Return the facts of a JSON file of a kind, without its format version.

    Raises:
        ValueError: The bytes are no JSON.
        StorageError: They are no JSON object.
        FormatError: The file is of another format version.
    """
    facts = parse_json(data)
    if not isinstance(facts, dict):
        raise StorageError(
            f"{path} is not {FILE_FORMATS[kind].title}: wanted a JSON object, found another value;"
            " bring the file back"
        )
    return strip_format_version(kind, facts, path)
