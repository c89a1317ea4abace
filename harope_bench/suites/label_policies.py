"""The class of each sample, as a function of policy, seed and index.

Nothing else decides a label, so shards, batches and interruptions do not change it.

Policies: `uniform` (each label at random, as in ADM, DiT and the HARoPE release), `balanced` (index
modulo classes, which gives a higher Inception Score than uniform labels), or a file with one label
on each line, identified by its sha256.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from harope_bench.core.errors import OptionError
from harope_bench.core.index_ranges import parse_whole_number
from harope_bench.core.storage import home, sha256_bytes, sha256_file, write_bytes
from harope_bench.core.text_file import read_text

POLICIES = ("uniform", "balanced")
FILE_PREFIX = "file:"  # followed by the sha256 of the file's labels


def assign_labels(policy: str, classes: int, seed: int, indices: Iterable[int]) -> list[int]:
    """Return the label of each index, in [0, classes).

    Raises:
        OptionError: The policy is unknown, its file is missing, or an index is beyond its labels.
    """
    if policy == "uniform":
        return [uniform_label(seed, i, classes) for i in indices]
    if policy == "balanced":
        return [i % classes for i in indices]

    labels = _read_labels(stored_labels_path(policy), classes)
    requested_indices = list(indices)
    excess_indices = [i for i in requested_indices if i >= len(labels)]
    if excess_indices:
        raise OptionError(
            f"sample {excess_indices[0]} has no label, the file has {len(labels):,}",
            advice="request fewer samples or give a longer file",
        )
    return [labels[i] for i in requested_indices]


def uniform_label(seed: int, index: int, classes: int) -> int:
    """Return a random label in [0, classes): a hash of seed and index.

    The hash has 256 bits, so the bias of the modulo is negligible.
    """
    digest = hashlib.sha256(f"label/{seed}/{index}".encode()).digest()
    return int.from_bytes(digest, "big") % classes


def resolve_label_policy(requested_policy: str, classes: int) -> str:
    """Return the text that a plan records for a policy.

    The labels of a file are copied to the user's home and recorded by their sha256.

    Args:
        requested_policy: `uniform`, `balanced`, a recorded file, or the path of a file.

    Raises:
        OptionError: There is no such policy or file, or a line of the file is no label.
    """
    if requested_policy in POLICIES:
        return requested_policy
    if requested_policy.startswith(FILE_PREFIX):
        _read_labels(stored_labels_path(requested_policy), classes)
        return requested_policy

    path = Path(requested_policy)
    if not path.is_file():
        raise OptionError(
            f"--labels {requested_policy} is no policy ({', '.join(POLICIES)}) and no file",
            advice="give one of these",
        )
    text = "".join(f"{label}\n" for label in _read_labels(path, classes)).encode()
    sha256 = sha256_bytes(text)
    write_bytes(home() / "labels" / f"{sha256}.txt", text)
    return f"{FILE_PREFIX}{sha256}"


def stored_labels_path(policy: str) -> Path:
    """Return the path of the copied labels that a recorded policy refers to.

    Raises:
        OptionError: The file is missing or its sha256 differs.
    """
    sha256 = policy.removeprefix(FILE_PREFIX)
    path = home() / "labels" / f"{sha256}.txt"
    if not policy.startswith(FILE_PREFIX) or not sha256.isalnum() or not path.is_file():
        raise OptionError(
            f"labels {policy[:20]}... are missing",
            advice="give --labels the file that they were read from",
        )
    file_sha256 = sha256_file(path)
    if file_sha256 != sha256:
        raise OptionError(
            f"{path} has sha256 {file_sha256[:12]}..., its name says {sha256[:12]}...",
            advice="give --labels the file that they were read from",
        )
    return path


@lru_cache(maxsize=4)
def _read_labels(path: Path, classes: int) -> tuple[int, ...]:
    """Return the labels in a file; raise OptionError for an invalid label or an empty file."""
    labels = []
    for number, text in enumerate(read_text(path).split(), 1):
        label = parse_whole_number(text)
        if label is None or label >= classes:
            raise OptionError(
                f"{path} label {number} is {text[:20]!r}, wanted a number from 0 to {classes - 1}",
                advice="correct the file",
            )
        labels.append(label)
    if not labels:
        raise OptionError(f"{path} has no labels", advice="give one on each line")
    return tuple(labels)
