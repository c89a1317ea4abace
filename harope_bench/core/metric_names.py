"""The match of a metric's name as a user writes it, in upper or lower case."""

from __future__ import annotations

from collections.abc import Iterable

from harope_bench.core.errors import UnknownNameError


def match_metric_name(name: str, known_names: Iterable[str]) -> str:
    """Return the known name that equals a name, or equals it but for upper and lower case.

    Raises:
        UnknownNameError: There is none. The message suggests similar names.
    """
    names = list(known_names)
    if name in names:
        return name
    for known_name in names:
        if known_name.casefold() == name.casefold():
            return known_name
    raise UnknownNameError("metric", name, names)
