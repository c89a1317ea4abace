"""Low-rank weights of a transformer beside the weights of its encoding: made, saved, loaded,
merged.

The LoRA file is the library's own (save_lora_weights), so that any diffusers pipeline takes it;
without the encoding's file
beside it a pipeline draws something else than what was trained.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from harope_bench.core.errors import OptionError, WeightsError
from harope_bench.core.state_dicts import (
    check_state_dict,
    load_state_strictly,
    load_weights,
    weights_bytes,
)
from harope_bench.core.storage import make_folder, sha256_file, write_bytes, write_text
from harope_bench.models import lora_manifest
from harope_bench.models.backbones.encoded_transformer import EncodedTransformer
from harope_bench.models.backbones.library_types import PipelineClass
from harope_bench.models.lora_manifest import ENCODING_FILE, LORA_FILE

if TYPE_CHECKING:
    from peft import LoraConfig

RANK = 32  # the paper's; it states neither alpha nor the targets
PREFIX = "transformer."  # of every key in the library's files


def add_lora(
    network: EncodedTransformer, targets: Sequence[str], rank: int = RANK, alpha: int | None = None
) -> None:
    """Fresh LoRA on these linear layers of the network's transformer; alpha is the rank if left
    out.

    Raises:
        OptionError: no layer is named so, or there is LoRA already.
    """
    _add_lora(
        network,
        lora_manifest.LoraSpec(
            file=LORA_FILE, rank=rank, alpha=alpha or rank, targets=tuple(targets)
        ),
    )


def _add_lora(network: EncodedTransformer, made: lora_manifest.LoraSpec) -> None:
    from peft import LoraConfig

    if has_lora(network):
        raise OptionError("the network has LoRA already; merge it first")
    config = LoraConfig(
        r=made.rank,
        lora_alpha=made.alpha,  # type: ignore[arg-type]  # a whole number by peft's annotation, any number in files
        target_modules=(
            "|".join(map(re.escape, made.targets)) if made.has_full_names else list(made.targets)
        ),
        rank_pattern={_exact_pattern(layer): rank for layer, rank in made.layer_ranks.items()},
        alpha_pattern={_exact_pattern(layer): alpha for layer, alpha in made.layer_alphas.items()},
    )
    try:
        network.transformer.add_adapter(config)
    except ValueError as error:
        named = ", ".join(made.targets[:3]) + (", ..." if len(made.targets) > 3 else "")
        raise OptionError(
            f"no LoRA on {named}: none is a layer here; name linear layers of the transformer"
        ) from error


def _exact_pattern(layer: str) -> str:
    """A pattern of that layer alone; the library's patterns also match ends of names."""
    return f"^{re.escape(layer)}"


def has_lora(network: EncodedTransformer) -> bool:
    """Whether the network's transformer carries LoRA."""
    return bool(
        getattr(network.transformer, "peft_config", None)
    )  # peft adds it with the first LoRA


def lora_state_dict(network: EncodedTransformer) -> dict[str, Tensor]:
    """LoRA weights by the library's names."""
    from peft.utils import get_peft_model_state_dict

    return {
        PREFIX + key: value for key, value in get_peft_model_state_dict(network.transformer).items()
    }


def set_lora_enabled(network: EncodedTransformer, on: bool) -> None:
    """Turns LoRA on or off without removing it."""
    (network.transformer.enable_adapters if on else network.transformer.disable_adapters)()


def merge_lora(network: EncodedTransformer) -> None:
    """Adds LoRA into the base weights, in their dtype, and removes it: costs nothing from then
    on.
    """
    if has_lora(network):
        network.transformer.fuse_lora()
        network.transformer.unload_lora()


def load_adapter(
    network: EncodedTransformer, path: Path, manifest: lora_manifest.AdapterManifest
) -> None:
    """Loads what an adapter folder lists, strictly; a network on the meta device is only compared
    with it.

    Raises:
        WeightsError: a file is missing, altered or does not fit; every key is listed.
    """
    whole = next(network.parameters()).device.type != "meta"
    what = f"the adapter of {path}"
    wanted = network.encoding.state_dict()
    if wanted and manifest.encoding_file is None:
        raise WeightsError(
            f"{path} lists no weights of its encoding {manifest.encoding}, which has some; write"
            " the adapter again"
        )
    if manifest.encoding_file is not None:
        state = load_weights(lora_manifest.checked_file(path, manifest, manifest.encoding_file))
        (
            load_state_strictly(network.encoding, state, what)
            if whole
            else check_state_dict(wanted, state, what)
        )
    if manifest.lora is not None:
        _add_lora(network, manifest.lora)
        state = load_weights(lora_manifest.checked_file(path, manifest, manifest.lora.file))
        check_state_dict(lora_state_dict(network), state, what)
        if whole:
            _load_lora(network, state)


def _load_lora(network: EncodedTransformer, state: dict[str, Tensor]) -> None:
    from peft.utils import set_peft_model_state_dict

    set_peft_model_state_dict(
        network.transformer, {key.removeprefix(PREFIX): value for key, value in state.items()}
    )


def save_adapter(
    folder: Path,
    network: EncodedTransformer,
    pipeline: PipelineClass,
    manifest: lora_manifest.AdapterManifest,
) -> Path:
    """Writes LoRA and encoding weights of a network with the manifest that lists them, and returns
    the manifest's path.

    Args:
        pipeline: the library's pipeline class, whose file format it is.
        manifest: with everything but the files.
    """
    make_folder(folder)
    encoding_file = None
    made = None
    if state := network.encoding.state_dict():
        write_bytes(
            folder / ENCODING_FILE,
            weights_bytes(
                {key: value.cpu() for key, value in state.items()}, {"encoding": manifest.encoding}
            ),
        )
        encoding_file = ENCODING_FILE
    if has_lora(network):
        config = network.transformer.peft_config["default"]
        _write_lora_file(folder, network, pipeline, config)
        made = _lora_of_config(config)
    names = [name for name in (encoding_file, made.file if made else None) if name is not None]
    files = {name: sha256_file(folder / name) for name in names}
    target = folder / lora_manifest.MANIFEST
    update = {"encoding_file": encoding_file, "lora": made, "files": files}
    write_text(target, manifest.model_copy(update=update).to_json(indent=1) + "\n")
    return target


def _lora_of_config(config: LoraConfig) -> lora_manifest.LoraSpec:
    """What `_add` would make such LoRA of again."""
    targets = config.target_modules or ()
    exact = isinstance(targets, str)
    named = targets.split("|") if isinstance(targets, str) else sorted(targets)
    return lora_manifest.LoraSpec(
        file=LORA_FILE,
        rank=config.r,
        alpha=config.lora_alpha,
        targets=tuple(map(_layer_name, named)),
        has_full_names=exact,
        layer_ranks={_layer_name(key): value for key, value in (config.rank_pattern or {}).items()},
        layer_alphas={
            _layer_name(key): value for key, value in (config.alpha_pattern or {}).items()
        },
    )


def _layer_name(pattern: str) -> str:
    return pattern.removeprefix("^").replace("\\", "")


def _write_lora_file(
    folder: Path, network: EncodedTransformer, pipeline: PipelineClass, config: LoraConfig
) -> None:
    layers = {
        key.removeprefix(PREFIX): value.detach().cpu().contiguous()
        for key, value in lora_state_dict(network).items()
    }
    pipeline.save_lora_weights(
        folder,
        transformer_lora_layers=layers,
        weight_name=LORA_FILE,
        transformer_lora_adapter_metadata=config.to_dict(),
    )
