"""Adapter folders: LoRA and encoding weights, with the base model that they were trained on.

A folder contains manifest.json and the files that it lists, each with its sha256. The sha256 of
the manifest is that of the checkpoint. The base model is identified by the configuration of its
transformer and by the hash of its weights' index, or of the weights if they are one file. The
tensors of a base model in several files are not hashed.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, ValidationError

from harope_bench.assets.hub import find_snapshot, parse_model_id
from harope_bench.core.errors import StorageError, WeightsError
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
# File names of this package's adapter folders, and diffusers' name of a LoRA file.
LORA_FILE = "lora.safetensors"
ENCODING_FILE = "encoding.safetensors"
DIFFUSERS_LORA = "pytorch_lora_weights.safetensors"

# Matches keys of LoRA files of all tools, and of formats that models/backbones/lora_names.py
# rejects.
LORA_KEY_PATTERN = re.compile(
    r"lora\d*[._](A|B|down|up|mid)\.|lokr_|hada_|dora_scale|lora_magnitude|\b(b?oft|ia3)_|vera_lambda"
)
# Libraries whose classes a base model may name; others could run code of the folder.
ALLOWED_LIBRARIES = {"diffusers", "transformers"}
INDEX_FILE = "diffusion_pytorch_model.safetensors.index.json"
SINGLE_FILE = "diffusion_pytorch_model.safetensors"
# Any: JSON of diffusers or peft, whose values these libraries alone know.
LibraryConfig = dict[str, Any]
Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class AdapterBase(Record):
    """The base model that an adapter was trained on.

    Attributes:
        id: Hub id or name of the folder.
        revision: Commit of the hub, if it is known.
        config: Configuration of the transformer.
        weights_sha256: Hash of the weights' index, or of the one weights file.
    """

    id: str
    revision: str | None = None
    config: LibraryConfig
    weights_sha256: Hash | None = None


class LoraSpec(Record):
    """Everything that is needed to attach low-rank weights to a transformer.

    Attributes:
        file: Name of the weights file.
        rank, alpha: The values of most layers.
        targets: Ends of the layers' names, or full names where `has_full_names` is set.
        layer_ranks, layer_alphas: By full layer name, values that differ from `rank` and `alpha`.
    """

    file: Name
    rank: int = Field(gt=0)
    alpha: int | float = Field(gt=0)
    targets: tuple[str, ...]
    has_full_names: bool = False
    layer_ranks: dict[str, int] = {}
    layer_alphas: dict[str, float] = {}


class AdapterManifest(FileRecord):
    """The manifest of an adapter folder.

    Attributes:
        backbone, base: Backbone and base model that the adapter belongs to.
        encoding, options: Positional encoding and its options.
        encoded_tokens: Tokens that the encoding acts on.
        encoding_file: File of the encoding's weights; None for an encoding without weights.
        lora: The LoRA; None if there is none.
        files: sha256 of each file, by name.
        training: Facts of the training.
    """

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
    """Return the manifest in a file.

    Raises:
        WeightsError: The file is missing or no JSON, a field is wrong, or a file name is unsafe.
        FormatError: Another version of this package wrote it.
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
    except ValidationError as error:
        reason = validation_summary(error)
        cause: Exception = error
    except (StorageError, ValueError) as error:
        reason = first_line(error)
        cause = error
    raise WeightsError(
        f"{path} is no adapter manifest: {reason}", advice="write it again"
    ) from cause


def verify_adapter_file(path: Path, manifest: AdapterManifest, name: str) -> Path:
    """Return the path of a file in an adapter folder, after checking its hash.

    Args:
        path: The manifest's path.

    Raises:
        WeightsError: The manifest does not list the file, or the file was altered.
    """
    if name not in manifest.files:
        raise WeightsError(
            f"{path} names {name} without its sha256", advice="write the manifest again"
        )
    file_path = path.parent / name
    check_sha256(file_path, manifest.files[name])
    return file_path


