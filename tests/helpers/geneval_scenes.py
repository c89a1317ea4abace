"""Small things that tests of GenEval's rule and evaluator are made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harope_bench.core.annotations import Box, Detection


def make_detection(label: str, score: float, box: Box = (0, 0, 10, 10)) -> Detection:
    """One thing found."""
    return Detection(label=label, score=score, box=box)


def clause(name: str, count: int = 1, **fields: Any) -> dict[str, Any]:
    """A clause of a metadata line."""
    return {"class": name, "count": count, **fields}


def line(
    tag: str = "single_object", *include: dict[str, Any], exclude: Sequence[dict[str, Any]] = ()
) -> dict[str, Any]:
    """A metadata line; of one dog where nothing is named."""
    fields = {"tag": tag, "include": list(include) or [clause("dog")], "prompt": "a photo"}
    return fields | ({"exclude": list(exclude)} if exclude else {})


def at(x: float, y: float, side: float = 10) -> Box:
    """A square box around a point."""
    return (x - side / 2, y - side / 2, x + side / 2, y + side / 2)
