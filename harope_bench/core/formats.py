"""Format versions of the files that this package writes and reads back.

A version number is increased when an earlier reader would misread the new files. A file with
another number, or without one, is an error that names both numbers and says what to do. Files in
public formats (images, ADM's npz, SHA256SUMS) have no version number. A file with a version number
also stands for the files beside it, which the comments in FILE_FORMATS name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal, NamedTuple

from harope_bench.core.errors import FormatError, StorageError
from harope_bench.core.escaping import printable_line
from harope_bench.core.json_file import JsonObject, parse_json

FORMAT_KEY: Final = "format"  # the field, key or array with the version number
SHOWN_VERSION_LENGTH = 40  # characters of a wrong version number in a message
FileKind = Literal[
    "plan",
    "result",
    "features",
    "annotations",
    "predictions",
    "forwards",
    "baseline",
    "snapshot",
    "reference",
    "judge",
    "checkpoint",
    "adapter",
    "pipeline",
    "receipt",
    "image-list",
    "prompts",
]


class FileFormat(NamedTuple):
    """The format of a kind of file.

    Attributes:
        version: Current version number.
        title: What the file is called in messages.
        advice: What to do about a file of another version.
    """

    version: int
    title: str
    advice: str


FILE_FORMATS: Final[dict[FileKind, FileFormat]] = {
    # plan.json, with samples.jsonl and requests.jsonl in the same folder.
    "plan": FileFormat(1, "a plan", "choose another --out, or use that version"),
    # results/*.json, with the .npz and .sample_scores.jsonl beside each.
    "result": FileFormat(1, "a result", "evaluate again into another folder, or use that version"),
    # judge.json of a feature extractor, with its records of shards, rows and moments.
    "features": FileFormat(
        1,
        "the record of a feature extractor",
        "delete its folder and run eval again, or use that version",
    ),
    # judge.json of an annotator, with its queries and annotations. judges/runners/common.py writes
    # it too.
    "annotations": FileFormat(
        1,
        "the record of an annotator",
        "delete its folder and run eval again, or use that version",
    ),
    "predictions": FileFormat(
        1, "predictions", "delete its folder and run eval again, or use that version"
    ),
    # The measured cost of forward passes.
    "forwards": FileFormat(1, "timed forwards", "choose another --out, or use that version"),
    "baseline": FileFormat(
        3, "a baseline", "write it again: harope-bench gate BASELINE RUN --update --reason ..."
    ),
    "snapshot": FileFormat(
        1,
        "a snapshot of a training",
        "choose another --out or pass --no-resume, or use that version",
    ),
    # SUITE.toml, written by `train`, and the .npz, written by `reference`.
    "reference": FileFormat(
        1, "a reference", "make it again with `harope-bench train` or `harope-bench reference`"
    ),
    "judge": FileFormat(
        1, "the record of a micro judge", "train it again with `harope-bench train`"
    ),
    "checkpoint": FileFormat(
        1, "a checkpoint", "register it again with --replace, or use that version"
    ),
    # manifest.json, with the weights that it lists.
    "adapter": FileFormat(1, "an adapter manifest", "write it again, or use that version"),
    # manifest.json of a pipeline that is run as it is.
    "pipeline": FileFormat(
        1, "a pipeline manifest", "register it again with --replace, or use that version"
    ),
    "receipt": FileFormat(1, "the receipt of fetched files", "delete it and run fetch again"),
    # Every line of the list that `convert` writes beside images.
    "image-list": FileFormat(
        1, "a list of images", "convert the images again, or use that version"
    ),
    # The prompts of a user's file, which `--suite prompts:FILE` writes into the user's home.
    "prompts": FileFormat(1, "a list of prompts", "give --suite prompts:FILE again"),
}


def format_version(kind: FileKind) -> int:
    """Return the current format version of a kind of file."""
    return FILE_FORMATS[kind].version


def add_format_version(kind: FileKind, fields: Mapping[str, object]) -> dict[str, object]:
    """Return the fields of a file, preceded by the format version of its kind."""
    return {FORMAT_KEY: format_version(kind), **fields}


def versioned_json_text(kind: FileKind, fields: Mapping[str, object]) -> str:
    """Return the text of a JSON file with its format version: sorted keys, no NaN.

    Args:
        kind: Kind of the file, a key of FILE_FORMATS.
        fields: Content of the file without its version.
    """
    versioned_fields = add_format_version(kind, fields)
    return json.dumps(versioned_fields, sort_keys=True, allow_nan=False, indent=1) + "\n"


def strip_format_version(kind: FileKind, fields: Mapping[str, object], path: Path) -> JsonObject:
    """Return the fields of a file without its format version.

    Raises:
        FormatError: The format version is missing or not the current one.
    """
    check_format(kind, fields.get(FORMAT_KEY), path)
    return {name: value for name, value in fields.items() if name != FORMAT_KEY}


def check_format(kind: FileKind, version: object, path: Path) -> None:
    """Raise FormatError unless `version` is the current format version of a kind of file.

    Args:
        version: What the file states; None for a file without a format version.
        path: The file, for the message.
    """
    file_format = FILE_FORMATS[kind]
    if type(version) is int and version == file_format.version:  # True equals 1 but is no version
        return
    version_text = printable_line(str(version))[:SHOWN_VERSION_LENGTH]
    raise FormatError(
        f"{path} is not {file_format.title} of this version: wanted format {file_format.version},"
        f" found {'none' if version is None else version_text}; made by another version of"
        f" harope-bench: {file_format.advice}"
    )


def parse_versioned_json(kind: FileKind, data: bytes, path: Path) -> JsonObject:
    """Return the fields of a JSON file without its format version.

    Raises:
        ValueError: The bytes are not JSON.
        StorageError: The value is not a JSON object.
        FormatError: The format version is missing or not the current one.
    """
    fields = parse_json(data)
    if not isinstance(fields, dict):
        raise StorageError(
            f"{path} is not {FILE_FORMATS[kind].title}: wanted a JSON object, found another value;"
            " bring the file back"
        )
    return strip_format_version(kind, fields, path)
