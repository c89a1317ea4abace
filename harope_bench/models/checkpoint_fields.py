"""The fields of a Checkpoint, as far as somebody states them: a file, its keys, its arguments, a
recipe, the user.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypedDict, cast, get_args

from harope_bench.core.record_base import Option

FieldName = Literal[
    "name", "backbone", "encoding", "options", "config", "weights", "sha256", "source", "scale", "suite", "sampler", "steps",
    "guidance", "drawing", "recipe", "recipe_sha256", "training_seed", "training_steps",
]  # fmt: skip
FIELD_NAMES: tuple[FieldName, ...] = get_args(FieldName)


class CheckpointFields(TypedDict, total=False):
    """Fields of core.schema.Checkpoint; one that nobody states is absent. Checkpoint.model_validate
    checks the values.
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
    """Return those values that are named as a field.

    Args:
        values: By name, of a file's note or a command line; whoever makes a Checkpoint of them
            checks them.
    """
    # cast: the types are those of fields only after that check
    return cast(
        CheckpointFields, {field: values[field] for field in FIELD_NAMES if field in values}
    )


def drop_empty_fields(fields: CheckpointFields) -> CheckpointFields:
    """Return the fields that are stated: None and an empty mapping are not."""
    stated = fields.copy()
    for field in FIELD_NAMES:
        if stated.get(field) in (None, {}):
            stated.pop(field, None)
    return stated
