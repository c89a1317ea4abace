"""Comparison of two records of one model, field by field."""

from __future__ import annotations

from typing import NamedTuple

from pydantic import BaseModel


class FieldDifference(NamedTuple):
    """The two values of a field that differs."""

    stored: object
    expected: object


def differing_fields(
    stored_record: BaseModel, expected_record: BaseModel
) -> dict[str, FieldDifference]:
    """Return both values of each field that differs, by field name, in the order of the fields.

    Args:
        stored_record, expected_record: Records of the same model.
    """
    differences = {}
    expected_values = dict(expected_record)
    for name, value in stored_record:
        if value != expected_values[name]:
            differences[name] = FieldDifference(value, expected_values[name])
    return differences
