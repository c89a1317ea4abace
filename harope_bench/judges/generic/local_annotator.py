"""Base class of annotators that run a model of the user, NAME:MODEL on the command line."""

from __future__ import annotations

from typing import Self

from harope_bench.core.errors import MissingAssetError
from harope_bench.judges.base import Annotator
from harope_bench.judges.generic.local_model import LocalModel, find_local_model


class LocalAnnotator(Annotator):
    """Base class of annotators on a model that the user provides; always a substitute.

    `with_model` binds the plug-in to a folder, or to a hub id in the local cache.
    """

    version = 1
    judge_class = "substitute"
    packages = ("torch", "safetensors", "transformers")
    needs_model = True
    name: str  # registered name

    def __init__(self, model: str | None = None):
        self.model = model

    def with_model(self, model: str) -> Self:
        """Return the judge bound to a folder, or to a Hugging Face Hub id in the local cache."""
        return type(self)(model)

    def find_model(self) -> LocalModel:
        """Return the folder of the model.

        Raises:
            MissingAssetError: No model is bound, or the bound one is missing.
        """
        if not self.model:
            raise MissingAssetError(
                f"judge {self.name} runs a model that you provide, found none",
                advice=(
                    f"harope-bench eval RUN --judge {self.roles[0]}={self.name}:FOLDER-OR-HUB-ID"
                ),
            )
        return find_local_model(self.model)

    def weights_sha256(self) -> str:
        """Return the hash of the model's folder.

        Raises:
            MissingAssetError: The model is missing; the message names the command to download it.
        """
        return self.find_model().sha256
