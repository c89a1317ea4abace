"""The manifest of a pipeline of diffusers that is run as it is: its class and its files' hashes.

`register` writes the manifest into the user's home. Its sha256 is that of the checkpoint, so it
identifies every byte that the pipeline reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from harope_bench.core.errors import StorageError, WeightsError
from harope_bench.core.record_base import FileRecord, Name, Record, validation_summary
from harope_bench.core.regular_file import JSON_BYTES, read_regular
from harope_bench.core.schema import Checkpoint
from harope_bench.core.state_dicts import INDEX_SUFFIX
from harope_bench.core.storage import convert_os_errors, file_stamp, first_line, sha256_file
from harope_bench.models import lora_manifest
from harope_bench.models.lora_manifest import PIPELINE_INDEX

MODULAR_INDEX = "modular_model_index.json"  # of a modular pipeline, which is not supported
BACKBONE = "diffusers"  # the backbone that runs such pipelines
# Configurations, tokenizers and chat templates. Weights are .safetensors.
TEXT_SUFFIXES = frozenset({".json", ".txt", ".model", ".jinja"})
WEIGHTS_SUFFIX = ".safetensors"


class PipelineFile(Record):
    """Hash and size of a file of a pipeline."""

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    bytes: int = Field(ge=0)


class PipelineManifest(FileRecord):
    """Everything that identifies a pipeline.

    Attributes:
        id: Hub id, or the name of the folder.
        revision: Commit of the hub, if it is known.
        pipeline_class: Name of the library's class.
        files: The files that are read, by their path in the folder.
    """

    kind = "pipeline"

    id: str
    revision: str | None = None
    pipeline_class: Name
    files: dict[str, PipelineFile]


def read_pipeline_manifest(path: Path) -> PipelineManifest:
    """Return the manifest in a file.

    Raises:
        WeightsError: The file is missing or is no such manifest.
        FormatError: Another version of this package wrote it.
    """
    with convert_os_errors(path):
        data = read_regular(path, JSON_BYTES)
    try:
        return PipelineManifest.from_json(data, path)
    except ValidationError as error:
        reason = validation_summary(error)
        cause: Exception = error
    except (StorageError, ValueError) as error:
        reason = first_line(error)
        cause = error
    raise WeightsError(
        f"{path} is no pipeline manifest: {reason}", advice="register the pipeline again"
    ) from cause


def describe_pipeline(folder: Path, name: str, pipeline_class: str) -> PipelineManifest:
    """Return the manifest of a pipeline's folder; every file is hashed.

    Args:
        name: Hub id, or the name of the folder.
    """
    files = {
        path.relative_to(folder).as_posix(): PipelineFile(
            sha256=cached_sha256(path), bytes=path.stat().st_size
        )
        for path in pipeline_files(folder)
    }
    # The local hub cache names the folder of a snapshot by its commit.
    revision = folder.name if folder.parent.name == "snapshots" else None
    return PipelineManifest(id=name, revision=revision, pipeline_class=pipeline_class, files=files)


def pipeline_files(folder: Path) -> Iterator[Path]:
    """Yield the files that a pipeline reads: those of its components, without variants.

    Raises:
        WeightsError: The folder has no readable index.
        StorageError: The folder of a component cannot be listed.
    """
    index = lora_manifest.read_json_object(folder / PIPELINE_INDEX)
    yield folder / PIPELINE_INDEX
    for component, entry in sorted(index.items()):
        component_folder = folder / component
        if not isinstance(entry, list):
            continue
        with convert_os_errors(component_folder):
            paths = sorted(component_folder.iterdir()) if component_folder.is_dir() else []
            paths = [path for path in paths if path.is_file() and _is_read(path)]
        yield from paths


def _is_read(path: Path) -> bool:
    """Return whether a component reads a file; weights of a variant have a dot in their stem."""
    if path.suffix == WEIGHTS_SUFFIX:
        return "." not in path.stem
    if path.name.endswith(INDEX_SUFFIX):
        return "." not in path.name.removesuffix(INDEX_SUFFIX)
    return path.suffix in TEXT_SUFFIXES


def cached_sha256(path: Path) -> str:
    """Return the hex sha256 of a file; it is computed once for its time of change and size."""
    return _sha256_of_stamp(path.resolve(), file_stamp(path))


@lru_cache(maxsize=4096)
def _sha256_of_stamp(path: Path, stamp: tuple[int, int] | None) -> str:
    return sha256_file(path)


def check_pipeline_files(path: Path, checkpoint: Checkpoint, has_hashes: bool = False) -> Path:
    """Return the folder of a registered pipeline, after comparing its files with its manifest.

    Args:
        path: The manifest's path.
        has_hashes: Whether the hashes are compared, or the sizes alone.

    Raises:
        WeightsError: The folder or a file is missing, or was altered.
    """
    manifest = read_pipeline_manifest(path)
    folder = lora_manifest.find_base_folder(str(checkpoint.config.get("base", manifest.id)))
    for name, expected_file in manifest.files.items():
        file_path = folder / name
        stamp = file_stamp(file_path)
        problem = None
        if stamp is None:
            problem = "is missing"
        elif stamp[1] != expected_file.bytes:
            problem = f"has {stamp[1]:,} bytes, was registered with {expected_file.bytes:,}"
        elif has_hashes and cached_sha256(file_path) != expected_file.sha256:
            problem = "has other bytes than when it was registered"
        if problem:
            raise WeightsError(
                f"{file_path} {problem}",
                advice=f"bring the file back, or register {checkpoint.name} again",
            )
    return folder


def check_manifest(path: Path, checkpoint: Checkpoint) -> None:
    """Raise WeightsError if files of a checkpoint with a manifest are missing or altered.

    Of a pipeline that is run as it is, sizes are compared; its hashes are checked when it loads.
    """
    if checkpoint.backbone == BACKBONE:
        check_pipeline_files(path, checkpoint)
    else:
        lora_manifest.check_adapter(path, checkpoint)
