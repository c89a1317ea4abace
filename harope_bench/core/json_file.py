"""Parse JSON that comes from outside, so that every fault of it is one kind of error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from harope_bench.core.errors import StorageError
from harope_bench.core.regular_file import JSON_BYTES, read_regular

# Any: an object of a JSON or TOML file; whoever reads it checks what it takes
JsonObject = dict[str, Any]


def parse_json(data: bytes | str) -> Any:  # as json.loads: its readers narrow the value
    """Return the value of a JSON text.

    Raises:
        ValueError: It is no JSON, not UTF-8, nested deeper than Python recurses, or holds half a
            character (a lone surrogate),
            which no file and no terminal takes.
    """
    try:
        value = json.loads(data)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if (b"\\u" if isinstance(data, bytes) else "\\u") in data:  # type: ignore[operator]
        json.dumps(value, ensure_ascii=False).encode()  # UnicodeEncodeError is a ValueError
    return value


def read_json(path: Path, advice: str = "copy it again") -> Any:  # as parse_json
    """Return the value of a JSON file.

    Raises:
        StorageError: It cannot be opened, is no regular file, is larger than JSON_BYTES, or is no
            JSON; `advice` says what to do.
    """
    try:
        return parse_json(read_regular(path, JSON_BYTES))
    except OSError as error:
        raise StorageError(
            f"cannot read {path}: {error.strerror or error}; check the path"
        ) from error
    except ValueError as error:
        raise StorageError(
            f"{path} is not JSON ({(str(error).splitlines() or ['it is damaged'])[0]}); {advice}"
        ) from error
