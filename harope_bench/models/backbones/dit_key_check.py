"""Comparison of a file's keys with those of the families of the DiT backbone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from harope_bench.core.errors import WeightsError
from harope_bench.core.record_base import Option
from harope_bench.core.state_dicts import SHOWN_KEY_LENGTH, shape_differences
from harope_bench.models.backbones.dit_families import FAMILIES, FamilyName
from harope_bench.models.backbones.dit_keys import PROJECTOR_PREFIX
from harope_bench.models.backbones.dit_network import DiT, configure
from harope_bench.models.backbones.network_sizes import build_encoding

MAX_KEYS = 3  # Largest number of keys that an error message lists of each kind.
MIN_SIMILARITY = 0.5  # Of the nearest family; less is another network.
BLOCK = re.compile(r"blocks\.\d+\.")
SMALL_SIZES: dict[str, Option] = {
    "hidden": 8,
    "depth": 1,
    "heads": 2,
    "patch": 2,
    "size": 4,
    "channels": 4,
    "classes": 2,
}
# Blocks and embeddings of each family as it was published, for the comparison alone.
PUBLISHED_LAYOUTS: dict[FamilyName, dict[str, Option]] = {
    "dit": {},
    "repa": {},
    "lightningdit": {"norm": "rms", "mlp": "swiglu"},
    "jit": {
        "norm": "rms",
        "qk_norm": "rms",
        "mlp": "swiglu",
        "bottleneck": 2,
        "context_tokens": 2,
        "context_start": 0,
    },
}
PUBLISHED_TABLES: dict[FamilyName, tuple[str, ...]] = {
    "dit": ("pos_embed",),
    "repa": ("pos_embed", PROJECTOR_PREFIX),
    "lightningdit": ("pos_embed", "feat_rope.freqs_cos", "feat_rope.freqs_sin"),
    "jit": ("pos_embed",),
}


def check_keys(
    expected_state: Mapping[str, Tensor], state: Mapping[str, Tensor], description: str
) -> None:
    """Raise WeightsError if keys are missing or unexpected, with the nearest family.

    Args:
        expected_state: State dict of the network.
        state: State dict of the weights.
        description: Name of the weights for the message, which also names other shapes.
    """
    network_keys = set(expected_state)
    file_keys = set(state)
    problems = [
        f"{kind} {_list_keys(sorted(differing_keys))}"
        for kind, differing_keys in (
            ("missing", network_keys - file_keys),
            ("unexpected", file_keys - network_keys),
        )
        if differing_keys
    ]
    if problems:
        if shape_texts := shape_differences(expected_state, state):
            problems.append(f"mis-shaped {_list_keys(shape_texts)}")
        family = max(FAMILY_KEYS, key=lambda name: _similarity(name, file_keys))
        raise WeightsError(
            f"{description} does not fit: {'; '.join(problems)}; the keys are nearest to those of"
            f" {_title(family)}; check --backbone, --encoding, --option and --config"
        )


def nearest_family(keys: Iterable[str]) -> str | None:
    """Return the family whose keys are nearest, and the keys that are missing, in words.

    Returns:
        None if no family is near.
    """
    file_keys = set(keys)
    family = max(FAMILY_KEYS, key=lambda name: _similarity(name, file_keys))
    if _similarity(family, file_keys) < MIN_SIMILARITY:
        return None
    missing_keys = sorted(
        FAMILY_KEYS[family] - _without_indices(file_keys) - set(PUBLISHED_TABLES[family])
    )
    missing_text = f", without {_list_keys(missing_keys)}" if missing_keys else ""
    return f"{_title(family)} of backbone dit{missing_text}"


def _title(family: FamilyName) -> str:
    return "DiT or SiT" if family == "dit" else FAMILIES[family].title


def _list_keys(keys: Sequence[str]) -> str:
    """Return the first keys, and how many more there are."""
    shown_keys = ", ".join(key[:SHOWN_KEY_LENGTH] for key in keys[:MAX_KEYS])
    n_hidden = len(keys) - MAX_KEYS
    return f"{shown_keys} and {n_hidden} more" if n_hidden > 0 else shown_keys


def _without_indices(keys: Iterable[str]) -> set[str]:
    """Return the keys with one block for all, and one key for all projections of REPA."""
    return {
        PROJECTOR_PREFIX if key.startswith(PROJECTOR_PREFIX) else BLOCK.sub("blocks.*.", key)
        for key in keys
    }


def _similarity(family: FamilyName, keys: set[str]) -> float:
    """Return the fraction of keys that a family and a file share, of those that either has."""
    normalised_keys = _without_indices(keys)
    shared_keys = FAMILY_KEYS[family] & normalised_keys
    return len(shared_keys) / len(FAMILY_KEYS[family] | normalised_keys)


def _published_keys(family: FamilyName) -> set[str]:
    """Return the keys of a family's files, without the numbers of the blocks."""
    sizes = configure({**SMALL_SIZES, **PUBLISHED_LAYOUTS[family]})
    with torch.device("meta"):
        network = DiT(sizes, build_encoding("rope-axial", {}, sizes))
    state: Mapping[str, Tensor] = network.state_dict()
    return _without_indices((*state, *PUBLISHED_TABLES[family]))


FAMILY_KEYS = {family: _published_keys(family) for family in PUBLISHED_LAYOUTS}
