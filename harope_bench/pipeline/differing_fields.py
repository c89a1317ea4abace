"""In which fields two records of one kind differ."""

from __future__ import annotations

from typing import NamedTuple

from pydantic import BaseModel


class Difference(NamedTuple):
    """The two values of one field."""

    stored: object
    expected: object


def differing_fields(stored: BaseModel, expected: BaseModel) -> dict[str, Difference]:
    """Return both values of each field that differs, by its name, in the record's own order.

    Args:
        stored, expected: Records of one model.
    """
    differences = {}
    fields = dict(expected)
    for name, value in stored:
        if value != fields[name]:
            differences[name] = Difference(value, fields[name])
    return differences
