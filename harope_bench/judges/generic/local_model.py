"""Models that the user provides: a folder, or a hub id in the local cache.

Nothing is downloaded and no code of a model's repository is executed.
"""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from harope_bench.core.errors import MissingAssetError, MissingExtraError, OptionError, WeightsError
from harope_bench.core.storage import convert_os_errors, file_stamp, first_line, sha256_file
from harope_bench.judges.generic.library_types import AutoClass, Library, Network

# Files that decide an answer: weights, configuration, vocabulary, chat template. Readmes and
# example images do not.
HASHED_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".json", ".txt", ".model", ".jinja")


class LocalModel(NamedTuple):
    """The folder of a model and the sha256 of its contents."""

    path: Path
    sha256: str


def import_transformers() -> Library:
    """Import transformers without progress bars and return it.

    Raises:
        MissingExtraError: It is not installed; the message names the command.
    """
    try:
        import transformers
    except ImportError as error:
        raise MissingExtraError(
            f"this judge needs transformers ({error})", advice="pip install 'harope-bench[t2i]'"
        ) from error
    transformers.utils.logging.disable_progress_bar()
    return transformers


def find_local_model(model: str) -> LocalModel:
    """Return the folder of a model and the hash of the names and hashes of its files.

    Args:
        model: a folder or a hub id.

    Raises:
        MissingAssetError: It is no folder and not in the cache; the message names the command to
            download it.
    """
    folder = Path(model).expanduser()
    if not folder.is_dir():
        folder = _cached_snapshot(model)
    with convert_os_errors(folder):
        files = sorted(path for path in folder.iterdir() if path.suffix in HASHED_SUFFIXES)
    stamps = tuple((path, *stamp) for path in files if (stamp := file_stamp(path)) is not None)
    if not any(path.name == "config.json" for path, *_ in stamps):
        raise MissingAssetError(
            f"{folder} has no config.json, wanted the folder of a model",
            advice="give a folder that save_pretrained wrote, or a hub id",
        )
    return LocalModel(folder, _folder_sha256(stamps))


def _cached_snapshot(model: str) -> Path:
    """Return the newest snapshot of a hub id in the local cache; make no network request."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", model):
        raise MissingAssetError(
            f"{model} is no folder and no hub id",
            advice="give a folder that save_pretrained wrote, or ORGANISATION/NAME",
        )
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError
    except ImportError as error:
        raise MissingExtraError(
            f"hub ids need huggingface-hub ({error})", advice="pip install 'harope-bench[t2i]'"
        ) from error
    try:
        return Path(snapshot_download(model, local_files_only=True))
    except LocalEntryNotFoundError as error:
        raise MissingAssetError(
            f"{model} is no folder and not in the hub's local cache", advice=f"hf download {model}"
        ) from error


@lru_cache(maxsize=8)
def _folder_sha256(stamps: tuple[tuple[Path, int, int], ...]) -> str:
    """Return the hex sha256 of the files' names and hashes.

    `stamps` are path, time and size of each file. Files with unchanged stamps are not read again.
    """
    lines = [f"{path.name} {sha256_file(path)}" for path, _, _ in stamps]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def find_weights_file(folder: Path) -> Path:
    """Return the only weights file of a folder; raise WeightsError for none or several."""
    paths = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))
    if len(paths) != 1:
        raise WeightsError(
            f"{folder} holds {len(paths)} weights files, wanted one",
            advice="save the model in one .safetensors file",
        )
    return paths[0]


def load_strictly(auto_class: AutoClass, folder: Path, kind: str, **options: object) -> Network:
    """Return the network of a folder with every weight loaded from there.

    Args:
        auto_class: Auto class of transformers that builds the network. kind: of network, for
            messages.

    Raises:
        OptionError: The folder holds a model of another kind.
        WeightsError: Weights are missing, mis-shaped, unsafe or damaged.
    """
    from safetensors import SafetensorError

    try:
        network, loading_info = auto_class.from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            **options,
        )
    except (OSError, RuntimeError, SafetensorError) as error:
        raise WeightsError(
            f"{folder}: its weights cannot be read ({first_line(error)})",
            advice="download the model again",
        ) from error
    except ValueError as error:
        raise OptionError(
            f"{folder} holds no {kind} that transformers knows ({first_line(error)[:120]}); give"
            " another model"
        ) from error

    mismatched_keys = (str(entry[0]) for entry in loading_info["mismatched_keys"])
    unfilled_keys = sorted({*loading_info["missing_keys"], *mismatched_keys})
    if unfilled_keys:
        raise WeightsError(
            f"{folder} does not fill {len(unfilled_keys)} weights of the network, or in another"
            f" shape ({', '.join(unfilled_keys[:3])})",
            advice="download the model again",
        )
    return network
