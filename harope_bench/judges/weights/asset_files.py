"""The weights file of a judge: a fetched asset, or a file that an environment variable names."""

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
    """Where a judge's weights come from.

    asset: name of the asset that `fetch` downloads. environment_variable: names a file of the user
    that is used in place of the asset.
    """

    asset: str
    environment_variable: str

    def find(self) -> WeightsFile:
        """Return the file in use.

        Raises:
            WeightsError: The environment variable names a file that is missing.
            MissingAssetError: The asset is missing; the message names the command to fetch it.
        """
        variable_value = os.environ.get(self.environment_variable)
        if not variable_value:
            local_file = local_files.require_local_file(self.asset)
            return WeightsFile(local_file.path, local_file.sha256)

        path = Path(variable_value).expanduser()
        stamp = file_stamp(path)
        if stamp is None:
            raise WeightsError(
                f"{self.environment_variable} names {path}, which is missing",
                advice=f"correct it, or unset it and run harope-bench fetch {self.asset}",
            )
        return WeightsFile(path, _file_sha256(path, stamp))

    @property
    def published_file(self) -> AssetFile:
        """Return the entry of the published weights in the asset list."""
        return local_files.load_asset(self.asset).files[0]

    def published_sha256(self) -> str:
        """Return the sha256 of the published weights, or its known beginning; "" if unknown."""
        return self.published_file.sha256 or self.published_file.sha256_prefix or ""


@lru_cache(maxsize=8)
def _file_sha256(path: Path, stamp: tuple[int, int]) -> str:
    """Return the sha256 of a file; cached until its stamp (time and size) changes."""
    return sha256_file(path)
