"""Adapter folders: LoRA and encoding weights that travel together, and the base model that they
were made for.

A folder holds manifest.json and the files that it lists, each with its sha256. The manifest's own
sha256 is the checkpoint's.
The base is known by the configuration of its transformer and by the hash of its weights' index, or
of the weights where they
are one file; the tensors of a base in several files are not hashed one by one.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, ValidationError

from harope_bench.core.errors import MissingExtraError, StorageError, WeightsError
from harope_bench.core.json_file import parse_json
from harope_bench.core.record_base import (
    NAME_PATTERN,
    FileRecord,
    Name,
    Option,
    Record,
    validation_summary,
)
from harope_bench.core.regular_file import JSON_BYTES, read_regular
from harope_bench.core.schema import Checkpoint
from harope_bench.core.state_dicts import (
    INDEX_SUFFIX,
    check_sha256,
    weight_shard_paths,
    weights_header,
)
from harope_bench.core.storage import first_line, sha256_file
from harope_bench.core.text_file import read_text

MANIFEST = "manifest.json"
PIPELINE_INDEX = "model_index.json"
# as this package names them
LORA_FILE = "lora.safetensors"
ENCODING_FILE = "encoding.safetensors"
LIBRARY_LORA = "pytorch_lora_weights.safetensors"  # as diffusers does
# In the keys of every tool's LoRA, and of the forms that are rejected by their names
# (models/backbones/lora_names.py).
LORA_KEY_PATTERN = re.compile(
    r"lora\d*[._](A|B|down|up|mid)\.|lokr_|hada_|dora_scale|lora_magnitude|\b(b?oft|ia3)_|vera_lambda"
)
ALLOWED_LIBRARIES = {
    "diffusers",
    "transformers",
}  # whose classes a base may name; anything else could run code of the folder
INDEX_FILE = "diffusion_pytorch_model.safetensors.index.json"
SINGLE_FILE = "diffusion_pytorch_model.safetensors"
LibraryConfig = dict[str, Any]  # Any: JSON of diffusers or peft, whose values they alone know
Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class AdapterBase(Record):
    """The model that an adapter belongs to. `config` is its transformer's, `weights_sha256` of the
    index or the one file.
    """

    id: str
    revision: str | None = None
    config: LibraryConfig
    weights_sha256: Hash | None = None


class LoraSpec(Record):
    """What is needed to attach the low-rank weights.

    targets: ends of the names of the layers, or their names in full where `exact`. ranks, alphas:
    of layers, by their names in full,
    where they are others than the common ones.
    """

    file: Name
    rank: int = Field(gt=0)
    alpha: int | float = Field(gt=0)
    targets: tuple[str, ...]
    has_full_names: bool = False
    layer_ranks: dict[str, int] = {}
    layer_alphas: dict[str, float] = {}


class AdapterManifest(FileRecord):
    """All that an adapter folder says of itself. `tokens`: which tokens the encoding acts on."""

    kind = "adapter"

    backbone: Name
    base: AdapterBase
    encoding: Name
    options: dict[str, Option] = {}
    encoded_tokens: Literal["all", "image"] = "all"
    encoding_file: Name | None = None
    lora: LoraSpec | None = None
    files: dict[Name, Hash] = {}
    training: dict[str, Option] = {}


def read_manifest(path: Path) -> AdapterManifest:
    """The manifest of that file.

    Raises:
        WeightsError: not there, no JSON, a field that is wrong, or a file name that is none.
        FormatError: another version of this package wrote it.
    """
    try:
        data = read_regular(path, JSON_BYTES)
    except OSError as error:
        raise WeightsError(
            f"{path} cannot be read ({error.strerror})",
            advice=f"give the adapter folder or its {MANIFEST}",
        ) from error
    try:
        return AdapterManifest.from_json(data, path)
    except (StorageError, ValueError) as error:
        why = validation_summary(error) if isinstance(error, ValidationError) else first_line(error)
        raise WeightsError(
            f"{path} is no adapter manifest: {why}", advice="write it again"
        ) from error


def checked_file(path: Path, manifest: AdapterManifest, name: str) -> Path:
    """A file of the folder, its hash checked; WeightsError if the manifest does not list it or it
    was altered.
    """
    if name not in manifest.files:
        raise WeightsError(
            f"{path} names {name} without its sha256", advice="write the manifest again"
        )
    found = path.parent / name
    check_sha256(found, manifest.files[name])
    return found


def find_manifest_or_pipeline(weights: Path) -> Path | None:
    """The manifest of an adapter folder, or the folder of a whole pipeline; None for anything else,
    such as a file of weights.
    """
    if weights.name == MANIFEST:
        return weights
    if (weights / MANIFEST).is_file():
        return weights / MANIFEST
    return weights if (weights / PIPELINE_INDEX).is_file() else None


class LoraFiles(NamedTuple):
    """A LoRA file without manifest, and the file of its encoding's weights if there is one."""

    lora_file: Path
    encoding_file: Path | None


