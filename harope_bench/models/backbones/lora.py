"""LoRA of a transformer beside the weights of its encoding: added, saved, loaded, merged.

The LoRA file is the library's own (save_lora_weights), so any diffusers pipeline can load it.
Without the encoding's file beside it, such a pipeline generates other images than the trained
network.
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

RANK = 32  # The paper's rank; it states neither alpha nor the targets.
PREFIX = "transformer."  # Prefix of every key in the library's files.


def add_lora(
    network: EncodedTransformer, targets: Sequence[str], rank: int = RANK, alpha: int | None = None
) -> None:
    """Add freshly initialised LoRA to linear layers of the network's transformer.

    Args:
        targets: Ends of the names of the layers.
        alpha: Scale; the rank if left out.

    Raises:
        OptionError: No layer has such a name, or the network has LoRA already.
    """
    spec = lora_manifest.LoraSpec(
        file=LORA_FILE, rank=rank, alpha=alpha or rank, targets=tuple(targets)
    )
    _add_lora(network, spec)


def _add_lora(network: EncodedTransformer, spec: lora_manifest.LoraSpec) -> None:
    """Add freshly initialised LoRA of this specification; see `add_lora` for errors."""
    from peft import LoraConfig

    if has_lora(network):
        raise OptionError("the network has LoRA already; merge it first")

    # A text is a pattern of full names for peft, a list holds ends of names.
    target_modules: str | list[str] = list(spec.targets)
    if spec.has_full_names:
        target_modules = "|".join(map(re.escape, spec.targets))
    config = LoraConfig(
        r=spec.rank,
        lora_alpha=spec.alpha,  # type: ignore[arg-type]  # peft's annotation says int, files have any number
        target_modules=target_modules,
        rank_pattern={_exact_pattern(layer): rank for layer, rank in spec.layer_ranks.items()},
        alpha_pattern={_exact_pattern(layer): alpha for layer, alpha in spec.layer_alphas.items()},
    )
    try:
        network.transformer.add_adapter(config)
    except ValueError as error:
        target_names = ", ".join(spec.targets[:3]) + (", ..." if len(spec.targets) > 3 else "")
        raise OptionError(
            f"no LoRA on {target_names}: none is a layer here; name linear layers of the"
            " transformer"
        ) from error


def _exact_pattern(layer: str) -> str:
    """Return a pattern of that layer alone; the library's patterns also match ends of names."""
    return f"^{re.escape(layer)}"


def has_lora(network: EncodedTransformer) -> bool:
    """Return whether the network's transformer carries LoRA."""
    # getattr: peft adds the attribute with the first LoRA
    return bool(getattr(network.transformer, "peft_config", None))


def lora_state_dict(network: EncodedTransformer) -> dict[str, Tensor]:
    """Return the LoRA weights under the library's names."""
    from peft.utils import get_peft_model_state_dict

    state_dict = get_peft_model_state_dict(network.transformer)
    return {PREFIX + key: value for key, value in state_dict.items()}


def set_lora_enabled(network: EncodedTransformer, is_enabled: bool) -> None:
    """Turn LoRA on or off without removing it."""
    if is_enabled:
        network.transformer.enable_adapters()
    else:
        network.transformer.disable_adapters()


def merge_lora(network: EncodedTransformer) -> None:
    """Add LoRA to the base weights in their dtype, and remove it, so that it has no cost."""
    if has_lora(network):
        network.transformer.fuse_lora()
        network.transformer.unload_lora()


