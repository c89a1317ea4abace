"""Base of all records, and the types of names and labels in them.

A record is frozen, validated, and written as JSON with sorted keys and no NaN.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, ClassVar, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from harope_bench.core import formats
from harope_bench.core.errors import SHOWN_NAME_LENGTH, OptionError
from harope_bench.core.escaping import printable_line

NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def validate_name(name: str) -> str:
    """The name itself if it can never choose a path; ValueError otherwise."""
    if not NAME_PATTERN.fullmatch(name) or ".." in name:
        raise ValueError(
            f"{name[:SHOWN_NAME_LENGTH]!r} is not a plain name (letters, digits, dot, dash,"
            " underscore)"
        )
    return name


Name = Annotated[str, AfterValidator(validate_name)]


LABEL_LENGTH = 100


def validate_label(text: str) -> str:
    """Return the text if it is a label: one printable line of 1 to 100 characters; raise ValueError
    otherwise.
    """
    if not text.strip() or len(text) > LABEL_LENGTH or not text.isprintable():
        raise ValueError(f"a label is one printable line of 1 to {LABEL_LENGTH} characters")
    return text.strip()


Label = Annotated[str, AfterValidator(validate_label)]


def check_label(text: str) -> str:
    """Return the text of a label; raise OptionError where it is none."""
    try:
        return validate_label(text)
    except ValueError as error:
        raise OptionError(f"label {shorten(text, 40)!r}: {error}; give another text") from error


Option = str | bool | int | float


def shorten(text: str, length: int = LABEL_LENGTH) -> str:
    """Return text from outside as one printable line of at most `length` characters."""
    line = printable_line(text[: 4 * length]).strip()
    return line if len(line) <= length else line[: length - 3] + "..."


def validation_summary(error: ValidationError) -> str:
    """The first thing a validation found, as `field: what is wrong with it`."""
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc'])) or 'file'}: {first['msg']}"


class Record(BaseModel):
    """Base of the nouns: frozen, unknown fields refused, non-finite floats refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def to_json(self, indent: int | None = None) -> str:
        """JSON text with sorted keys; equal records give equal bytes."""
        return json.dumps(
            self.model_dump(mode="json"), sort_keys=True, allow_nan=False, indent=indent
        )


class FileRecord(Record):
    """Base of the nouns that are a JSON file of their own: it begins with the format version of its
    kind.

    As a part of another record it has none.
    """

    kind: ClassVar[formats.FileKind]

    def to_json(self, indent: int | None = None) -> str:
        """Return the text of the file: sorted keys, with the format version; equal records give
        equal bytes.
        """
        facts = formats.add_format_version(self.kind, self.model_dump(mode="json"))
        return json.dumps(facts, sort_keys=True, allow_nan=False, indent=indent)

    @classmethod
    def from_json(cls, data: bytes, path: Path) -> Self:
        """Return the record of a file's bytes.

        Raises:
            FormatError: The file is of another format version.
            StorageError: It is no JSON object.
            ValueError: It is no JSON, or (ValidationError) a field is wrong.
        """
        return cls.model_validate(formats.parse_versioned_json(cls.kind, data, path))
