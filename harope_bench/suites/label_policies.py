"""Which class a sample shows: a function of policy, seed and index alone, so that shards, batches
and kills change nothing.

Policies: `uniform` (each label at random, as ADM, DiT and the HARoPE release draw them), `balanced`
(index modulo classes,
interleaved, which raises the Inception Score against uniform ones), or a file of one label a line,
known by its hash.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from harope_bench.core.errors import OptionError
from harope_bench.core.index_ranges import whole_number
from harope_bench.core.storage import home, sha256_bytes, sha256_file, write_bytes
from harope_bench.core.text_file import read_text

POLICIES = ("uniform", "balanced")
FILE_PREFIX = "file:"  # then the sha256 of the file's labels


def assign_labels(policy: str, classes: int, seed: int, indices: Iterable[int]) -> list[int]:
    """The label of each index, each in [0, classes).

    Raises:
        OptionError: an unknown policy, a file that is not here, or an index beyond its labels.
    """
    if policy == "uniform":
        return [uniform_label(seed, i, classes) for i in indices]
    if policy == "balanced":
        return [i % classes for i in indices]
    known = _read_labels(stored_labels_path(policy), classes)
    wanted = list(indices)
    if beyond := [i for i in wanted if i >= len(known)]:
        raise OptionError(
            f"sample {beyond[0]} has no label, the file has {len(known):,}",
            advice="ask for fewer samples or give a longer file",
        )
    return [known[i] for i in wanted]


def uniform_label(seed: int, index: int, classes: int) -> int:
    """A label at random: a hash of seed and index, whose 256 bits leave no bias that anyone could
    see.
    """
    return (
        int.from_bytes(hashlib.sha256(f"label/{seed}/{index}".encode()).digest(), "big") % classes
    )


def resolve_label_policy(asked: str, classes: int) -> str:
    """What a plan records for `uniform`, `balanced`, a recorded file, or a path; a file's labels
    are copied into the user's home.

    Raises:
        OptionError: no such policy or file, or a line that is no label.
    """
    if asked in POLICIES:
        return asked
    if asked.startswith(FILE_PREFIX):
        _read_labels(stored_labels_path(asked), classes)
        return asked
    path = Path(asked)
    if not path.is_file():
        raise OptionError(
            f"--labels {asked} is no policy ({', '.join(POLICIES)}) and no file",
            advice="give one of these",
        )
    text = "".join(f"{label}\n" for label in _read_labels(path, classes)).encode()
    sha256 = sha256_bytes(text)
    write_bytes(home() / "labels" / f"{sha256}.txt", text)
    return f"{FILE_PREFIX}{sha256}"


def stored_labels_path(recorded: str) -> Path:
    """Where the labels of a recorded file lie; OptionError if they are not here or were altered."""
    sha256 = recorded.removeprefix(FILE_PREFIX)
    path = home() / "labels" / f"{sha256}.txt"
    if not recorded.startswith(FILE_PREFIX) or not sha256.isalnum() or not path.is_file():
        raise OptionError(
            f"labels {recorded[:20]}... are not here",
            advice="give --labels the file that they were read from",
        )
    if (now := sha256_file(path)) != sha256:
        raise OptionError(
            f"{path} has sha256 {now[:12]}..., its name says {sha256[:12]}...",
            advice="give --labels the file that they were read from",
        )
    return path


@lru_cache(maxsize=4)
def _read_labels(path: Path, classes: int) -> tuple[int, ...]:
    lines = read_text(path).split()
    found = []
    for number, line in enumerate(lines, 1):
        label = whole_number(line)
        if label is None or label >= classes:
            raise OptionError(
                f"{path} label {number} is {line[:20]!r}, wanted a number from 0 to {classes - 1}",
                advice="correct the file",
            )
        found.append(label)
    if not found:
        raise OptionError(f"{path} holds no labels", advice="give one a line")
    return tuple(found)
