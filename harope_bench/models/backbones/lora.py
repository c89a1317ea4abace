"""Low-rank weights of a transformer beside the weights of its encoding: made, saved, loaded, merged.

The LoRA file is the library's own (save_lora_weights), so that any diffusers pipeline takes it; without the encoding's file
beside it a pipeline draws something else than what was trained.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from harope_bench.core.errors import OptionError, WeightsError
from harope_bench.core.state_dicts import compare, fit, load_weights, weights_bytes
from harope_bench.core.storage import make_folder, sha256_file, write_bytes, write_text
from harope_bench.models import lora_manifest
from harope_bench.models.backbones.library_types import PipeClass
from harope_bench.models.backbones.positioned import Positioned
from harope_bench.models.lora_manifest import ENCODING_FILE, LORA_FILE

if TYPE_CHECKING:
    from peft import LoraConfig

RANK = 32  # the paper's; it states neither alpha nor the targets
PREFIX = "transformer."  # of every key in the library's files


def add(network: Positioned, targets: Sequence[str], rank: int = RANK, alpha: int | None = None) -> None:
    """Fresh LoRA on these linear layers of the network's transformer; alpha is the rank if left out.

    Raises:
        OptionError: no layer is named so, or there is LoRA already.
    """
    _add(network, lora_manifest.Lora(file=LORA_FILE, rank=rank, alpha=alpha or rank, targets=tuple(targets)))


def _add(network: Positioned, made: lora_manifest.Lora) -> None:
    from peft import LoraConfig

    if attached(network):
        raise OptionError("the network has LoRA already; merge it first")
    config = LoraConfig(
        r=made.rank,
        lora_alpha=made.alpha,  # type: ignore[arg-type]  # a whole number by peft's annotation, any number in files
        target_modules="|".join(map(re.escape, made.targets)) if made.exact else list(made.targets),
        rank_pattern={_whole(layer): rank for layer, rank in made.ranks.items()},
        alpha_pattern={_whole(layer): alpha for layer, alpha in made.alphas.items()},
    )
    try:
        network.transformer.add_adapter(config)
    except ValueError as error:
        named = ", ".join(made.targets[:3]) + (", ..." if len(made.targets) > 3 else "")
        raise OptionError(f"no LoRA on {named}: none is a layer here; name linear layers of the transformer") from error


def _whole(layer: str) -> str:
    """A pattern of that layer alone; the library's patterns also match ends of names."""
    return f"^{re.escape(layer)}"


def attached(network: Positioned) -> bool:
    """Whether the network's transformer carries LoRA."""
    return bool(getattr(network.transformer, "peft_config", None))  # peft adds it with the first LoRA


def state_of(network: Positioned) -> dict[str, Tensor]:
    """LoRA weights by the library's names."""
    from peft.utils import get_peft_model_state_dict

    return {PREFIX + key: value for key, value in get_peft_model_state_dict(network.transformer).items()}


def switch(network: Positioned, on: bool) -> None:
    """Turns LoRA on or off without removing it."""
    (network.transformer.enable_adapters if on else network.transformer.disable_adapters)()


def merge(network: Positioned) -> None:
    """Adds LoRA into the base weights, in their dtype, and removes it: costs nothing from then on."""
    if attached(network):
        network.transformer.fuse_lora()
        network.transformer.unload_lora()


def attach(network: Positioned, path: Path, manifest: lora_manifest.Manifest) -> None:
    """Loads what an adapter folder lists, strictly; a network on the meta device is only compared with it.

    Raises:
        WeightsError: a file is missing, altered or does not fit; every key is listed.
    """
    whole, what = next(network.parameters()).device.type != "meta", f"the adapter of {path}"
    wanted = network.encoding.state_dict()
    if wanted and manifest.encoding_file is None:
        raise WeightsError(f"{path} lists no weights of its encoding {manifest.encoding}, which has some; write the adapter again")
    if manifest.encoding_file is not None:
        state = load_weights(lora_manifest.listed(path, manifest, manifest.encoding_file))
        fit(network.encoding, state, what) if whole else compare(wanted, state, what)
    if manifest.lora is not None:
        _add(network, manifest.lora)
        state = load_weights(lora_manifest.listed(path, manifest, manifest.lora.file))
        compare(state_of(network), state, what)
        if whole:
            _load(network, state)


def _load(network: Positioned, state: dict[str, Tensor]) -> None:
    from peft.utils import set_peft_model_state_dict

    set_peft_model_state_dict(network.transformer, {key.removeprefix(PREFIX): value for key, value in state.items()})


def save(folder: Path, network: Positioned, pipeline: PipeClass, manifest: lora_manifest.Manifest) -> Path:
    """Writes LoRA and encoding weights of a network with the manifest that lists them, and returns the manifest's path.

    Args:
        pipeline: the library's pipeline class, whose file format it is.
        manifest: with everything but the files.
    """
    make_folder(folder)
    encoding_file, made = None, None
    if state := network.encoding.state_dict():
        write_bytes(
            folder / ENCODING_FILE, weights_bytes({key: value.cpu() for key, value in state.items()}, {"encoding": manifest.encoding})
        )
        encoding_file = ENCODING_FILE
    if attached(network):
        config = network.transformer.peft_config["default"]
        _write(folder, network, pipeline, config)
        made = _made(config)
    names = [name for name in (encoding_file, made.file if made else None) if name is not None]
    files = {name: sha256_file(folder / name) for name in names}
    target = folder / lora_manifest.MANIFEST
    update = {"encoding_file": encoding_file, "lora": made, "files": files}
    write_text(target, manifest.model_copy(update=update).to_json(indent=1) + "\n")
    return target


def _made(config: LoraConfig) -> lora_manifest.Lora:
    """What `_add` would make such LoRA of again."""
    targets = config.target_modules or ()
    exact = isinstance(targets, str)
    named = targets.split("|") if isinstance(targets, str) else sorted(targets)
    return lora_manifest.Lora(
        file=LORA_FILE,
        rank=config.r,
        alpha=config.lora_alpha,
        targets=tuple(map(_layer, named)),
        exact=exact,
        ranks={_layer(key): value for key, value in (config.rank_pattern or {}).items()},
        alphas={_layer(key): value for key, value in (config.alpha_pattern or {}).items()},
    )


def _layer(pattern: str) -> str:
    return pattern.removeprefix("^").replace("\\", "")


def _write(folder: Path, network: Positioned, pipeline: PipeClass, config: LoraConfig) -> None:
    layers = {key.removeprefix(PREFIX): value.detach().cpu().contiguous() for key, value in state_of(network).items()}
    pipeline.save_lora_weights(
        folder, transformer_lora_layers=layers, weight_name=LORA_FILE, transformer_lora_adapter_metadata=config.to_dict()
    )