def find_manifest_or_pipeline(weights_path: Path) -> Path | None:
    """Return the manifest of an adapter folder, or the folder of a whole pipeline.

    Returns:
        None for anything else, such as a file of weights.
    """
    if weights_path.name == MANIFEST:
        return weights_path
    if (weights_path / MANIFEST).is_file():
        return weights_path / MANIFEST
    if (weights_path / PIPELINE_INDEX).is_file():
        return weights_path
    return None


class LoraFiles(NamedTuple):
    """A LoRA file without manifest, and the file of its encoding's weights if there is one."""

    lora_file: Path
    encoding_file: Path | None


def find_lora_files(weights_path: Path, encoding_path: Path | None = None) -> LoraFiles | None:
    """Return the LoRA without manifest at a path; None for a file of something else.

    In a folder this is the file with diffusers' name, else the only LoRA file.

    Args:
        encoding: File of the encoding's weights. If left out, it is the encoding.safetensors in
            the same folder, if there is one.

    Raises:
        WeightsError: A folder contains no LoRA, or several.
    """
    is_folder = weights_path.is_dir()
    if not is_folder and not is_lora_file(weights_path):
        return None

    folder = weights_path if is_folder else weights_path.parent
    lora_file = _find_lora_file(folder) if is_folder else weights_path
    if encoding_path is None and (folder / ENCODING_FILE).is_file():
        encoding_path = folder / ENCODING_FILE
    return LoraFiles(lora_file, encoding_path)


def is_lora_file(path: Path) -> bool:
    """Return whether the keys of a .safetensors file are those of a LoRA."""
    return any(LORA_KEY_PATTERN.search(key) for key in weights_header(path))


def _find_lora_file(folder: Path) -> Path:
    """Return the LoRA file in a folder: the one named as diffusers names it, or the only one.

    Raises:
        WeightsError: No file has diffusers' name, and there is none or several.
    """
    if (folder / DIFFUSERS_LORA).is_file():
        return folder / DIFFUSERS_LORA
    lora_paths = [path for path in sorted(folder.glob("*.safetensors")) if is_lora_file(path)]
    if len(lora_paths) != 1:
        names = ", ".join(path.name for path in lora_paths) or "no LoRA"
        raise WeightsError(
            f"wanted a {MANIFEST}, {PIPELINE_INDEX}, {DIFFUSERS_LORA} or one LoRA file in {folder},"
            f" found {names}",
            advice="give one file or such a folder",
        )
    return lora_paths[0]


def find_base_folder(base: str) -> Path:
    """Return the folder of a base model: the folder itself, or the local copy of a hub id.

    Nothing is downloaded.

    Raises:
        WeightsError: There is neither.
        MissingExtraError: The base is a hub id, and huggingface-hub is not installed.
    """
    folder = Path(base).expanduser()
    if folder.is_dir():
        return folder
    model = parse_model_id(base)
    snapshot = None if model is None else find_snapshot(model)
    if snapshot is None:
        raise WeightsError(
            f"base {base} is no folder and is not in the local hub cache",
            advice="give its folder by --config base=FOLDER",
        )
    return snapshot


def base_name(base: str) -> str:
    """Return the name of a base model.

    This is its hub id, the hub id whose local copy a folder is, or the folder's name.
    """
    folder = Path(base).expanduser()
    if not folder.is_dir():
        return base
    folder = folder.resolve()
    if folder.parent.name == "snapshots":  # models--OWNER--NAME/snapshots/COMMIT
        return folder.parent.parent.name
    return folder.name


def transformer_config(folder: Path) -> LibraryConfig:
    """Return the configuration of a base model's transformer, without the library's own entries."""
    return component_config(folder, "transformer")


def component_config(folder: Path, component: str) -> LibraryConfig:
    """Return the configuration of a pipeline's component, without the library's own entries."""
    config = read_json_object(folder / component / "config.json")
    return {key: value for key, value in config.items() if not key.startswith("_")}


