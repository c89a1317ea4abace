"""The fields of a Checkpoint that one source states: weights file, recipe or user."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypedDict, cast, get_args

from harope_bench.core.record_base import Option

FieldName = Literal[
    "name", "backbone", "encoding", "options", "config", "weights", "sha256", "source", "scale",
    "suite", "sampler", "steps", "guidance", "drawing", "recipe", "recipe_sha256", "training_seed",
    "training_steps",
]  # fmt: skip
FIELD_NAMES: tuple[FieldName, ...] = get_args(FieldName)


class CheckpointFields(TypedDict, total=False):
    """Fields of core.schema.Checkpoint; a field that is not stated is absent.

    Checkpoint.model_validate checks the values.
    """

    name: str
    backbone: str
    encoding: str
    options: dict[str, Option]
    config: dict[str, Option]
    weights: str
    sha256: str
    source: str
    scale: Literal["micro", "paper"]
    suite: str
    sampler: str
    steps: int
    guidance: float
    drawing: dict[str, Option]
    recipe: str
    recipe_sha256: str
    training_seed: int
    training_steps: int


def known_fields(values: Mapping[str, object]) -> CheckpointFields:
    """Return the values whose names are fields of Checkpoint.

    Args:
        values: By name, from a file's metadata or a command line. Their types are checked when a
            Checkpoint is made of them.
    """
    # The types hold only after that check.
    return cast(
        CheckpointFields, {field: values[field] for field in FIELD_NAMES if field in values}
    )


def drop_empty_fields(fields: CheckpointFields) -> CheckpointFields:
    """Return the fields without those whose value is None or an empty mapping."""
    nonempty_fields = fields.copy()
    for field in FIELD_NAMES:
        if nonempty_fields.get(field) in (None, {}):
            nonempty_fields.pop(field, None)
    return nonempty_fields
