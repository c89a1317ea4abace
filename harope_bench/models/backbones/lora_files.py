"""LoRA files of other tools: read, brought under diffusers' names, and written as adapter folders.

The library's own converters translate names. Weights that a loader would silently ignore are
rejected.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError
from torch import Tensor

from harope_bench.core.errors import WeightsError
from harope_bench.core.json_file import parse_json
from harope_bench.core.record_base import shorten_text
from harope_bench.core.state_dicts import load_weights, weights_bytes, weights_metadata
from harope_bench.core.storage import (
    convert_os_errors,
    copy_file,
    first_line,
    sha256_file,
    write_bytes,
    write_text,
)
from harope_bench.core.text_file import read_text
from harope_bench.models.backbones import lora_names
from harope_bench.models.backbones.library_types import PipelineClass
from harope_bench.models.backbones.lora import PREFIX
from harope_bench.models.lora_manifest import (
    ENCODING_FILE,
    LORA_FILE,
    MANIFEST,
    AdapterManifest,
    LibraryConfig,
    LoraFiles,
    LoraSpec,
)

LORA_KEY = re.compile(rf"{re.escape(PREFIX)}(?P<layer>.+)\.lora_(A|B)\.weight")
# Limits of a regular expression that is read from a file.
PATTERN_LENGTH = 200
MAX_REPETITIONS = 3

# Peft's configuration: a file beside peft's adapter_model.safetensors, or an entry in the metadata
# of diffusers' file.
PEFT_CONFIG = "adapter_config.json"
LORA_METADATA_KEY = "lora_adapter_metadata"
UNSUPPORTED_PEFT_OPTIONS = (
    "use_dora",
    "use_rslora",
    "lora_bias",
    "modules_to_save",
    "use_qalora",
    "alora_invocation_tokens",
)


class LoraWeights(NamedTuple):
    """The LoRA of a file.

    Attributes:
        state_dict: Weights under diffusers' names.
        has_library_names: Whether the file has exactly these names.
        lora: How the weights are attached: rank, alpha, layers.
    """

    state_dict: dict[str, Tensor]
    has_library_names: bool
    lora: LoraSpec


def read_lora(
    pipeline: PipelineClass, path: Path, layer_names: Callable[[], Iterable[str]] = tuple
) -> LoraWeights:
    """Return the LoRA of a file.

    Args:
        pipeline: The library's pipeline class, which translates the names of other tools.
        layer_names: Returns the names of the transformer's linear layers. It is called for files
            that have underscores instead of dots in these names.

    Raises:
        WeightsError: The file is damaged, is of another architecture, or has weights beside
            those of the transformer's linear layers.
    """
    file_state = load_weights(path)
    lora_names.reject_unsupported_formats(file_state, str(path))
    for key in file_state:
        if key.startswith(lora_names.TEXT_ENCODERS):
            raise WeightsError(
                f"{path} has {key} of a text encoder, wanted LoRA of the transformer alone; save"
                " that alone"
            )

    # Alphas are taken out, because the library would fold them into the weights.
    renamed_state, is_peft = lora_names.convert_to_diffusers_keys(file_state, layer_names)
    alpha_keys = [key for key in renamed_state if key.startswith(PREFIX) and key.endswith(".alpha")]
    alpha_tensors = {key: renamed_state.pop(key) for key in alpha_keys}
    config = _peft_config(path) if is_peft else _metadata_config(path)

    state_dict, library_alphas = _library_state_dict(pipeline, path, renamed_state)
    for key in state_dict:
        if not LORA_KEY.fullmatch(key):
            raise WeightsError(
                f"{path} has {key}, wanted LoRA of the transformer's linear layers alone; save that"
                " alone"
            )
    alphas = {
        _layer_name(key): float(alpha) for key, alpha in {**alpha_tensors, **library_alphas}.items()
    }
    has_library_names = state_dict.keys() == file_state.keys()
    lora = _lora_of_weights(path, state_dict, config, alphas)
    return LoraWeights(state_dict, has_library_names, lora)


def _library_state_dict(
    pipeline: PipelineClass, path: Path, state_dict: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], Mapping[str, Tensor | float]]:
    """Return LoRA weights under diffusers' names, and alphas by key, from the library's converter.

    Raises:
        WeightsError: The library does not know the names.
    """
    try:
        converted_state, *alphas, _ = pipeline.lora_state_dict(
            dict(state_dict), return_alphas=True, return_lora_metadata=True
        )
    except (
        ValueError,
        KeyError,
        IndexError,
        AttributeError,
        NotImplementedError,  # diffusers raises it for a key that its converter does not handle
        RuntimeError,
        SafetensorError,
    ) as error:
        raise WeightsError(
            f"{path} is no LoRA that {pipeline.__name__} reads: {first_line(error)}; save it by"
            " save_lora_weights"
        ) from error

    # Some pipelines return no alphas at all, some return None.
    library_alphas = alphas[0] if alphas else None
    return converted_state, library_alphas or {}


def write_adapter_folder(
    folder: Path,
    lora_files: LoraFiles,
    pipeline: PipelineClass,
    manifest: AdapterManifest,
    layer_names: Callable[[], Iterable[str]] = tuple,
) -> Path:
    """Write a LoRA and its encoding's weights as an adapter folder, and return the manifest's path.

    A file with the library's names is copied byte by byte. Other files are written under these
    names, and the manifest records the hash of the original.

    Args:
        pipeline, layer_names: See `read_lora`.
        manifest: The manifest without `encoding_file`, `lora` and `files`.
    """
    lora_weights = read_lora(pipeline, lora_files.lora_file, layer_names)
    training = dict(manifest.training)
    if lora_weights.has_library_names:
        copy_file(lora_files.lora_file, folder / LORA_FILE)
    else:
        write_bytes(folder / LORA_FILE, weights_bytes(lora_weights.state_dict, metadata={}))
        training["lora_converted_from_sha256"] = sha256_file(lora_files.lora_file)
    file_names = [LORA_FILE]

    encoding_file = None
    if lora_files.encoding_file:
        copy_file(lora_files.encoding_file, folder / ENCODING_FILE)
        encoding_file = ENCODING_FILE
        file_names.append(ENCODING_FILE)

    update = {
        "lora": lora_weights.lora,
        "encoding_file": encoding_file,
        "files": {name: sha256_file(folder / name) for name in file_names},
        "training": training,
    }
    target = folder / MANIFEST
    write_text(target, manifest.model_copy(update=update).to_json(indent=1) + "\n")
    return target


def _metadata_config(path: Path) -> LibraryConfig:
    """Return peft's configuration from the metadata of diffusers' file; empty without metadata."""
    metadata_error = WeightsError(f"{path} has damaged metadata {LORA_METADATA_KEY}; save it again")
    try:
        metadata = parse_json(weights_metadata(path).get(LORA_METADATA_KEY, "{}"))
    except ValueError as error:
        raise metadata_error from error
    if not isinstance(metadata, dict):
        raise metadata_error

    config = {
        key.removeprefix(PREFIX): value for key, value in metadata.items() if key.startswith(PREFIX)
    }
    if not config and "lora_alpha" in metadata:
        config = metadata  # save_lora_adapter writes keys without prefix
    return _validate_peft_config(path, config)


def _peft_config(path: Path) -> LibraryConfig:
    """Return peft's configuration from the file beside peft's weights, which contains the scale.

    Raises:
        WeightsError: The file is missing or damaged.
    """
    config_path = path.parent / PEFT_CONFIG
    if not config_path.is_file():
        raise WeightsError(
            f"{path} is peft's own file, whose scale is in {PEFT_CONFIG}, which is missing; copy"
            " it into the same folder"
        )
    try:
        with convert_os_errors(config_path):
            config = parse_json(read_text(config_path))
        rank = config["r"]
        alpha = config["lora_alpha"]
    except (ValueError, TypeError, KeyError) as error:
        raise WeightsError(
            f"{config_path} is not peft's configuration ({first_line(error)}); save the adapter"
            " again"
        ) from error

    if not all(isinstance(number, int | float) and number > 0 for number in (rank, alpha)):
        raise WeightsError(
            f"{config_path} has r = {rank!r}, lora_alpha = {alpha!r}, wanted numbers above 0; save"
            " the adapter again"
        )
    return _validate_peft_config(config_path, config)


def _validate_peft_config(path: Path, config: LibraryConfig) -> LibraryConfig:
    """Return peft's configuration; WeightsError if it uses an option that is not supported."""
    for option in UNSUPPORTED_PEFT_OPTIONS:
        if config.get(option):
            raise WeightsError(
                f"{path} uses {option} = {config[option]}, which is not supported; save it merged"
                " or as plain LoRA"
            )
    return config


