"""What `fetch` brings: facts of each asset, where its files lie, and whether they are whole. Uses
no network.
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
MAX_BYTES_OF_UNKNOWN_SIZE = (
    16 << 30
)  # bytes taken of a file whose size nobody states; the largest asset has 10 GB
Sha256Hex = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class AssetFile(Record):
    """One file: where it can be had, and what is known of it. Without a hash the first fetch
    records one.

    git_blob: the id under which git keeps the file, where that alone is published. md5: likewise,
    by independent users of the file.
    max_bytes: how much is taken of a file whose size is not published.
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
    def is_pinned(self) -> bool:
        """Whether a hash of it is known before it comes."""
        return any((self.sha256, self.sha256_prefix, self.git_blob, self.md5))

    @property
    def limit(self) -> int:
        """Return how many bytes are taken of it at most."""
        return self.bytes or self.max_bytes

    @property
    def verification(self) -> str:
        """Return in words what shows that a file is the published one."""
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
        """Why the file at `path`, of this hash, is not this one, or None."""
        size = path.stat().st_size
        if self.bytes is not None and size != self.bytes:
            return f"has {size:,} bytes, wanted {self.bytes:,}"
        if not sha256.startswith(wanted := self.sha256 or self.sha256_prefix or ""):
            return f"has sha256 {sha256[:12]}..., wanted {wanted[:12]}..."
        if self.md5 is not None and (md5 := md5_file(path)) != self.md5:
            return f"has md5 {md5[:12]}..., wanted {self.md5[:12]}..."
        if self.git_blob is not None and (blob := git_blob_id(path)) != self.git_blob:
            return f"has git blob id {blob[:12]}..., wanted {self.git_blob[:12]}..."
        return None


def md5_file(path: Path) -> str:
    """Return the hex md5 of a file, for files whose users publish no other hash."""
    with convert_os_errors(path), open_regular(path) as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


class Asset(Record):
    """Something that is not shipped: its title, licence, where the facts are from, and its
    files.
    """

    title: str
    licence: str
    source: str
    note: str = ""
    files: tuple[AssetFile, ...] = Field(min_length=1)


class Receipt(Record):
    """What was noted when a file came. addressed: it came from one of its addresses, not from the
    user's disk.
    """

    sha256: Sha256Hex
    is_from_url: bool = False


class LocalFile(NamedTuple):
    """A file that is here, the hash it had when it came, and whether its address or a known hash
    vouches that it is the published one.
    """

    path: Path
    sha256: str
    is_verified: bool = False


def load_asset(name: str) -> Asset:
    """The facts of an asset; UnknownName offers the nearest."""
    entry = registry.find_entry("assets", name)
    try:
        return Asset.model_validate(registry.load_by_name("assets", name))
    except ValidationError as error:
        raise BenchError(
            f"{entry.origin}: {validation_summary(error)}; correct the file"
        ) from error


def asset_folder(name: str) -> Path:
    """Where an asset's files lie."""
    return home() / "assets" / name


def read_receipts(name: str) -> dict[str, Receipt]:
    """By file name what was noted when the files came; empty where nothing came or the record is
    damaged.

    Of a hash alone nobody knows how its file came.

    Raises:
        FormatError: Another version of this package wrote the record.
    """
    path = asset_folder(name) / RECEIPT
    data = read_if_present(path)
    if data is None:
        return {}
    try:
        noted = dict(parse_versioned_json("receipt", data, path).get("files", {}))
        return {
            str(k): Receipt.model_validate({"sha256": v} if isinstance(v, str) else v)
            for k, v in noted.items()
        }
    except (StorageError, TypeError, ValueError):  # pydantic's ValidationError is a ValueError
        return {}


def receipt_text(noted: Mapping[str, Receipt]) -> str:
    """Return the text of the record of files that came, by name."""
    return versioned_json_text(
        "receipt", {"files": {name: receipt.model_dump() for name, receipt in noted.items()}}
    )


def find_local_file(name: str, file: str | None = None) -> LocalFile | None:
    """A file of the asset (its only one if not named) if it came whole; its bytes are not read
    again here.
    """
    known = load_asset(name)
    wanted = next((f for f in known.files if file in (None, f.name)), None)
    if wanted is None:
        raise BenchError(
            f"asset {name} has no file {file}; it has {', '.join(f.name for f in known.files)}"
        )
    path = asset_folder(name) / wanted.name
    receipt = read_receipts(name).get(wanted.name)
    return (
        LocalFile(path, receipt.sha256, wanted.is_pinned or receipt.is_from_url)
        if receipt and path.is_file()
        else None
    )


def require_local_file(name: str, file: str | None = None) -> LocalFile:
    """The same; NotHere with the command that brings it where it is not here."""
    found = find_local_file(name, file)
    if found is None:
        raise MissingAssetError(
            f"{load_asset(name).title} is not here",
            advice=f"harope-bench fetch {name} (or --from a file that you have)",
        )
    return found


def verify_local_file(name: str, file: str | None = None) -> LocalFile:
    """The same, hashed again; WeightsError where it was altered."""
    found = require_local_file(name, file)
    if (now := sha256_file(found.path)) != found.sha256:
        raise WeightsError(
            f"{found.path} has sha256 {now[:12]}..., came with {found.sha256[:12]}...",
            advice=f"harope-bench fetch {name}",
        )
    return found