def load_adapter(
    network: EncodedTransformer, path: Path, manifest: lora_manifest.AdapterManifest
) -> None:
    """Load the files that an adapter's manifest lists, strictly.

    A network on the meta device is only compared with the files.

    Args:
        path: The manifest's path.

    Raises:
        WeightsError: A file is missing, altered or does not fit; the message lists every key.
    """
    is_on_meta = next(network.parameters()).device.type == "meta"
    description = f"the adapter of {path}"

    encoding_state = network.encoding.state_dict()
    if encoding_state and manifest.encoding_file is None:
        raise WeightsError(
            f"{path} lists no weights of its encoding {manifest.encoding}, which has some; write"
            " the adapter again"
        )
    if manifest.encoding_file is not None:
        file_state = load_weights(
            lora_manifest.verify_adapter_file(path, manifest, manifest.encoding_file)
        )
        if is_on_meta:
            check_state_dict(encoding_state, file_state, description)
        else:
            load_state_strictly(network.encoding, file_state, description)

    if manifest.lora is not None:
        _add_lora(network, manifest.lora)
        file_state = load_weights(
            lora_manifest.verify_adapter_file(path, manifest, manifest.lora.file)
        )
        check_state_dict(lora_state_dict(network), file_state, description)
        if not is_on_meta:
            _load_lora(network, file_state)


def _load_lora(network: EncodedTransformer, state_dict: dict[str, Tensor]) -> None:
    """Load LoRA weights, by the library's names, into a network with LoRA."""
    from peft.utils import set_peft_model_state_dict

    set_peft_model_state_dict(
        network.transformer,
        {key.removeprefix(PREFIX): value for key, value in state_dict.items()},
    )


def save_adapter(
    folder: Path,
    network: EncodedTransformer,
    pipeline: PipelineClass,
    manifest: lora_manifest.AdapterManifest,
) -> Path:
    """Write the LoRA and the encoding's weights with a manifest, and return the manifest's path.

    Args:
        pipeline: The library's pipeline class, which writes the LoRA file.
        manifest: The manifest without `encoding_file`, `lora` and `files`.
    """
    make_folder(folder)
    file_names = []

    encoding_file = None
    encoding_state = network.encoding.state_dict()
    if encoding_state:
        cpu_state = {key: value.cpu() for key, value in encoding_state.items()}
        encoding_bytes = weights_bytes(cpu_state, {"encoding": manifest.encoding})
        write_bytes(folder / ENCODING_FILE, encoding_bytes)
        encoding_file = ENCODING_FILE
        file_names.append(ENCODING_FILE)

    lora = None
    if has_lora(network):
        config = network.transformer.peft_config["default"]
        _write_lora_file(folder, network, pipeline, config)
        lora = _lora_of_config(config)
        file_names.append(lora.file)

    files = {name: sha256_file(folder / name) for name in file_names}
    update = {"encoding_file": encoding_file, "lora": lora, "files": files}
    target = folder / lora_manifest.MANIFEST
    write_text(target, manifest.model_copy(update=update).to_json(indent=1) + "\n")
    return target


def _lora_of_config(config: LoraConfig) -> lora_manifest.LoraSpec:
    """Return the specification from which `_add_lora` makes LoRA of this peft configuration."""
    targets = config.target_modules or ()
    has_full_names = isinstance(targets, str)  # a text is a pattern of full names
    patterns = targets.split("|") if isinstance(targets, str) else sorted(targets)
    rank_pattern = config.rank_pattern or {}
    alpha_pattern = config.alpha_pattern or {}
    return lora_manifest.LoraSpec(
        file=LORA_FILE,
        rank=config.r,
        alpha=config.lora_alpha,
        targets=tuple(map(_layer_name, patterns)),
        has_full_names=has_full_names,
        layer_ranks={_layer_name(key): rank for key, rank in rank_pattern.items()},
        layer_alphas={_layer_name(key): alpha for key, alpha in alpha_pattern.items()},
    )


def _layer_name(pattern: str) -> str:
    """Return the layer name of a pattern that `_exact_pattern` or `re.escape` returned."""
    return pattern.removeprefix("^").replace("\\", "")


def _write_lora_file(
    folder: Path, network: EncodedTransformer, pipeline: PipelineClass, config: LoraConfig
) -> None:
    """Write the LoRA weights as the library does, with peft's configuration as metadata."""
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
