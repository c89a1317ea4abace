"""Reading of JSON files that other programs or users wrote.

`parse_json` raises ValueError, and `read_json` StorageError, whatever is wrong with the text.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from harope_bench.core.errors import StorageError
from harope_bench.core.regular_file import JSON_BYTES, read_regular

# Any: the values of a JSON or TOML file have any type; each reader checks those that it uses.
JsonObject = dict[str, Any]


def parse_json(data: bytes | str) -> Any:  # Any as for json.loads: its callers narrow the value
    """Return the value of a JSON text.

    Raises:
        ValueError: The text is not JSON or not UTF-8, is nested deeper than Python's recursion
            limit, or contains a lone surrogate, which can be neither written nor printed.
    """
    try:
        value = json.loads(data)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None

    escape_start = b"\\u" if isinstance(data, bytes) else "\\u"
    if escape_start in data:  # type: ignore[operator]
        # A lone surrogate raises UnicodeEncodeError, which is a ValueError.
        json.dumps(value, ensure_ascii=False).encode()
    return value


def read_json(path: Path, advice: str = "copy it again") -> Any:  # Any as for parse_json
    """Return the value of a JSON file.

    Args:
        advice: What to do about a file that is not JSON, for the message.

    Raises:
        StorageError: The file cannot be opened, is not a regular file, is larger than JSON_BYTES,
            or is not JSON.
    """
    try:
        return parse_json(read_regular(path, JSON_BYTES))
    except OSError as error:
        raise StorageError(
            f"cannot read {path}: {error.strerror or error}; check the path"
        ) from error
    except ValueError as error:
        reason = (str(error).splitlines() or ["it is damaged"])[0]
        raise StorageError(f"{path} is not JSON ({reason}); {advice}") from error
