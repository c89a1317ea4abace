"""Predictions of a classifier for real images, stored shard by shard beside the run.

An interrupted run resumes at the first missing shard. An altered shard is computed again.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from harope_bench.core import checksums
from harope_bench.core.array_archive import encode_npz, load_arrays
from harope_bench.core.array_file import arrays_with_format, check_arrays_format
from harope_bench.core.errors import SampleError, StorageError
from harope_bench.core.progress import Progress
from harope_bench.core.schema import JudgeRecord, Plan
from harope_bench.core.shard import Shard
from harope_bench.core.storage import sha256_bytes, write_bytes
from harope_bench.core.threaded_work import map_in_threads, thread_count, waiting_limit
from harope_bench.data.run_claim import folders_in_parts, remove_empty_parts
from harope_bench.models.backbones.base import Classifier
from harope_bench.models.load_checkpoint import open_classifier
from harope_bench.pipeline.workers import Task, run_units
from harope_bench.suites.base import RealImages

SHARD_SIZE = 250  # images in one file of predictions, which is what an interruption may lose
SHARDS_AHEAD = 1  # shards whose files are in memory before they are classified
TOP_K = 5  # classes stored for each image, the most likely first


class PredictionShard(NamedTuple):
    """Predictions for consecutive images.

    indices: (N,) int64, the images that could be classified.
    ranked_classes: (N, TOP_K) int64, the most likely class first.
    logits: (N, TOP_K) float32, of the ranked classes.
    failed: reason by index of each image that could not be classified.
    image_rows: (name, label, sha256 or reason) of every image.
    """

    indices: np.ndarray
    ranked_classes: np.ndarray
    logits: np.ndarray
    failed: dict[int, str]
    image_rows: tuple[tuple[str, int, str], ...]


def predict(
    plan: Plan,
    real_images: RealImages,
    count: int,
    judge: JudgeRecord,
    folder: Path,
    crop_ratio: float,
    rescore: bool,
) -> list[PredictionShard]:
    """Return the predictions for the first `count` images, classifying only what is missing.

    Raises:
        SampleError: `rescore` is set and a shard is missing.
        FormatError: Another version of this package wrote a shard.
    """
    config = PredictionConfig(plan, real_images, judge, folder, crop_ratio, rescore)
    shards = []
    for indices, classified in _classify_in_workers(config, range(0, count, SHARD_SIZE), count):
        if classified.key is not None:
            _write_shard(shard_path(folder, indices.start), classified.shard, classified.key)
        shards.append((indices.start, classified.shard))
    if not rescore:
        _remove_from_parts(folder)
    return [shard for _, shard in sorted(shards, key=itemgetter(0))]


class PredictionConfig(NamedTuple):
    """What a worker of classification is built from: the arguments of `predict`."""

    plan: Plan
    real_images: RealImages
    judge: JudgeRecord
    folder: Path
    crop_ratio: float
    rescore: bool


def _classify_in_workers(
    config: PredictionConfig, starts: Sequence[int], count: int
) -> Iterator[tuple[range, ClassifiedShard]]:
    """Yield the shards of the first `count` images that begin at `starts`, as they are ready."""
    parts = [range(start, min(count, start + SHARD_SIZE)) for start in starts]
    device = config.plan.settings.device
    task = Task("classify", {"config": config}, device)
    names = [f"images {indices.start}-{indices.stop - 1}" for indices in parts]
    title = f"classify {config.plan.checkpoint.name} on {device}"
    with Progress(title, sum(map(len, parts)), "image") as progress:
        for position, classified in run_units(task, parts, names):
            yield parts[position], classified
            progress.advance(len(parts[position]))


class ClassifiedShard(NamedTuple):
    """A shard of predictions, and where it comes from.

    Attributes:
        key: Of a shard that the run does not have; None for one that it has.
        is_new: Whether it was classified now, and not found in a part of the run.
    """

    shard: PredictionShard
    key: str | None
    is_new: bool


class ClassifiedImages(NamedTuple):
    """Numbers of images of a shard of the run."""

    image_count: int
    new_image_count: int


class ClassificationWorker:
    """Returns stored predictions of shards and makes missing ones; a worker of `run_units`."""

    def __init__(self, config: PredictionConfig) -> None:
        """Keep the configuration. The network is loaded when a shard is missing."""
        self._config = config
        self._classifier: Classifier | None = None

    def results(self, units: Iterable[range]) -> Iterator[ClassifiedShard]:
        """Yield the shard of each range of images.

        A thread reads and hashes the files of the next shard while this one is classified.
        """
        parts = list(units)
        all_bytes = map_in_threads(
            partial(read_image_bytes, self._config.real_images),
            parts,
            SHARDS_AHEAD,
            min(1, thread_count()),
        )
        for indices, image_bytes in zip(parts, all_bytes, strict=True):
            yield self._find_or_classify(indices.start, image_bytes)

    def _find_or_classify(self, first_index: int, image_bytes: ImageBytes) -> ClassifiedShard:
        """Return a stored shard of the same plan and image bytes, or classify the images."""
        config = self._config
        path = shard_path(config.folder, first_index)
        key = shard_key(config.plan, config.judge, image_bytes.image_rows)
        stored_shard = find_shard(path, key, image_bytes.image_rows)
        if stored_shard is not None:
            return ClassifiedShard(stored_shard, None, is_new=False)
        if config.rescore:
            raise SampleError(
                f"{config.folder} lacks the predictions of {config.plan.checkpoint.name} from image"
                f" {first_index:,} on; run eval without --rescore"
            )
        part_shard = _find_in_parts(path, key, image_bytes.image_rows)
        if part_shard is not None:
            return ClassifiedShard(part_shard, key, is_new=False)
        self._classifier = self._classifier or open_classifier(
            config.plan.checkpoint, config.plan.settings
        )
        shard = classify_images(
            self._classifier, config.plan, config.real_images, image_bytes, config.crop_ratio
        )
        return ClassifiedShard(shard, key, is_new=True)

    def pack(self, result: ClassifiedShard) -> ClassifiedShard:
        """Return the shard: it travels as it is."""
        return result


def predict_shard(
    config: PredictionConfig, count: int, shard: Shard, part_folder: Path
) -> ClassifiedImages:
    """Classify a shard of the first `count` images, what run and parts lack of it.

    Args:
        config: Its folder is that of the whole run.
        part_folder: Folder of the part that gets the predictions.
    """
    folder = part_folder.joinpath(*config.folder.parts[-2:])
    image_count = new_image_count = 0
    starts = [*shard.take(range(0, count, SHARD_SIZE))]
    for indices, classified in _classify_in_workers(config, starts, count):
        image_count += len(indices)
        if classified.is_new and classified.key is not None:
            _write_shard(shard_path(folder, indices.start), classified.shard, classified.key)
            new_image_count += len(indices)
    return ClassifiedImages(image_count, new_image_count)


def _find_in_parts(
    path: Path, key: str, rows: tuple[tuple[str, int, str], ...]
) -> PredictionShard | None:
    """Return a shard that a part of the run has classified; None if there is none."""
    for part in _folders_in_parts(path.parent):
        prediction_shard = find_shard(part / path.name, key, rows)
        if prediction_shard is not None:
            return prediction_shard
    return None


def _folders_in_parts(folder: Path) -> list[Path]:
    """Return the folders of a checkpoint's predictions in the parts of a run."""
    return folders_in_parts(folder.parent.parent, *folder.parts[-2:])


