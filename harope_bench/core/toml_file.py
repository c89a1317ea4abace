"""TOML files: read with the standard library, written with tomli-w."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path

import tomli_w

from harope_bench.core.errors import BenchError, StorageError
from harope_bench.core.formats import FileKind, add_format_version, strip_format_version
from harope_bench.core.json_file import JsonObject
from harope_bench.core.regular_file import TOML_BYTES, read_regular
from harope_bench.core.text_file import decode_text


def toml_text(fields: Mapping[str, object]) -> str:
    """Return fields as TOML: keys in their order, tables last.

    Raises:
        StorageError: A text contains a lone surrogate, as the name of a file does that is not
            UTF-8.
    """
    text = tomli_w.dumps(fields)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        excerpt = text[max(0, error.start - 30) : error.end].split("\n")[-1]
        raise StorageError(
            f"{excerpt!a} is not Unicode text; rename the file or correct the name"
        ) from error
    return text


def versioned_toml_text(kind: FileKind, fields: Mapping[str, object]) -> str:
    """Return fields as TOML, preceded by the format version of the kind. Errors: `toml_text`."""
    return toml_text(add_format_version(kind, fields))


def read_versioned_toml(kind: FileKind, path: Path) -> JsonObject:
    """Return the fields of a TOML file without its format version.

    Raises:
        BenchError: As `read_toml`.
        FormatError: The format version is missing or not the current one.
    """
    return strip_format_version(kind, read_toml(path), path)


def read_toml(path: Path) -> JsonObject:
    """Return the fields of a TOML file.

    Raises:
        BenchError: The file cannot be opened, is not a regular file, is larger than TOML_BYTES, or
            is not TOML. The message names the file and the reason.
    """
    return parse_toml(read_toml_bytes(path), path)


def read_toml_bytes(path: Path) -> bytes:
    """Return the bytes of a TOML file, for callers that also hash them. Errors: `read_toml`."""
    try:
        return read_regular(path, TOML_BYTES)
    except FileNotFoundError as error:
        raise BenchError(f"TOML file {path} does not exist; check the path") from error
    except OSError as error:
        raise BenchError(f"{path} is not readable TOML: {error}") from error


def parse_toml(data: bytes, path: Path) -> JsonObject:
    """Return the fields of a TOML file's bytes. Errors: `read_toml`."""
    try:
        return tomllib.loads(decode_text(data, path))
    except (StorageError, ValueError) as error:
        raise BenchError(f"{path} is not readable TOML: {error}") from error
    except RecursionError:
        raise BenchError(f"{path} is not readable TOML: it is nested too deeply") from None
