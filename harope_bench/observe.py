"""Sample set to observations: a judge looks at every image once; shards on disk are kept and resumed."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from harope_bench import registry
from harope_bench.errors import SampleError, StorageError
from harope_bench.evaluators.base import Observations
from harope_bench.records import JudgeRecord
from harope_bench.samples import SampleSet
from harope_bench.store import load_arrays, write_arrays

SHARD = 1000  # images a shard file


class Seen(NamedTuple):
    """Observations, who made them, and how many images were judged just now."""

    observations: Observations
    judge: JudgeRecord
    fresh: int


def judge_record(name: str) -> JudgeRecord:
    """Facts of a judge, without opening its weights."""
    plugin = registry.load("judges", name)
    return JudgeRecord(
        name=name,
        version=plugin.version,
        judge_class=plugin.judge_class,
        weights_sha256=plugin.weights_sha256(),
        preprocessing=plugin.preprocessing,
    )


def observe(samples: SampleSet, judge: str, folder: Path, device: str, rescore: bool) -> Seen:
    """What the judge saw of the set, from the shards in `folder` where they are of these images and this judge.

    Raises:
        SampleError: an image is bad (named by index), or `rescore` is set and something was never judged.
    """
    record = judge_record(judge)
    hashes = dict(zip(samples.indices, samples.hashes, strict=True))
    shards = [samples.indices[i : i + SHARD] for i in range(0, len(samples.indices), SHARD)]
    keys = {n: shard_key(record, [(i, hashes[i]) for i in shard]) for n, shard in enumerate(shards)}
    stale = [n for n in keys if not _is_of(folder / shard_name(n), keys[n])]
    if stale and rescore:
        raise SampleError(
            f"{folder} lacks what {judge} saw of {sum(len(shards[n]) for n in stale):,} images; run eval without --rescore once"
        )
    if stale:
        _look(samples, judge, {n: shards[n] for n in stale}, keys, folder, device)
    parts = [load_arrays(folder / shard_name(n)) for n in keys]
    arrays = {name: np.concatenate([p[name] for p in parts]) for name in registry.load("judges", judge).arrays}
    labels = np.array([samples.labels[i] for i in samples.indices]) if samples.labels.keys() >= set(samples.indices) else None
    seen = Observations(np.array(samples.indices, dtype=np.int64), labels, arrays, failed=len(samples.failed))
    return Seen(seen, record, sum(len(shards[n]) for n in stale))


def shard_name(number: int) -> str:
    """File name of a shard."""
    return f"{number:05d}.npz"


def shard_key(record: JudgeRecord, images: Sequence[tuple[int, str]]) -> str:
    """Hex digest of judge and images: a shard with another key is of other work and is made again."""
    return hashlib.sha256(f"{record.to_json()}{images}".encode()).hexdigest()


def _is_of(path: Path, key: str) -> bool:
    if not path.is_file():
        return False
    try:
        return str(load_arrays(path)["key"]) == key
    except (StorageError, KeyError):
        return False  # a damaged shard is made again; the images are still there


def _look(samples: SampleSet, judge: str, todo: dict[int, list[int]], keys: dict[int, str], folder: Path, device: str) -> None:
    plugin: Any = registry.load("judges", judge)
    opened = plugin.open(device)
    with tqdm(total=sum(map(len, todo.values())), desc=f"judge {judge}", unit="image", file=sys.stderr, disable=None) as bar:
        for number, indices in todo.items():
            parts = []
            for batch in samples.batches(indices, plugin.batch):
                parts.append(opened.observe(batch.images))
                bar.update(len(batch.indices))
            arrays = {name: np.concatenate([p[name] for p in parts]) for name in plugin.arrays}
            write_arrays(folder / shard_name(number), {**arrays, "key": np.array(keys[number])})
