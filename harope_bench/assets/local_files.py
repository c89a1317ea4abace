"""Assets on this machine: what is known of each asset, where its files are, and whether they are
complete.

Nothing here uses the network.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import Field, StringConstraints, ValidationError

from harope_bench.core import registry
from harope_bench.core.errors import BenchError, MissingAssetError, StorageError, WeightsError
from harope_bench.core.formats import parse_versioned_json, versioned_json_text
from harope_bench.core.record_base import Name, Record, validation_summary
from harope_bench.core.regular_file import open_regular
from harope_bench.core.storage import (
    convert_os_errors,
    git_blob_id,
    home,
    read_if_present,
    sha256_file,
)

RECEIPT = "receipt.json"
# Largest download of a file whose size is not published. The largest asset has 10 GB.
MAX_BYTES_OF_UNKNOWN_SIZE = 16 << 30
Sha256Hex = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class AssetFile(Record):
    """One file of an asset.

    If no hash is published, the hash of the first download is recorded.

    Attributes:
        name: File name.
        urls: Addresses; the first one that works is used.
        sha256, sha256_prefix: The hash, or the part of it that is published.
        git_blob: Id of the file in git, where nothing else is published.
        md5: md5 published by independent users, where nothing else is published.
        bytes: Size, if it is published.
        max_bytes: Largest download if the size is not published.
    """

    name: Name
    urls: tuple[str, ...] = ()
    sha256: Sha256Hex | None = None
    sha256_prefix: str | None = Field(default=None, pattern=r"^[0-9a-f]{6,63}$")
    git_blob: str | None = Field(default=None, pattern=r"^[0-9a-f]{40}$")
    md5: str | None = Field(default=None, pattern=r"^[0-9a-f]{32}$")
    bytes: int | None = Field(default=None, gt=0)
    max_bytes: int = Field(default=MAX_BYTES_OF_UNKNOWN_SIZE, gt=0, le=MAX_BYTES_OF_UNKNOWN_SIZE)

    @property
    def has_known_hash(self) -> bool:
        """Whether a hash of the file is known before it is downloaded."""
        return any((self.sha256, self.sha256_prefix, self.git_blob, self.md5))

    @property
    def limit(self) -> int:
        """Largest number of bytes that are downloaded."""
        return self.bytes or self.max_bytes

    @property
    def verification(self) -> str:
        """How a file is verified to be the published one, in words."""
        if self.sha256:
            return "sha256 known"
        if self.git_blob:
            return "git blob id known (sha1)"
        if self.md5:
            return "md5 known"
        if self.sha256_prefix:
            return (
                f"{4 * len(self.sha256_prefix)} bits of its sha256 known, the rest is trust on"
                " first use"
            )
        return "no hash known, trust on first use"

    def find_mismatch(self, path: Path, sha256: str) -> str | None:
        """Return how the file at a path differs from this one, or None if it does not.

        Args:
            sha256: The hash of the file at `path`.
        """
        size = path.stat().st_size
        if self.bytes is not None and size != self.bytes:
            return f"has {size:,} bytes, wanted {self.bytes:,}"

        expected_prefix = self.sha256 or self.sha256_prefix or ""
        if not sha256.startswith(expected_prefix):
            return f"has sha256 {sha256[:12]}..., wanted {expected_prefix[:12]}..."

        if self.md5 is not None:
            md5 = md5_file(path)
            if md5 != self.md5:
                return f"has md5 {md5[:12]}..., wanted {self.md5[:12]}..."

        if self.git_blob is not None:
            blob_id = git_blob_id(path)
            if blob_id != self.git_blob:
                return f"has git blob id {blob_id[:12]}..., wanted {self.git_blob[:12]}..."
        return None


def md5_file(path: Path) -> str:
    """Return the hex md5 of a file, for files whose users publish no other hash."""
    with convert_os_errors(path), open_regular(path) as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


class Asset(Record):
    """Files of other people that this package does not ship.

    Attributes:
        title: Name in messages.
        licence: Licence of the files.
        source: Where sizes and hashes are published.
        note: What a user should know before downloading.
        files: The files.
    """

    title: str
    licence: str
    source: str
    note: str = ""
    files: tuple[AssetFile, ...] = Field(min_length=1)


class Receipt(Record):
    """How a file came onto this machine.

    Attributes:
        sha256: Its hash.
        is_from_url: Whether it was downloaded from one of its addresses, not copied from the
            user's disk.
    """

    sha256: Sha256Hex
    is_from_url: bool = False


class LocalFile(NamedTuple):
    """A file on this machine.

    Attributes:
        path: Where it is.
        sha256: The hash that it had when it arrived.
        is_verified: Whether its address or a known hash shows that it is the published file.
    """

    path: Path
    sha256: str
    is_verified: bool = False


def load_asset(name: str) -> Asset:
    """Return the record of an asset; raise UnknownNameError, which suggests similar names."""
    entry = registry.find_entry("assets", name)
    try:
        return Asset.model_validate(registry.load_by_name("assets", name))
    except ValidationError as error:
        raise BenchError(
            f"{entry.origin}: {validation_summary(error)}; correct the file"
        ) from error


def asset_folder(name: str) -> Path:
    """Return the folder of an asset's files."""
    return home() / "assets" / name