def _remove_from_parts(folder: Path) -> None:
    """Remove the predictions of parts, once those of the whole run are written."""
    for path in _folders_in_parts(folder):
        shutil.rmtree(path, ignore_errors=True)
    remove_empty_parts(folder.parent.parent)


def _write_shard(path: Path, shard: PredictionShard, key: str) -> None:
    """Record the hash of a shard, then write it, so that no interruption leaves an unlisted one."""
    arrays = {**_arrays(shard), "key": np.array(key)}
    data = encode_npz(arrays_with_format("predictions", arrays))
    checksums.record_hashes(path.parent, {path.name: sha256_bytes(data)})
    write_bytes(path, data)


class ImageBytes(NamedTuple):
    """File contents of consecutive images.

    data: bytes by index.
    failed: reason by index of each image that could not be read.
    image_rows: (name, label, sha256 or reason) of every image.
    """

    data: dict[int, bytes]
    failed: dict[int, str]
    image_rows: tuple[tuple[str, int, str], ...]


def read_image_bytes(real_images: RealImages, indices: Sequence[int]) -> ImageBytes:
    """Return the bytes of these images; an unreadable one has a reason instead."""
    data = {}
    failed = {}
    rows = []
    names = real_images.names
    labels = real_images.labels
    for i in indices:
        try:
            data[i] = real_images.read_bytes(i)
            hash_or_reason = sha256_bytes(data[i])
        except SampleError as error:
            hash_or_reason = str(error)
            failed[i] = hash_or_reason
        rows.append((names[i], int(labels[i]), hash_or_reason))
    return ImageBytes(data, failed, tuple(rows))


