"""GenEval's detector as a file: either of the two that OpenMMLab publishes, or one's own; read
without running anything in it.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from harope_bench.assets import local_files
from harope_bench.core.errors import WeightsError
from harope_bench.core.schema import JudgeClass
from harope_bench.core.state_dicts import check_sha256, load_weights
from harope_bench.core.storage import first_line
from harope_bench.judges.base import Annotator
from harope_bench.judges.generic.instance_detection import SCALE
from harope_bench.judges.weights.asset_files import WeightsFile, WeightsSource

ASSETS = (
    "mask2former",
    "mask2former-mmdet",
)  # one training run under the names of mmdet 2.x and 3.x
ENVIRONMENT_VARIABLE = "HAROPE_BENCH_MASK2FORMER"


class InertObject:
    """Stands for a Python object of a checkpoint's notes while it is unpickled; it keeps nothing
    and does nothing.
    """

    def __new__(cls, *_: object) -> InertObject:
        """Takes whatever the pickle gives."""
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        """Drops the state."""


# What OpenMMLab's runners leave in `meta` and `message_hub`; never the real things
INERT_GLOBALS: list[tuple[type[InertObject], str]] = [
    (InertObject, name)
    for name in (
        "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "numpy.core.multiarray._reconstruct",
        "numpy._core.multiarray._reconstruct", "numpy.ndarray", "numpy.dtype", "_codecs.encode",
        "mmengine.logging.history_buffer.HistoryBuffer",
    )
]  # fmt: skip


def find_weights(first: str) -> WeightsFile:
    """The file in use: one's own, else the asset `first`, else the other one; NotHere with the
    command that brings the first.
    """
    if os.environ.get(ENVIRONMENT_VARIABLE):
        return WeightsSource(first, ENVIRONMENT_VARIABLE).find()
    for name in (first, *ASSETS):
        if held := local_files.find_local_file(name):
            return WeightsFile(held.path, held.sha256)
    held = local_files.require_local_file(first)
    return WeightsFile(held.path, held.sha256)


def is_published(sha256: str) -> bool:
    """Whether a hash begins as one of the published files' does."""
    return any(
        sha256.startswith(file.sha256 or file.sha256_prefix or "-")
        for name in ASSETS
        for file in local_files.load_asset(name).files
    )


def load_state(file: WeightsFile) -> Mapping[str, Tensor]:
    """The network's tensors under mmdet's names, hash checked first.

    Raises:
        WeightsError: altered, damaged, of unknown Python objects, or without a state dict.
    """
    if file.path.suffix == ".safetensors":
        return load_weights(file.path, file.sha256)
    check_sha256(file.path, file.sha256)
    whole = _read(file.path)
    tensors = whole.get("state_dict", whole) if isinstance(whole, dict) else None
    if (
        not isinstance(tensors, Mapping)
        or not tensors
        or not all(isinstance(t, Tensor) for t in tensors.values())
    ):
        raise WeightsError(
            f"{file.path} has no state dict of tensors; give mmdet's checkpoint (harope-bench fetch"
            f" {ASSETS[0]})"
        )
    return dict(tensors)


def _read(path: Path) -> object:
    try:
        with torch.serialization.safe_globals(list(INERT_GLOBALS)):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path} holds Python objects beside tensors ({_rejected_global(error)}) and was not"
            " opened; where mmdet runs, save its state_dict as .safetensors and name that file by"
            f" {ENVIRONMENT_VARIABLE}"
        ) from error
    except Exception as error:  # the unpickler fails in a dozen ways on damaged bytes
        raise WeightsError(
            f"{path} is not a readable torch file ({first_line(error)[:120]}); harope-bench fetch"
            f" {ASSETS[0]}"
        ) from error


def _rejected_global(error: Exception) -> str:
    """The name that the safe unpickler refused, out of its long advice."""
    told = str(error)
    return told.split("GLOBAL ")[1].split()[0] if "GLOBAL " in told else "not told which"


def weights_warnings(file: WeightsFile) -> tuple[str, ...]:
    """What a result must say of the weights."""
    if not is_published(file.sha256):
        return (
            (
                "judge: other weights than GenEval's detector, or a copy of another hash; numbers"
                " compare with nothing published"
            ),
        )
    return ()


class GenEvalDetector(Annotator):
    """What GenEval's two detectors share: their file, and what they may be called with it. `scale`
    is mmdet's (longer, shorter) side.
    """

    version = 1
    asset: str
    published_class: JudgeClass  # with a published file
    roles = ("detector",)

    def __init__(self, scale: tuple[int, int] = SCALE):
        self.scale = scale

    @property
    def judge_class(self) -> JudgeClass:
        """`standing` with a published file of GenEval's detector; anything else is a substitute."""
        try:
            return (
                self.published_class if is_published(self.find_weights().sha256) else "substitute"
            )
        except WeightsError:
            return "substitute"

    def find_weights(self) -> WeightsFile:
        """The file in use; NotHere with the command that brings it."""
        return find_weights(self.asset)

    def weights_sha256(self) -> str:
        """Hash of the file in use."""
        return self.find_weights().sha256

    def warnings(self) -> tuple[str, ...]:
        """What a result must say of the judge."""
        return weights_warnings(self.find_weights())
