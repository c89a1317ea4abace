"""LoRA files as other tools leave them: a transformer's low-rank weights under diffusers' names,
with the facts that attach them.

Names are translated by the library's own converters. What would be left out silently by a loader is
refused here.
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
from harope_bench.core.record_base import shorten
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
# of an expression in a file
PATTERN_LENGTH = 200
MAX_REPETITIONS = 3
PEFT_CONFIG = "adapter_config.json"  # beside peft's adapter_model.safetensors
LORA_METADATA_KEY = "lora_adapter_metadata"  # in which diffusers keeps peft's configuration
UNSUPPORTED_PEFT_OPTIONS = (
    "use_dora",
    "use_rslora",
    "lora_bias",
    "modules_to_save",
    "use_qalora",
    "alora_invocation_tokens",
)  # of that configuration


class LoraWeights(NamedTuple):
    """Weights by diffusers' names, whether the file has just these names, and how they are
    attached.
    """

    state_dict: dict[str, Tensor]
    has_library_names: bool
    lora: LoraSpec


def read_lora(
    pipeline: PipelineClass, path: Path, layers: Callable[[], Iterable[str]] = tuple
) -> LoraWeights:
    """The LoRA of a file.

    Args:
        pipeline: the library's pipeline class, which knows the names of the tools for it. layers:
            names of the transformer's
            linear layers, for files with underscores in these names.

    Raises:
        WeightsError: damaged, of another architecture, or with weights beside those of the
            transformer's linear layers.
    """
    given = load_weights(path)
    lora_names.reject_unsupported_formats(given, str(path))
    if odd := next((key for key in given if key.startswith(lora_names.TEXT_ENCODERS)), None):
        raise WeightsError(
            f"{path} holds {odd} of a text encoder, and only low-rank weights of the transformer"
            " are attached here; save these alone"
        )
    named, is_peft = lora_names.convert_to_diffusers_keys(given, layers)
    scales = {
        key: named.pop(key)
        for key in list(named)
        if key.startswith(PREFIX) and key.endswith(".alpha")
    }
    config = _peft_config(path) if is_peft else _metadata_config(path)
    try:
        state, *rest, _ = pipeline.lora_state_dict(
            dict(named), return_alphas=True, return_lora_metadata=True
        )
    except (
        ValueError,
        KeyError,
        IndexError,
        AttributeError,
        NotImplementedError,
        RuntimeError,
        SafetensorError,
    ) as error:
        raise WeightsError(
            f"{path} is no LoRA that {pipeline.__name__} reads: {first_line(error)}; save it by"
            " save_lora_weights"
        ) from error
    for key in state:
        if not LORA_KEY.fullmatch(key):
            raise WeightsError(
                f"{path} holds {key}, and only low-rank weights of the transformer are attached"
                " here; save these alone"
            )
    alphas = {
        _layer_name(key): float(value)
        for key, value in {**scales, **((rest[0] if rest else None) or {})}.items()
    }
    return LoraWeights(
        state, state.keys() == given.keys(), _lora_of_weights(path, state, config, alphas)
    )


def write_adapter_folder(
    folder: Path,
    bare: LoraFiles,
    pipeline: PipelineClass,
    manifest: AdapterManifest,
    layers: Callable[[], Iterable[str]] = tuple,
) -> Path:
    """Puts a LoRA and its encoding's weights into an adapter folder with their manifest, and
    returns the manifest's path.

    Files that have the library's names are copied byte by byte. Another tool's LoRA is written
    under these names, and the manifest
    keeps the hash of the file that it was made of.
    """
    found = read_lora(pipeline, bare.lora_file, layers)
    facts = dict(manifest.training)
    if found.has_library_names:
        copy_file(bare.lora_file, folder / LORA_FILE)
    else:
        write_bytes(folder / LORA_FILE, weights_bytes(found.state_dict, {}))
        facts["lora_converted_from_sha256"] = sha256_file(bare.lora_file)
    if bare.encoding_file:
        copy_file(bare.encoding_file, folder / ENCODING_FILE)
    names = [LORA_FILE, *([ENCODING_FILE] if bare.encoding_file else [])]
    update = {
        "lora": found.lora,
        "encoding_file": ENCODING_FILE if bare.encoding_file else None,
        "files": {name: sha256_file(folder / name) for name in names},
        "training": facts,
    }
    target = folder / MANIFEST
    write_text(target, manifest.model_copy(update=update).to_json(indent=1) + "\n")
    return target


def _metadata_config(path: Path) -> LibraryConfig:
    """Peft's configuration of the transformer's LoRA, where the file has a note of it."""
    try:
        noted = parse_json(weights_metadata(path).get(LORA_METADATA_KEY, "{}"))
    except ValueError as error:
        raise WeightsError(
            f"{path} has a damaged note {LORA_METADATA_KEY}; save it again"
        ) from error
    if not isinstance(noted, dict):
        raise WeightsError(f"{path} has a damaged note {LORA_METADATA_KEY}; save it again")
    config = {
        key.removeprefix(PREFIX): value for key, value in noted.items() if key.startswith(PREFIX)
    }
    return _check_supported(
        path, config or (noted if "lora_alpha" in noted else {})
    )  # save_lora_adapter notes it without prefix


def _peft_config(path: Path) -> LibraryConfig:
    """Peft's configuration beside the file that it saves, which alone tells the scale.

    Raises:
        WeightsError: It is not there, or it is damaged.
    """
    beside = path.parent / PEFT_CONFIG
    if not beside.is_file():
        raise WeightsError(
            f"{path} is peft's own file, whose scale stands in {PEFT_CONFIG}; put that beside it"
        )
    try:
        with convert_os_errors(beside):
            config = parse_json(read_text(beside))
        rank = config["r"]
        alpha = config["lora_alpha"]
    except (ValueError, TypeError, KeyError) as error:
        raise WeightsError(
            f"{beside} is not peft's configuration ({first_line(error)}); save the adapter again"
        ) from error
    if not all(isinstance(number, int | float) and number > 0 for number in (rank, alpha)):
        raise WeightsError(
            f"{beside} has r = {rank!r}, lora_alpha = {alpha!r}, wanted numbers above 0; save the"
            " adapter again"
        )
    return _check_supported(beside, config)


def _check_supported(path: Path, config: LibraryConfig) -> LibraryConfig:
    """Return peft's configuration; WeightsError for what it turns on and nothing here does."""
    if odd := next((key for key in UNSUPPORTED_PEFT_OPTIONS if config.get(key)), None):
        raise WeightsError(
            f"{path} was made with {odd} = {config[odd]}, which is not attached here; save it"
            " merged or as plain LoRA"
        )
    return config


