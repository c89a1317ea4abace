"""Which encoding left these parameters in a state dict, as far as names and shapes tell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from harope_bench.core.errors import WeightsError

Shapes = Mapping[str, tuple[int, ...]]
PREFIX = "encoding."  # of its parameters in a network


# Dimensions of the parameters, by name: layers first, then heads where there is a row for each.
DIMENSIONS = {
    "control.sigma": (3,), "sigma": (3,), "orthogonal": (4,), "matrix": (4,), "skew": (3, 4), "circulant": (3, 4), "freqs": (2, 3),
    "table": (2, 3),
}  # fmt: skip


class Told(NamedTuple):
    """An encoding, the options that its shapes show, and the heads or the head size (0: not told)."""

    encoding: str
    options: dict[str, str | bool | int | float]
    heads: int = 0
    head_dim: int = 0


def told(shapes: Shapes) -> Told | None:
    """The encoding of these parameters, named without the model's prefix; None where there are none.

    What shapes cannot show (qk_mode, map exp or cayley, bases) is left to be said.

    Raises:
        WeightsError: A parameter of a known name has more or fewer dimensions than any encoding gives it.
    """
    for name, counts in DIMENSIONS.items():
        if name in shapes and len(shapes[name]) not in counts:
            wanted = " or ".join(map(str, counts))
            raise WeightsError(f"encoding parameter {name} has shape {shapes[name]}, wanted {wanted} dimensions; check the file")
    if "control.sigma" in shapes:
        return Told("rope-svd-control", {}, *shapes["control.sigma"][1:3])
    if "sigma" in shapes:
        _, count, d = shapes["sigma"]
        return Told("harope", {}, count, d) if count > 1 else Told("rope-matrix", {"matrix": "svd", "per_head": False}, 0, d)
    for name, matrix in (("orthogonal", "orthogonal"), ("matrix", "normal")):
        if name in shapes:
            _, count, d, _ = shapes[name]
            return Told("rope-matrix", {"matrix": matrix, "per_head": count > 1}, count if count > 1 else 0, d)
    return _string(shapes) or _others(shapes)


def told_by_network(state: Mapping[str, Tensor]) -> Told | None:
    """Return `told` of a whole network's state dict, where the encoding's parameters have the prefix `encoding.`."""
    return told({key.removeprefix(PREFIX): tuple(value.shape) for key, value in state.items() if key.startswith(PREFIX)})


def _string(shapes: Shapes) -> Told | None:
    name = next((name for name in ("skew", "circulant") if name in shapes), None)
    if name is None:
        return None
    shape = shapes[name]
    options: dict[str, str | bool | int | float] = {"per_head": len(shape) == 4}
    if name == "circulant":
        options["map"] = "circulant"
    if "freqs" in shapes:
        options["learn_freqs"] = True
    return Told("string", options, shape[1] if len(shape) == 4 else 0, shape[-1])


def _others(shapes: Shapes) -> Told | None:
    if "freqs" in shapes:
        return Told("rope-mixed", {})
    return Told("ape", {"form": "learned"}) if "table" in shapes else None
