"""The seed of one sample, a function of the run's seed and the sample's index alone."""

from __future__ import annotations

import hashlib


def sample_seed(seed: int, index: int) -> int:
    """Return the seed of a sample, 0 to 2**63 - 1.

    Args:
        seed: Seed of the run.
        index: Index of the sample.
    """
    digest = hashlib.sha256(f"{seed}/{index}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
