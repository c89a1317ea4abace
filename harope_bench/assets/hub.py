"""Models of the Hugging Face Hub: their ids, their local copies, and their download.

Copies are in the library's own cache. Only `fetch_model` uses the network. It records the commit
that it downloaded, and `find_snapshot` then finds that commit without a network.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from harope_bench.core.errors import FetchError, MissingAssetError, MissingExtraError
from harope_bench.core.formats import parse_versioned_json, versioned_json_text
from harope_bench.core.storage import (
    convert_os_errors,
    first_line,
    home,
    read_if_present,
    write_text,
)

PREFIX = "hub:"  # how `fetch` tells a model of the hub from an asset
COMMIT = re.compile(r"[0-9a-f]{40}")
MODEL_ID = re.compile(
    r"([A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})(?:@([A-Za-z0-9][\w./-]{0,99}))?", re.ASCII
)
# A path with one of these endings is a file that is missing, not the id of a model.
FILE_SUFFIXES = frozenset(
    {".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".npz", ".json", ".jsonl", ".toml", ".csv"}
)
PIPELINE_INDEX = "model_index.json"
# Files of a pipeline that are read: configurations, tokenizers and weights as .safetensors.
PIPELINE_FILES = (
    PIPELINE_INDEX,
    "*/*.json",
    "*/*.txt",
    "*/*.model",
    "*/*.jinja",
    "*/*.safetensors",
)
# Files of a repository without pipeline: a LoRA, or one network.
MODEL_FILES = ("*.json", "*.safetensors")
# Weights of a variant ("model.fp16.safetensors", "model.fp16-00001-of-00002.safetensors") are not
# read. The names of full weights have no dot, and those of shards no other suffix.
VARIANT_FILES = ("*.fp16.*", "*.bf16.*", "*.fp16-*", "*.bf16-*", "*.non_ema.*", "*.non_ema-*")


class ModelId(NamedTuple):
    """The id of a model on the hub, and a branch, tag or commit if one is stated."""

    repository: str
    revision: str | None = None

    def __str__(self) -> str:
        """Return the id as it is written: owner/name or owner/name@revision."""
        return self.repository if self.revision is None else f"{self.repository}@{self.revision}"


class FetchedModel(NamedTuple):
    """The local copy of a model.

    Attributes:
        folder: Its folder in the hub's cache, named by the commit.
        commit: The commit.
        n_files: Number of its files.
        n_bytes: Size of its files.
    """

    folder: Path
    commit: str
    n_files: int
    n_bytes: int


def parse_model_id(text: str) -> ModelId | None:
    """Return the model that a text names; None for a text that is none, such as a file's path."""
    match = MODEL_ID.fullmatch(text)
    if match is None or ".." in text or Path(match[1]).suffix in FILE_SUFFIXES:
        return None
    return ModelId(match[1], match[2])


def find_snapshot(model: ModelId) -> Path | None:
    """Return the folder of a model's local copy; None if there is none. Nothing is downloaded.

    Without a revision, it is the commit that `fetch` brought last, otherwise that of `main`.

    Raises:
        MissingExtraError: huggingface-hub is not installed.
    """
    folder = _cache_folder() / f"models--{model.repository.replace('/', '--')}"
    revision = model.revision or _recorded_commit(model.repository) or "main"
    reference = read_if_present(folder / "refs" / revision)
    commit = revision if reference is None else reference.decode("utf-8", "replace").strip()
    snapshot = folder / "snapshots" / commit
    return snapshot if COMMIT.fullmatch(commit) and snapshot.is_dir() else None


def require_snapshot(model: ModelId) -> Path:
    """Return the folder of a model's local copy.

    Raises:
        MissingAssetError: There is none; the message states the command that downloads it.
        MissingExtraError: huggingface-hub is not installed.
    """
    snapshot = find_snapshot(model)
    if snapshot is None:
        raise MissingAssetError(
            f"{model} is no path, and no model of that id is in the local Hugging Face cache",
            advice=f"harope-bench fetch {PREFIX}{model}",
        )
    return snapshot


def _cache_folder() -> Path:
    """Return the folder of the hub's cache, as the library's environment variables set it."""
    try:
        from huggingface_hub import constants
    except ImportError as error:
        raise MissingExtraError(
            "models of the Hugging Face Hub need huggingface-hub",
            advice="pip install 'harope-bench[t2i]'",
        ) from error
    return Path(constants.HF_HUB_CACHE)


def _record_path(repository: str) -> Path:
    return home() / "hub" / f"{repository.replace('/', '--')}.json"


def _recorded_commit(repository: str) -> str | None:
    """Return the commit that `fetch` recorded; None without a record."""
    path = _record_path(repository)
    data = read_if_present(path)
    if data is None:
        return None
    try:
        commit = parse_versioned_json("receipt", data, path).get("commit")
    except ValueError:
        return None
    return commit if isinstance(commit, str) else None


# --------------------------------------------------------------------------------------- download


def fetch_model(text: str) -> FetchedModel:
    """Download a model into the hub's cache, and record its commit.

    A pipeline's configurations, tokenizers and .safetensors weights are downloaded. The library
    resumes an interrupted download.

    Args:
        text: owner/name or owner/name@revision.

    Raises:
        FetchError: There is no such model, it has no .safetensors weights, or the download failed.
        MissingExtraError: huggingface-hub is not installed.
    """
    model = parse_model_id(text)
    if model is None:
        raise FetchError(
            f"{text[:100]!r} is no model of the hub; write {PREFIX}OWNER/NAME or"
            f" {PREFIX}OWNER/NAME@REVISION"
        )
    _cache_folder()  # raises an error without the library
    from huggingface_hub import HfApi, snapshot_download

    try:
        info = HfApi().model_info(model.repository, revision=model.revision)
        patterns = _needed_patterns(model, [file.rfilename for file in info.siblings or ()])
        commit = str(info.sha)
        snapshot = snapshot_download(
            model.repository,
            revision=commit,
            allow_patterns=list(patterns),
            ignore_patterns=list(VARIANT_FILES),
        )
    except (OSError, ValueError) as error:  # also the library's errors of HTTP
        raise FetchError(
            f"{model} cannot be downloaded: {first_line(error).strip()}; check the id and the"
            " network, and log in with `hf auth login` if its licence asks for it"
        ) from error
    _record_commit(model, commit)
    return _fetched_model(Path(snapshot))


def _needed_patterns(model: ModelId, file_names: Sequence[str]) -> Sequence[str]:
    """Return the patterns of the files to download.

    Raises:
        FetchError: The repository has no .safetensors weights.
    """
    if not any(name.endswith(".safetensors") for name in file_names):
        raise FetchError(
            f"{model} has no .safetensors weights, the only ones that are read; choose another"
            " revision or model"
        )
    return PIPELINE_FILES if PIPELINE_INDEX in file_names else MODEL_FILES


def _record_commit(model: ModelId, commit: str) -> None:
    fields = {"repository": model.repository, "revision": model.revision, "commit": commit}
    write_text(_record_path(model.repository), versioned_json_text("receipt", fields))


def _fetched_model(folder: Path) -> FetchedModel:
    """Return the commit, the number and the size of the files of a local copy."""
    with convert_os_errors(folder):
        sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return FetchedModel(folder, folder.name, len(sizes), sum(sizes))
