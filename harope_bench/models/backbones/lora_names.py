"""Formats of LoRA files, by the names of their keys: converted, or rejected by name.

Layouts: peft's save_pretrained (`base_model.model.LAYER.lora_A.weight`, alpha in
adapter_config.json), diffusers' save_lora_adapter (LAYER without prefix), OneTrainer
(`lora_transformer_LAYER` with underscores, and `.alpha`), LyCORIS.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from torch import Tensor

from harope_bench.core.errors import WeightsError

PREFIX = "transformer."  # Prefix of every key in diffusers' own files.
PEFT_PREFIX = "base_model.model."
# Parts of keys that mark a format other than two low-rank factors of a linear layer, and the error
# message for that format.
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
    """Weights under diffusers' names, if the format is known.

    Attributes:
        state_dict: Tensors by name.
        is_peft: Whether the file is peft's own, whose scale is in another file.
    """

    state_dict: dict[str, Tensor]
    is_peft: bool = False


def reject_unsupported_formats(keys: Iterable[str], description: str) -> None:
    """Raise WeightsError for a format that is not plain LoRA, with its name and first key."""
    keys = list(keys)
    for mark, message in UNSUPPORTED_FORMATS.items():
        marked_key = next((key for key in keys if mark in key), None)
        if marked_key is not None:
            raise WeightsError(f"{description} has {marked_key}: {message}")


def convert_to_diffusers_keys(
    state_dict: Mapping[str, Tensor], layer_names: Callable[[], Iterable[str]]
) -> RenamedWeights:
    """Return the weights under diffusers' names; an unknown format stays as it is.

    Args:
        layer_names: Returns the names of the transformer's linear layers. It is called only where
            the names in the file must be compared with them.
    """
    if all(_is_diffusers_key(key) for key in state_dict):
        return RenamedWeights(dict(state_dict))
    if all(UNDERSCORE_KEY.fullmatch(key) for key in state_dict):
        return RenamedWeights(_convert_underscore_keys(state_dict, list(layer_names())))

    # A common prefix is removed. Mixed prefixes mean several networks in one file.
    common_prefix = ""
    for prefix in (PEFT_PREFIX, PREFIX):
        if not common_prefix and all(key.startswith(prefix) for key in state_dict):
            common_prefix = prefix
    known_prefixes = (PEFT_PREFIX, PREFIX, *TEXT_ENCODERS)
    if not common_prefix and any(key.startswith(known_prefixes) for key in state_dict):
        return RenamedWeights(dict(state_dict))

    unprefixed_state = {
        key.removeprefix(common_prefix).removeprefix(PREFIX): value
        for key, value in state_dict.items()
    }
    matches = {key: DOTTED_KEY.fullmatch(key) for key in unprefixed_state}
    if any(match is None for match in matches.values()) or not _are_layers(matches, layer_names):
        return RenamedWeights(dict(state_dict))
    converted_state = {
        _diffusers_key(match): unprefixed_state[key]
        for key, match in matches.items()
        if match is not None
    }
    return RenamedWeights(converted_state, common_prefix == PEFT_PREFIX)


def _is_diffusers_key(key: str) -> bool:
    """Return whether a key has the prefix and the factor names of diffusers."""
    return key.startswith(PREFIX) and ".lora_down." not in key and ".lora_up." not in key


def _are_layers(
    matches: Mapping[str, re.Match[str] | None], layer_names: Callable[[], Iterable[str]]
) -> bool:
    """Return whether a layer name in the keys is a linear layer of the library's transformer."""
    key_layers = {match["layer"] for match in matches.values() if match is not None}
    return bool(set(layer_names()) & key_layers)


def _diffusers_key(match: re.Match[str]) -> str:
    """Return diffusers' key for a match of DOTTED_KEY."""
    rest = match["rest"].replace(".default", "")
    return f"{PREFIX}{match['layer']}.{FACTOR_NAMES.get(rest, rest)}"


def _convert_underscore_keys(
    state_dict: Mapping[str, Tensor], layer_names: Iterable[str]
) -> dict[str, Tensor]:
    """Return the weights under dotted names.

    If a name is that of no layer, the state dict is returned as it is, because the library's
    converter may know it.
    """
    dotted_names = {layer.replace(".", "_"): layer for layer in layer_names}
    converted_state = {}
    for key, value in state_dict.items():
        match = UNDERSCORE_KEY.fullmatch(key)
        assert match is not None
        if match["layer"] not in dotted_names:
            return dict(state_dict)
        factor = FACTOR_NAMES.get(match["rest"], match["rest"])
        converted_state[f"{PREFIX}{dotted_names[match['layer']]}.{factor}"] = value
    return converted_state
