"""The contract of an asset: a file of other people, by address and hash."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from harope_bench.testing.contract_violations import ContractViolations

if TYPE_CHECKING:
    from harope_bench.assets.local_files import Asset

# Addresses of a branch, behind which the file may change.
MOVING_PATTERN = re.compile(r"/(main|master)/|=(main|master)\b")


def check_asset(name: str) -> int:
    """Check a registered asset: addresses, hashes or their declared lack, licence and source.

    Nothing is downloaded.

    Returns:
        The number of checks.

    Raises:
        AssertionError: The asset violates the contract; every violation is listed.
        BenchError: There is no such asset, or its TOML is not that of an asset.
    """
    from harope_bench.assets.local_files import load_asset

    violations = ContractViolations(f"asset {name}")
    contract = _AssetContract(load_asset(name), violations)
    return violations.run_checks(
        [
            contract.check_provenance,
            contract.check_addresses,
            contract.check_hashes_or_their_absence,
            contract.check_unique_files,
        ]
    )


class _AssetContract:
    """The contract of one asset, one method for each requirement."""

    def __init__(self, asset: Asset, violations: ContractViolations):
        self.asset = asset
        self.expect = violations.expect

    def check_provenance(self) -> None:
        """Check title, licence and source."""
        for field, text in (
            ("title", self.asset.title),
            ("licence", self.asset.licence),
            ("source", self.asset.source),
        ):
            self.expect(text.strip(), f"{field} is empty")

    def check_addresses(self) -> None:
        """Check that addresses are https, and that a moving one has a sha256 or a note."""
        for file in self.asset.files:
            for url in file.urls:
                self.expect(
                    url.startswith("https://"),
                    f"{file.name} has address {url}, wanted https, which nobody alters on the way",
                )
                self.expect(
                    not MOVING_PATTERN.search(url) or file.sha256 or "revision" in self.asset.note,
                    f"{file.name} has address {url} of a branch and no sha256; name a revision, or"
                    " say in `note` which revision it is",
                )

    def check_hashes_or_their_absence(self) -> None:
        """Check that each file has a hash, or that the note says it is trusted on first use."""
        for file in self.asset.files:
            self.expect(
                file.has_known_hash or "rust on first use" in self.asset.note,
                f"{file.name} has no hash; state one, or `trust on first use` in `note`",
            )

    def check_unique_files(self) -> None:
        """Check that no two files have the same name."""
        names = [file.name for file in self.asset.files]
        self.expect(len(set(names)) == len(names), f"file names repeat: {names}")
