"""Removal of the wrappers that training tools put around a network's weights: dicts around the
state dict, and prefixes of its keys.

These layouts are known:
- train.py of DiT, SiT, REPA, LightningDiT and DeiT: {"model", "ema", ...}
- main_jit.py of JiT: {"model", "model_ema1", "model_ema2", ...}, prefix `net.`
- timm: "state_dict", "state_dict_ema"
- Lightning: "state_dict", prefix `model.`
- torch.optim.swa_utils.AveragedModel: `n_averaged`, prefix `module.`
- ema_pytorch: `initted`, `step`, prefixes `ema_model.` and `online_model.`
- torch.compile: prefix `_orig_mod.`; DDP: prefix `module.`; FSDP
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeGuard, runtime_checkable

from harope_bench.core.errors import WeightsError

if TYPE_CHECKING:
    import torch

# A running average (EMA) is preferred to the plain network, because papers report its numbers.
# JiT saves two, and evaluates the first.
EMA_KEYS = (
    *("ema", "model_ema", "ema_model", "state_dict_ema", "ema_state_dict", "params_ema"),
    *("model_ema1", "model_ema2"),
)
NETWORK_KEYS = ("model", "state_dict", "model_state_dict", "net", "network", "module", "params")
# Prefixes that all keys may have, in the order of preference.
PREFIXES = (
    *("ema_model.", "model_ema.", "ema.", "averaged_model."),
    *("module.", "model.", "online_model.", "net.", "network.", "diffusion_model."),
)
# Wrappers of a part of a network, whose names can be anywhere in a key.
INNER_WRAPPER_PATTERN = re.compile(
    r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module)\."
)
# Keys of counters beside the weights, each a tensor of one element.
COUNTER_KEYS = {"n_averaged", "initted", "step", "num_updates", "decay"}
# Parts of the keys of adapters (LoRA and others). Their prefixes tell which network they adapt, so
# they are not removed.
ADAPTER_KEY_PARTS = ("lora", "lokr_", "hada_", "oft_", "ia3_")
MAX_WRAPPERS = 4  # nested wrappers of one network


@runtime_checkable
class TensorLike(Protocol):
    """A tensor, recognised without importing torch."""

    def numel(self) -> int:
        """Return the number of elements."""


class UnwrappedWeights(NamedTuple):
    """A state dict without its wrappers.

    Attributes:
        state: Tensors by key.
        wrappers: The wrappers that were removed, outermost first.
        other_networks: Keys or prefixes of further networks in the file, which were ignored.
    """

    state: dict[str, torch.Tensor]
    wrappers: tuple[str, ...] = ()
    other_networks: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return in words which network of the file was loaded."""
        source = " > ".join(self.wrappers) or "the whole file"
        if not self.other_networks:
            return f"weights taken from {source}"
        return f"weights taken from {source}; it also holds {', '.join(self.other_networks)}"


def unwrap_state_dict(contents: object) -> UnwrappedWeights | None:
    """Return the state dict in a file's contents, without wrappers; None if there is none.

    A running average (EMA) is preferred. The other networks in the file are named in the result.

    Args:
        contents: A state dict (names to tensors), or nested dicts around it.

    Raises:
        WeightsError: Two keys are equal without their prefixes.
    """
    wrappers: list[str] = []
    other_networks: list[str] = []
    for _ in range(MAX_WRAPPERS):
        if is_state_dict(contents) or not isinstance(contents, Mapping):
            break
        network_keys = [
            key
            for key in (*EMA_KEYS, *NETWORK_KEYS)
            if isinstance(contents.get(key), Mapping) and contents[key]
        ]
        if not network_keys:
            return None
        preferred_key = network_keys[0]
        wrappers.append(preferred_key)
        other_networks.extend(network_keys[1:])
        contents = contents[preferred_key]
    if not is_state_dict(contents):
        return None

    stripped = strip_prefixes(contents)
    return UnwrappedWeights(
        stripped.state,
        (*wrappers, *stripped.wrappers),
        (*other_networks, *stripped.other_networks),
    )


def is_state_dict(contents: object) -> TypeGuard[Mapping[str, torch.Tensor]]:
    """Return whether an object maps names to tensors."""
    if not isinstance(contents, Mapping):
        return False
    pairs = contents.items()
    return all(isinstance(key, str) and isinstance(value, TensorLike) for key, value in pairs)


def strip_prefixes(state: Mapping[str, torch.Tensor]) -> UnwrappedWeights:
    """Return the state dict without the prefixes of wrappers.

    A prefix is removed only if every key has one. If there are several prefixes, the keys of the
    preferred one are returned, which are those of a running average.

    Raises:
        WeightsError: Two keys are equal without their prefixes.
    """
    if any(part in key for key in state for part in ADAPTER_KEY_PARTS):
        return UnwrappedWeights(dict(state))

    # Wrappers of parts of the network, anywhere in a key.
    network = _rename_keys(state, {key: INNER_WRAPPER_PATTERN.sub("", key) for key in state})
    is_compiled = any("_orig_mod." in key for key in state)
    wrappers = ["_orig_mod."] if is_compiled else []

    # Wrappers of the whole network, at the start of every key.
    other_networks: list[str] = []
    for _ in range(MAX_WRAPPERS):
        weight_keys = [key for key in network if not _is_counter(key, network[key])]
        keys_by_prefix = {
            prefix: [key for key in weight_keys if key.startswith(prefix)] for prefix in PREFIXES
        }
        n_prefixed_keys = sum(len(keys) for keys in keys_by_prefix.values())
        if not weight_keys or n_prefixed_keys != len(weight_keys):
            break
        prefixes = [prefix for prefix, keys in keys_by_prefix.items() if keys]
        preferred_prefix = prefixes[0]
        new_keys = {
            key: key.removeprefix(preferred_prefix) for key in keys_by_prefix[preferred_prefix]
        }
        network = _rename_keys(network, new_keys)
        wrappers.append(preferred_prefix)
        other_networks.extend(prefixes[1:])
    return UnwrappedWeights(network, tuple(wrappers), tuple(other_networks))


def _is_counter(key: str, tensor: torch.Tensor) -> bool:
    return key in COUNTER_KEYS and tensor.numel() == 1


def _rename_keys(
    state: Mapping[str, torch.Tensor], new_keys: Mapping[str, str]
) -> dict[str, torch.Tensor]:
    """Return the tensors whose keys are in `new_keys` (old to new), under their new keys.

    Raises:
        WeightsError: Two new keys are equal.
    """
    renamed_state = {new_key: state[old_key] for old_key, new_key in new_keys.items()}
    if len(renamed_state) != len(new_keys):
        key_counts = Counter(new_keys.values())
        duplicate = min(key for key, count in key_counts.items() if count > 1)
        raise WeightsError(
            f"{duplicate} is in the file twice, with and without a wrapper's prefix; save the"
            " network alone"
        )
    return renamed_state