def shard_path(folder: Path, first_index: int) -> Path:
    """Return the path of the shard that begins with an image."""
    return folder / f"{first_index // SHARD_SIZE:05d}.npz"


def shard_key(plan: Plan, judge: JudgeRecord, rows: Sequence[tuple[str, int, str]]) -> str:
    """Return the hex digest of plan, preprocessing and images that a shard is cached under."""
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
    """Return the stored shard with this key; None where it is missing, damaged, altered or another.

    Raises:
        FormatError: Another version of this package wrote it.
    """
    if not path.is_file() or not checksums.is_intact(path.parent, path.name):
        return None
    try:
        arrays = load_arrays(path)
        check_arrays_format("predictions", arrays, path)
        if str(arrays["key"]) != key:
            return None
        reasons = map(str, arrays["reasons"])
        failed = dict(zip(arrays["failed"].tolist(), reasons, strict=True))
        return PredictionShard(
            arrays["indices"], arrays["ranked_classes"], arrays["logits"], failed, rows
        )
    except (StorageError, KeyError, TypeError, ValueError):
        return None


def classify_images(
    classifier: Classifier,
    plan: Plan,
    real_images: RealImages,
    image_bytes: ImageBytes,
    crop_ratio: float,
) -> PredictionShard:
    """Return the predictions for the images of a shard, classified in padded batches.

    Image i is in row i % tile of its batch, so that a prediction does not depend on the batch.
    """
    tile = plan.settings.tile
    side = plan.settings.resolution
    failed = dict(image_bytes.failed)
    logits: dict[int, np.ndarray] = {}

    def decode(index: int) -> np.ndarray | SampleError:
        try:
            return real_images.decode(index, image_bytes.data[index], side, crop_ratio)
        except SampleError as error:
            return error

    # Threads decode the next images while the network classifies a batch.
    decoded_images = map_in_threads(decode, image_bytes.data, waiting_limit(3 * side * side))
    for _, batch_indices in groupby(image_bytes.data, key=lambda index: index // tile):
        # Collect the images of this batch; other rows stay black.
        images = np.zeros((tile, side, side, 3), dtype=np.uint8)
        decoded_indices = []
        for i in batch_indices:
            image = next(decoded_images)
            if isinstance(image, SampleError):
                failed[i] = str(image)
            else:
                images[i % tile] = image
                decoded_indices.append(i)

        batch_logits = classifier.classify(images)  # (tile, classes)
        for i in decoded_indices:
            if np.isfinite(batch_logits[i % tile]).all():
                logits[i] = batch_logits[i % tile]
            else:
                failed[i] = "the network's output is not finite"
    return _rank_classes(logits, failed, image_bytes.image_rows)


def _rank_classes(
    logits: dict[int, np.ndarray], failed: dict[int, str], rows: tuple[tuple[str, int, str], ...]
) -> PredictionShard:
    """Return a shard with the TOP_K classes of every image; ties keep the order of the classes."""
    indices = sorted(logits)
    all_logits = np.zeros((0, TOP_K), dtype=np.float32)
    if indices:
        all_logits = np.stack([logits[i] for i in indices])  # (N, classes)
    ranked_classes = np.argsort(-all_logits, axis=1, kind="stable")[:, :TOP_K]  # (N, TOP_K)
    top_logits = np.take_along_axis(all_logits, ranked_classes, 1).astype(np.float32)  # (N, TOP_K)
    return PredictionShard(
        np.array(indices, dtype=np.int64),
        ranked_classes.astype(np.int64),
        top_logits,
        dict(sorted(failed.items())),
        rows,
    )