def scheduler_config(folder: Path) -> LibraryConfig:
    """Return the configuration of a base model's scheduler."""
    return read_json_object(folder / "scheduler" / "scheduler_config.json")


def describe_base(folder: Path, name: str) -> AdapterBase:
    """Return the manifest's record of the base model in a folder."""
    index_path = folder / "transformer" / INDEX_FILE
    single_path = folder / "transformer" / SINGLE_FILE
    weights_sha256 = None
    if index_path.is_file():
        weights_sha256 = sha256_file(index_path)
    elif single_path.is_file():
        weights_sha256 = sha256_file(single_path)

    # The local hub cache names the folder of a snapshot by its commit.
    revision = folder.name if folder.parent.name == "snapshots" else None
    return AdapterBase(
        id=name,
        revision=revision,
        config=transformer_config(folder),
        weights_sha256=weights_sha256,
    )


def check_base(base: AdapterBase, folder: Path) -> None:
    """Raise WeightsError unless a folder contains the base model that an adapter was trained on.

    The message names the first difference.
    """
    folder_base = describe_base(folder, base.id)
    for key in sorted(base.config.keys() | folder_base.config.keys()):
        if base.config.get(key) != folder_base.config.get(key):
            raise WeightsError(
                f"the adapter was trained on {base.id} with {key} = {base.config.get(key)},"
                f" {folder} has {folder_base.config.get(key)}",
                advice="give the adapter's own base by --config base=FOLDER",
            )
    if base.weights_sha256 not in (None, folder_base.weights_sha256):
        raise WeightsError(
            f"the adapter was trained on {base.id}, {folder} has the same sizes but other weights",
            advice="give the adapter's own base by --config base=FOLDER",
        )


def load_matching_manifest(
    path: Path, checkpoint: Checkpoint, base: str, encoded_tokens: str
) -> tuple[AdapterManifest, Path]:
    """Return a manifest and the folder of its base model, after checking that both fit.

    Args:
        path: The manifest's path.
        checkpoint: The registered checkpoint of the adapter.
        base: Folder or hub id of the base model.
        encoded_tokens: Which tokens the checkpoint's encoding acts on: "all", or "image" alone.

    Raises:
        WeightsError: The manifest does not belong to the checkpoint or to the base model.
    """
    manifest = read_manifest(path)
    folder = find_base_folder(base)
    manifest_fields = (manifest.backbone, manifest.encoding, manifest.encoded_tokens)
    checkpoint_fields = (checkpoint.backbone, checkpoint.encoding, encoded_tokens)
    has_options = manifest.options.items() <= checkpoint.options.items()
    if manifest_fields != checkpoint_fields or not has_options:
        raise WeightsError(
            f"{path} is of {' '.join(manifest_fields)} {manifest.options}, checkpoint"
            f" {checkpoint.name} is of {' '.join(checkpoint_fields)} {checkpoint.options}",
            advice="register it again",
        )
    check_base(manifest.base, folder)
    return manifest, folder


def check_adapter(path: Path, checkpoint: Checkpoint) -> None:
    """Raise WeightsError if a file of an adapter folder or its base model was altered.

    Args:
        path: The manifest's path.
        checkpoint: The registered checkpoint of the adapter.
    """
    manifest = read_manifest(path)
    for name in manifest.files:
        verify_adapter_file(path, manifest, name)

    # This raises WeightsError if the base model on this machine is not the recorded one.
    load_matching_manifest(
        path,
        checkpoint,
        str(checkpoint.config.get("base", manifest.base.id)),
        str(checkpoint.config.get("encoded_tokens", "all")),
    )


