"""Weights of a judge: what `fetch` brought, or a file that an environment variable names; with its
hash.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from harope_bench.assets import local_files
from harope_bench.assets.local_files import AssetFile
from harope_bench.core.errors import WeightsError
from harope_bench.core.storage import file_stamp, sha256_file


class WeightsFile(NamedTuple):
    """A weights file and its sha256."""

    path: Path
    sha256: str


class WeightsSource(NamedTuple):
    """Where a judge's weights come from: the asset that `fetch` brings, and the variable that names
    a file of one's own.
    """

    asset: str
    environment_variable: str

    def find(self) -> WeightsFile:
        """The file in use; WeightsError with the command that brings it where there is none."""
        if own := os.environ.get(self.environment_variable):
            path = Path(own).expanduser()
            stamp = file_stamp(path)
            if stamp is None:
                raise WeightsError(
                    f"{self.environment_variable} names {path}, which is not there",
                    advice=f"correct it, or unset it and run harope-bench fetch {self.asset}",
                )
            return WeightsFile(path, _file_sha256(path, stamp))
        held = local_files.require_local_file(self.asset)
        return WeightsFile(held.path, held.sha256)

    @property
    def published_file(self) -> AssetFile:
        """Return what is known of the published weights."""
        return local_files.load_asset(self.asset).files[0]

    def known_sha256(self) -> str:
        """Return the hash of the published weights, as much of it as is known; empty where none
        is.
        """
        return self.published_file.sha256 or self.published_file.sha256_prefix or ""


@lru_cache(maxsize=8)
def _file_sha256(path: Path, stamp: tuple[int, int]) -> str:
    return sha256_file(path)