def read_receipts(name: str) -> dict[str, Receipt]:
    """Return the receipts of an asset's files by name; empty if there are none or they are damaged.

    A receipt may be a hash alone, which does not reveal where its file came from.

    Raises:
        FormatError: Another version of this package wrote the record.
    """
    path = asset_folder(name) / RECEIPT
    data = read_if_present(path)
    if data is None:
        return {}
    try:
        entries = dict(parse_versioned_json("receipt", data, path).get("files", {}))
        return {
            str(file_name): Receipt.model_validate(
                {"sha256": entry} if isinstance(entry, str) else entry
            )
            for file_name, entry in entries.items()
        }
    except (StorageError, TypeError, ValueError):  # pydantic's ValidationError is a ValueError
        return {}


def receipt_text(receipts: Mapping[str, Receipt]) -> str:
    """Return the text of the file that records receipts by file name."""
    return versioned_json_text(
        "receipt", {"files": {name: receipt.model_dump() for name, receipt in receipts.items()}}
    )


def find_local_file(name: str, file: str | None = None) -> LocalFile | None:
    """Return a file of an asset; None if it is missing. Its bytes are not hashed again.

    Args:
        file: File name; the asset's first file if left out.
    """
    asset = load_asset(name)
    asset_file = next((f for f in asset.files if file in (None, f.name)), None)
    if asset_file is None:
        raise BenchError(
            f"asset {name} has no file {file}; it has {', '.join(f.name for f in asset.files)}"
        )

    path = asset_folder(name) / asset_file.name
    receipt = read_receipts(name).get(asset_file.name)
    if receipt is None or not path.is_file():
        return None
    return LocalFile(path, receipt.sha256, asset_file.has_known_hash or receipt.is_from_url)


def require_local_file(name: str, file: str | None = None) -> LocalFile:
    """Return a file of an asset as in `find_local_file`.

    Raises:
        MissingAssetError: It is missing; the message states the command that downloads it.
    """
    local_file = find_local_file(name, file)
    if local_file is None:
        raise MissingAssetError(
            f"asset {name} ({load_asset(name).title}) is missing",
            advice=f"harope-bench fetch {name} (with --from FILE if you have the file)",
        )
    return local_file


def verify_local_file(name: str, file: str | None = None) -> LocalFile:
    """Return a file of an asset after hashing it again.

    Raises:
        MissingAssetError: It is missing.
        WeightsError: It was altered.
    """
    local_file = require_local_file(name, file)
    sha256 = sha256_file(local_file.path)
    if sha256 != local_file.sha256:
        raise WeightsError(
            f"{local_file.path} has sha256 {sha256[:12]}..., wanted"
            f" {local_file.sha256[:12]}..., which it arrived with",
            advice=f"harope-bench fetch {name}",
        )
    return local_file
