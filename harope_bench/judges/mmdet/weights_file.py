"""The weights file of GenEval's detector: one of OpenMMLab's two, or one of the user.

The file is read without executing anything in it.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from harope_bench.assets import local_files
from harope_bench.core.errors import WeightsError
from harope_bench.core.schema import JudgeClass
from harope_bench.core.state_dicts import check_sha256, load_weights
from harope_bench.core.storage import first_line
from harope_bench.judges.base import Annotator
from harope_bench.judges.generic.instance_detection import SCALE
from harope_bench.judges.weights.asset_files import WeightsFile, WeightsSource

if TYPE_CHECKING:
    from torch import Tensor

# one training run under the keys of mmdet 2.x and of 3.x
ASSETS = ("mask2former", "mask2former-mmdet")
ENVIRONMENT_VARIABLE = "HAROPE_BENCH_MASK2FORMER"


class InertObject:
    """Replacement for a Python object in a checkpoint while it is unpickled; it stores nothing."""

    def __new__(cls, *_: object) -> InertObject:
        """Return an object and ignore the arguments that the pickle gives."""
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        """Ignore the state that the pickle gives."""


# classes that OpenMMLab's runners store in `meta` and `message_hub`; they are never imported
INERT_GLOBALS: list[tuple[type[InertObject], str]] = [
    (InertObject, name)
    for name in (
        "numpy.core.multiarray.scalar",
        "numpy._core.multiarray.scalar",
        "numpy.core.multiarray._reconstruct",
        "numpy._core.multiarray._reconstruct",
        "numpy.ndarray",
        "numpy.dtype",
        "_codecs.encode",
        "mmengine.logging.history_buffer.HistoryBuffer",
    )
]


def find_weights(asset: str) -> WeightsFile:
    """Return the file in use: that of the environment variable, else `asset`, else the other asset.

    Raises:
        WeightsError: The environment variable names a file that is missing.
        MissingAssetError: No file is present; the message names the command to fetch `asset`.
    """
    if os.environ.get(ENVIRONMENT_VARIABLE):
        return WeightsSource(asset, ENVIRONMENT_VARIABLE).find()
    for name in (asset, *ASSETS):
        if local_file := local_files.find_local_file(name):
            return WeightsFile(local_file.path, local_file.sha256)
    local_file = local_files.require_local_file(asset)
    return WeightsFile(local_file.path, local_file.sha256)


def is_published(sha256: str) -> bool:
    """Return whether a file's sha256 begins as that of one of the published files."""
    return any(
        sha256.startswith(file.sha256 or file.sha256_prefix or "-")
        for name in ASSETS
        for file in local_files.load_asset(name).files
    )


def load_state(file: WeightsFile) -> Mapping[str, Tensor]:
    """Return the network's tensors under mmdet's keys, after checking the hash.

    Raises:
        WeightsError: The file is altered, damaged, has unknown Python objects or no state dict.
    """
    from torch import Tensor

    if file.path.suffix == ".safetensors":
        return load_weights(file.path, file.sha256)
    check_sha256(file.path, file.sha256)
    checkpoint = _unpickle(file.path)
    tensors = checkpoint.get("state_dict", checkpoint) if isinstance(checkpoint, dict) else None
    if (
        not isinstance(tensors, Mapping)
        or not tensors
        or not all(isinstance(tensor, Tensor) for tensor in tensors.values())
    ):
        raise WeightsError(
            f"{file.path} has no state dict of tensors; give mmdet's checkpoint (harope-bench fetch"
            f" {ASSETS[0]})"
        )
    return dict(tensors)


def _unpickle(path: Path) -> object:
    """Return the contents of a torch file with tensors and inert objects only."""
    import torch

    try:
        with torch.serialization.safe_globals(list(INERT_GLOBALS)):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path} holds Python objects beside tensors ({_rejected_global(error)}) and was not"
            " opened; where mmdet runs, save its state_dict as .safetensors and name that file by"
            f" {ENVIRONMENT_VARIABLE}"
        ) from error
    except Exception as error:  # the unpickler raises a dozen types for damaged bytes
        raise WeightsError(
            f"{path} is not a readable torch file ({first_line(error)[:120]}); run: harope-bench"
            f" fetch {ASSETS[0]}"
        ) from error


def _rejected_global(error: Exception) -> str:
    """Return the class that the safe unpickler rejected, out of its long message."""
    message = str(error)
    return message.split("GLOBAL ")[1].split()[0] if "GLOBAL " in message else "class not stated"


def weights_warnings(file: WeightsFile) -> tuple[str, ...]:
    """Return a warning for a result where the weights are not the published ones."""
    if is_published(file.sha256):
        return ()
    return (
        "judge: other weights than GenEval's detector, or a copy with another hash; numbers do not"
        " compare with published ones",
    )


class GenEvalDetector(Annotator):
    """Base class of GenEval's two detectors.

    Args:
        scale: mmdet's (longer, shorter) side of the resized image.
    """

    version = 1
    asset: str
    published_class: JudgeClass  # judge class with a published file
    roles = ("detector",)

    def __init__(self, scale: tuple[int, int] = SCALE):
        self.scale = scale

    @property
    def judge_class(self) -> JudgeClass:
        """Return `published_class` for a published file, "substitute" for any other."""
        try:
            sha256 = self.find_weights().sha256
        except WeightsError:
            return "substitute"
        return self.published_class if is_published(sha256) else "substitute"

    def find_weights(self) -> WeightsFile:
        """Return the file in use; the errors are those of `find_weights` of the module."""
        return find_weights(self.asset)

    def weights_sha256(self) -> str:
        """Return the hash of the file in use; errors as in `find_weights`."""
        return self.find_weights().sha256

    def warnings(self) -> tuple[str, ...]:
        """Return a warning where the weights are not the published ones."""
        return weights_warnings(self.find_weights())