def find_lora_files(weights: Path, encoding: Path | None = None) -> LoraFiles | None:
    """The LoRA that a file is, or that a folder holds under diffusers' name for it, else as its
    only one; None for another file.

    Args:
        encoding: its encoding's weights; if left out the encoding.safetensors beside it, where that
            is.

    Raises:
        WeightsError: a folder with no LoRA or with several.
    """
    if not weights.is_dir() and not is_lora_file(weights):
        return None
    lora = _find_lora_file(weights) if weights.is_dir() else weights
    beside = (weights if weights.is_dir() else weights.parent) / ENCODING_FILE
    return LoraFiles(lora, encoding or (beside if beside.is_file() else None))


def is_lora_file(path: Path) -> bool:
    """Whether the keys of this .safetensors file are those of a LoRA."""
    return any(LORA_KEY_PATTERN.search(key) for key in weights_header(path))


def _find_lora_file(folder: Path) -> Path:
    if (folder / LIBRARY_LORA).is_file():
        return folder / LIBRARY_LORA
    found = [path for path in sorted(folder.glob("*.safetensors")) if is_lora_file(path)]
    if len(found) != 1:
        number = ", ".join(path.name for path in found) or "no LoRA"
        raise WeightsError(
            f"{folder} holds no {MANIFEST}, no {PIPELINE_INDEX}, no {LIBRARY_LORA}, but {number}",
            advice="give one file or such a folder",
        )
    return found[0]


