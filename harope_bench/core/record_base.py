"""The base class of all records, and the types of the names and labels in them."""

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
    """Return the name; raise ValueError for a name that could lead out of a folder."""
    if not NAME_PATTERN.fullmatch(name) or ".." in name:
        raise ValueError(
            f"{name[:SHOWN_NAME_LENGTH]!r} is not a plain name (letters, digits, dot, dash,"
            " underscore)"
        )
    return name


Name = Annotated[str, AfterValidator(validate_name)]

LABEL_LENGTH = 100  # maximum characters of a label


def validate_label(text: str) -> str:
    """Return a label without outer blanks; raise ValueError unless it is one printable line."""
    if not text.strip() or len(text) > LABEL_LENGTH or not text.isprintable():
        raise ValueError(f"a label is one printable line of 1 to {LABEL_LENGTH} characters")
    return text.strip()


Label = Annotated[str, AfterValidator(validate_label)]


def validate_user_label(text: str) -> str:
    """Return a label that the user gave, without outer blanks.

    Raises:
        OptionError: The text is not one printable line of 1 to LABEL_LENGTH characters.
    """
    try:
        return validate_label(text)
    except ValueError as error:
        raise OptionError(
            f"label {shorten_text(text, 40)!r}: {error}; give another text"
        ) from error


Option = str | bool | int | float  # the value of an option of an encoding, backbone or plug-in


def shorten_text(text: str, length: int = LABEL_LENGTH) -> str:
    """Return text from outside as one printable line of at most `length` characters."""
    line = printable_line(text[: 4 * length]).strip()
    return line if len(line) <= length else line[: length - 3] + "..."


def validation_summary(error: ValidationError) -> str:
    """Return the first error of a validation, as `field: message`."""
    details = error.errors()[0]
    return f"{'.'.join(map(str, details['loc'])) or 'file'}: {details['msg']}"


class Record(BaseModel):
    """Base class of records: immutable, without unknown fields and without non-finite floats."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def to_json(self, indent: int | None = None) -> str:
        """Return the record as JSON with sorted keys. Equal records give equal text."""
        return json.dumps(
            self.model_dump(mode="json"), sort_keys=True, allow_nan=False, indent=indent
        )


class FileRecord(Record):
    """Base class of records that are JSON files, which contain the format version of their kind.

    A FileRecord that is a field of another record is written without the format version.
    """

    kind: ClassVar[formats.FileKind]

    def to_json(self, indent: int | None = None) -> str:
        """Return the text of the file: sorted keys, with the format version."""
        fields = formats.add_format_version(self.kind, self.model_dump(mode="json"))
        return json.dumps(fields, sort_keys=True, allow_nan=False, indent=indent)

    @classmethod
    def from_json(cls, data: bytes, path: Path) -> Self:
        """Return the record that a file contains.

        Args:
            data: The bytes of the file.
            path: The file, for messages.

        Raises:
            FormatError: The file has another format version.
            StorageError: The file is not a JSON object.
            ValueError: The file is not JSON, or (ValidationError) a field is invalid.
        """
        return cls.model_validate(formats.parse_versioned_json(cls.kind, data, path))