def _lora_of_weights(
    path: Path, state: Mapping[str, Tensor], config: LibraryConfig, alphas: Mapping[str, float]
) -> LoraSpec:
    """Rank from the shapes; alpha from the note, else from alphas in the file, else the rank, as
    the library has it.
    """
    ranks = {_layer_name(key): len(value) for key, value in state.items() if ".lora_A." in key}
    if not ranks:
        raise WeightsError(
            f"{path} holds no low-rank weights of the transformer; give the LoRA's own file"
        )
    if config:
        patterns = _check_alpha_patterns(path, config.get("alpha_pattern") or {})
        scales = {
            layer: _match_pattern(patterns, layer, config.get("lora_alpha", rank))
            for layer, rank in ranks.items()
        }
    elif alphas:
        scales = {layer: alphas.get(layer, _most_common_value(alphas)) for layer in ranks}
    else:
        scales = dict(ranks)
    if odd := next((layer for layer, scale in scales.items() if not _is_scale(scale)), None):
        raise WeightsError(
            f"{path} has alpha {shorten(repr(scales[odd]), 40)} of {odd}, wanted a number above 0;"
            " save it again"
        )
    rank = _most_common_value(ranks)
    alpha = _most_common_value(scales)
    return LoraSpec(
        file=LORA_FILE,
        rank=int(rank),
        alpha=alpha,
        targets=tuple(sorted(ranks)),
        has_full_names=True,
        layer_ranks={layer: value for layer, value in ranks.items() if value != rank},
        layer_alphas={layer: value for layer, value in scales.items() if value != alpha},
    )


def _is_scale(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def _check_alpha_patterns(path: Path, found: object) -> dict[str, float]:
    """Return peft's patterns of layers' names with their alphas.

    They are expressions out of a file, so only those are read that are short and cannot take for
    ever: without groups, and with few
    repetitions.

    Raises:
        WeightsError: No object of patterns and numbers, no expression, or one that is not read
            here.
    """
    if not isinstance(found, dict):
        raise WeightsError(
            f"{path} has an alpha_pattern that is no object of patterns; save the adapter again"
        )
    for pattern in found:
        repetitions = sum(pattern.count(sign) for sign in "*+?")
        if (
            len(pattern) > PATTERN_LENGTH
            or repetitions > MAX_REPETITIONS
            or not is_expression(pattern)
            or set(pattern) & set("(){}")
        ):
            raise WeightsError(
                f"{path} has the alpha_pattern {shorten(pattern, 60)!r}, which is not read here;"
                " write layers' names out"
            )
    return found


def is_expression(pattern: str) -> bool:
    """Return whether a text is a regular expression."""
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError):
        return False
    return True


def _match_pattern(patterns: Mapping[str, float], layer: str, common: float) -> float:
    """The value of the first pattern that is the layer's name or its end, as peft reads
    patterns.
    """
    return next(
        (value for pattern, value in patterns.items() if re.match(rf"(.*\.)?({pattern})$", layer)),
        common,
    )


def _most_common_value(values: Mapping[str, float]) -> float:
    return Counter(values.values()).most_common(1)[0][0]


def _layer_name(key: str) -> str:
    """The layer that a weight or an alpha belongs to."""
    return re.sub(r"\.(lora_[AB]\..*|alpha)$", "", key.removeprefix(PREFIX))