def find_base_folder(base: str) -> Path:
    """Where a base lies: that folder, or the local copy of that hub id. Nothing is downloaded.

    Raises:
        WeightsError: neither. MissingExtra: a hub id, and no library that knows the local copies.
    """
    folder = Path(base).expanduser()
    if folder.is_dir():
        return folder
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
    except ImportError as error:
        raise MissingExtraError(
            f"{base} is no folder, and hub ids need huggingface-hub",
            advice="pip install 'harope-bench[t2i]'",
        ) from error
    try:
        return Path(snapshot_download(base, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError) as error:
        raise WeightsError(
            f"base {base} is no folder and not in the local hub cache",
            advice="--config base=FOLDER says where it lies",
        ) from error


def base_name(base: str) -> str:
    """Return the name of a base: its hub id, or of a folder the last part of its path, or the id
    whose local copy it is.
    """
    folder = Path(base).expanduser()
    if not folder.is_dir():
        return base
    folder = folder.resolve()
    return folder.parent.parent.name if folder.parent.name == "snapshots" else folder.name


def transformer_config(folder: Path) -> LibraryConfig:
    """The configuration of a base's transformer, without what the library notes for itself."""
    return component_config(folder, "transformer")


def component_config(folder: Path, part: str) -> LibraryConfig:
    """The configuration of a part of a pipeline's folder, without what the library notes for
    itself.
    """
    return {
        key: value
        for key, value in _read_json_object(folder / part / "config.json").items()
        if not key.startswith("_")
    }


def scheduler_config(folder: Path) -> LibraryConfig:
    """Return the configuration of a base's scheduler."""
    return _read_json_object(folder / "scheduler" / "scheduler_config.json")


def describe_base(folder: Path, name: str) -> AdapterBase:
    """What a manifest records of the base in this folder."""
    parts = [
        file
        for file in (folder / "transformer" / INDEX_FILE, folder / "transformer" / SINGLE_FILE)
        if file.is_file()
    ]
    revision = (
        folder.name if folder.parent.name == "snapshots" else None
    )  # how the local hub cache keeps commits
    return AdapterBase(
        id=name,
        revision=revision,
        config=transformer_config(folder),
        weights_sha256=sha256_file(parts[0]) if parts else None,
    )


def check_base(wanted: AdapterBase, folder: Path) -> None:
    """WeightsError unless the folder holds the base that the adapter was made for; its first
    difference is named.
    """
    found = describe_base(folder, wanted.id)
    for key in sorted(wanted.config.keys() | found.config.keys()):
        if wanted.config.get(key) != found.config.get(key):
            raise WeightsError(
                f"the adapter was made for {wanted.id} with {key} = {wanted.config.get(key)},"
                f" {folder} has {found.config.get(key)}",
                advice="--config base=FOLDER names its own base",
            )
    if wanted.weights_sha256 not in (None, found.weights_sha256):
        raise WeightsError(
            f"the adapter was made for {wanted.id}, {folder} has the same sizes but other weights",
            advice="--config base=FOLDER names its own base",
        )


def load_matching_manifest(
    path: Path, checkpoint: Checkpoint, base: str, tokens: str
) -> tuple[AdapterManifest, Path]:
    """The manifest and the base's folder; WeightsError unless they are those of the checkpoint and
    of each other.
    """
    manifest = read_manifest(path)
    folder = find_base_folder(base)
    known = (manifest.backbone, manifest.encoding, manifest.encoded_tokens)
    if (
        known != (checkpoint.backbone, checkpoint.encoding, tokens)
        or not manifest.options.items() <= checkpoint.options.items()
    ):
        raise WeightsError(
            f"{path} is of {' '.join(known)} {manifest.options}, checkpoint {checkpoint.name} of"
            " another",
            advice="register it again",
        )
    check_base(manifest.base, folder)
    return manifest, folder


def check_adapter(path: Path, checkpoint: Checkpoint) -> None:
    """WeightsError unless every file of the folder and the base are there and unaltered."""
    manifest = read_manifest(path)
    for name in manifest.files:
        checked_file(path, manifest, name)
    load_matching_manifest(
        path,
        checkpoint,
        str(checkpoint.config.get("base", manifest.base.id)),
        str(checkpoint.config.get("tokens", "all")),
    )


COMPONENT_WEIGHTS = {
    "transformer": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
}  # else "model"


def check_base_loads(folder: Path, replaced: Collection[str] = ()) -> None:
    """Raise WeightsError for a base that is registered but would not load: one line says which part
    and why.

    Quantised parts, parts of another variant (fp16) alone, of .bin files alone, or with missing
    shards.

    Args:
        replaced: Parts whose weights come from elsewhere.
    """
    for part, named in _read_json_object(folder / PIPELINE_INDEX).items():
        is_model = _library_name(named) in ALLOWED_LIBRARIES
        if (
            is_model
            and part not in replaced
            and (part in COMPONENT_WEIGHTS or part.startswith("text_encoder"))
        ):
            _check_component(folder, part)


def _check_component(folder: Path, part: str) -> None:
    if not NAME_PATTERN.fullmatch(part):
        raise WeightsError(
            f"{folder / PIPELINE_INDEX} names the part {part!r}, wanted a plain name",
            advice="copy the whole base",
        )
    stem = COMPONENT_WEIGHTS.get(part, "model")
    inside = folder / part
    if quantised := component_config(folder, part).get("quantization_config"):
        how = (
            quantised.get("quant_method", "some method")
            if isinstance(quantised, dict)
            else "some method"
        )
        raise WeightsError(
            f"{inside} is quantised ({how!r}), which is not loaded here",
            advice="give the base in its full precision",
        )
    index = inside / f"{stem}{INDEX_SUFFIX}"
    if index.is_file():
        weight_shard_paths(index)
        return
    if (inside / f"{stem}.safetensors").is_file():
        return
    variants = (
        sorted(path.name for path in inside.glob(f"{stem}.*.safetensors*"))
        if inside.is_dir()
        else []
    )
    if variants:
        variant = variants[0].removeprefix(f"{stem}.").split(".")[0]
        raise WeightsError(
            f"{inside} holds the variant {variant!r} alone ({variants[0]})",
            advice="save the base without variant",
        )
    if inside.is_dir() and list(inside.glob("*.bin")):
        raise WeightsError(
            f"{inside} holds .bin files alone, which are not opened",
            advice="save the base as .safetensors",
        )
    raise WeightsError(f"{inside} holds no {stem}.safetensors", advice="copy the whole base")


def pipeline_class_name(folder: Path) -> str:
    """The name of a pipeline folder's class; WeightsError if any part is of another library than
    diffusers or transformers.
    """
    index = _read_json_object(folder / PIPELINE_INDEX)
    for part, named in index.items():
        if (
            isinstance(named, list)
            and named != [None, None]
            and _library_name(named) not in ALLOWED_LIBRARIES
        ):
            raise WeightsError(
                f"{folder / PIPELINE_INDEX} wants {part} from {_library_name(named)}, which could"
                " run code",
                advice=f"only {', '.join(sorted(ALLOWED_LIBRARIES))} load",
            )
    return str(index.get("_class_name"))


def _library_name(named: object) -> str | None:
    """Return the library that a part of a pipeline's index names with a class; None where it is no
    such pair of texts.
    """
    is_pair = (
        isinstance(named, list) and len(named) == 2 and all(isinstance(text, str) for text in named)
    )
    return named[0] if isinstance(named, list) and is_pair else None


def _read_json_object(path: Path) -> LibraryConfig:
    try:
        found = parse_json(read_text(path))
    except (StorageError, ValueError) as error:
        raise WeightsError(
            f"{path} is not readable JSON ({error})", advice="give the folder of a whole pipeline"
        ) from error
    if not isinstance(found, dict):
        raise WeightsError(
            f"{path} is no JSON object", advice="give the folder of a whole pipeline"
        )
    return found
