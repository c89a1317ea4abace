"""Models of the user's own: a folder, or a hub id that the local cache holds. Nothing is
downloaded, no code of theirs is run.
"""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError

from harope_bench.core.errors import MissingAssetError, MissingExtraError, OptionError, WeightsError
from harope_bench.core.storage import convert_os_errors, file_stamp, first_line, sha256_file
from harope_bench.judges.generic.library_types import AutoClass, Library, Network

# What decides an answer: weights, configuration, words, the chat's form. Readmes and pictures do
# not.
HASHED_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".json", ".txt", ".model", ".jinja")


class LocalModel(NamedTuple):
    """A model's folder and the hash of what is in it."""

    path: Path
    sha256: str


def import_transformers() -> Library:
    """The library, imported now and without its bars; MissingExtra names the install."""
    try:
        import transformers as found
    except ImportError as error:
        raise MissingExtraError(
            f"this judge needs transformers ({error})", advice="pip install 'harope-bench[t2i]'"
        ) from error
    found.utils.logging.disable_progress_bar()
    return found


def find_local_model(model: str) -> LocalModel:
    """Where a model lies and the hash of its files' names and hashes.

    Raises:
        NotHere: no such folder, and not in the cache; names the command that brings it.
    """
    folder = Path(model).expanduser()
    if not folder.is_dir():
        folder = _cached_snapshot(model)
    with convert_os_errors(folder):
        files = sorted(f for f in folder.iterdir() if f.suffix in HASHED_SUFFIXES)
    stamps = tuple((f, *stamp) for f in files if (stamp := file_stamp(f)) is not None)
    if not any(f.name == "config.json" for f, *_ in stamps):
        raise MissingAssetError(
            f"{folder} holds no config.json, so no model",
            advice="give a folder that save_pretrained wrote, or a hub id",
        )
    return LocalModel(folder, _folder_sha256(stamps))


def _cached_snapshot(model: str) -> Path:
    """The cache's newest snapshot of a hub id; asks nothing of the network."""
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
    """Hex sha256 of the files' names and hashes; files whose time and size are unchanged are not
    read again.
    """
    told = [f"{path.name} {sha256_file(path)}" for path, _, _ in stamps]
    return hashlib.sha256("\n".join(told).encode()).hexdigest()


def find_weights_file(folder: Path) -> Path:
    """The folder's only weights file; WeightsError where there is none or several."""
    found = [*sorted(folder.glob("*.safetensors"))] or [*sorted(folder.glob("*.bin"))]
    if len(found) != 1:
        raise WeightsError(
            f"{folder} holds {len(found)} weights files, wanted one",
            advice="save the model in one .safetensors file",
        )
    return found[0]


def load_strictly(auto: AutoClass, folder: Path, kind: str, **options: object) -> Network:
    """The network that an Auto class of transformers makes of a folder, every weight of it filled
    from there.

    Raises:
        OptionError: the folder's model is of another kind. WeightsError: weights are missing,
            mis-shaped, unsafe or damaged.
    """
    try:
        network, told = auto.from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            **options,
        )
    except (OSError, RuntimeError, SafetensorError) as error:
        raise WeightsError(
            f"{folder}: its weights cannot be read ({first_line(error)})",
            advice="bring the model again",
        ) from error
    except ValueError as error:
        raise OptionError(
            f"{folder} holds no {kind} that transformers knows ({first_line(error)[:120]}); give"
            " another model"
        ) from error
    wrong = sorted({*told["missing_keys"], *(str(k[0]) for k in told["mismatched_keys"])})
    if wrong:
        raise WeightsError(
            f"{folder} fills {len(wrong)} weights not or wrongly ({', '.join(wrong[:3])})",
            advice="bring the model again",
        )
    return network
