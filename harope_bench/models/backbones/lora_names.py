"""The forms in which tools save a transformer's low-rank weights: read by their keys, or rejected
by the name of their form.

Layouts: peft's save_pretrained (`base_model.model.LAYER.lora_A.weight`, alpha in
adapter_config.json), diffusers'
save_lora_adapter (LAYER without prefix), OneTrainer (`lora_transformer_LAYER` with underscores, and
`.alpha`), LyCORIS.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from torch import Tensor

from harope_bench.core.errors import WeightsError

PREFIX = "transformer."  # of every key in diffusers' own files
PEFT_PREFIX = "base_model.model."
# Marks in keys, each of a form that is not two low-rank factors of a linear layer.
UNSUPPORTED_FORMATS = {
    "dora_scale": "DoRA is not attached here; save it merged or as plain LoRA",
    "magnitude": "DoRA is not attached here; save it merged or as plain LoRA",
    "lokr_": "LoKr (LyCORIS) is not attached here; save it merged or as plain LoRA",
    "hada_": "LoHa (LyCORIS) is not attached here; save it merged or as plain LoRA",
    "boft_": "BOFT is not attached here; save it merged or as plain LoRA",
    "oft_": "OFT is not attached here; save it merged or as plain LoRA",
    "ia3_": "IA3 is not attached here; save it merged or as plain LoRA",
    "vera_lambda": "VeRA is not attached here; save it merged or as plain LoRA",
    "lora_mid.": (
        "LoRA with a third factor (LoCon) is not attached here; save it merged or as plain LoRA"
    ),
}
TEXT_ENCODERS = ("text_encoder", "lora_te", "text_model.")
UNDERSCORE_KEY = re.compile(
    r"lora_(?:transformer|unet)_(?P<layer>.+?)_?\.(?P<rest>(?:lora_(?:down|up|A|B)\.weight|alpha))"
)
DOTTED_KEY = re.compile(
    r"(?P<layer>.+)\.(?P<rest>(?:lora_(?:down|up|A|B)(?:\.default)?\.weight|alpha))"
)
FACTOR_NAMES = {"lora_down.weight": "lora_A.weight", "lora_up.weight": "lora_B.weight"}


class RenamedWeights(NamedTuple):
    """Weights by diffusers' names, as far as the form is read here, and whether they are peft's
    own.
    """

    state_dict: dict[str, Tensor]
    is_peft: bool = False


def reject_unsupported_formats(keys: Iterable[str], what: str) -> None:
    """Raise WeightsError for a form that is not plain LoRA, by its name and its first key."""
    keys = list(keys)
    for mark, words in UNSUPPORTED_FORMATS.items():
        if odd := next((key for key in keys if mark in key), None):
            raise WeightsError(f"{what} holds {odd}: {words}")


def convert_to_diffusers_keys(
    given: Mapping[str, Tensor], layers: Callable[[], Iterable[str]]
) -> RenamedWeights:
    """Return the weights under the names of diffusers' files; a form that is not known here stays
    as it is.

    Args:
        layers: The names of the transformer's linear layers; asked only where a file has
            underscores in their place.
    """
    if all(
        key.startswith(PREFIX) and ".lora_down." not in key and ".lora_up." not in key
        for key in given
    ):
        return RenamedWeights(dict(given))
    if all(UNDERSCORE_KEY.fullmatch(key) for key in given):
        return RenamedWeights(_convert_underscore_keys(given, list(layers())))
    prefix = next(
        (
            prefix
            for prefix in (PEFT_PREFIX, PREFIX)
            if all(key.startswith(prefix) for key in given)
        ),
        "",
    )
    if not prefix and any(key.startswith((PEFT_PREFIX, PREFIX, *TEXT_ENCODERS)) for key in given):
        return RenamedWeights(dict(given))  # parts of several networks in one file
    bare = {key.removeprefix(prefix).removeprefix(PREFIX): value for key, value in given.items()}
    matches = {key: DOTTED_KEY.fullmatch(key) for key in bare}
    if any(match is None for match in matches.values()) or not _are_layers(matches, layers):
        return RenamedWeights(dict(given))
    state = {
        _diffusers_key(match): bare[key] for key, match in matches.items() if match is not None
    }
    return RenamedWeights(state, prefix == PEFT_PREFIX)


def _are_layers(
    matches: Mapping[str, re.Match[str] | None], layers: Callable[[], Iterable[str]]
) -> bool:
    """Whether every named layer is in a block of the library's transformer, or is one of its other
    layers.
    """
    names = {match["layer"] for match in matches.values() if match is not None}
    known = set(layers())
    return bool(known & names)


def _diffusers_key(match: re.Match[str]) -> str:
    rest = match["rest"].replace(".default", "")
    return f"{PREFIX}{match['layer']}.{FACTOR_NAMES.get(rest, rest)}"


def _convert_underscore_keys(
    given: Mapping[str, Tensor], layers: Iterable[str]
) -> dict[str, Tensor]:
    """Return the state by dotted names; as it was where a name is of no layer, so that the library
    may know it.
    """
    dotted = {layer.replace(".", "_"): layer for layer in layers}
    state = {}
    for key, value in given.items():
        match = UNDERSCORE_KEY.fullmatch(key)
        assert match is not None
        if match["layer"] not in dotted:
            return dict(given)
        state[
            f"{PREFIX}{dotted[match['layer']]}.{FACTOR_NAMES.get(match['rest'], match['rest'])}"
        ] = value
    return state