def _lora_of_weights(
    path: Path,
    state_dict: Mapping[str, Tensor],
    config: LibraryConfig,
    file_alphas: Mapping[str, float],
) -> LoraSpec:
    """Return the specification of LoRA weights.

    Ranks come from the shapes. Alphas come from peft's configuration, else from the file, else
    they equal the ranks, as in the library.

    Args:
        config: Peft's configuration, empty if there is none.
        file_alphas: Alphas in the file, by layer.
    """
    ranks = {_layer_name(key): len(value) for key, value in state_dict.items() if ".lora_A." in key}
    if not ranks:
        raise WeightsError(
            f"{path} has no low-rank weights of the transformer; give the LoRA's own file"
        )

    if config:
        patterns = _validate_alpha_patterns(path, config.get("alpha_pattern") or {})
        alphas = {
            layer: _match_pattern(patterns, layer, config.get("lora_alpha", rank))
            for layer, rank in ranks.items()
        }
    elif file_alphas:
        default_alpha = _most_common_value(file_alphas)
        alphas = {layer: file_alphas.get(layer, default_alpha) for layer in ranks}
    else:
        alphas = dict(ranks)
    for layer, alpha in alphas.items():
        if not _is_scale(alpha):
            raise WeightsError(
                f"{path} has alpha {shorten_text(repr(alpha), 40)} of {layer}, wanted a number"
                " above 0; save it again"
            )

    common_rank = _most_common_value(ranks)
    common_alpha = _most_common_value(alphas)
    return LoraSpec(
        file=LORA_FILE,
        rank=int(common_rank),
        alpha=common_alpha,
        targets=tuple(sorted(ranks)),
        has_full_names=True,
        layer_ranks={layer: rank for layer, rank in ranks.items() if rank != common_rank},
        layer_alphas={layer: alpha for layer, alpha in alphas.items() if alpha != common_alpha},
    )


