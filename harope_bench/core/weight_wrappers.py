"""Wrappers that training tools leave around a network's weights: dicts around the state, and
prefixes of its keys.

Stripped here for every reader of weights. Layouts: DiT's and DeiT's train.py ({"model", "ema",
...}), timm ("state_dict",
"state_dict_ema"), Lightning ("state_dict", keys `model.`), torch.optim.swa_utils.AveragedModel
(`n_averaged`, `module.`),
ema_pytorch (`initted`, `step`, `ema_model.`, `online_model.`), torch.compile (`_orig_mod.`), DDP
(`module.`), FSDP.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeGuard, runtime_checkable

from harope_bench.core.errors import WeightsError

if TYPE_CHECKING:
    import torch

# A running average comes first: it is what a paper's numbers are of.
EMA_KEYS = ("ema", "model_ema", "ema_model", "state_dict_ema", "ema_state_dict", "params_ema")
NETWORK_KEYS = ("model", "state_dict", "model_state_dict", "net", "network", "module", "params")
PREFIXES = (
    *("ema_model.", "model_ema.", "ema.", "averaged_model."),
    *("module.", "model.", "online_model.", "net.", "network.", "diffusion_model."),
)
# Names that stand anywhere in a key, because a part of a network can be wrapped alone.
INNER_WRAPPER_PATTERN = re.compile(
    r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module)\."
)
COUNTER_KEYS = {"n_averaged", "initted", "step", "num_updates", "decay"}
ADAPTER_KEY_PARTS = (
    "lora",
    "lokr_",
    "hada_",
    "oft_",
    "ia3_",
)  # keys of adapters keep their prefixes, by which they are known
MAX_WRAPPERS = 4  # wrappers around one network; more is no training file


@runtime_checkable
class TensorLike(Protocol):
    """What is taken for a tensor without importing torch."""

    def numel(self) -> int:
        """Return the number of elements."""


class UnwrappedWeights(NamedTuple):
    """A state dict without its wrappers.

    Attributes:
        taken: The wrappers that were removed, outermost first.
        others: Other networks that the file holds beside the one taken.
    """

    state: dict[str, torch.Tensor]
    wrappers: tuple[str, ...] = ()
    other_networks: tuple[str, ...] = ()

    def __str__(self) -> str:
        beside = f"; it also holds {', '.join(self.other_networks)}" if self.other_networks else ""
        return f"weights taken from {' > '.join(self.wrappers) or 'the whole file'}{beside}"


def unwrap_state_dict(contents: object) -> UnwrappedWeights | None:
    """Return the network of a file's contents; None where there is no state dict.

    Args:
        contents: A state dict (names to tensors), or dicts around it.

    Raises:
        WeightsError: Two keys are the same one without their wrappers.
    """
    taken: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    for _ in range(MAX_WRAPPERS):
        if is_state_dict(contents) or not isinstance(contents, Mapping):
            break
        names = [
            name
            for name in (*EMA_KEYS, *NETWORK_KEYS)
            if isinstance(contents.get(name), Mapping) and contents[name]
        ]
        if not names:
            return None
        taken = (*taken, names[0])
        others = (*others, *names[1:])
        contents = contents[names[0]]
    if not is_state_dict(contents):
        return None
    bare = strip_prefixes(contents)
    return UnwrappedWeights(bare.state, (*taken, *bare.wrappers), (*others, *bare.other_networks))


def is_state_dict(contents: object) -> TypeGuard[Mapping[str, torch.Tensor]]:
    """Return whether this is a dict of names to tensors."""
    if not isinstance(contents, Mapping):
        return False
    pairs = contents.items()
    return all(isinstance(key, str) and isinstance(value, TensorLike) for key, value in pairs)


def strip_prefixes(state: Mapping[str, torch.Tensor]) -> UnwrappedWeights:
    """Return the state dict without the prefixes that all its keys have; of an average and a plain
    network the average.

    Raises:
        WeightsError: Two keys are the same one without their wrappers.
    """
    if any(mark in key for key in state for mark in ADAPTER_KEY_PARTS):
        return UnwrappedWeights(dict(state))
    bare = _rename_keys(state, {key: INNER_WRAPPER_PATTERN.sub("", key) for key in state})
    taken: tuple[str, ...] = ("_orig_mod.",) if any("_orig_mod." in key for key in state) else ()
    others: tuple[str, ...] = ()
    for _ in range(MAX_WRAPPERS):
        names = [key for key in bare if not (key in COUNTER_KEYS and bare[key].numel() == 1)]
        groups = {prefix: [key for key in names if key.startswith(prefix)] for prefix in PREFIXES}
        present = [prefix for prefix, keys in groups.items() if keys]
        if not names or sum(map(len, groups.values())) != len(names):
            break
        prefix = present[0]
        bare = _rename_keys(bare, {key: key.removeprefix(prefix) for key in groups[prefix]})
        taken = (*taken, prefix)
        others = (*others, *present[1:])
    return UnwrappedWeights(bare, taken, others)


def _rename_keys(
    state: Mapping[str, torch.Tensor], names: Mapping[str, str]
) -> dict[str, torch.Tensor]:
    """Return the tensors of `names` under their new names."""
    renamed = {new: state[old] for old, new in names.items()}
    if len(renamed) != len(names):
        twice = sorted({new for new in names.values() if list(names.values()).count(new) > 1})[0]
        raise WeightsError(
            f"{twice} is in the file twice, with and without a wrapper's prefix; save the network"
            " alone"
        )
    return renamed
