"""What a checkpoint says of real pictures, shard by shard: kept beside the run, resumed after a
kill, made again where altered.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from harope_bench.core import checksums
from harope_bench.core.array_archive import encode_npz, load_arrays
from harope_bench.core.array_file import arrays_with_format, check_arrays_format
from harope_bench.core.errors import SampleError, StorageError
from harope_bench.core.schema import JudgeRecord, Plan
from harope_bench.core.storage import sha256_bytes, write_bytes
from harope_bench.models.backbones.base import Classifier
from harope_bench.models.load_checkpoint import open_classifier
from harope_bench.suites.base import RealImages

SHARD_SIZE = 250  # pictures a file of predictions: what a kill may cost
TOP_K = 5  # classes kept of each picture, the most likely first


class PredictionShard(NamedTuple):
    """What a checkpoint said of some pictures: indices and ranked classes and logits of those that
    could be read, reasons of the rest.
    """

    indices: np.ndarray
    ranked_classes: np.ndarray
    logits: np.ndarray
    failed: dict[int, str]
    image_rows: tuple[tuple[str, int, str], ...]


def predict(
    plan: Plan,
    pictures: RealImages,
    count: int,
    judge: JudgeRecord,
    folder: Path,
    ratio: float,
    rescore: bool,
) -> list[PredictionShard]:
    """Return the shards of the first `count` pictures: those on disk that are of these bytes, the
    rest made now.

    Raises:
        SampleError: `rescore` is set and a shard is missing. FormatError: another version of this
            package wrote one.
    """
    done: list[PredictionShard] = []
    reader: Classifier | None = None
    with tqdm(
        total=count,
        desc=f"name {plan.checkpoint.name}",
        unit="picture",
        file=sys.stderr,
        disable=None,
    ) as bar:
        for first in range(0, count, SHARD_SIZE):
            indices = range(first, min(count, first + SHARD_SIZE))
            path = shard_path(folder, first)
            taken = read_image_bytes(pictures, indices)
            key = shard_key(plan, judge, taken.image_rows)
            shard = find_shard(path, key, taken.image_rows)
            if shard is None and rescore:
                raise SampleError(
                    f"{folder} lacks what {plan.checkpoint.name} said of pictures {first:,} on; run"
                    " eval without --rescore"
                )
            if shard is None:
                reader = reader or open_classifier(plan.checkpoint, plan.settings)
                shard = classify_images(reader, plan, pictures, taken, ratio)
                data = encode_npz(
                    arrays_with_format("predictions", {**_arrays(shard), "key": np.array(key)})
                )
                checksums.record_hashes(
                    folder, {path.name: sha256_bytes(data)}
                )  # first: a kill leaves no shard that nothing vouches for
                write_bytes(path, data)
            done.append(shard)
            bar.update(len(indices))
    return done


class ImageBytes(NamedTuple):
    """The bytes of some pictures, why some have none, and a row (name, label, sha256 or reason) of
    each.
    """

    data: dict[int, bytes]
    failed: dict[int, str]
    image_rows: tuple[tuple[str, int, str], ...]


def read_image_bytes(pictures: RealImages, indices: Sequence[int]) -> ImageBytes:
    """Return the bytes of these pictures; one that cannot be read has a reason in their place."""
    data = {}
    failed = {}
    rows = []
    names = pictures.names
    labels = pictures.labels
    for i in indices:
        try:
            data[i] = pictures.read_bytes(i)
            told = sha256_bytes(data[i])
        except SampleError as error:
            failed[i] = told = str(error)
        rows.append((names[i], int(labels[i]), told))
    return ImageBytes(data, failed, tuple(rows))


def shard_path(folder: Path, first: int) -> Path:
    """Return where the shard that begins with a picture lies."""
    return folder / f"{first // SHARD_SIZE:05d}.npz"


def shard_key(plan: Plan, judge: JudgeRecord, rows: Sequence[tuple[str, int, str]]) -> str:
    """Hex digest of plan, preprocessing and pictures: a shard with another key is of other work and
    is made again.
    """
    return hashlib.sha256(f"{plan.digest}{judge.preprocessing}{list(rows)}".encode()).hexdigest()


def _arrays(shard: PredictionShard) -> dict[str, np.ndarray]:
    reasons = {
        "failed": np.array(list(shard.failed), dtype=np.int64),
        "reasons": np.array(list(shard.failed.values()), dtype=np.str_),
    }
    return {
        "indices": shard.indices,
        "ranked_classes": shard.ranked_classes,
        "logits": shard.logits,
        **reasons,
    }


def find_shard(
    path: Path, key: str, rows: tuple[tuple[str, int, str], ...]
) -> PredictionShard | None:
    """Return the shard on disk if it is of exactly this work; a damaged or altered one is made
    again.

    Raises:
        FormatError: Another version of this package wrote it.
    """
    if not path.is_file() or not checksums.is_intact(path.parent, path.name):
        return None
    try:
        a = load_arrays(path)
        check_arrays_format("predictions", a, path)
        if str(a["key"]) != key:
            return None
        failed = dict(zip(a["failed"].tolist(), map(str, a["reasons"]), strict=True))
        return PredictionShard(a["indices"], a["ranked_classes"], a["logits"], failed, rows)
    except (StorageError, KeyError, TypeError, ValueError):
        return None


def classify_images(
    reader: Classifier, plan: Plan, pictures: RealImages, taken: ImageBytes, ratio: float
) -> PredictionShard:
    """Every picture of a shard named, tile by tile; index i sits in row i % tile, so neighbours
    change nothing.
    """
    tile = plan.settings.tile
    side = plan.settings.resolution
    failed = dict(taken.failed)
    logits: dict[int, np.ndarray] = {}
    for number in sorted({i // tile for i in taken.data}):
        images = np.zeros((tile, side, side, 3), dtype=np.uint8)
        for i in (i for i in taken.data if i // tile == number):
            try:
                images[i % tile] = pictures.decode(i, taken.data[i], side, ratio)
                logits[i] = images[i % tile]  # a place, filled below
            except SampleError as error:
                failed[i] = str(error)
        said = reader.classify(images)
        for i in [i for i in logits if i // tile == number]:
            logits[i] = said[i % tile]
            if not np.isfinite(logits[i]).all():
                failed[i] = "the network's output is not finite"
                del logits[i]
    return _shard(logits, failed, taken.image_rows)


def _shard(
    logits: dict[int, np.ndarray], failed: dict[int, str], rows: tuple[tuple[str, int, str], ...]
) -> PredictionShard:
    indices = sorted(logits)
    whole = (
        np.stack([logits[i] for i in indices])
        if indices
        else np.zeros((0, TOP_K), dtype=np.float32)
    )
    ranked = np.argsort(-whole, axis=1, kind="stable")[:, :TOP_K]
    best = np.take_along_axis(whole, ranked, 1).astype(np.float32)
    return PredictionShard(
        np.array(indices, dtype=np.int64),
        ranked.astype(np.int64),
        best,
        dict(sorted(failed.items())),
        rows,
    )