def _is_scale(value: object) -> bool:
    """Return whether a value is a positive, finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def _validate_alpha_patterns(path: Path, patterns: object) -> dict[str, float]:
    """Return peft's alphas by patterns of layer names.

    The patterns are regular expressions from a file. Only short ones are accepted, without groups
    and with few repetitions, because others could take very long to match.

    Raises:
        WeightsError: The value is no object, or a pattern is not accepted.
    """
    if not isinstance(patterns, dict):
        raise WeightsError(
            f"{path} has an alpha_pattern that is no object of patterns; save the adapter again"
        )
    for pattern in patterns:
        n_repetitions = sum(pattern.count(sign) for sign in "*+?")
        if (
            len(pattern) > PATTERN_LENGTH
            or n_repetitions > MAX_REPETITIONS
            or not is_expression(pattern)
            or set(pattern) & set("(){}")
        ):
            raise WeightsError(
                f"{path} has the alpha_pattern {shorten_text(pattern, 60)!r}, which is not"
                " supported; write the names of the layers out"
            )
    return patterns


def is_expression(pattern: str) -> bool:
    """Return whether a text is a valid regular expression."""
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError):
        return False
    return True


def _match_pattern(patterns: Mapping[str, float], layer: str, default: float) -> float:
    """Return the value of the first pattern that matches a layer's name or its end, as in peft."""
    for pattern, value in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", layer):
            return value
    return default


def _most_common_value(values: Mapping[str, float]) -> float:
    """Return the most frequent value; of equally frequent ones, the one that comes first."""
    return Counter(values.values()).most_common(1)[0][0]


def _layer_name(key: str) -> str:
    """Return the layer that the key of a weight or an alpha belongs to."""
    return re.sub(r"\.(lora_[AB]\..*|alpha)$", "", key.removeprefix(PREFIX))