# Stem of the weights file of a component; that of other components is "model".
COMPONENT_WEIGHTS = {"transformer": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model"}


def check_base_loads(folder: Path, replaced_components: Collection[str] = ()) -> None:
    """Raise WeightsError for a base model that would not load; the message names the component.

    Rejected are components that are quantised, that have only weights of a variant (fp16) or only
    .bin files, or that miss a shard.

    Args:
        replaced_components: Components whose weights come from elsewhere.
    """
    for component, entry in read_json_object(folder / PIPELINE_INDEX).items():
        has_model = component in COMPONENT_WEIGHTS or component.startswith("text_encoder")
        is_loaded = component not in replaced_components
        if has_model and is_loaded and _library_name(entry) in ALLOWED_LIBRARIES:
            _check_component(folder, component)


def _check_component(folder: Path, component: str) -> None:
    """Raise WeightsError unless a component has .safetensors weights in full precision."""
    if not NAME_PATTERN.fullmatch(component):
        raise WeightsError(
            f"{folder / PIPELINE_INDEX} names the component {component!r}, wanted a plain name",
            advice="copy the whole base",
        )
    component_folder = folder / component
    quantization = component_config(folder, component).get("quantization_config")
    if quantization:
        method = "some method"
        if isinstance(quantization, dict):
            method = quantization.get("quant_method", method)
        raise WeightsError(
            f"{component_folder} is quantised ({method!r}), which is not supported",
            advice="give the base in its full precision",
        )

    check_component_weights(component_folder, COMPONENT_WEIGHTS.get(component, "model"))


def check_component_weights(component_folder: Path, stem: str) -> None:
    """Raise WeightsError unless a component has its weights as .safetensors, without variant.

    Args:
        stem: Stem of the weights file, or of its index.
    """
    index = component_folder / f"{stem}{INDEX_SUFFIX}"
    if index.is_file():
        weight_shard_paths(index)
    elif not (component_folder / f"{stem}.safetensors").is_file():
        raise _missing_weights_error(component_folder, stem)


def _missing_weights_error(component_folder: Path, stem: str) -> WeightsError:
    """Return the error for a component without STEM.safetensors; it names the files there are."""
    variant_names = sorted(path.name for path in component_folder.glob(f"{stem}.*.safetensors*"))
    if variant_names:
        variant = variant_names[0].removeprefix(f"{stem}.").split(".")[0]
        return WeightsError(
            f"{component_folder} has only the variant {variant!r} ({variant_names[0]})",
            advice="save the base without variant",
        )
    if list(component_folder.glob("*.bin")):
        return WeightsError(
            f"{component_folder} has only .bin files, which are not supported",
            advice="save the base as .safetensors",
        )
    return WeightsError(
        f"{component_folder} has no {stem}.safetensors", advice="copy the whole base"
    )


def pipeline_class_name(folder: Path) -> str:
    """Return the class name of the pipeline in a folder.

    Raises:
        WeightsError: A component is of another library than diffusers or transformers.
    """
    index = read_json_object(folder / PIPELINE_INDEX)
    for component, entry in index.items():
        is_component = isinstance(entry, list) and entry != [None, None]
        if is_component and _library_name(entry) not in ALLOWED_LIBRARIES:
            raise WeightsError(
                f"{folder / PIPELINE_INDEX} wants {component} from {_library_name(entry)}, which"
                " could run code",
                advice=f"only {', '.join(sorted(ALLOWED_LIBRARIES))} load",
            )
    return str(index.get("_class_name"))


def _library_name(entry: object) -> str | None:
    """Return the library of an entry [library, class] in a pipeline's index; None for others."""
    if not isinstance(entry, list) or len(entry) != 2:
        return None
    if not all(isinstance(text, str) for text in entry):
        return None
    library: str = entry[0]
    return library


def read_json_object(path: Path) -> LibraryConfig:
    """Return the JSON object in a file of a pipeline's folder; WeightsError for other content."""
    try:
        json_object = parse_json(read_text(path))
    except (StorageError, ValueError) as error:
        raise WeightsError(
            f"{path} is not readable JSON ({error})", advice="give the folder of a whole pipeline"
        ) from error
    if not isinstance(json_object, dict):
        raise WeightsError(
            f"{path} is no JSON object", advice="give the folder of a whole pipeline"
        )
    return json_object
