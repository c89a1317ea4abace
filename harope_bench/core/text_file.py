"""Text files in the encodings and line endings that editors on any system write."""

from __future__ import annotations

import codecs
from pathlib import Path

from harope_bench.core.errors import StorageError
from harope_bench.core.regular_file import TEXT_BYTES, read_regular

BYTE_ORDER_MARK = "\ufeff"  # a decoded byte order mark
# UTF-32 precedes UTF-16, because its little-endian mark begins with that of UTF-16.
BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def read_text(path: Path) -> str:
    """Return the text of a file without byte order marks, with line feeds as line endings.

    Raises:
        StorageError: The file cannot be read, is not a regular file, is larger than TEXT_BYTES, or
            is neither UTF-8 nor UTF-16 or UTF-32 with a byte order mark.
    """
    try:
        data = read_regular(path, TEXT_BYTES)
    except OSError as error:
        raise StorageError(
            f"cannot read {path}: {error.strerror or error}; check the path"
        ) from error
    return decode_text(data, path)


def decode_text(data: bytes, path: Path) -> str:
    """Return the text of a file's bytes. `path` is for messages. Errors: `read_text`."""
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

    text = text.replace("\r\n", "\n").replace("\r", "\n")
    # A file that was joined from several ones has a mark at the start of some lines, too.
    return text.lstrip(BYTE_ORDER_MARK).replace(f"\n{BYTE_ORDER_MARK}", "\n")


def detect_charset(data: bytes) -> str:
    """Return the encoding that the byte order mark states; UTF-8 without such a mark."""
    for mark, encoding in BYTE_ORDER_MARKS:
        if data.startswith(mark):
            return encoding
    return "utf-8"
