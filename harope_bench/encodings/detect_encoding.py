"""Which encoding left these parameters in a state dict, as far as names and shapes tell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from harope_bench.core.errors import WeightsError

Shapes = Mapping[str, tuple[int, ...]]
ENCODING_PREFIX = "encoding."  # of its parameters in a network


# Dimensions of the parameters, by name: layers first, then heads where there is a row for each.
PARAMETER_DIMENSIONS = {
    "control.sigma": (3,), "sigma": (3,), "orthogonal": (4,), "matrix": (4,), "skew": (3, 4), "circulant": (3, 4), "freqs": (2, 3),
    "table": (2, 3),
}  # fmt: skip


class DetectedEncoding(NamedTuple):
    """An encoding, the options that its shapes show, and the heads or the head size (0: not
    told).
    """

    encoding: str
    options: dict[str, str | bool | int | float]
    heads: int = 0
    head_dim: int = 0


def detect_from_shapes(shapes: Shapes) -> DetectedEncoding | None:
    """The encoding of these parameters, named without the model's prefix; None where there are
    none.

    What shapes cannot show (qk_mode, map exp or cayley, bases) is left to be said.

    Raises:
        WeightsError: A parameter of a known name has more or fewer dimensions than any encoding
            gives it.
    """
    for name, counts in PARAMETER_DIMENSIONS.items():
        if name in shapes and len(shapes[name]) not in counts:
            wanted = " or ".join(map(str, counts))
            raise WeightsError(
                f"encoding parameter {name} has shape {shapes[name]}, wanted {wanted} dimensions;"
                " check the file"
            )
    if "control.sigma" in shapes:
        return DetectedEncoding("rope-svd-control", {}, *shapes["control.sigma"][1:3])
    if "sigma" in shapes:
        _, count, d = shapes["sigma"]
        return (
            DetectedEncoding("harope", {}, count, d)
            if count > 1
            else DetectedEncoding("rope-matrix", {"matrix": "svd", "per_head": False}, 0, d)
        )
    for name, matrix in (("orthogonal", "orthogonal"), ("matrix", "normal")):
        if name in shapes:
            _, count, d, _ = shapes[name]
            return DetectedEncoding(
                "rope-matrix",
                {"matrix": matrix, "per_head": count > 1},
                count if count > 1 else 0,
                d,
            )
    return _detect_string(shapes) or _detect_unmatched(shapes)


def detect_from_state_dict(state: Mapping[str, Tensor]) -> DetectedEncoding | None:
    """Return `told` of a whole network's state dict, where the encoding's parameters have the
    prefix `encoding.`.
    """
    return detect_from_shapes(
        {
            key.removeprefix(ENCODING_PREFIX): tuple(value.shape)
            for key, value in state.items()
            if key.startswith(ENCODING_PREFIX)
        }
    )


def _detect_string(shapes: Shapes) -> DetectedEncoding | None:
    name = next((name for name in ("skew", "circulant") if name in shapes), None)
    if name is None:
        return None
    shape = shapes[name]
    options: dict[str, str | bool | int | float] = {"per_head": len(shape) == 4}
    if name == "circulant":
        options["map"] = "circulant"
    if "freqs" in shapes:
        options["learn_freqs"] = True
    return DetectedEncoding("string", options, shape[1] if len(shape) == 4 else 0, shape[-1])


def _detect_unmatched(shapes: Shapes) -> DetectedEncoding | None:
    if "freqs" in shapes:
        return DetectedEncoding("rope-mixed", {})
    return DetectedEncoding("ape", {"form": "learned"}) if "table" in shapes else None
