"""Read text files as editors on any system save them."""

from __future__ import annotations

import codecs
from pathlib import Path

from harope_bench.core.errors import StorageError
from harope_bench.core.regular_file import TEXT_BYTES, read_regular

BYTE_ORDER_MARK = "\ufeff"  # a byte order mark once it is decoded
# UTF-32 comes first: its little-endian mark begins with that of UTF-16.
BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def read_text(path: Path) -> str:
    """Return the text of a file without a byte order mark, its lines ending in a line feed.

    Raises:
        StorageError: The file cannot be read, is no regular file, is larger than TEXT_BYTES, or is
            neither UTF-8
            nor marked as UTF-16 or UTF-32.
    """
    try:
        data = read_regular(path, TEXT_BYTES)
    except OSError as error:
        raise StorageError(
            f"cannot read {path}: {error.strerror or error}; check the path"
        ) from error
    return decode_text(data, path)


def decode_text(data: bytes, path: Path) -> str:
    """Return the text of a file's bytes; `path` names the file in errors, which are those of
    `read_text`.
    """
    encoding = detect_charset(data)
    if encoding == "utf-8" and b"\0" in data:
        raise StorageError(
            f"{path} holds NUL bytes, as UTF-16 without a byte order mark does; save it as UTF-8"
        )

    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise StorageError(
            f"{path} line {line} is not {encoding.upper()} text; save the file as UTF-8"
        ) from error
    lines = text.replace("\r\n", "\n").replace("\r", "\n")
    # Files that were joined, or marked twice, have further marks, which would be part of the first
    # name of a line.
    return lines.lstrip(BYTE_ORDER_MARK).replace(f"\n{BYTE_ORDER_MARK}", "\n")


def detect_charset(start: bytes) -> str:
    """Return the encoding that a file's first bytes state, UTF-8 if they hold no byte order
    mark.
    """
    return next(
        (encoding for mark, encoding in BYTE_ORDER_MARKS if start.startswith(mark)), "utf-8"
    )
