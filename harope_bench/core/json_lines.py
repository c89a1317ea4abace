"""Files with one JSON object per line (.jsonl). Several processes may append to one file."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from harope_bench.core import part_files
from harope_bench.core.errors import StorageError
from harope_bench.core.json_file import JsonObject, parse_json
from harope_bench.core.regular_file import LINES_BYTES, open_for_append, open_regular_for_update
from harope_bench.core.storage import convert_os_errors, encode_utf8, read_if_present
from harope_bench.core.text_file import decode_text, detect_charset

Key = TypeVar("Key", int, str)


def append_line(path: Path, line: str) -> None:
    """Append one line to a file. Arguments and errors: `append_text`."""
    append_text(path, line + "\n")


def append_text(path: Path, text: str) -> None:
    """Append text to a file in a single write, complete or not at all.

    The file is created if it does not exist.

    Raises:
        StorageError: The file cannot be written or is not a regular file, or the text contains a
            lone surrogate.
    """
    data = encode_utf8(path, text)
    with convert_os_errors(path):
        handle = open_for_append(path)
        try:
            # The lock keeps out `drop_partial_line`, and other writers if the write is taken back.
            part_files.lock_handle_exclusively(handle)
            n_written = os.write(handle, data)
            if n_written < len(data):
                # The disk is full. Take the incomplete text back, so that no line continues it.
                os.ftruncate(handle, os.fstat(handle).st_size - n_written)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            os.close(handle)


def drop_partial_line(path: Path) -> None:
    """Remove a last line without newline, which a power failure left, before lines are appended."""
    with (
        suppress(FileNotFoundError),
        convert_os_errors(path, keeps_file_not_found=True),
        open_regular_for_update(path) as file,
    ):
        # With the lock held, no other process is in the middle of writing a line.
        part_files.lock_handle_exclusively(file.fileno())
        data = file.read()
        if data and not data.endswith(b"\n"):
            file.truncate(data.rfind(b"\n") + 1)


def read_lines(path: Path) -> list[JsonObject]:
    """Return the JSON objects of a .jsonl file; no objects if there is no file.

    A last line that is not JSON is skipped, because an interrupted write leaves one.

    Raises:
        StorageError: Another line is not JSON, or a line is not a JSON object. The message names
            its number.
    """
    data = read_if_present(path, LINES_BYTES)
    if data is None:
        return []
    lines = _split_lines(data, path)
    objects = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            value = parse_json(line)
        except ValueError as error:
            if number == len(lines):
                break
            raise StorageError(
                f"{path} line {number} is not JSON; delete the line and run again"
            ) from error
        if not isinstance(value, dict):
            raise StorageError(
                f"{path} line {number} is not a JSON object; delete the line and run again"
            )
        objects.append(value)
    return objects


def read_lines_by_field(path: Path, field: str, key_type: type[Key]) -> dict[Key, JsonObject]:
    """Return the objects of a .jsonl file by the value of one field.

    Of several objects with the same value the last one counts.

    Raises:
        StorageError: As `read_lines`, or the field of an object is missing or of another type.
    """
    objects: dict[Key, JsonObject] = {}
    for number, line in enumerate(read_lines(path), 1):
        key = line.get(field)
        if not isinstance(key, key_type) or isinstance(key, bool):
            type_text = "a whole number" if key_type is int else "a text"
            raise StorageError(
                f"{path} object {number} has no {field} that is {type_text}; delete the line and"
                " run again"
            )
        objects[key] = line
    return objects


def _split_lines(data: bytes, path: Path) -> list[bytes]:
    """Return the lines of a file as UTF-8 bytes."""
    # Decoding costs time and is needed only for a file with a byte order mark.
    if detect_charset(data) != "utf-8":
        data = decode_text(data, path).encode()
    return data.split(b"\n")
