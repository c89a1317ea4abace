"""An annotator that runs a model of the user's own, `NAME:MODEL` on the command line; always a
substitute.
"""

from __future__ import annotations

from typing import Self

from harope_bench.core.errors import MissingAssetError
from harope_bench.judges.base import Annotator
from harope_bench.judges.generic.local_model import LocalModel, find_local_model


class LocalAnnotator(Annotator):
    """Base class of the plug-ins; `of` binds one to a folder, or to a hub id that the local cache
    holds.
    """

    version = 1
    judge_class = "substitute"
    packages = ("transformers",)
    needs_model = True
    name: str  # that it is registered by

    def __init__(self, model: str | None = None):
        self.model = model

    def with_model(self, model: str) -> Self:
        """Return the judge on a folder, or on a hub id that the local cache holds."""
        return type(self)(model)

    def find_model(self) -> LocalModel:
        """Return where the model lies; NotHere where none is named or none is there."""
        if not self.model:
            raise MissingAssetError(
                f"judge {self.name} runs a model of yours",
                advice=(
                    f"harope-bench eval RUN --judge {self.roles[0]}={self.name}:FOLDER-OR-HUB-ID"
                ),
            )
        return find_local_model(self.model)

    def weights_sha256(self) -> str:
        """Return the hash of the model's folder; NotHere names the command that brings it."""
        return self.find_model().sha256
