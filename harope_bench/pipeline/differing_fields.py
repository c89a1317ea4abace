"""Comparison of two records of one model, field by field."""

from __future__ import annotations

from typing import NamedTuple

from pydantic import BaseModel


class FieldDifference(NamedTuple):
    """The two values of a field that differs."""

    stored: object
    expected: object


def differing_fields(stored: BaseModel, expected: BaseModel) -> dict[str, FieldDifference]:
    """Return both values of each field that differs, by field name, in the order of the fields.

    Args:
        stored, expected: Records of the same model.
    """
    differences = {}
    expected_values = dict(expected)
    for name, value in stored:
        if value != expected_values[name]:
            differences[name] = FieldDifference(value, expected_values[name])
    return differences
