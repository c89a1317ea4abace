"""Files of one JSON object a line (.jsonl), which several processes may add to."""

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
    """One line added in a single write, so that processes can share the file; whole or not at
    all.
    """
    append_text(path, line + "\n")


def append_text(path: Path, text: str) -> None:
    """Add text to a file in a single write, whole or not at all; the file is made where there is
    none.

    Raises:
        StorageError: The disk refuses, something other than a regular file is there, or the text
            holds half a character.
    """
    data = encode_utf8(path, text)
    with convert_os_errors(path):
        handle = open_for_append(path)
        try:
            part_files.lock_handle_exclusively(
                handle
            )  # against `mend_lines`, and a taken back line between two others
            written = os.write(handle, data)
            if written < len(
                data
            ):  # the last bytes of a full disk; the next line must not be glued to this piece
                os.ftruncate(handle, os.fstat(handle).st_size - written)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            os.close(handle)


def drop_partial_line(path: Path) -> None:
    """Drops a last line that a power cut left without its newline, so that the next line does not
    grow onto it.
    """
    with (
        suppress(FileNotFoundError),
        convert_os_errors(path, missing_ok=True),
        open_regular_for_update(path) as file,
    ):
        part_files.lock_handle_exclusively(
            file.fileno()
        )  # what another process is writing is no cut line
        data = file.read()
        if data and not data.endswith(b"\n"):
            file.truncate(data.rfind(b"\n") + 1)


def read_lines(path: Path) -> list[JsonObject]:
    """The JSON objects of a .jsonl file; a last line cut by a kill is left out.

    Raises:
        StorageError: a line that is not JSON anywhere else, named with its number.
    """
    data = read_if_present(path, LINES_BYTES)
    if data is None:
        return []
    lines = _split_lines(data, path)
    found = []
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
        found.append(value)
    return found


def read_lines_by_field(path: Path, field: str, kind: type[Key]) -> dict[Key, JsonObject]:
    """Return the objects of a .jsonl file by the field that names each; the last of a name counts.

    Raises:
        StorageError: As `read_lines`; also an object whose field is missing or of another type.
    """
    objects: dict[Key, JsonObject] = {}
    for number, line in enumerate(read_lines(path), 1):
        name = line.get(field)
        if not isinstance(name, kind) or isinstance(name, bool):
            wanted = "a whole number" if kind is int else "a text"
            raise StorageError(
                f"{path} object {number} has no {field} that is {wanted}; delete the line and run"
                " again"
            )
        objects[name] = line
    return objects


def _split_lines(data: bytes, path: Path) -> list[bytes]:
    """Return the UTF-8 lines of a file's bytes; only a file with a byte order mark is decoded
    first.
    """
    marked = detect_charset(data) != "utf-8"
    return (decode_text(data, path).encode() if marked else data).split(b"\n")
