"""Detection of the encoding in a state dict, from the names and shapes of its parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from harope_bench.core.errors import WeightsError

Shapes = Mapping[str, tuple[int, ...]]
ENCODING_PREFIX = "encoding."  # of the encoding's parameters in a network


# Allowed numbers of dimensions of each parameter: layers first, then heads where there is a row for
# each head.
PARAMETER_DIMENSIONS = {
    "control.sigma": (3,),
    "sigma": (3,),
    "orthogonal": (4,),
    "matrix": (4,),
    "skew": (3, 4),
    "circulant": (3, 4),
    "freqs": (2, 3),
    "table": (2, 3),
}


class DetectedEncoding(NamedTuple):
    """An encoding with the options that the shapes of its parameters determine.

    heads, head_dim: 0 if the shapes do not determine them.
    """

    encoding: str
    options: dict[str, str | bool | int | float]
    heads: int = 0
    head_dim: int = 0


def detect_from_shapes(shapes: Shapes) -> DetectedEncoding | None:
    """Return the encoding of parameters named without the model's prefix, None without parameters.

    Options that shapes do not determine (qk_mode, map exp or cayley, bases) are not set.

    Raises:
        WeightsError: A parameter has a number of dimensions that no encoding gives it.
    """
    _check_dimensions(shapes)
    if "control.sigma" in shapes:
        _, heads, head_dim = shapes["control.sigma"]
        return DetectedEncoding("rope-svd-control", options={}, heads=heads, head_dim=head_dim)
    if "sigma" in shapes:
        return _detect_svd(shapes["sigma"])

    for parameter_name, matrix in (("orthogonal", "orthogonal"), ("matrix", "normal")):
        if parameter_name in shapes:
            _, groups, head_dim, _ = shapes[parameter_name]
            options: dict[str, str | bool | int | float] = {
                "matrix": matrix,
                "per_head": groups > 1,
            }
            heads = groups if groups > 1 else 0
            return DetectedEncoding("rope-matrix", options, heads, head_dim)
    return _detect_string(shapes) or _detect_unmatched(shapes)


def detect_from_state_dict(state_dict: Mapping[str, Tensor]) -> DetectedEncoding | None:
    """Return the encoding in a network's state dict, None without encoding parameters.

    The names of the parameters start with `encoding.`. Errors are those of `detect_from_shapes`.
    """
    shapes = {
        name.removeprefix(ENCODING_PREFIX): tuple(tensor.shape)
        for name, tensor in state_dict.items()
        if name.startswith(ENCODING_PREFIX)
    }
    return detect_from_shapes(shapes)


def _check_dimensions(shapes: Shapes) -> None:
    """Raise WeightsError if a parameter has a number of dimensions that no encoding gives it."""
    for name, dimension_counts in PARAMETER_DIMENSIONS.items():
        if name in shapes and len(shapes[name]) not in dimension_counts:
            expected = " or ".join(map(str, dimension_counts))
            raise WeightsError(
                f"encoding parameter {name} has shape {shapes[name]}, wanted {expected} dimensions;"
                " check the file"
            )


def _detect_svd(sigma_shape: tuple[int, ...]) -> DetectedEncoding:
    """Return HARoPE for singular values of several heads, a shared SVD matrix for one group."""
    _, groups, head_dim = sigma_shape
    if groups > 1:
        return DetectedEncoding("harope", options={}, heads=groups, head_dim=head_dim)
    return DetectedEncoding("rope-matrix", {"matrix": "svd", "per_head": False}, 0, head_dim)


def _detect_string(shapes: Shapes) -> DetectedEncoding | None:
    """Return STRING with the options that its parameters `skew` or `circulant` determine."""
    name = next((name for name in ("skew", "circulant") if name in shapes), None)
    if name is None:
        return None

    shape = shapes[name]
    is_per_head = len(shape) == 4
    options: dict[str, str | bool | int | float] = {"per_head": is_per_head}
    if name == "circulant":
        options["map"] = "circulant"
    if "freqs" in shapes:
        options["learn_freqs"] = True
    return DetectedEncoding("string", options, shape[1] if is_per_head else 0, shape[-1])


def _detect_unmatched(shapes: Shapes) -> DetectedEncoding | None:
    """Return the encoding of learned frequencies or of a learned table."""
    if "freqs" in shapes:
        return DetectedEncoding("rope-mixed", options={})
    return DetectedEncoding("ape", {"form": "learned"}) if "table" in shapes else None
