"""Facts to TOML: the standard library reads the format and does not write it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def toml_text(facts: Mapping[str, Any]) -> str:
    """TOML of plain values and one level of tables; keys keep their order, tables come last."""
    flat = [f"{key} = {_value(value)}" for key, value in facts.items() if not isinstance(value, Mapping)]
    for key, table in facts.items():
        if isinstance(table, Mapping):
            flat += ["", f"[{key}]", *(f"{k} = {_value(v)}" for k, v in table.items())]
    return "\n".join(flat) + "\n"


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value, ensure_ascii=False)  # strings, integers and lists read the same in TOML
