"""Facts to TOML and back. The standard library reads the format and does not write it; tomli-w
does.
"""

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


def toml_text(facts: Mapping[str, object]) -> str:
    """Return facts as TOML: keys in their order, tables last, every character escaped that TOML
    asks to be.

    Raises:
        StorageError: A text holds half a character (a lone surrogate), as a name that is not UTF-8
            does.
    """
    text = tomli_w.dumps(facts)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        shown = text[max(0, error.start - 30) : error.end].split("\n")[-1]
        raise StorageError(
            f"{shown!a} is not Unicode text; rename the file or correct the name"
        ) from error
    return text


def versioned_toml_text(kind: FileKind, facts: Mapping[str, object]) -> str:
    """Return the TOML of a file of a kind, its format version first; errors as `toml_text`."""
    return toml_text(add_format_version(kind, facts))


def read_versioned_toml(kind: FileKind, path: Path) -> JsonObject:
    """Return the facts of a TOML file of a kind, without its format version.

    Raises:
        BenchError: As `read_toml`.
        FormatError: The file is of another format version.
    """
    return strip_format_version(kind, read_toml(path), path)


def read_toml(path: Path) -> JsonObject:
    """Return the facts of a TOML file.

    Raises:
        BenchError: It cannot be opened, is no regular file, is larger than FACTS_BYTES, or is no
            TOML; names the file and the fault.
    """
    return parse_toml(read_toml_bytes(path), path)


def read_toml_bytes(path: Path) -> bytes:
    """Return the bytes of a TOML file, whose hash somebody wants too; errors of opening are those
    of `read_toml`.
    """
    try:
        return read_regular(path, TOML_BYTES)
    except OSError as error:
        raise BenchError(f"{path} is not readable TOML: {error}") from error


def parse_toml(data: bytes, path: Path) -> JsonObject:
    """Return the facts of a TOML file's bytes; BenchError names the file and the fault."""
    try:
        return tomllib.loads(decode_text(data, path))
    except (StorageError, ValueError) as error:
        raise BenchError(f"{path} is not readable TOML: {error}") from error
    except RecursionError:
        raise BenchError(f"{path} is not readable TOML: it is nested too deeply") from None
